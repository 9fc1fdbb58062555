"""Files that extend another: what `extends: demo` makes of the mapping of that file and of the one that names it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..errors import InputError
from .plugins import nearest


def changed(base: Mapping[str, Any], change: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A whole file with the changes of another one at `path`.

    Mappings are merged, everything else is replaced, lists as a whole. A step is replaced where it has another `do`, an
    object where it has another `class_path`; a step that is null is left out, and a new one stands behind the one that
    it follows in the change. InputError where a step is left out that there is not.
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
        if step is None:
            if name not in steps:
                raise InputError(f"{path}: no step {name!r} to leave out; {nearest(name, base, 'there are')}")
            names.remove(name)
            del steps[name]
            continue
        if name not in steps:
            names.insert(len(names) if before is None else names.index(before) + 1, name)
        steps[name] = _merged(steps[name], step) if name in steps else deepcopy(step)
        before = name
    return {name: steps[name] for name in names}


def _merged(base: Any, change: Any) -> Any:
    """A value with what changes it: mappings key by key, everything else as the change says."""
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return deepcopy(change)
    if any(key in change and key in base and change[key] != base[key] for key in ("do", "class_path")):
        return deepcopy(change)
    whole = deepcopy(dict(base))
    for key, value in change.items():
        whole[key] = _merged(base[key], value) if key in base else deepcopy(value)
    return whole
