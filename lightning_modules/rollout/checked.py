"""What a client may send to a rollout server: prompts, settings and weights, checked before the engine sees them.

An engine that is given numbers beyond its tables may end its process, so everything is compared with the model first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...boundary.words import one_line
from ...configs.typed import read
from ...datamodules.batch import Prompts
from ...errors import InputError
from .engine import Completions, Rollout
from .vllm_format import TokenIds

Shapes = Mapping[str, Sequence[int]]  # of the model's tensors, by published name
MOST_COMPLETIONS = 1 << 16
_MOST_TOKENS = 1 << 20
_MOST_RANK = 512
_ADAPTER = re.compile(r"base_model\.model\.thinker\.(.+)\.lora_([AB])\.weight")
_ADAPTER_KEYS = {"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules"}
_DIMENSIONS = dict.fromkeys(("prefix_ids", "prefix_mask", "feature_mask", "suffix_ids", "suffix_mask"), 2)
_DIMENSIONS |= {"features": 3, "clip_of_row": 1}


class Asked(NamedTuple):
    """A request for completions."""

    prompts: Prompts
    rollout: Rollout
    keys: list[int]
    tokens: TokenIds


def text_in(header: Mapping[str, Any], name: str) -> str:
    """A short text of a message's header; InputError where it is none."""
    value = header.get(name)
    if not isinstance(value, str) or len(value) > 200:
        raise InputError(f"{name} must be a short text, got {one_line(repr(value), 80)}")
    return value


def number_in(header: Mapping[str, Any], name: str, most: int) -> int:
    """A whole number from 0 to `most` of a message's header; InputError where it is none."""
    value = header.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"{name} must be a whole number up to {most:,}, got {one_line(repr(value), 80)}")
    return value


def asked_in(header: Mapping[str, Any], tensors: Mapping[str, Tensor], vocabulary: int = 0) -> Asked:
    """What a message asks for; InputError where a part of it is missing, of another form, or too large.

    vocabulary: token ids that the model has; 0 where that is not known.
    """
    rollout = read(Rollout, header.get("rollout"), "rollout")
    tokens = read(TokenIds, header.get("tokens"), "tokens")
    prompts = _prompts_in(tensors)
    rows, keys = len(prompts) * rollout.group_size, header.get("keys")
    if rollout.group_size > MOST_COMPLETIONS or rows > MOST_COMPLETIONS or rollout.max_new_tokens > _MOST_TOKENS:
        raise InputError(f"{rows:,} completions of {rollout.max_new_tokens:,} tokens are more than one request may ask")
    whole = isinstance(keys, list) and all(isinstance(key, int) and not isinstance(key, bool) for key in keys)
    if not isinstance(keys, list) or not whole or len(keys) != rows:
        raise InputError(f"keys must be {rows} whole numbers, one for each completion")
    named = (*tokens.stops, *tokens.suppressed, tokens.audio, tokens.pad)
    known = vocabulary or tokens.vocabulary
    if not 0 < tokens.vocabulary <= known or not all(0 <= one < known for one in named):
        raise InputError(f"tokens: a token id that the model, which has {known}, does not have")
    for ids in (prompts.prefix_ids, prompts.suffix_ids):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < known:
            raise InputError(f"prompts: a token id that the model, which has {known}, does not have")
    return Asked(prompts, rollout, keys, tokens)


def _prompts_in(tensors: Mapping[str, Tensor]) -> Prompts:
    names = {field.name for field in fields(Prompts)}
    if set(tensors) != names:
        raise InputError(f"prompts: need the tensors {', '.join(sorted(names))}")
    for name, tensor in tensors.items():
        kind = torch.float32 if name == "features" else torch.int64
        if tensor.dim() != _DIMENSIONS[name] or tensor.dtype != kind or not tensor.numel():
            raise InputError(f"prompts: {name} is {str(tensor.dtype)[6:]} {list(tensor.shape)}, not as prompts are")
    made = Prompts(**tensors)
    clips, rows = len(made.prefix_ids), len(made.suffix_ids)
    alike = made.prefix_ids.shape == made.prefix_mask.shape and made.suffix_ids.shape == made.suffix_mask.shape
    alike = alike and made.features.shape[::2] == made.feature_mask.shape and len(made.features) == clips
    if (
        not alike
        or len(made.clip_of_row) != rows
        or not 0 <= int(made.clip_of_row.min()) <= int(made.clip_of_row.max()) < clips
    ):
        raise InputError("prompts: their tensors do not fit each other")
    masks = (made.prefix_mask, made.suffix_mask, made.feature_mask)
    if any(bool(((mask != 0) & (mask != 1)).any()) or not bool(mask.any(1).all()) for mask in masks):
        raise InputError("prompts: a mask holds other numbers than 0 and 1, or a row of it nothing")
    return made


def check_weights(kind: str, tensors: Mapping[str, Tensor], shapes: Shapes, config: Any) -> None:
    """Raises InputError for a tensor that the model does not have, or has in another shape.

    kind: of the update. config: of the adapters, where it is "adapter".
    """
    for name, tensor in tensors.items():
        wanted = _adapter_shape(name, shapes, config) if kind == "adapter" else shapes.get(name)
        if wanted is None:
            raise InputError(f"the model has no tensor {one_line(name, 100)!r}")
        if list(tensor.shape) != list(wanted) or not tensor.is_floating_point():
            raise InputError(f"{name} is {list(tensor.shape)} in the update, {list(wanted)} in the model")


def check_whole(kind: str, names: set[str], shapes: Shapes) -> None:
    """Raises InputError where an update lacks tensors of the model; the vision tower and a tied head may be missing."""
    if kind == "adapter":
        halves = {name.replace(".lora_A.", ".lora_B.") for name in names}
        missing = {half for half in halves if half not in names or half.replace(".lora_B.", ".lora_A.") not in names}
        missing |= set() if names else {"any adapter"}
    else:
        missing = {name for name in shapes if not name.startswith("visual.")} - names - {"lm_head.weight"}
    if missing:
        raise InputError(f"the update lacks {len(missing)} tensors, as {min(missing)}; send it again")


def checked_adapter(config: Any) -> dict[str, Any]:
    """The settings of adapters that a client sent, without others than those that it has to send; InputError."""
    if not isinstance(config, Mapping) or set(config) != _ADAPTER_KEYS:
        raise InputError(f"an adapter's config needs {', '.join(sorted(_ADAPTER_KEYS))} and no more")
    numbers = (config["lora_alpha"], config["lora_dropout"])
    targets = config["target_modules"]
    right = config["peft_type"] == "LORA" and config["task_type"] is None and config["bias"] == "none"
    right = right and all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
    right = right and isinstance(targets, list) and all(isinstance(t, str) and t.isidentifier() for t in targets)
    if not right or not number_in(config, "r", _MOST_RANK) > 0:
        raise InputError("an adapter's config: not one of LoRA as clients send it")
    return dict(config)


def _adapter_shape(name: str, shapes: Shapes, config: Any) -> list[int] | None:
    found = _ADAPTER.fullmatch(name)
    whole = shapes.get(f"{found[1]}.weight") if found else None
    if found is None or whole is None or len(whole) != 2:
        return None
    return [config["r"], whole[1]] if found[2] == "A" else [whole[0], config["r"]]


def completions_in(tensors: Mapping[str, Tensor], rows: int, rollout: Rollout, vocabulary: int) -> Completions:
    """The completions that a server sent, of which there must be `rows`; InputError where they cannot be.

    vocabulary: token ids that the policy has.
    """
    kinds = {"ids": (2, torch.int64), "mask": (2, torch.int64), "finished": (1, torch.bool)}
    kinds |= {"prompt_of_row": (1, torch.int64), "logprob": (2, torch.float32), "support": (3, torch.int64)}
    needed = set(kinds) - {"logprob", "support"}
    right = needed <= set(tensors) <= set(kinds)
    right = right and all((t.dim(), t.dtype) == kinds[name] and len(t) == rows for name, t in tensors.items())
    if right:
        ids, mask, support = tensors["ids"], tensors["mask"], tensors.get("support")
        right = ids.shape == mask.shape and 0 < ids.shape[1] <= rollout.max_new_tokens
        right = right and all(tensors[n].shape[:2] == ids.shape for n in ("logprob", "support") if n in tensors)
        right = right and 0 <= int(ids.min()) <= int(ids.max()) < vocabulary and bool(((mask == 0) | (mask == 1)).all())
        right = right and (support is None or -1 <= int(support.min()) <= int(support.max()) < vocabulary)
        right = right and 0 <= int(tensors["prompt_of_row"].min()) <= int(tensors["prompt_of_row"].max()) < rows
    if not right:
        raise InputError(f"its completions are not {rows} of at most {rollout.max_new_tokens} tokens of the vocabulary")
    return Completions(**tensors)
