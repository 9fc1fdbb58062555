"""Functions by name: one of a table's own, or anybody's by its import path (`my_lab.losses.mine`)."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import update_wrapper
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


class Guarded:
    """A user's function that is checked to take its arguments, and whose errors are one sentence.

    The sentence names the function, the error and the line of the user's file that raised it. Attributes are those of
    the function.

    takes: the names of what it is called with, "logprob, mask, *, clip": what stands behind the star goes by name.
    where: the key of the configuration, for messages. InputError where it cannot be called so.
    """

    def __init__(self, function: Callable[..., Any], name: str, where: str, takes: str) -> None:
        update_wrapper(self, function)
        self.function, self.name, self.where = function, name, where
        places, _, keywords = takes.partition("*, ")
        try:
            named = dict.fromkeys(filter(None, keywords.split(", ")))
            inspect.signature(function).bind(*filter(None, places.split(", ")), **named)
        except TypeError as error:
            raise InputError(f"{where}: {name!r} must take the arguments ({takes}): {error}") from None
        except ValueError:  # some functions written in C do not say what they take
            pass

    def __call__(self, *given: Any, **named: Any) -> Any:
        """What the function returns; an InputError for whatever it raises."""
        try:
            return self.function(*given, **named)
        except InputError:
            raise
        except Exception as error:  # a user's function: whatever it raises is reported under its name
            raise InputError(f"{self.where}: {self.name!r} {raised_by(self.function, error)}") from error


def raised_by(function: Callable[..., Any], error: BaseException) -> str:
    """`raised KeyError: 'x' in my_lab/losses.py, line 12`: the last line of the function's own file on the way."""
    said = f"raised {type(error).__name__}: {error}"
    file = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{said} in {file}, line {lines[-1]}" if lines else said


def nearest(name: object, known: Iterable[str], otherwise: str = "it knows") -> str:
    """`did you mean 'x'?` where one of the known names is close, else `it knows a, b, c`."""
    names = list(known)
    near = get_close_matches(str(name), names, 1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(names)}"
