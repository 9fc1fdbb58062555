"""The modules of a user's own that a step names by import path: their content counts, too."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...boundary.files import is_file

_INSTALLED = tuple(f"{os.path.abspath(top)}{os.sep}lib" for top in {sys.prefix, sys.base_prefix})
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def modules_named(text: Any) -> list[str]:
    """Files of modules of the user's own that are named by import path: beside his files, not installed."""
    found = {_module(name.rpartition(".")[0]) for name in _dotted(text)}
    return sorted(path for path in found if path)


def _dotted(node: Any) -> Iterator[str]:
    if isinstance(node, str) and _IMPORT_PATH.fullmatch(node):
        yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _dotted(key)
            yield from _dotted(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _dotted(value)


def _module(name: str) -> str | None:
    """The file of a module that is neither installed nor ours; nothing is imported."""
    if name.split(".", maxsplit=1)[0] == "earwitness":
        return None
    stem = Path(*name.split("."))
    for place in dict.fromkeys([os.getcwd(), *map(os.path.abspath, sys.path)]):
        if place.startswith(_INSTALLED) or "site-packages" in place:
            continue
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if is_file(Path(place) / file):
                return str(file) if place == os.getcwd() else str(Path(place) / file)
    return None
