"""What a recipe's step was when it was started and when it finished, and in words what is different now.

A record is JSON in `OUT/.steps/NAME.json`. While a step runs it holds `started` alone. Earlier code wrote a
`fingerprint` of the step and of all steps before it instead of what follows it here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ... import __version__
from ...boundary.environment import hidden_in
from ...boundary.files import read_json, write_text
from ...boundary.words import one_line

RECORDINGS = "recordings"  # stands for the many files of a packing
RESOLVED = "resolved"  # stands for what the environment makes of a curriculum's file
PLACES = ("reads", "needs", "exact", "below")
_MOST = 60  # letters of a value in a sentence
_NOTHING = object()


@dataclass
class Record:
    """One step's record; all fields are empty for a step that never ran.

    started: the `key` of a start that has not ended. fingerprint: the `key` of the finished run, or what earlier code
    wrote. config: hash of the step's text, and text itself, without values of the environment. inputs, outputs: path ->
    hash of its content. after: step -> its `state`. places: where it reads and writes.
    """

    started: str = ""
    fingerprint: str = ""
    config: str = ""
    text: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    version: str = __version__
    seconds: float = 0.0
    result: Any = None

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file, empty where there is none; InputError where it is no JSON."""
        found = read_json(path) if path.is_file() else {}
        if not isinstance(found, dict):
            return cls()
        empty = {one.name: getattr(cls(), one.name) for one in fields(cls) if one.name != "result"}
        kept = {name: found[name] for name, value in empty.items() if _alike(found.get(name), value)}
        if not _are_places(kept.get("places")):
            kept["places"] = {}
        return cls(**{"version": "", **kept, "result": found.get("result")})

    def write(self, path: Path) -> None:
        """Writes it whole or not at all, readable by its owner alone."""
        whole = asdict(self)
        content = {name: whole[name] for name in whole if (name == "started") == bool(self.started)}
        plain = json.loads(json.dumps(content, default=str))  # a lab's function may return anything
        kept = hidden_in(plain)
        if kept.get("places") != plain.get("places"):  # what is hidden leads to no file
            kept["places"] = {}
        if "outputs" in kept:
            kept["outputs"] = {path: value for path, value in kept["outputs"].items() if path in plain["outputs"]}
        write_text(path, json.dumps(kept, indent=1), private=True)

    @property
    def finished(self) -> bool:
        """Whether the step ran to its end, as this code records it."""
        return bool(self.config)

    @property
    def state(self) -> str:
        """What steps that come after it, without reading its files, depend on: its run and what it wrote."""
        return digest([self.fingerprint, self.outputs])

    @property
    def left(self) -> str:
        """As `state`, but where its outputs are known those alone: a run with the same outputs is the same."""
        return digest(self.outputs) if self.outputs else self.fingerprint


def digest(value: Any) -> str:
    """A hash [16 hexadecimal digits] of plain values."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def changed_text(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is different in a step's text: `its argument model.lr changed: 1e-3 -> 4e-4`, the first of several.

    now: with the values of the environment, which are not shown.
    """
    before, after = dict(_flat("", then)), dict(_flat("", json.loads(json.dumps(hidden_in(now), default=str))))
    keys = [key for key in [*after, *(key for key in before if key not in after)] if _differs(before, after, key)]
    if not keys:
        return "a value of the environment in it changed"
    key, more = keys[0], f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    what = "its verb" if key == "do" else f"its argument {key}"
    if key not in before:
        return f"{what} is new: {_worded(after[key])}{more}"
    if key not in after:
        return f"{what} is gone: it was {_worded(before[key])}{more}"
    return f"{what} changed: {_worded(before[key])} -> {_worded(after[key])}{more}"


def changed_inputs(then: Mapping[str, str], now: Mapping[str, str], made: Container[str]) -> str | None:
    """What is different in the files that a step reads, None where nothing is.

    then, now: path -> hash, "" for what is not there. made: the paths that other steps write. What came from elsewhere
    may be gone: it was read. A file that lies under another path now is the same file.
    """
    moved = [value for path, value in then.items() if path not in now]
    for path, value in now.items():
        before = then.get(path, "")
        if value == before or value in moved or (not value and path not in made):
            continue
        if path == RESOLVED:
            if before:  # earlier code did not record it
                return "a value of the environment in its curriculum changed"
            continue
        if path == RECORDINGS:
            return "its recordings changed"
        return f"its input {shown(path)} {'is missing' if not value else 'was replaced' if before else 'is new'}"
    return None


def changed_outputs(then: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """What is different in the files that a step left, None where nothing is; path -> hash, "" for what is missing."""
    for path, value in now.items():
        if value != then[path]:
            return f"its output {shown(path)} {'was changed' if value else 'is missing'}"
    return None


def shown(path: str) -> str:
    """A path for a sentence: from the working folder where it lies in it."""
    near = os.path.relpath(path)
    return path if near.startswith("..") else near


def result_shown(result: Any) -> str:
    """What a step returned, for a printed line."""
    if isinstance(result, dict):
        return ", ".join(f"{key} {value}" for key, value in result.items())
    return str(result or "")


def _are_places(value: Any) -> bool:
    """Whether it says of all PLACES, and by which version, in lists of texts."""
    lists = [value.get(key) for key in ("by", *PLACES)] if isinstance(value, dict) else [None]
    return all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists)


def _alike(value: Any, empty: Any) -> bool:
    return isinstance(value, int | float) if isinstance(empty, float) else isinstance(value, type(empty))


def _differs(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> bool:
    return bool(before.get(key, _NOTHING) != after.get(key, _NOTHING))


def _flat(where: str, node: Any) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested mappings; lists are values, but for lists of mappings."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _flat(f"{where}.{name}" if where else str(name), value)
    elif isinstance(node, list) and any(isinstance(each, Mapping) for each in node):
        for number, value in enumerate(node):
            yield from _flat(f"{where}[{number}]", value)
    else:
        yield where, node


def _worded(value: Any) -> str:
    return one_line(json.dumps(value, default=str) if not isinstance(value, str) else value, _MOST)
