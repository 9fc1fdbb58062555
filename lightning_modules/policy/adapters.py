"""Low-rank adapters on a thinker's language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...curriculum.identity import hash64
from ...errors import InputError
from .parts import bare


@dataclass
class Lora:
    """Low-rank adapters (Hu et al. 2021) on linear layers of the language model; everything else is frozen.

    targets: names of the layers that get one, in every decoder layer.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


def with_lora(thinker: Any, lora: Lora) -> Any:
    """The thinker with adapters on its decoder layers, found by class name, which outlives renamed attributes.

    What an adapter begins with follows from the process's seed and the layer's name, not from what was drawn before.
    InputError where no linear layer of the decoder has one of the names in `lora.targets`.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    names = [
        f"{outer}.{inner}"
        for outer, layer in thinker.named_modules()
        if type(layer).__name__ == "Qwen2_5OmniDecoderLayer"
        for inner, module in layer.named_modules()
        if isinstance(module, nn.Linear) and inner.rpartition(".")[2] in lora.targets
    ]
    unknown = set(lora.targets) - {name.rpartition(".")[2] for name in names}
    if unknown or not names:
        raise InputError(f"policy.lora: no linear layer of the decoder is called {sorted(unknown) or lora.targets}")
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    seed = torch.initial_seed()
    with torch.random.fork_rng(devices=[]):
        adapted = get_peft_model(thinker, config)
        for name, layer in adapted.named_modules():
            if isinstance(layer, LoraLayer):
                torch.manual_seed(hash64(seed, "lora", bare(name)) % (1 << 63))
                layer.reset_lora_parameters("default", init_lora_weights=True)
    return adapted
