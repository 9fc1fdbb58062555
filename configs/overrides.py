"""Overrides: words like `stages.grpo.budget.steps=50` that change single values of a mapping read from a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..boundary.files import is_file
from ..errors import InputError
from .plugins import nearest

AMOUNTS = ("samples", "fraction", "steps", "hours", "flops")  # a budget has one of them
_WITHOUT_EPOCHS = ("steps", "hours", "flops")
_WORD = r"[\w.\[\]-]+="


def is_override(word: str) -> bool:
    """Whether a word of a command line is of the form key=value, and no file of that name is there."""
    return bool(re.match(_WORD, word)) and not is_file(word)


def split_name(text: str) -> tuple[str, list[str]]:
    """A file's name or path, and the overrides that follow it: "online seed=3" is ("online", ["seed=3"])."""
    if is_file(text):
        return text, []
    name, *words = re.split(rf"\s+(?={_WORD})", text.strip())
    return name, words


def value_in(text: str) -> Any:
    """What a text is as YAML: a number, a list, a mapping, ...; the text itself where it is none of them."""
    try:
        whole: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (OmegaConfBaseException, YAMLError):
        return text
    return whole["value"]


def overridden(spec: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The mapping of a curriculum with single values changed by words `key=value`, the value as YAML; see `assigned`.

    Raises InputError for a word of another form too.
    """
    values = []
    for word in words:
        key, mark, text = word.partition("=")
        if not mark or not key:
            raise InputError(f"override {word!r} is not of the form key=value")
        values.append((key, value_in(text)))
    return assigned(spec, values)


def assigned(spec: Mapping[str, Any], values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a curriculum with values set at the ends of paths; the one that is given stays as it is.

    A path: `seed`, `stages.0.batch_size`, `stages.grpo.pool.label` (a stage by its name), `cells.ac.column`;
    `stages[0]` and a leading `curriculum.` are understood too. An amount given to a budget takes the place of the one
    that it had, `at_most` included, unless that is given as well.
    Raises InputError for a path that leads nowhere. What stands at its end is for the reader of curricula to know.
    """
    changed = deepcopy(dict(spec))
    paths: list[list[str]] = []
    for key, value in values:
        parts = re.sub(r"\[(\w+)\]", r".\1", key).removeprefix("curriculum.").split(".")
        paths.append(parts)
        node = _holder(changed, parts, key)
        if parts[-1] in AMOUNTS and "budget" in parts[-2:-1] and isinstance(node, dict):
            gone = {*AMOUNTS, "at_most", *(["epochs"] if parts[-1] in _WITHOUT_EPOCHS else [])}
            for other in gone - {path[-1] for path in paths if path[:-1] == parts[:-1]}:
                node.pop(other, None)
        _set(node, parts[-1], deepcopy(value), key)
    return changed


def _holder(node: Any, parts: Sequence[str], key: str) -> Any:
    """The mapping or list that holds the last part of a path; mappings on the way that are missing are made."""
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            node = node[_place(node, part, key)] if part.isdigit() else _stage(node, part, key)
        elif node.get(part) is None:
            node[part] = {}
            node = node[part]
        else:
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise InputError(f"override {key}: {'.'.join(parts[: depth + 1])} is {node!r} and holds no keys")
    return node


def _set(node: Any, part: str, value: Any, key: str) -> None:
    if isinstance(node, dict):
        node[part] = value
    elif part.isdigit():
        node[_place(node, part, key)] = value
    else:
        stage = _stage(node, part, key)
        holder = next(one for one in (node, *(each.get("stages", ()) for each in node)) if stage in one)
        holder[holder.index(stage)] = value


def _place(listed: Sequence[Any], part: str, key: str) -> int:
    """A place in a list; an InputError says which there are."""
    if not part.isdigit() or int(part) >= len(listed):
        there = f"0 to {len(listed) - 1}" if listed else "none, it is empty"
        raise InputError(f"override {key}: {part!r} is no place in that list; there are {there}")
    return int(part)


def _stage(listed: Sequence[Any], part: str, key: str) -> Any:
    """The stage of that name in a list of stages, or among the members of one; an InputError lists the names."""
    inner = [one.get("stages") or () for one in listed if isinstance(one, dict)]
    named = {str(one["name"]): one for one in chain(listed, *inner) if isinstance(one, dict) and "name" in one}
    if not named:  # a list of something else
        _place(listed, part, key)
    if part not in named:
        raise InputError(f"override {key}: no stage {part!r}; {nearest(part, named, 'there are')}")
    return named[part]
