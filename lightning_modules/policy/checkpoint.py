"""Checkpoints in the published Qwen2.5-Omni layout: a config of the whole model, the thinker's weights as `thinker.*`.

vLLM and transformers' own classes read what `save_thinker` writes; a checkpoint of a thinker alone they refuse.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ...errors import InputError

PREFIX = "thinker."
_SHARD_BYTES = 4 << 30
_IMAGES = {  # of the published preprocessor_config.json
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5OmniProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
}


def load_thinker(checkpoint: str | Path, dtype: str = "auto", attention: str = "sdpa") -> Any:
    """The thinker of a checkpoint folder or hub id, in evaluation mode.

    dtype: of the weights, "auto" for the checkpoint's. attention: transformers' implementation. Raises InputError where
    the checkpoint is missing or is not Qwen2.5-Omni, before any weight is read, or where its weights cannot be read.
    """
    from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

    folder = Path(checkpoint)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{checkpoint}: no config.json there; a checkpoint folder in the published layout is needed")
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{checkpoint}: neither a checkpoint folder nor a known model id ({reason})") from None
    if config.model_type not in ("qwen2_5_omni", "qwen2_5_omni_thinker"):
        raise InputError(f"{checkpoint}: a {config.model_type!r} checkpoint; earwitness trains Qwen2.5-Omni")
    try:
        thinker: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            checkpoint,
            config=getattr(config, "thinker_config", config),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
        )
    except (OSError, SafetensorError) as error:
        raise InputError(f"{checkpoint}: its weights cannot be read ({str(error).strip().splitlines()[0]})") from None
    return thinker.eval()


def save_thinker(
    state: dict[str, Tensor], thinker_config: Any, processor: Any, out: str | Path, source: str | Path | None = None
) -> None:
    """Writes a complete checkpoint folder; the config appears last, so a half-written folder is not loadable.

    state: the thinker's state dict. source: folder the policy came from; its config is kept, so that what only the
    talker needs survives. processor: tokenizer and feature extractor to save beside the weights.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").unlink(missing_ok=True)
    for stale in out.glob("model*.safetensors*"):
        stale.unlink()
    processor.tokenizer.save_pretrained(out)
    processor.feature_extractor.save_pretrained(out)
    _complete_processor(out / "preprocessor_config.json")
    _save_weights({PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, out)
    config = _full_config(thinker_config, source)
    scratch = out / "config.json.partial"
    scratch.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    scratch.rename(out / "config.json")


def _complete_processor(path: Path) -> None:
    """Adds the published settings for images, without which processors of the whole model, as vLLM's, do not load."""
    written = json.loads(path.read_text())
    path.write_text(json.dumps(_IMAGES | written, indent=2, sort_keys=True) + "\n")


def _full_config(thinker_config: Any, source: str | Path | None) -> dict[str, Any]:
    """The config of a whole Qwen2.5-Omni: the source's where it has one, else one around the thinker's."""
    from transformers import Qwen2_5OmniConfig

    if source is not None and (Path(source) / "config.json").is_file():
        config: dict[str, Any] = json.loads((Path(source) / "config.json").read_text())
        if config.get("model_type") == "qwen2_5_omni":
            return config
    # The talker is neither trained nor saved; its default ids lie outside a small vocabulary, which loaders report.
    ids = {name: getattr(thinker_config, name) for name in ("audio_start_token_id", "audio_end_token_id")}
    ids |= {name: getattr(thinker_config, name) for name in ("vision_start_token_id", "vision_end_token_id")}
    ids |= dict.fromkeys(("tts_text_start_token_id", "tts_text_end_token_id", "tts_text_pad_token_id"), 0)
    full = Qwen2_5OmniConfig(
        thinker_config=thinker_config.to_dict(), talker_config=ids, enable_audio_output=False
    ).to_dict()
    return full | {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "thinker_config": thinker_config.to_dict(),
    }


def _save_weights(state: dict[str, Tensor], out: Path) -> None:
    """Writes one file, or files of at most 4 GiB with the index that transformers expects."""
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and filled + size > _SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
    if len(shards) == 1:
        save_file(shards[0], out / "model.safetensors", metadata={"format": "pt"})
        return
    file_of: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(shard, file)
    total = sum(t.numel() * t.element_size() for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def thinker_state(thinker: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict of a thinker; LoRA adapters are merged into a copy of the model, which stays as it is."""
    from peft import PeftModel

    if isinstance(thinker, PeftModel):
        import copy

        thinker = copy.deepcopy(thinker).merge_and_unload()
    return dict(thinker.state_dict())
