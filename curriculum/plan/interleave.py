"""Stages that take turns: which step belongs to which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ...errors import InputError
from ..arrays import Ints
from ..schedule.allocation import apportion
from ..schedule.stages import Interleave


def turns_of(group: Interleave) -> Ints:
    """[steps] number of the member whose turn each step is; members without a share have the rest in equal parts.

    Raises InputError where the shares are negative or do not add up to 1 at some step.
    """
    t = (np.arange(group.steps) + 0.5) / group.steps
    shares = np.zeros((group.steps, len(group.members)))
    for name, pace in group.shares.items():
        shares[:, group.members.index(name)] = [pace(float(x), {}) for x in t]
    rest = 1 - shares.sum(1)
    others = [k for k, name in enumerate(group.members) if name not in group.shares]
    if (shares < 0).any() or (rest < -1e-9).any() or (not others and (rest > 1e-9).any()):
        raise InputError(f"interleave {group.name!r}: the shares must lie in [0, 1] and add up to 1 at every step")
    for k in others:
        shares[:, k] = np.maximum(rest, 0.0) / len(others)
    return apportion(shares)


def fitted_turns(group: Interleave, batch_sizes: Sequence[int], left: int) -> Ints:
    """`turns_of` as many steps, up to the interleave's own, as `at_most` of the rows left allows.

    batch_sizes: of the members. left: rows that their pools together have left. Raises InputError where that is not
    even one batch of each.
    """
    turns = turns_of(group)
    if group.at_most is None:
        return turns
    most, sizes = int(Fraction(str(group.at_most)) * left), np.asarray(batch_sizes)
    while (rows := int(sizes[turns].sum())) > most:
        steps = min(len(turns) - 1, len(turns) * most // rows + 1)  # of about equal cost: the first guess is close
        if steps < len(batch_sizes):
            each = " and ".join(f"{size} of {name}" for size, name in zip(batch_sizes, group.members, strict=True))
            raise InputError(
                f"interleave {group.name!r}: at_most {group.at_most} of the {left:,} rows left is less than one batch "
                f"of each, {each}; make their batch_size smaller"
            )
        turns = turns_of(replace(group, steps=steps))
    return turns


def turn_of(own_steps: Ints, steps: int, t: float) -> float:
    """Progress in [0, 1] of the whole interleave of so many steps, where a member has made the share t of its own.

    own_steps: the member's steps, ascending, as numbers of the whole.
    """
    return (float(own_steps[min(len(own_steps) - 1, int(t * len(own_steps)))]) + 0.5) / steps
