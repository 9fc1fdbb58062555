"""Files that extend another: what `extends: demo` makes of the mapping of that file and of the one that names it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..errors import InputError
from .plugins import nearest

_KIND = "class_path"


def changed(base: Mapping[str, Any], change: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A whole file with the changes of another one at `path`.

    Mappings are merged, everything else is replaced, lists as a whole. A step that says what it does (`do`) is replaced
    as a whole, and so is an object of another `class_path`. A step that is null is left out. A new one stands behind
    the one that it follows in the change, and may begin as a copy of another (`like: grpo`). InputError for a step that
    is left out, changed or copied and not there.
    """
    steps, changes = base.get("steps"), change.get("steps")
    merged: dict[str, Any] = _merged(base, {key: value for key, value in change.items() if key != "steps"})
    if isinstance(steps, Mapping) and isinstance(changes, Mapping):
        merged["steps"] = _steps(steps, changes, path)
    elif "steps" in change:
        merged["steps"] = changes
    return merged


def _steps(base: Mapping[str, Any], change: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The steps in their order; see `changed`."""
    names, steps, before = list(base), dict(base), None
    for name, step in change.items():
        origin = step.get("like", name) if isinstance(step, Mapping) else name
        whole = isinstance(step, Mapping) and "do" in step
        if not isinstance(origin, str):
            raise InputError(f"{path}: step {name!r}: like must be the name of a step, got {origin!r:.80}")
        if origin not in steps and not whole:
            raise InputError(f"{path}: no step {origin!r} to change or leave out; {nearest(origin, base, 'there are')}")
        if step is None:
            names.remove(name)
            del steps[name]
            continue
        if name not in steps:
            names.insert(len(names) if before is None else names.index(before) + 1, name)
        steps[name] = deepcopy(step) if whole else _merged(steps[origin], step)
        if isinstance(step, Mapping):
            steps[name].pop("like", None)
        before = name
    return {name: steps[name] for name in names}


def _merged(base: Any, change: Any) -> Any:
    """A value with what changes it: mappings key by key, everything else as the change says."""
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return deepcopy(change)
    if base.get(_KIND) is not None and change.get(_KIND, base[_KIND]) != base[_KIND]:
        return deepcopy(change)
    whole = deepcopy(dict(base))
    for key, value in change.items():
        whole[key] = _merged(base[key], value) if key in base else deepcopy(value)
    return whole
