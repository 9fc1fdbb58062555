"""Layouts, prompt styles and judging rules by name: one of a table's own, or a user's by its import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...configs.plugins import function_named
from ...errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


def plugin_named(name: str, known: Mapping[str, Function], kind: str, arguments: str) -> Function | Callable[..., Any]:
    """The function of that name in `known`, or the one at an import path such as `my_lab.rules.ours`.

    kind: "layout", "style" or "rule", for messages. arguments: the names of what it is called with. Raises InputError
    where there is no such function, and where it cannot be called with so many arguments.
    """
    function = function_named(name, known, kind)
    if name not in known:
        try:
            inspect.signature(function).bind(*arguments.split(", "))
        except TypeError as error:
            raise InputError(f"{kind}: {name!r} must take the arguments ({arguments}): {error}") from None
        except ValueError:  # some functions written in C do not say what they take
            pass
    return function
