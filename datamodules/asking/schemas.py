"""Schemas of answers: bounded everywhere, so that a server's grammar ends, and checked here too.

Without bounds some servers never end: arrays get minItems and maxItems, texts maxLength, and no `pattern`, which turns
maxLength off. Of JSON Schema only what is used here is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]


def text(longest: int) -> dict[str, Any]:
    """A text of 1 to `longest` characters."""
    return {"type": "string", "minLength": 1, "maxLength": longest}


def one_of(values: Sequence[str | int]) -> dict[str, Any]:
    """One of some values."""
    return {"type": "integer" if isinstance(values[0], int) else "string", "enum": list(values)}


def texts(count: int, longest: int) -> dict[str, Any]:
    """A list of exactly `count` texts."""
    return {"type": "array", "items": text(longest), "minItems": count, "maxItems": count}


def record(**fields: Schema) -> dict[str, Any]:
    """An object of exactly these fields, in this order."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def response_format(name: str, schema: Schema) -> dict[str, Any]:
    """The field `response_format` of a request."""
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


class Unusable(ValueError):
    """An answer that is none, and a short name of what is wrong with it."""


def parsed(reply: str, schema: Schema) -> dict[str, Any]:
    """The object in a reply, with or without a fence of three marks around it; Unusable where it is not the schema's.

    Outer white space of texts is dropped.
    """
    body = reply.strip()
    if body.startswith("```"):
        body = body.partition("\n")[2].rpartition("```")[0].strip()
    if not body:
        raise Unusable("empty answer")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Unusable("not JSON") from None
    checked: dict[str, Any] = _checked(value, schema)
    return checked


def _checked(value: Any, schema: Schema) -> Any:
    """The value where it is what the schema says, texts stripped."""
    kind = schema["type"]
    if kind == "object":
        if not isinstance(value, dict):
            raise Unusable("not an object")
        if set(value) != set(schema["required"]):
            raise Unusable("other fields than asked for")
        return {name: _checked(value[name], inner) for name, inner in schema["properties"].items()}
    if kind == "array":
        if not isinstance(value, list) or not schema["minItems"] <= len(value) <= schema["maxItems"]:
            raise Unusable("another number of entries")
        return [_checked(one, schema["items"]) for one in value]
    if isinstance(value, bool) or not isinstance(value, int if kind == "integer" else str):
        raise Unusable(f"not a {kind}")
    if isinstance(value, str):
        value = " ".join(value.split())
        if not value or len(value) > schema.get("maxLength", len(value)):
            raise Unusable("a text that is empty or too long")
    if "enum" in schema and value not in schema["enum"]:
        raise Unusable("a value that is none of those allowed")
    return value
