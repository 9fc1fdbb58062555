"""The runs of an experiment as one mapping of steps: what several of them have in common is there once.

The paths of a recipe lie below one folder, HERE. A step is named after itself and a hash of its content and of the
steps that write what it reads, and its files lie in a folder of that name: equal steps are one step, and an arm that
is added, edited or left out never moves another's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...errors import InputError
from .arms import HERE

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
        whole.places[run] = _placed(steps, out, whole.steps)
    return whole


def _placed(steps: Mapping[str, Any], out: str, known: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Step of a recipe -> its name in the experiment; adds to `known` those that are not there yet."""
    owners = Owners()
    places: dict[str, str] = {}
    for name, step in steps.items():
        owned = {rest: owners.of(rest, name) for rest in paths_in(step)}
        marks = {rest: f"<{places.get(owner, 'self')}>{rest}" for rest, owner in owned.items()}
        text = json.dumps([name, rewritten(step, marks)], sort_keys=True, default=str)
        places[name] = f"{name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
        if places[name] not in known:
            known[places[name]] = rewritten(
                step, {rest: _located(out, places, owner, rest) for rest, owner in owned.items()}
            )
    return places


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


def rewritten(value: Any, instead: Mapping[str, str]) -> Any:
    """A value with other paths; instead: what follows HERE in a path -> the text that the whole path becomes."""
    if isinstance(value, str):
        return _PATH.sub(lambda found: instead[found[1]], value)
    if isinstance(value, Mapping):
        return {key: rewritten(one, instead) for key, one in value.items()}
    return [rewritten(one, instead) for one in value] if isinstance(value, list) else value


def paths_in(value: Any) -> list[str]:
    """All paths below HERE in a value, without it, in their order."""
    if isinstance(value, str):
        return _PATH.findall(value)
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [path for one in inside for path in paths_in(one)]
