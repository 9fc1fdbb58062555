"""The architectures of published checkpoints, for what is counted before any file of them is there."""

from __future__ import annotations

from functools import cache
from typing import Any

from ...datamodules.processors.model_files import check_model_files
from ...errors import InputError

# What differs between the sizes of Qwen2.5-Omni, from the published config.json of each.
_SIZES: dict[str, dict[str, int]] = {
    "Qwen/Qwen2.5-Omni-3B": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
    | {"num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936},
    "Qwen/Qwen2.5-Omni-7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    | {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
}


@cache
def architecture_of(checkpoint: str) -> Any:
    """The config of a checkpoint that is here or known by its name; None where neither is so."""
    if checkpoint in _SIZES:
        return _published(checkpoint)
    from transformers import AutoConfig

    try:
        check_model_files(checkpoint)
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, InputError):
        return None


def _published(name: str) -> Any:
    """The thinker's config of that size."""
    from transformers import Qwen2_5OmniThinkerConfig

    width = _SIZES[name]["hidden_size"]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    audio = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width}
    kind: Any = Qwen2_5OmniThinkerConfig
    return kind(
        text_config=_SIZES[name] | {"rope_parameters": rope, "tie_word_embeddings": False},
        audio_config=audio | {"output_dim": width, "n_window": 100},
        vision_config=vision,
    )
