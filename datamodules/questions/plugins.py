"""Layouts, prompt styles and judging rules by name: one of a table's own, or a user's by its import path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...configs.plugins import Guarded, function_named

Function = TypeVar("Function", bound=Callable[..., Any])


def plugin_named(name: str, known: Mapping[str, Function], kind: str, arguments: str) -> Function | Callable[..., Any]:
    """The function of that name in `known`, or the one at an import path such as `my_lab.rules.ours`.

    kind: "layout", "style" or "rule", for messages. arguments: the names of what it is called with. Raises InputError
    where there is no such function, and where it cannot be called with so many arguments.
    """
    function = function_named(name, known, kind)
    return function if name in known else Guarded(function, name, kind, arguments)
