"""Paces: how a number moves over a stage. `(t, ...) -> float` with t in [0, 1], the progress of the stage.

Users add their own as a function named by its import path; one with a parameter `live` also gets what was observed.
All raise InputError for numbers that they do not take.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import cos, pi
from typing import Any

import numpy as np

from ...configs.plugins import function_named
from ...errors import InputError
from .components import Live, Pace, bind, split


def constant(t: float, value: float) -> float:
    """The same number throughout."""
    return value


def linear(t: float, from_: float, to: float, start: float = 0.0, until: float = 1.0) -> float:
    """A straight line between progress `start` and `until`, flat outside."""
    return from_ + (to - from_) * _between(t, start, until)


def cosine(t: float, from_: float, to: float, start: float = 0.0, until: float = 1.0) -> float:
    """Half a cosine wave between progress `start` and `until`, flat outside."""
    return from_ + (to - from_) * (1 - cos(pi * _between(t, start, until))) / 2


def geometric(t: float, from_: float, to: float) -> float:
    """Equal factors in equal times; both ends are positive."""
    if not (from_ > 0 and to > 0):
        raise InputError(f"pace 'geometric' goes between positive numbers, got from {from_} to {to}")
    return float(from_ * (to / from_) ** t)


def root(t: float, from_: float = 0.01, p: float = 2.0, until: float = 1.0) -> float:
    """Competence (Platanios et al. 2019): min(1, (t (1 - c0^p) / until + c0^p)^(1/p)), c0 = `from`."""
    return min(1.0, float((t * (1 - from_**p) / until + from_**p) ** (1 / p)))


def steps(t: float, at: Sequence[float], values: Sequence[float]) -> float:
    """`values[k]` once k of the times `at` (in [0, 1], ascending) have passed; one value more than times."""
    if len(values) != len(at) + 1 or list(at) != sorted(at):
        raise InputError(f"pace 'steps' needs ascending `at` and one value more than times, got {at} and {values}")
    return values[bisect_right(list(at), t)]


def live(t: float, live: Live, column: str) -> float:
    """The mean over the cells of an observed column [Q], e.g. the target that the feedback `adarft` moves."""
    if column not in live:
        raise InputError(f"pace 'live': nothing observed is called {column!r}; there are {', '.join(live) or 'none'}")
    return float(np.mean(live[column]))


PACES = {function.__name__: function for function in (constant, linear, cosine, geometric, root, steps, live)}


def parse_pace(spec: Any, where: str) -> Pace:
    """A pace from a number, a name or a mapping of a name to its arguments.

    Raises InputError for unknown names and arguments, and for numbers that the pace does not take. where: the place in
    the file, for the message.
    """
    if isinstance(spec, (int, float)) and not isinstance(spec, bool):
        return Pace("constant", constant, {"value": float(spec)})
    name, given = split(spec, where)
    function = function_named(name, PACES, where)
    arguments, _ = bind(function, given, 1, f"{where}.{name}", parse_pace)
    pace = Pace(name, function, arguments)
    if name in PACES and name != "live":
        pace(0.0, {})  # wrong numbers are reported when the file is read
    return pace


def _between(t: float, start: float, until: float) -> float:
    """The part of the way from `start` to `until` that lies behind t, in [0, 1]."""
    if not start < until:
        raise InputError(f"a pace starts before it ends, got start {start} and until {until}")
    return min(1.0, max(0.0, (t - start) / (until - start)))
