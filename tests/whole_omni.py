"""A tiny Qwen2.5-Omni with all its parts, talker and token2wav included, in the published layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_TALKER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
} | {f"tts_codec_{name}_token_id": number for number, name in enumerate(("start", "end", "pad", "mask"), 1)}
_DIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "head_dim": 16,
    "ff_mult": 1,
    "emb_dim": 8,
    "num_embeds": 16,
    "mel_dim": 8,
    "block_size": 4,
    "look_ahead_layers": [0],
    "look_backward_layers": [0],
    "enc_emb_dim": 8,
    "enc_dim": 8,
    "enc_channels": [8, 8, 8, 8, 24],
    "enc_attention_channels": 4,
    "enc_res2net_scale": 2,
    "enc_se_channels": 4,
}
_VOCODER = {
    "mel_dim": 8,
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
}


def build_whole(tiny: str | Path, out: str | Path) -> dict[str, torch.Tensor]:
    """Writes the checkpoint `tiny` with a random talker (bfloat16) and token2wav (float32); returns their tensors.

    Its config.json has a key that nobody knows, its spk_dict.pt one speaker.
    """
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    tiny, out = Path(tiny), Path(out)
    shutil.copytree(tiny, out)
    config = json.loads((tiny / "config.json").read_text())
    ids = {name: value for name, value in config["talker_config"].items() if name.endswith("token_id")}
    size = config["thinker_config"]["text_config"]["hidden_size"]
    whole = Qwen2_5OmniConfig(
        thinker_config=config["thinker_config"],
        talker_config=ids | _TALKER | {"embedding_size": size},
        token2wav_config={"dit_config": _DIT, "bigvgan_config": _VOCODER},
        enable_audio_output=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = Qwen2_5OmniForConditionalGeneration(whole).state_dict()
    speech = {name: tensor.contiguous() for name, tensor in state.items() if not name.startswith("thinker.")}
    speech = {name: t.bfloat16() if name.startswith("talker.") else t for name, t in speech.items()}
    save_file(load_file(tiny / "model.safetensors") | speech, out / "model.safetensors", {"format": "pt"})
    written = whole.to_dict() | {"my_lab": {"note": "kept"}, "thinker_config": config["thinker_config"]}
    written["architectures"] = config["architectures"]
    (out / "config.json").write_text(json.dumps(written))
    torch.save(
        {"Chelsie": {"bos_token": 5, "cond": torch.ones(1, 4), "ref_mel": torch.ones(1, 3, 8)}}, out / "spk_dict.pt"
    )
    (out / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
    return speech
