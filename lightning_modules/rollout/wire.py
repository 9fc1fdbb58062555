"""The messages between a rollout server and its clients: a JSON header and safetensors, never pickle.

Layout: 8 bytes, little-endian, the header's length; the header; a safetensors file of the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...boundary.words import one_line
from ...datamodules.batch import Prompts
from ...errors import InputError
from .engine import Completions

TOKEN_VARIABLE = "EARWITNESS_TOKEN"  # the environment variable of the secret that clients and servers share
_HEADER_BYTES = 64 << 20
Message = tuple[dict[str, Any], dict[str, Tensor]]  # header and tensors


def pack(header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> bytes:
    """The bytes of a message. Tensors are copied to the CPU."""
    text = json.dumps(header).encode()
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()})
    return b"".join((len(text).to_bytes(8, "little"), text, data))


def unpack(body: bytes) -> Message:
    """(header, tensors) of the bytes of a message. InputError where they are none."""
    view = memoryview(body)
    length = int.from_bytes(view[:8], "little")
    if length > min(_HEADER_BYTES, len(view)):
        raise InputError("not a message of a rollout server or its client (its header is too long)")
    try:
        header = json.loads(bytes(view[8 : 8 + length]))
        tensors = load(bytes(view[8 + length :]))
    except (ValueError, RecursionError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"not a message of a rollout server or its client ({one_line(error, 200)})") from None
    if not isinstance(header, dict):
        raise InputError("not a message of a rollout server or its client (its header is no object)")
    return header, tensors


def tensors_of(record: Prompts | Completions) -> dict[str, Tensor]:
    """Field name -> tensor of a record, fields that are None left out."""
    tensors = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
