"""The reader of typed values: a mapping from a YAML file becomes a dataclass, or the arguments of a function.

What may stand in a file is what the annotations say. A whole number is a float too; true and false are no numbers;
nothing is converted but a list where a tuple is declared. An object is written {class_path: ..., init_args: {...}}.
A message names the key with its path, what is allowed there, and for a misspelt key its nearest neighbour.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError
from .plugins import function_named, nearest

Value = TypeVar("Value")
OBJECT = ("class_path", "init_args", "dict_kwargs")  # the keys of an object in a file
_LISTS = (list, tuple, Sequence, Iterable)
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


class Loose(str):
    """A text that may also stand for the value that it looks like: words of a command line have no types."""

    value: Any

    @classmethod
    def of(cls, text: str, value: Any) -> Loose:
        """The text `text` that looks like `value`."""
        made = cls(text)
        made.value = value
        return made


def read(kind: Callable[..., Value], spec: Any, where: str = "") -> Value:
    """What `kind`, a dataclass, another class or a function, makes of the mapping `spec`.

    where: the path of the mapping's key, like `model.init_args.objective`, or what comes before a path, with a colon
    and a space, like `job.yaml: `. Raises InputError for a wrong key or value, and for what `kind` itself refuses.
    """
    given = arguments(kind, spec, where)
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(placed(str(error), where, _signature(kind))) from error
    except Exception as error:
        error.add_note(where)  # a class of another library refuses in its own way, or is at fault
        raise


def arguments(function: Callable[..., Any], spec: Any, where: str = "", given_later: int = 0) -> dict[str, Any]:
    """The values of a mapping as keyword arguments of a function, none of them left out that has no default.

    given_later: how many of the first parameters the caller gives by position. Raises InputError.
    """
    parameters, hints = _signature(function), _hints(function)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        spec = mapping(spec, where)
    else:
        spec = known_keys(spec, list(parameters), where)
    values = {}
    for key, value in spec.items():
        parameter = parameters.get(key)
        # A default need not be what the annotation says: many libraries write `name: int = None`.
        default = parameter is not None and value is parameter.default
        values[key] = value if default else value_of(value, hints.get(key, Any), joined(where, key))
    for name, parameter in list(parameters.items())[given_later:]:
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and name not in spec and not variable:
            raise InputError(f"{_before(where)}needs {name!r}")
    return values


def mapping(spec: Any, where: str) -> dict[str, Any]:
    """A mapping as a dictionary of its own; anything else is an InputError."""
    if not isinstance(spec, Mapping):
        raise InputError(f"{where.removesuffix(': ') or 'the configuration'} must be a mapping, got {spec!r:.80}")
    return dict(spec)


def known_keys(spec: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    """A mapping whose keys are all among the names; an InputError names another one and its nearest neighbour."""
    for key in mapping(spec, where):
        if key not in names:
            raise InputError(f"{_before(where)}unknown key {key!r}; {nearest(key, names)}")
    return dict(spec)


def value_of(value: Any, hint: Any, where: str) -> Any:
    """The value that a file gives where an annotation says `hint`: made, checked, or as it is; InputError otherwise.

    What the annotation says is certain for plain types, lists, mappings, literals and dataclasses; anything that is
    given for another class, but an object, passes: whoever takes it may convert it.
    """
    if isinstance(value, Loose):
        try:
            return value_of(str(value), hint, where)
        except InputError:
            return value_of(value.value, hint, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first_fitting(value, args, hint, where)
    if isinstance(hint, type) and is_dataclass(hint) and not isinstance(value, hint):
        if isinstance(value, Mapping) and "class_path" in value:
            return _object(value, hint, where)
        return read(hint, value, where)
    if isinstance(value, Mapping) and "class_path" in value and hint is not Any and origin is not dict:
        later = len(args[0]) if args and isinstance(args[0], list) else 0
        return _object(value, hint, where, later if _is_callable(origin) else None)
    if not _fits(value, hint):
        raise InputError(f"{where} must be {words(hint)}, got {value!r:.80}")
    if isinstance(value, list) and origin in _LISTS and args:
        inner = args if origin is tuple and args[-1] is not ... else [args[0]] * len(value)
        values = [value_of(v, one, f"{where}[{n}]") for n, (v, one) in enumerate(zip(value, inner, strict=True))]
        return tuple(values) if origin is tuple else values
    if isinstance(value, dict) and _is_mapping(origin) and len(args) == 2:
        for key in value:
            value_of(key, args[0], f"{where}: its keys")
        return {key: value_of(one, args[1], joined(where, str(key))) for key, one in value.items()}
    return value


def joined(where: str, key: str) -> str:
    """The path of a key below another one, or after a `FILE: `."""
    return where + key if not where or where.endswith(": ") else f"{where}.{key}"


def placed(message: str, where: str, names: Iterable[str] = ()) -> str:
    """A message with the path of the key that it is about; names: what stands under the key.

    A message often begins with the last part of the path, or with a name under it: that is not said twice.
    """
    if not where or where.endswith(": "):
        return where + message
    last = re.split(r"[.\s]", where)[-1]
    head = re.match(r"(\w+)[.:\[]", message)
    if head and head[1] == last:
        return where + message[len(last) :]
    return f"{where}.{message}" if head and head[1] in names else f"{where}: {message}"


def words(hint: Any) -> str:
    """A type as the writer of a file knows it: "a whole number", "a list of texts", "'sft' or 'grpo'"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        listed = [repr(one) for one in args]
        return " or ".join(listed) if len(listed) < 3 else f"one of {', '.join(listed)}"
    if origin in (Union, UnionType):
        # Several literals are listed as one: Lightning's precision is a union of three.
        together = tuple(value for one in args if get_origin(one) is Literal for value in get_args(one))
        each = [words(Literal[together] if get_origin(one) is Literal else one) for one in args]
        return " or ".join(dict.fromkeys(each))
    if origin is tuple and args and args[-1] is not ...:
        return f"a list of {len(args)} values"
    if origin in _LISTS:
        return f"a list of {_several(args[0])}" if args else "a list"
    if _is_mapping(origin) or hint in (dict, Mapping) or (isinstance(hint, type) and is_dataclass(hint)):
        return "a mapping"
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', str(hint))}"


def _several(hint: Any) -> str:
    """The plural of `words`, where English has an easy one."""
    word = words(hint)
    return f"{word[2:]}s" if word.startswith("a ") and " or " not in word else f"values, each {word}"


def _before(where: str) -> str:
    return where if not where or where.endswith(": ") else f"{where}: "


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may stand where the annotation is no union and no dataclass; its elements are looked at later."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in args)
    if origin in _LISTS or hint in _LISTS:
        size = len(args) if origin is tuple and args and args[-1] is not ... else None
        return isinstance(value, (list, tuple)) and (size is None or len(value) == size)
    if _is_mapping(origin) or hint in (dict, Mapping):
        return isinstance(value, Mapping)
    if hint in (bool, NoneType, str):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return True


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_callable(origin: Any) -> bool:
    return origin is get_origin(Callable[..., Any])


def _first_fitting(value: Any, hints: Sequence[Any], hint: Any, where: str) -> Any:
    """The value as the first of several types takes it; the types that are of its kind alone, where there are any."""
    alike = [one for one in hints if _is_alike(value, one)] or hints
    refused = []
    for one in alike:
        try:
            return value_of(value, one, where)
        except InputError as error:
            refused.append(error)
    if len(refused) == 1 and alike is not hints:  # what is wrong inside it
        raise refused[0]
    raise InputError(f"{where} must be {words(hint)}, got {value!r:.80}")


def _is_alike(value: Any, hint: Any) -> bool:
    """Whether both are lists, or both mappings: a dataclass is written as one, and so is every object."""
    origin = get_origin(hint)
    if isinstance(value, list):
        return origin in _LISTS
    if not isinstance(value, Mapping):
        return False
    made = isinstance(hint, type) and hint not in _WORDS and (is_dataclass(hint) or "class_path" in value)
    return _is_mapping(origin) or hint is dict or made


def _object(spec: Mapping[str, Any], hint: Any, where: str, given_later: int | None = None) -> Any:
    """The object that {class_path, init_args} describes; with given_later what makes it, once that many are given."""
    spec = known_keys(spec, OBJECT, where)
    path = spec["class_path"]
    if not isinstance(path, str) or "." not in path:  # a bare name is looked up by whoever reads it
        return spec
    kind = function_named(path, {}, joined(where, "class_path"))
    if inspect.isclass(kind) and inspect.isclass(hint) and not issubclass(kind, hint):
        raise InputError(f"{joined(where, 'class_path')} must name a kind of {hint.__name__}, got {path!r}")
    given, place = spec.get("init_args") or {}, joined(where, "init_args")
    if given_later is not None:
        return partial(kind, **arguments(kind, given, place, given_later))
    return spec if spec.get("dict_kwargs") else read(kind, given, place)


def _signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function or of what makes a class; none where they name what only a type checker knows."""
    made = function.__init__ if inspect.isclass(function) and not is_dataclass(function) else function
    try:
        return get_type_hints(made)
    except (NameError, TypeError):
        return {}
