"""A policy's weights on their way to an engine: one tensor after the other, adapters merged on the way or alone.

Names are the thinker's own (`model.layers.0...`), without the `thinker.` of the published layout. Reading weights that
are sharded over ranks is a collective operation: every rank has to read them to the end, in step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .files import Weights, chunks
from .omni import OmniPolicy
from .parts import published

__all__ = [
    "CHUNK_BYTES",
    "Weights",
    "adapter_config",
    "adapter_weights",
    "base_weights",
    "chunks",
    "merged",
    "merged_weights",
    "whole_tensor",
    "without_vision",
]
CHUNK_BYTES = 256 << 20
_ADAPTER = "default"


def merged_weights(policy: OmniPolicy, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the whole thinker, adapters merged, named as by `thinker_state`; detached, on its own device.

    All have this dtype, by default the one that the policy was loaded in. An adapted layer's weight is W + s B A,
    computed when its turn comes: the only copy is of one layer (Hu et al. 2021, eq. 3). Other weights are not copied:
    use each before asking for the next.
    """
    return _read(policy, dtype or policy.dtype, merge=True)


def base_weights(policy: OmniPolicy, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) as of `merged_weights`, without what the adapters add."""
    return _read(policy, dtype or policy.dtype, merge=False)


def adapter_weights(policy: OmniPolicy) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the adapters alone, named as peft saves those of a published checkpoint.

    InputError where the policy has none.
    """
    _adapter_config(policy)
    for name, tensor in policy.base.state_dict().items():
        if ".lora_" in name:
            yield f"base_model.model.thinker.{published(name.replace(f'.{_ADAPTER}', ''))}", whole_tensor(tensor)


def adapter_config(policy: OmniPolicy) -> dict[str, Any]:
    """The content of peft's adapter_config.json for the policy's adapters. InputError where it has none."""
    config = _adapter_config(policy)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in config.target_modules}),
    }


def without_vision(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """The weights but those of the vision tower, which engines that hear but do not see do not build."""
    return ((name, tensor) for name, tensor in weights if not name.startswith("visual."))


@torch.no_grad()
def _read(policy: OmniPolicy, dtype: torch.dtype, merge: bool) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all weights but the adapters', merged with them where `merge` says so."""
    state = policy.base.state_dict()  # what trains in float32, and not as it is computed with
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        whole = whole_tensor(tensor)
        if merge and name.endswith(".base_layer.weight"):
            place = name.removesuffix(".base_layer.weight")
            down, up = (whole_tensor(state[f"{place}.lora_{side}.{_ADAPTER}.weight"]) for side in "AB")
            whole = merged(whole, down, up, policy.base.get_submodule(place).scaling[_ADAPTER])
        whole = whole.to(dtype) if whole.is_floating_point() else whole
        yield published(name.replace(".base_layer.", ".")), whole


def merged(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + s B A [out, in] in the dtype of W, rounded once; down: A [r, in], up: B [out, r]."""
    exact = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(exact) + scale * (up.to(exact) @ down.to(exact))).to(weight.dtype)


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or, where every rank holds a part of it, all of it on every rank."""
    gather = getattr(tensor, "full_tensor", None)
    return (tensor if gather is None else gather()).detach()


def _adapter_config(policy: OmniPolicy) -> Any:
    """peft's config object of the policy's adapters. InputError where it has none."""
    if not policy.adapted:
        raise InputError('rollout engine: sync "adapter" needs policy.lora; with full fine-tuning it is "merged"')
    return policy.thinker.peft_config[_ADAPTER]
