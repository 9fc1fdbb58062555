"""Knows what a completion is worth: the paper's accuracy and format rewards.

A reward is a function `(completions, **columns) -> list[float | None]`, named by its import path in a config; the
columns are solution, choices, question, question_type and label, one entry per completion. None: not scorable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ...datamodules.answers import is_right, is_well_formed
from ...errors import InputError

Reward = Callable[..., Sequence[float | None]]


def accuracy(completions: Sequence[str], solution: Sequence[str], **_: Any) -> list[float]:
    """1 where the extracted answer equals the solution, in lower case; an untagged right answer counts."""
    return [float(is_right(said, truth)) for said, truth in zip(completions, solution, strict=True)]


def format(completions: Sequence[str], **_: Any) -> list[float]:
    """1 where the completion is exactly one <answer>...</answer> pair."""
    return [float(is_well_formed(said)) for said in completions]


BUILT_IN: dict[str, Reward] = {"accuracy": accuracy, "format": format}


def reward_function(path: str) -> Reward:
    """The function of a dotted import path; `accuracy` and `format` alone name the built-in ones."""
    if path in BUILT_IN:
        return BUILT_IN[path]
    module, _, name = path.rpartition(".")
    if not module:
        raise InputError(f"rewards: no built-in reward {path!r}; there are {', '.join(BUILT_IN)}, or an import path")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"rewards: cannot import {path!r} ({error})") from None
    if not callable(function):
        raise InputError(f"rewards: {path!r} is not a function")
    return function


def weighted_rewards(
    rewards: Mapping[str, tuple[Reward, float]], completions: Sequence[str], columns: Mapping[str, Sequence]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum [N] float64 over the functions that could score a completion, and every function's [N] own.

    NaN where none could. A function that raises, returns another number of values or a value that is not finite is
    reported with its name.
    """
    parts = {}
    total = torch.zeros(len(completions), dtype=torch.float64)
    scored = torch.zeros(len(completions), dtype=torch.bool)
    for name, (function, weight) in rewards.items():
        try:
            values = list(function(completions, **columns))
        except Exception as error:  # a user's function: whatever it raises is reported under its name
            raise InputError(f"reward {name!r} raised {type(error).__name__}: {error}") from error
        if len(values) != len(completions):
            raise InputError(f"reward {name!r} returned {len(values)} values for {len(completions)} completions")
        bad = [v for v in values if v is not None and not (isinstance(v, Real) and math.isfinite(v))]
        if bad:
            raise InputError(f"reward {name!r} returned {bad[0]!r}; a finite number or None is needed")
        part = torch.tensor([math.nan if v is None else float(v) for v in values], dtype=torch.float64)
        parts[name] = part
        total += weight * part.nan_to_num(0.0)
        scored |= ~part.isnan()
    return total.masked_fill(~scored, math.nan), parts
