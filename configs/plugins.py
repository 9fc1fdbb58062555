"""Functions by name: one of a table's own, or anybody's by its import path (`my_lab.losses.mine`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

from ..errors import InputError

Value = TypeVar("Value")


def function_named(name: str, known: Mapping[str, Value], where: str) -> Value | Callable[..., Any]:
    """The entry of that name in `known`, or the function that an import path with a dot leads to.

    where: the key of the configuration, for messages. Raises InputError where there is no such entry (the nearest name
    is given), where the path cannot be imported, and where what it leads to cannot be called.
    """
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise InputError(
            f"{where}: unknown name {name!r}; {nearest(name, known, 'there are')} (or give an import path)"
        )
    try:
        holder = import_module(module)
        function = getattr(holder, attribute)
    except (ImportError, TypeError, ValueError) as error:  # the last two for names like `..x`
        raise InputError(f"{where}: cannot import {name!r} ({error})") from None
    except AttributeError:
        near = get_close_matches(attribute, getattr(holder, "__all__", dir(holder)), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        reason = f"module {module!r} has no attribute {attribute!r}"
        raise InputError(f"{where}: cannot import {name!r} ({reason}){hint}") from None
    if not callable(function):
        raise InputError(f"{where}: {name!r} is not a function")
    return function  # type: ignore[no-any-return]


def nearest(name: object, known: Iterable[str], otherwise: str = "it knows") -> str:
    """`did you mean 'x'?` where one of the known names is close, else `it knows a, b, c`."""
    names = list(known)
    near = get_close_matches(str(name), names, 1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(names)}"
