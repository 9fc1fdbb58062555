"""Knows which step is whose where stages take turns."""

from __future__ import annotations

import numpy as np

from ...errors import InputError
from ..schedule.allocation import apportion
from ..schedule.stages import Interleave


def turns_of(group: Interleave) -> np.ndarray:
    """[steps] which member has each step; members without a share have the rest in equal parts."""
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


def turn_of(mine: np.ndarray, steps: int, t: float) -> float:
    """Progress of the whole interleave at progress t of a member."""
    return (float(mine[min(len(mine) - 1, int(t * len(mine)))]) + 0.5) / steps
