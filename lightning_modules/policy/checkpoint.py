"""Checkpoints in the published Qwen2.5-Omni layout: a config of the whole model, the thinker's weights as `thinker.*`.

vLLM and transformers' own classes read what `save_thinker` writes; a checkpoint of a thinker alone they refuse.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ...boundary.files import read_json
from ...datamodules.processors.model_files import check_model_files
from ...errors import InputError
from .files import (
    Weights,
    check_place,
    headers,
    read_weights,
    weight_files,
    write_json,
    write_weights,
    written_beside,
)
from .parts import published

PREFIX = "thinker."
_SPEECH = ("talker.", "token2wav.")
_ARCHITECTURES = ["Qwen2_5OmniModel"]
_SPEAKERS = "spk_dict.pt"
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
    the checkpoint is missing or is not Qwen2.5-Omni, where a tensor of it is missing, unknown or of another shape,
    before any weight is read, or where its weights cannot be read.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    config = thinker_config(checkpoint)
    check_tensors(checkpoint, config)
    if dtype == "auto" and getattr(config, "dtype", None) is None:
        dtype = _stored_dtype(checkpoint)
    thinker_class: Any = Qwen2_5OmniThinkerForConditionalGeneration
    try:
        thinker, found = thinker_class.from_pretrained(
            checkpoint,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{checkpoint}: its weights cannot be read ({str(error).strip().splitlines()[0]})") from None
    _refuse(checkpoint, "missing", sorted(found["missing_keys"]))
    return thinker.eval()


def _stored_dtype(checkpoint: str | Path) -> str:
    """The dtype of a folder's thinker; transformers would take that of any tensor, such as one of the talker's."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    stored = headers(Path(checkpoint)) if Path(checkpoint).is_dir() else {}
    found = {names.get(kind) for name, (_, kind) in stored.items() if not is_speech(name)}
    (only,) = found if len(found) == 1 else (None,)
    return only or "auto"


def thinker_config(checkpoint: str | Path) -> Any:
    """transformers' config of the thinker; InputError where the checkpoint is missing or of another family."""
    from transformers import AutoConfig

    folder = Path(checkpoint)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{checkpoint}: no config.json there; a checkpoint folder in the published layout is needed")
    check_model_files(checkpoint)
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{checkpoint}: neither a checkpoint folder nor a known model id ({reason})") from None
    if config.model_type not in ("qwen2_5_omni", "qwen2_5_omni_thinker"):
        raise InputError(f"{checkpoint}: a {config.model_type!r} checkpoint; earwitness trains Qwen2.5-Omni")
    return getattr(config, "thinker_config", config)


def check_tensors(checkpoint: str | Path, config: Any) -> None:
    """Raises InputError where a folder's tensors are not those of the thinker of its config; only headers are read."""
    folder = Path(checkpoint)
    if not folder.is_dir() or not weight_files(folder):
        return  # on the hub, or in another format: seen when it is loaded
    found = {
        published(name.removeprefix(PREFIX)): shape
        for name, (shape, _) in headers(folder).items()
        if not is_speech(name)
    }
    wanted = thinker_shapes(config)
    tied = {"lm_head.weight"} if getattr(config.get_text_config(), "tie_word_embeddings", False) else set()
    _refuse(checkpoint, "missing", sorted(wanted.keys() - found.keys() - tied))
    _refuse(checkpoint, "unknown to its config.json", sorted(found.keys() - wanted.keys()))
    wrong = [f"{name} {found[name]} for {wanted[name]}" for name in sorted(found) if found[name] != wanted[name]]
    _refuse(checkpoint, "of another shape than its config.json says", wrong)


def thinker_shapes(config: Any) -> dict[str, list[int]]:
    """The shape of every tensor of a thinker, by published name; nothing is allocated."""
    import copy

    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    thinker_class: Any = Qwen2_5OmniThinkerForConditionalGeneration
    with torch.device("meta"):
        thinker = thinker_class(copy.deepcopy(config))
    return {published(name): list(tensor.shape) for name, tensor in thinker.state_dict().items()}


def _refuse(checkpoint: str | Path, what: str, names: list[str]) -> None:
    """Raises InputError with the first of the names, where there are any."""
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(f"{checkpoint}: {len(names)} tensors of the thinker are {what} ({shown}); copy it again")


def is_speech(name: str) -> bool:
    """Whether a checkpoint's tensor is of the parts that speak, talker and token2wav, which are never trained."""
    return name.startswith(_SPEECH)


def source_folder(checkpoint: str | Path) -> Path:
    """Where a checkpoint lies on this machine: the folder itself, or that of a hub id's downloaded files.

    InputError where it is not here.
    """
    from transformers.utils.hub import cached_file

    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    try:
        found = cached_file(str(checkpoint), "config.json", local_files_only=True)
    except (OSError, ValueError):
        found = None
    if found is None:
        raise InputError(f"{checkpoint}: no such folder, and no downloaded model of that id")
    return Path(found).parent


def save_thinker(
    state: Mapping[str, Tensor] | Weights,
    thinker_config: Any,
    processor: Any,
    out: str | Path,
    source: str | Path | None = None,
    speech: bool = False,
) -> int:
    """Writes a complete checkpoint folder in place of `out`, which stays as it was until all of it is on the disk.

    state: the thinker's tensors by name, read one after the other. processor: tokenizer and feature extractor to save
    beside the weights. source: checkpoint the policy came from; its settings are kept. speech: its talker and token2wav
    are copied too, bit for bit. Returns how many tensors were written. InputError where the folder cannot be written,
    or is the source itself.
    """
    check_place(out, source)
    folder = None if source is None else source_folder(source)
    if speech:
        check_speech(source)
    weights = ((PREFIX + published(name), tensor) for name, tensor in _pairs(state))
    with written_beside(out) as scratch:
        written = write_weights(_with_speech(weights, folder, speech), scratch)
        processor.tokenizer.save_pretrained(scratch)
        processor.feature_extractor.save_pretrained(scratch)
        _complete_processor(scratch / "preprocessor_config.json", folder)
        _copy_settings(folder, scratch)
        config = _full_config(thinker_config, folder)
        _say_dtypes(config, written)
        write_json(scratch / "config.json", config | {"enable_audio_output": any(map(is_speech, written))})
    return len(written)


def check_speech(source: str | Path | None) -> None:
    """Raises InputError where a checkpoint has no talker and no token2wav to copy."""
    if source is None or not any(is_speech(name) for name in headers(source_folder(source))):
        raise InputError(f'{source}: has no talker or token2wav in safetensors files; export it as "merged"')


def _pairs(state: Mapping[str, Tensor] | Weights) -> Weights:
    return state.items() if isinstance(state, Mapping) else state


def _with_speech(weights: Weights, source: Path | None, speech: bool) -> Iterator[tuple[str, Tensor]]:
    """The weights, and with `speech` those of the source that are not its thinker's."""
    yield from weights
    if speech and source is not None:
        yield from ((name, tensor) for name, tensor in read_weights(source) if is_speech(name))


def _complete_processor(path: Path, source: Path | None) -> None:
    """Adds the source's settings, and the published ones for images, which processors of the whole model need."""
    kept = source / path.name if source is not None else path
    known = read_json(kept) if kept.is_file() else {}
    write_json(path, _IMAGES | known | read_json(path))


def _copy_settings(source: Path | None, out: Path) -> None:
    """Copies how the source generates and its speakers; an empty file of speakers where it has none.

    transformers' class of the whole model wants that file, also without a talker. It is never read here.
    """
    for name in ("generation_config.json", _SPEAKERS):
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if not (out / _SPEAKERS).exists():
        torch.save({}, out / _SPEAKERS)


def _full_config(thinker_config: Any, source: Path | None) -> dict[str, Any]:
    """The config of a whole Qwen2.5-Omni: the source's where it has one, else one around the thinker's."""
    from transformers import Qwen2_5OmniConfig

    if source is not None and (source / "config.json").is_file():
        config: dict[str, Any] = read_json(source / "config.json")
        if config.get("model_type") == "qwen2_5_omni":
            return config | {"architectures": config.get("architectures") or _ARCHITECTURES}  # vLLM asks for it
    # The talker is neither trained nor saved; its default ids lie outside a small vocabulary, which loaders report.
    ids = {name: getattr(thinker_config, name) for name in ("audio_start_token_id", "audio_end_token_id")}
    ids |= {name: getattr(thinker_config, name) for name in ("vision_start_token_id", "vision_end_token_id")}
    ids |= dict.fromkeys(("tts_text_start_token_id", "tts_text_end_token_id", "tts_text_pad_token_id"), 0)
    full = Qwen2_5OmniConfig(
        thinker_config=thinker_config.to_dict(), talker_config=ids, enable_audio_output=False
    ).to_dict()
    return full | {
        "architectures": _ARCHITECTURES,
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "thinker_config": thinker_config.to_dict(),
    }


def _say_dtypes(config: dict[str, Any], written: Mapping[str, torch.dtype]) -> None:
    """Has the config name the dtype of the thinker, and for the whole one that holds the talker's, too.

    Without it `dtype="auto"` is that of whatever tensor comes first. The vocoder is always float32.
    """
    thinker = {dtype for name, dtype in written.items() if not is_speech(name)}
    both = thinker | {dtype for name, dtype in written.items() if name.startswith("talker.")}
    _say_dtype(config["thinker_config"], reduce(torch.promote_types, thinker), nested=True)
    _say_dtype(config, reduce(torch.promote_types, both), nested=False)


def _say_dtype(config: dict[str, Any], dtype: torch.dtype, nested: bool) -> None:
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).removeprefix("torch.")
    for part in config.values() if nested else ():
        if isinstance(part, dict) and {"dtype", "torch_dtype"} & part.keys():
            _say_dtype(part, dtype, nested)


def thinker_state(thinker: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict of a thinker by published names; adapters are merged into a copy, the model stays as it is."""
    from peft import PeftModel

    if isinstance(thinker, PeftModel):
        import copy

        thinker = copy.deepcopy(thinker).merge_and_unload()
    return {published(name): tensor.detach() for name, tensor in thinker.state_dict().items()}
