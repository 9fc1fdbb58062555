"""Feedback: what an adaptive stage observes of each cell, as sums that no order and no split over ranks changes.

Values are rounded to multiples of 2^-24 before they are added, so that float64 sums are exact: any split over ranks and
micro-batches, and any order, gives the same bits. When a window of steps ends, its sums are folded into the state of
the reducers, which turn the state into columns that weights and paces read as `live.NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import tanh
from typing import Any, Protocol

import numpy as np

from ...configs.plugins import function_named
from ...errors import InputError
from ..arrays import Bools, Floats, Ints
from .cells import Cells
from .components import bind
from .paces import parse_pace

SUMS = ("prompts", "right", "silent_prompts", "silent_right", "groups", "all_right", "all_wrong", "gain")
_QUANTUM = 2.0**-24


@dataclass(frozen=True)
class Observations:
    """n prompts that were scored: all that were sampled, because without those filtered away estimates are too high.

    cell: [n] cell numbers. accuracy: [n] in [0, 1], a group's mean or an option's probability.
    condition: "audio" or "silence". gain: [n] mean |advantage| of the prompt's group, None where there was no group.
    """

    cell: Ints
    accuracy: Floats
    condition: str = "audio"
    gain: Floats | None = None

    def sums(self, num_cells: int) -> Floats:
        """[8, Q] float64, rows named by SUMS; add them over micro-batches, steps and ranks.

        Raises ValueError for an unknown condition and for accuracies outside [0, 1].
        """
        if self.condition not in ("audio", "silence"):
            raise ValueError(f"observations are made under 'audio' or 'silence', got {self.condition!r}")
        accuracy = np.round(np.asarray(self.accuracy, float) / _QUANTUM) * _QUANTUM
        if not np.isfinite(accuracy).all() or ((accuracy < 0) | (accuracy > 1)).any():
            raise ValueError("observed accuracies must lie in [0, 1]")
        ones, out = np.ones(len(accuracy)), np.zeros((len(SUMS), num_cells))

        def add(name: str, values: Floats | Bools) -> None:
            out[SUMS.index(name)] = np.bincount(self.cell, weights=values, minlength=num_cells)

        silent = "silent_" if self.condition == "silence" else ""
        add(f"{silent}prompts", ones)
        add(f"{silent}right", accuracy)
        if self.gain is not None:
            gain = np.round(np.asarray(self.gain, float) / _QUANTUM) * _QUANTUM
            add("groups", ones)
            add("all_right", (gain == 0) & (accuracy > 0.5))
            add("all_wrong", (gain == 0) & (accuracy <= 0.5))
            add("gain", gain)
        return out


class Reducer(Protocol):
    """Folds windows into a state, an array of any shape, and a state into columns."""

    def start(self, cells: Cells) -> Floats:
        """The state before anything was observed."""
        ...

    def close(self, state: Floats, window: Floats) -> Floats:
        """The state after one more window, whose sums are [8, Q]."""
        ...

    def columns(self, state: Floats, cells: Cells) -> dict[str, Floats]:
        """The columns [Q] of a state, by name."""
        ...


@dataclass(frozen=True)
class ContributionEstimator:
    """Estimates the audio contribution of every cell from what is observed, anew as the policy learns.

    Files call it `contribution`. Columns: p and p_silence (accuracies), ac = p - p_silence, ac_se (its standard
    error), necessity = max(0, ac) / p, useful (share of groups with an advantage), gain (mean |advantage|), prompts.
    Raises InputError for a strength, discount or group size out of range.

    Args:
        from_: column of the offline contribution; the prior reproduces its difference p - p_silence.
        audio: prior of p where `from` is not given, a column or a number. silence: the same of p_silence; default
            one over the mean number of choices.
        strength: how many prompts the prior is worth. discount: of the old sums when a window closes.
        group_size: completions per prompt, for the prior of `useful`.
    """

    from_: str | None = None
    audio: str | float = 0.5
    silence: str | float | None = None
    strength: float = 32.0
    discount: float = 0.9
    group_size: int = 8

    def __post_init__(self) -> None:
        if not (self.strength > 0 and 0 <= self.discount <= 1 and self.group_size >= 1):
            raise InputError("feedback contribution: strength > 0, 0 <= discount <= 1 and group_size >= 1 are needed")

    def prior(self, cells: Cells) -> tuple[Floats, Floats]:
        """Prior accuracies [Q] with audio and with silence; InputError where one lies outside [0, 1]."""
        silence = self.silence
        if silence is None:
            silence = float(np.clip(1 / cells.column("num_choices").mean(), 0, 1)) if len(cells) else 0.25
        quiet = _prior(silence, cells)
        if self.from_ is None:
            return _prior(self.audio, cells), quiet
        contribution = np.clip(cells.column(self.from_), -1.0, 1.0)
        # Both must stay probabilities, and their difference the contribution.
        quiet = np.clip(quiet, np.maximum(0.0, -contribution), np.minimum(1.0, 1 - contribution))
        return quiet + contribution, quiet

    def start(self, cells: Cells) -> Floats:
        """[8, Q] zeros: discounted sums, rows named by SUMS."""
        return np.zeros((len(SUMS), len(cells)))

    def close(self, state: Floats, window: Floats) -> Floats:
        """[8, Q] discount x state + window."""
        return self.discount * state + window

    def columns(self, state: Floats, cells: Cells) -> dict[str, Floats]:
        """Columns [Q] as posterior means: (sum + strength x prior) / (count + strength)."""
        seen = dict(zip(SUMS, state, strict=True))
        prior, quiet = self.prior(cells)
        n, k = seen["prompts"] + self.strength, seen["silent_prompts"] + self.strength
        p = (seen["right"] + self.strength * prior) / n
        silent = (seen["silent_right"] + self.strength * quiet) / k
        idle = prior**self.group_size + (1 - prior) ** self.group_size
        groups = seen["groups"] + self.strength
        return {
            "p": p,
            "p_silence": silent,
            "ac": p - silent,
            "ac_se": np.sqrt(p * (1 - p) / (n + 1) + silent * (1 - silent) / (k + 1)),
            "necessity": np.maximum(0.0, p - silent) / np.maximum(p, 1e-6),
            "useful": 1 - (seen["all_right"] + seen["all_wrong"] + self.strength * idle) / groups,
            "gain": seen["gain"] / np.maximum(seen["groups"], 1.0),
            "prompts": seen["prompts"],
        }


@dataclass(frozen=True)
class Adarft:
    """A target difficulty that follows the mean accuracy (AdaRFT 2025): T += eta tanh(alpha (accuracy - beta)).

    Column: target, in [low, high]; read it with the pace `{live: target}`. Raises InputError where `initial` lies
    outside.
    """

    initial: float = 0.0
    eta: float = 0.05
    alpha: float = 2.0
    beta: float = 0.5
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low <= self.initial <= self.high:
            raise InputError(f"feedback adarft: initial {self.initial} lies outside [{self.low}, {self.high}]")

    def start(self, cells: Cells) -> Floats:
        """[1] the first target."""
        return np.array([self.initial])

    def close(self, state: Floats, window: Floats) -> Floats:
        """[1] the target after one more window; one without prompts does not move it."""
        prompts, right = float(window[SUMS.index("prompts")].sum()), float(window[SUMS.index("right")].sum())
        if not prompts:
            return state
        moved: Floats = state + self.eta * tanh(self.alpha * (right / prompts - self.beta))
        return moved.clip(self.low, self.high)

    def columns(self, state: Floats, cells: Cells) -> dict[str, Floats]:
        """`target` [Q], the same for every cell."""
        return {"target": np.full(len(cells), state[0])}


@dataclass(frozen=True)
class Forgotten:
    """How far the accuracy of every cell lies below the best that it had: what was learnt and is lost again.

    Files call it `forgotten`. Columns [Q]: best, the highest of the discounted mean accuracies so far, and fallen, best
    minus the present one where that is more than `margin`, else 0. A cell is judged once `least` discounted prompts of
    it were seen, and keeps its numbers while fewer are. Raises InputError for an argument out of range.
    """

    margin: float = 0.05
    least: float = 16.0
    discount: float = 0.9

    def __post_init__(self) -> None:
        if not (0 <= self.margin < 1 and self.least > 0 and 0 <= self.discount <= 1):
            raise InputError("feedback forgotten: 0 <= margin < 1, least > 0 and 0 <= discount <= 1 are needed")

    def start(self, cells: Cells) -> Floats:
        """[4, Q] zeros: discounted prompts and right ones, the best accuracy, the present one."""
        return np.zeros((4, len(cells)))

    def close(self, state: Floats, window: Floats) -> Floats:
        """[4, Q] after one more window."""
        seen, right = (
            self.discount * state[k] + window[SUMS.index(name)] for k, name in enumerate(("prompts", "right"))
        )
        known = seen >= self.least
        now = np.where(known, right / np.maximum(seen, 1e-9), state[3])
        return np.stack([seen, right, np.maximum(state[2], now), now])

    def columns(self, state: Floats, cells: Cells) -> dict[str, Floats]:
        """`best` and `fallen` [Q]."""
        fall = state[2] - state[3]
        return {"best": state[2], "fallen": np.where(fall > self.margin, fall, 0.0)}


REDUCERS = {"contribution": ContributionEstimator, "adarft": Adarft, "forgotten": Forgotten}


@dataclass(frozen=True)
class Feedback:
    """The reducers of a stage, by name; their columns are joined. spec: what the file says, for the fingerprint."""

    reducers: Mapping[str, Reducer]
    spec: Any = None

    def start(self, cells: Cells) -> dict[str, Floats]:
        """The state of every reducer before anything was observed."""
        return {name: reducer.start(cells) for name, reducer in self.reducers.items()}

    def close(self, state: Mapping[str, Floats], window: Floats) -> dict[str, Floats]:
        """The state of every reducer after one more window, whose sums are [8, Q]."""
        return {name: reducer.close(state[name], window) for name, reducer in self.reducers.items()}

    def columns(self, state: Mapping[str, Floats], cells: Cells) -> dict[str, Floats]:
        """All columns [Q]; an InputError names one that is not a finite number per cell."""
        live: dict[str, Floats] = {}
        for name, reducer in self.reducers.items():
            for column, values in reducer.columns(state[name], cells).items():
                values = np.asarray(values, float)
                if values.shape != (len(cells),) or not np.isfinite(values).all():
                    raise InputError(f"feedback {name!r}: column {column!r} must hold one finite number per cell")
                live[column] = values
        return live


def parse_feedback(spec: Any, where: str) -> Feedback:
    """Reducers from a name, or a mapping of names (or import paths) to their arguments.

    Raises InputError for unknown names and arguments, and wrong values. where: the place in the file, for messages.
    """
    items = {spec: None} if isinstance(spec, str) else spec
    if not isinstance(items, Mapping) or not items:
        raise InputError(f"{where}: a mapping of names to arguments is needed, got {spec!r}")
    reducers = {}
    for name, given in items.items():
        kind = function_named(str(name), REDUCERS, where)
        arguments, _ = bind(kind, given, 0, f"{where}.{name}", parse_pace)
        try:
            reducers[str(name)] = kind(**arguments)
        except TypeError as error:
            raise InputError(f"{where}.{name}: {error}") from None
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return Feedback(reducers, items)


def _prior(value: str | float, cells: Cells) -> Floats:
    """[Q] prior accuracies: a column's, or the same number for every cell."""
    if isinstance(value, str):
        return np.clip(cells.column(value), 0.0, 1.0)
    if not 0 <= value <= 1:
        raise InputError(f"feedback contribution: a prior accuracy lies in [0, 1], got {value}")
    return np.full(len(cells), float(value))
