"""Reward functions: found by name, called on all completions at once, weighted, and checked.

A reward is a function `(completions, **columns) -> list[float | None]`, plain or async, or a class made without
arguments whose instances are called so (ms-swift's ORM classes run unchanged), named by its import path or, built in,
by its name. It is called by the names of its parameters, so that TRL's `(prompts, completions, **kwargs)` runs too. The
columns have one entry per completion; None: this function cannot score this completion. Where one fails, the error
names the function and the first sample for which it does.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ...configs.plugins import function_named, raised_by
from ...errors import InputError
from .built_in_rewards import BUILT_IN
from .calling import Call

Reward = Callable[..., Any]


@dataclass(frozen=True)
class Scored:
    """Rewards of N completions, float64.

    total: [N] weighted sum over the functions that could score, NaN where none could. parts: name -> [N], unweighted,
    NaN where that function returned None.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Rewards:
    """Reward functions and their weights.

    Args:
        spec: built-in name or import path -> weight, or -> {weight: w, other: arguments}; the arguments go to the
            function by name.

    `weights` has the weight of each name. InputError for a function that is not there, an argument that it does not
    name, or a weight that is not a finite number.
    """

    def __init__(self, spec: Mapping[str, float | dict[str, Any]]) -> None:
        if not spec:
            raise InputError("rewards: at least one is needed, as in {accuracy: 2.0, format: 0.5}")
        self.weights: dict[str, float] = {}
        self._functions: dict[str, Call] = {}
        for name, given in spec.items():
            arguments = dict(given) if isinstance(given, Mapping) else {"weight": given}
            self.weights[name] = _weight(name, arguments.pop("weight", None))
            self._functions[name] = Call(name, reward_function(name), arguments)

    @property
    def needs_silence(self) -> bool:
        """Whether a function asks for the column `silence`, by its name or by an attribute needs_silence = True."""
        return any(function.needs_silence for function in self._functions.values())

    def __call__(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]], keys: Sequence[str]) -> Scored:
        """The rewards of N completions; keys: [N] names of their questions, for messages; columns: name -> [N] values.

        Async functions run at the same time, on an event loop that lives as long as the process, so that a client kept
        open between steps stays usable. InputError names the function and the first sample for which it raises,
        returns another number of values than completions, or something that is neither a finite number nor None.
        """
        assert len(keys) == len(completions) and all(len(values) == len(keys) for values in columns.values())
        outcomes = _run([(function, completions, columns) for function in self._functions.values()])
        parts: dict[str, Tensor] = {}
        for name, outcome in zip(self._functions, outcomes, strict=True):
            problem = _problem(outcome, len(keys), self._functions[name].function)
            if problem:
                raise InputError(f"reward {name!r} {self._blame(name, completions, columns, keys)}") from (
                    outcome if isinstance(outcome, Exception) else None
                )
            values = [_number(value) for value in outcome]
            for key, text, value in zip(keys, completions, values, strict=True):
                if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                    raise InputError(
                        f"reward {name!r} returned {value!r} for {_shown(key, text)}; a finite number or None is needed"
                    )
            parts[name] = torch.tensor([math.nan if v is None else float(v) for v in values], dtype=torch.float64)
        return Scored(_weighted(parts, self.weights, len(keys)), parts)

    def _blame(
        self, name: str, completions: Sequence[str], columns: Mapping[str, Sequence[Any]], keys: Sequence[str]
    ) -> str:
        """What a failed function does wrong, and for which sample: the first that fails when it is scored alone."""
        function = self._functions[name]
        for place, (key, text) in enumerate(zip(keys, completions, strict=True)):
            alone = {column: values[place : place + 1] for column, values in columns.items()}
            outcome = _run([(function, [text], alone)])[0]
            if problem := _problem(outcome, 1, function.function):
                missing = isinstance(outcome, KeyError) and not set(outcome.args) & set(columns)
                there = f"; the columns are {', '.join(columns)}" if missing else ""
                return f"{problem} for {_shown(key, text)}{there}"
        problem = _problem(_run([(function, completions, columns)])[0], len(keys), function.function)
        return f"{problem or 'failed'} for all {len(keys)} completions at once, and for none of them alone"


def reward_function(path: str) -> Reward:
    """The function of a built-in name or a dotted import path; of a class, an instance made without arguments.

    InputError where there is none, or where what there is cannot be called.
    """
    function = function_named(path, BUILT_IN, "rewards")
    if not inspect.isclass(function):
        return function
    try:
        instance = function()
    except Exception as error:  # a user's class: whatever it raises is reported under its name
        raise InputError(
            f"rewards: {path!r} cannot be made without arguments ({type(error).__name__}: {error})"
        ) from error
    if not callable(instance):
        raise InputError(f"rewards: an instance of {path!r} is not a function; it needs a method __call__")
    return instance


def _weight(name: str, weight: Any) -> float:
    """A weight as a float. InputError, naming its reward, for anything but a finite number."""
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise InputError(
            f"rewards: {name!r} needs a weight, a finite number or {{weight: 1.0, ...}} with arguments; got {weight!r}"
        )
    return float(weight)


def _run(calls: Sequence[tuple[Call, Sequence[str], Mapping[str, Sequence[Any]]]]) -> list[Any]:
    """The result of every call, or the exception it raised; those that are awaitable run at the same time."""
    outcomes: list[Any] = []
    for function, completions, columns in calls:
        try:
            outcomes.append(function(completions, columns))
        except Exception as error:  # a user's function: whatever it raises is reported under its name
            outcomes.append(error)
    waiting = {place: outcome for place, outcome in enumerate(outcomes) if inspect.isawaitable(outcome)}
    if waiting:
        done = asyncio.run_coroutine_threadsafe(_gather(list(waiting.values())), _loop(os.getpid())).result()
        for place, outcome in zip(waiting, done, strict=True):
            outcomes[place] = outcome
    return outcomes


async def _gather(waiting: list[Awaitable[Any]]) -> list[Any]:
    """The result of every awaitable, or the exception it raised."""
    return await asyncio.gather(*waiting, return_exceptions=True)


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own, as the calling thread may have one that runs; a fork needs another thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="async rewards").start()
    return loop


def _problem(outcome: Any, count: int, function: Callable[..., Any]) -> str:
    """What is wrong with the result of a call as a whole, "" where nothing is."""
    if isinstance(outcome, BaseException):
        return raised_by(function, outcome)
    if isinstance(outcome, str | bytes | Mapping) or not hasattr(outcome, "__len__"):
        return f"returned {outcome!r:.80}, not a list of numbers,"
    return "" if len(outcome) == count else f"returned {len(outcome)} values for {count} completions,"


def _number(value: Any) -> Any:
    """A Python number where a scalar of numpy or torch is given."""
    return value.item() if getattr(value, "shape", None) == () else value


def _shown(key: str, completion: str) -> str:
    """A sample and the beginning of its completion, for messages."""
    return f"sample {key!r}, completion {completion[:80]!r}"


def _weighted(parts: Mapping[str, Tensor], weights: Mapping[str, float], count: int) -> Tensor:
    """[N] weighted sum over the functions that could score, NaN where none could."""
    total = torch.zeros(count, dtype=torch.float64)
    scored = torch.zeros(count, dtype=torch.bool)
    for name, part in parts.items():
        total += weights[name] * part.nan_to_num(0.0)
        scored |= ~part.isnan()
    return total.masked_fill(~scored, math.nan)
