"""The runs of an experiment as one mapping of steps: what several of them have in common is there once.

The paths of a recipe lie below one folder, HERE. A step is named after itself and a hash of its content and of the
steps that write what it reads, and its files lie in a folder of that name: equal steps are one step, and an arm that
is added, edited or left out never moves another's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import InputError
from .experiment import HERE

_PATH = re.compile(re.escape(HERE) + r"((?:/[^\s/\"'=,;]+)*)")


class RunOf(NamedTuple):
    """A run of an experiment: its arm, the seed of its training and that of its draw."""

    arm: str
    train: int
    draw: int

    @property
    def name(self) -> str:
        """The run in words, such as "weak_to_strong, train 1, draw 1"."""
        return f"{self.arm}, train {self.train}, draw {self.draw}"


@dataclass
class Expansion:
    """All steps of an experiment by the names they have there, in an order in which they can run.

    steps: name -> step, its paths below the experiment's folder. places: run -> step of the recipe -> name here.
    """

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[RunOf, dict[str, str]] = field(default_factory=dict)

    def users(self, name: str) -> list[RunOf]:
        """The runs that a step belongs to."""
        return [run for run, places in self.places.items() if name in places.values()]

    @property
    def shared(self) -> list[str]:
        """The steps that more than one arm needs."""
        return [name for name in self.steps if len({run.arm for run in self.users(name)}) > 1]

    def of_arm(self, arm: str) -> dict[str, dict[str, Any]]:
        """The steps that an arm needs, those that it shares included."""
        wanted = {name for run, places in self.places.items() if run.arm == arm for name in places.values()}
        return {name: step for name, step in self.steps.items() if name in wanted}

    def needed(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """The steps of these names and all whose folders they mention, over any number of steps."""
        found, fresh = set(names), set(names)
        while fresh:
            texts = json.dumps([self.steps[name] for name in fresh])
            fresh = {name for name in self.steps if name not in found and f"/{name}" in texts}
            found |= fresh
        return {name: step for name, step in self.steps.items() if name in found}


def expanded(runs: Mapping[RunOf, Mapping[str, Any]], out: str) -> Expansion:
    """The steps of all runs; runs: each with the steps of its recipe. out: the experiment's folder.

    Raises InputError for a step that reads a folder in which several steps write.
    """
    whole = Expansion()
    for run, steps in runs.items():
        owners, places = Owners(), {}
        for name, step in steps.items():
            digest = hashlib.blake2b(digest_size=4)
            marked = rewritten(step, lambda rest, name=name: f"<{places.get(o := owners.of(rest, name), 'self')}>{rest}")  # type: ignore[misc]
            digest.update(json.dumps([name, marked], sort_keys=True, default=str).encode())
            places[name] = f"{name}-{digest.hexdigest()}"
            if places[name] not in whole.steps:
                whole.steps[places[name]] = rewritten(
                    step, lambda rest, name=name: _located(out, places, owners.of(rest, name), rest)  # type: ignore[misc]
                )
        whole.places[run] = places
    return whole


def _located(out: str, places: Mapping[str, str], owner: str, rest: str) -> str:
    """Where a path of the recipe lies: in the folder of the step that writes it."""
    below = rest.removeprefix(f"/{owner}") if f"{rest}/".startswith(f"/{owner}/") else rest
    return f"{out}/{places[owner]}{below}"


class Owners:
    """Which step of a recipe writes a path: the first that mentions it, or a folder above or a file below it."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, rest: str, step: str) -> str:
        """The step that writes the path `rest` below the recipe's folder, asked in the order of the steps.

        Raises InputError for a folder in which several earlier steps write.
        """
        above = [known for known in self._known if f"{rest}/".startswith(f"{known}/")]
        if above:
            return self._known[max(above, key=len)]
        below = {owner for known, owner in self._known.items() if known.startswith(f"{rest}/")}
        if len(below) > 1:
            raise InputError(
                f"step {step!r} reads the folder {rest[1:] or 'out'}, in which {' and '.join(sorted(below))} write: in "
                "an experiment each step has a folder of its own; name the files"
            )
        self._known[rest] = next(iter(below), step)
        return self._known[rest]


def rewritten(value: Any, place: Callable[[str], str]) -> Any:
    """A value with each path below HERE in it replaced by what `place` makes of what follows HERE in it."""
    if isinstance(value, str):
        return _PATH.sub(lambda found: place(found[1]), value)
    if isinstance(value, Mapping):
        return {key: rewritten(one, place) for key, one in value.items()}
    return [rewritten(one, place) for one in value] if isinstance(value, list) else value


def reads(value: Any) -> list[str]:
    """All paths below HERE in a value, without it."""
    found: list[str] = []
    rewritten(value, lambda rest: found.append(rest) or "")
    return found
