"""Stages that take turns: which step belongs to which of them."""

from __future__ import annotations

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


def turn_of(own_steps: Ints, steps: int, t: float) -> float:
    """Progress in [0, 1] of the whole interleave of so many steps, where a member has made the share t of its own.

    own_steps: the member's steps, ascending, as numbers of the whole.
    """
    return (float(own_steps[min(len(own_steps) - 1, int(t * len(own_steps)))]) + 0.5) / steps
