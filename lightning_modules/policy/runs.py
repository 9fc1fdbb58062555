"""What a run trained, read from its checkpoint without building the model: tensor by tensor, beside its source's."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ...boundary.files import read_json, read_text
from ...configs.files import read_yaml
from ...errors import InputError
from ..checkpoints.shards import read_whole
from .checkpoint import PREFIX, is_speech, source_folder
from .files import Weights, read_weights, weight_files
from .parts import bare, published
from .weights import merged

_FILE, _POINTER, _LAST, _RECORD = "trainer.ckpt", "last", "last.ckpt", "run.json"
_STATE = "policy.thinker."
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class TrainedPolicy:
    """A run's policy: its source, what was trained, and how its adapters act.

    step: batches trained. tensors: by published name, adapters as `....lora_A.weight`; on the disk until they are read.
    lora: `rank`, `alpha` and `dropout`, None with full fine-tuning. dtype: of exported weights, None for the source's.
    """

    file: Path
    step: int
    source: str
    tensors: dict[str, Tensor]
    lora: dict[str, Any] | None
    dtype: torch.dtype | None

    def adapters(self) -> Weights:
        """(name, tensor) of the adapters, named as peft saves those of a published checkpoint. InputError for none."""
        if self.lora is None:
            raise InputError(f"{self.file}: has no adapters, all weights were trained; export it merged")
        return ((f"base_model.model.{PREFIX}{n}", t) for n, t in self.tensors.items() if ".lora_" in n)

    def adapter_config(self) -> dict[str, Any]:
        """The content of peft's adapter_config.json but for the layers."""
        assert self.lora is not None
        common = {"peft_type": "LORA", "task_type": None, "bias": "none", "lora_dropout": self.lora["dropout"]}
        return common | {"r": self.lora["rank"], "lora_alpha": self.lora["alpha"]}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of the whole thinker, adapters merged: the source's where nothing was trained.

        InputError where the checkpoint is of another model than the source.
        """
        left = set(self.tensors)
        folder = source_folder(self.source)
        if not weight_files(folder):
            raise InputError(f"{self.source}: has no safetensors files; save it as such with transformers")
        for stored, tensor in read_weights(folder):
            if is_speech(stored):
                continue
            name = published(stored.removeprefix(PREFIX))
            layer = name.removesuffix(".weight")
            used = {name, f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"} & left
            left -= used
            yield name, self._trained(name, tensor, used)
        if left:
            raise InputError(f"{self.file}: {self.source} has no {min(left)}; name the run's own model with --source")

    def _trained(self, name: str, source: Tensor, used: set[str]) -> Tensor:
        dtype = self.dtype or source.dtype
        weight = self.tensors.get(name, source)
        if weight.shape != source.shape:
            shapes = f"{list(weight.shape)}, in {self.source} {list(source.shape)}"
            raise InputError(f"{self.file}: {name} is {shapes}; name the run's own model with --source")
        adapters = sorted(used - {name})
        if not adapters:
            return weight.to(dtype)
        if self.lora is None or len(adapters) != 2:
            raise InputError(f"{self.file}: {adapters[0]} has no other half; the checkpoint is not whole")
        down, up = (self.tensors[adapter] for adapter in adapters)
        return merged(weight.to(dtype), down, up, self.lora["alpha"] / self.lora["rank"])


def read_run(run: str, config: str | None = None, source: str | None = None) -> TrainedPolicy:
    """The policy of a run's folder, of its last checkpoint, or of a checkpoint that is named.

    config: the run's YAML file, where it does not lie with it. source: the model it started from, where it lies
    elsewhere now. InputError where one of them is missing or cannot be read. Nothing is unpickled but tensors and plain
    values.
    """
    file = checkpoint_of(run)
    settings = _policy_settings(file, config)
    lora = settings.get("lora")
    if lora is not None:
        lora = {"rank": 16, "alpha": 32, "dropout": 0.0} | {k: v for k, v in lora.items() if k != "targets"}
    held = _load(file)
    tensors = {
        bare(name.removeprefix(_STATE)).removeprefix("base_model.model."): tensor
        for name, tensor in held["state_dict"].items()
        if name.startswith(_STATE)
    }
    tensors = {name.replace(".base_layer.", ".").replace(".default.", "."): t for name, t in tensors.items()}
    if not tensors:
        raise InputError(f"{file}: holds no weights of a policy")
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".lora_A.weight")}
    if ranks - {lora["rank"] if lora else None}:
        raise InputError(f"{file}: its adapters have rank {min(ranks)}, not as the configuration says; name --config")
    model = source or settings.get("checkpoint")
    if not isinstance(model, str):
        raise InputError(f"{file}: the model it started from is not known; name it with --source")
    step = int(held.get("AudioQuestions", {}).get("step", held.get("global_step", 0)))
    return TrainedPolicy(file, step, model, tensors, lora, _DTYPES.get(str(settings.get("dtype"))))


def checkpoint_of(run: str) -> Path:
    """The file of a run's last whole checkpoint; `run` is its folder, that of its checkpoints, one of them, or a file.

    InputError where there is none.
    """
    path = Path(run)
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{run}: no such run or checkpoint")
    for folder in (path, path / "checkpoints"):
        pointer = folder / _POINTER
        named = folder / read_text(pointer).strip() / _FILE if pointer.is_file() else None
        for file in (folder / _FILE, named, folder / _LAST):
            if file is not None and file.is_file():
                return file
    others = sorted(str(file) for file in path.glob("**/*.ckpt"))
    shown = f"name one of them: {', '.join(others[:3])}" if others else "a run writes them with ModelCheckpoint"
    raise InputError(f"{run}: no last checkpoint there; {shown}")


def _policy_settings(file: Path, config: str | None) -> dict[str, Any]:
    """The arguments of the policy in the run's configuration: the file named, or the nearest beside the checkpoint."""
    found = Path(config) if config else None
    for folder in list(file.absolute().parents)[: 3 if file.name == _FILE else 2]:
        for name in (_RECORD, "config.yaml"):
            found = found or (folder / name if (folder / name).is_file() else None)
    if found is None:
        raise InputError(f"{file}: the run's configuration does not lie with it; name its file with --config")
    whole = read_json(found) if found.name == _RECORD else read_yaml(found)
    if found.name == _RECORD:
        whole = whole.get("configuration") if isinstance(whole, dict) else None
    settings = OmegaConf.select(OmegaConf.create(whole or {}), "model.init_args.policy.init_args")
    plain = OmegaConf.to_container(settings, resolve=True) if settings is not None else None
    if not isinstance(plain, Mapping):
        raise InputError(f"{found}: no model.init_args.policy.init_args in it; name the run's own file with --config")
    return {str(key): value for key, value in plain.items()}


def _load(file: Path) -> dict[str, Any]:
    """A checkpoint whose tensors stay on the disk until they are read; only tensors and plain values are unpickled."""
    try:
        held = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{file}: not a training checkpoint that can be read safely ({reason})") from None
    if not isinstance(held, dict) or not isinstance(held.get("state_dict"), dict):
        raise InputError(f"{file}: not a training checkpoint; it has no state_dict")
    return read_whole(held, file)
