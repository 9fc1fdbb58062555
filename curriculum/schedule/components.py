"""Components: how a curriculum file names functions, by a short name or an import path, alone or with arguments.

    uniform                                   a name alone
    {power: {by: ac, gamma: 2.0}}             a name with arguments
    {my_lab.curricula.heard_but_hard: 2.0}    an import path; a single value is the first argument

An argument annotated as `Paced` is a number, or a pace: a function of the stage's progress. The function itself always
receives the number.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

import numpy as np

from ...configs.plugins import nearest
from ...errors import InputError
from ..arrays import Floats

Paced = Annotated[float, "a number, or a pace of it"]
Live = Mapping[str, Floats]  # observed columns [Q], by name


@dataclass(frozen=True)
class Pace:
    """A number that moves with the progress t in [0, 1] of a stage, or with what was observed so far."""

    name: str
    function: Callable[..., float]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Whether the number may change over a stage: it is no constant."""
        return self.name != "constant"

    def __call__(self, t: float, live: Live) -> float:
        """The value at progress t; an InputError names a pace that is no number there."""
        more = {"live": live} if "live" in inspect.signature(self.function).parameters else {}
        try:
            value = self.function(t, **self.arguments, **more)
        except (TypeError, ValueError, ArithmeticError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"pace {self.name!r} raised {type(error).__name__} at progress {t:.3f}: {error}") from None
        if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            raise InputError(f"pace {self.name!r} gives {value!r} at progress {t:.3f}; a finite number is needed")
        return float(value)


@dataclass(frozen=True)
class Component:
    """A function of the cells with its arguments bound; `paces` are evaluated before every call."""

    name: str
    where: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    paces: Mapping[str, Pace] = field(default_factory=dict)

    def bound(self, t: float, live: Live) -> dict[str, Any]:
        """All arguments, with the paces replaced by their numbers at progress t."""
        return dict(self.arguments) | {name: pace(t, live) for name, pace in self.paces.items()}


def split(spec: Any, where: str) -> tuple[str, Any]:
    """The name and the arguments (None where there are none) of a component; InputError where it is neither."""
    if isinstance(spec, str):
        return spec, None
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, arguments),) = spec.items()
        return str(name), arguments
    raise InputError(f"{where}: a name, or a mapping of one name to its arguments, is needed; got {spec!r:.80}")


def bind(
    function: Callable[..., Any], given: Any, skip: int, where: str, parse_pace: Callable[[Any, str], Pace]
) -> tuple[dict[str, Any], dict[str, Pace]]:
    """Arguments and paces for a function whose first `skip` parameters come from elsewhere.

    given: what the file says. `parse_pace` turns the values of `Paced` parameters into paces.
    Raises InputError that names an unknown, missing or surplus argument; where: its place in the file.
    """
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    named = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "live"}
    rest = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
    hints = _hints(function)
    first = next(iter(named), None)
    if given is None:
        given = {}
    elif not isinstance(given, Mapping):
        if first is None:
            raise InputError(f"{where}: takes no single value, got {given!r}")
        given = {first: given}
    elif rest is None and len(given) == 1 and not set(given) & set(named) and hints.get(str(first)) == Paced:
        given = {first: given}  # the pace itself: {floor: {linear: {from: 0.1, to: 0.0}}}
    arguments: dict[str, Any] = {}
    paces: dict[str, Pace] = {}
    for key, value in given.items():
        name = f"{key}_" if f"{key}_" in named and keyword.iskeyword(str(key)) else str(key)
        if name not in named and rest is None:
            hint = nearest(key, (n.rstrip("_") for n in named), "it takes")
            raise InputError(f"{where}: unknown argument {key!r}; {hint}")
        parameter = named.get(name) or rest
        if parameter is not None and hints.get(parameter.name) == Paced:
            paces[name] = parse_pace(value, f"{where}.{key}")
        else:
            arguments[name] = value
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments and name not in paces:
            raise InputError(f"{where}: needs the argument {name.rstrip('_')!r}")
    return arguments, paces


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by parameter; where they cannot be resolved, those that are written `Paced` still count."""
    if isinstance(function, type):
        return {}
    try:
        return get_type_hints(inspect.unwrap(function), include_extras=True)
    except (NameError, TypeError):
        written = getattr(function, "__annotations__", {})
        return {name: Paced for name, hint in written.items() if str(hint).rpartition(".")[2] == "Paced"}
