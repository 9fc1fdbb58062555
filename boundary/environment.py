"""Values that came from the environment: remembered when they are read, hidden wherever anything is stored or shown.

A value is hidden as `${oc.env:NAME}`, which says where it came from and stands for it again in a file of this project.
Short values, such as a rank or a port, are hidden where they are the whole text alone: within others they would be
found everywhere. The path of a folder that is there is no secret, and what is written below it must be found again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_SHORT = 6
_KNOWN: dict[str, str] = {}  # value -> the variable that it came from


def remember(name: str, value: str) -> str:
    """The value, from now on hidden wherever anything is stored or shown; name: of its variable."""
    if value.strip() and not (os.path.isabs(value) and os.path.isdir(value)):
        _KNOWN[value] = name
    return value


def variable(name: str, default: str = "") -> str:
    """The value of a secret environment variable, remembered."""
    return remember(name, os.environ.get(name, default).strip())


def hidden(text: str) -> str:
    """The text with the name of its variable in the place of every value that came from the environment."""
    if text in _KNOWN:
        return _mark(_KNOWN[text])
    for value in sorted(_KNOWN, key=len, reverse=True):
        if len(value) >= _SHORT and value in text:
            text = text.replace(value, _mark(_KNOWN[value]))
    return text


def hidden_in(node: Any) -> Any:
    """Mappings, lists and texts with everything hidden in them; other values, and whatever was not found, as it is."""
    if isinstance(node, str):
        return hidden(node)
    if isinstance(node, Mapping):
        return {hidden(name) if isinstance(name, str) else name: hidden_in(value) for name, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(hidden_in(each) for each in node)
    return node


def names() -> list[str]:
    """The variables that were read, by name."""
    return sorted(set(_KNOWN.values()))


def _mark(name: str) -> str:
    return f"${{oc.env:{name}}}"
