"""A model that answers, from whatever holds it: a checkpoint, a folder of adapters, or a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ...boundary.files import open_regular, read_json
from ...datamodules.voting.tasks import Scoring
from ...errors import InputError
from ..policy.parts import bare
from ..policy.runs import TrainedPolicy, checkpoint_of, read_run
from .local import ChatVoter, OmniVoter, kind_of

_ADAPTER = "adapter_config.json"
_ENDS = 1 << 20  # bytes of a weight file's beginning, middle and end that its mark is made of


@dataclass(frozen=True)
class Source:
    """Where a model's weights are.

    Args:
        kind: "checkpoint" (a folder or hub id), "adapter" or "run". base: the checkpoint that is built.
        trained: what a run or adapters change of a Qwen2.5-Omni. files: on the disk that the weights come from.
    """

    kind: str
    base: str
    trained: TrainedPolicy | None = None
    files: tuple[Path, ...] = ()

    @property
    def mark(self) -> str:
        """Hash of the weight files, 16 hex digits: names, sizes, beginnings, middles and ends; "" for a hub id."""
        if not self.files:
            return ""
        whole = hashlib.sha256()
        for path in self.files:
            size = path.stat().st_size
            whole.update(f"{path.name} {size}".encode())
            with open_regular(path) as file:
                for place in sorted({0, max(0, size // 2), max(0, size - _ENDS)}):
                    file.seek(place)
                    whole.update(file.read(_ENDS))
        return whole.hexdigest()[:16]


def find_source(checkpoint: str) -> Source:
    """Where the weights of a checkpoint folder, hub id, folder of adapters, run or its checkpoint are.

    InputError where there is no such thing.
    """
    path = Path(checkpoint)
    if (path / _ADAPTER).is_file():
        return _adapters(path)
    if path.is_dir() and (path / "config.json").is_file():
        files = sorted(file for kind in ("*.safetensors", "*.bin") for file in path.glob(kind))
        return Source("checkpoint", checkpoint, files=(*files, path / "config.json"))
    if path.exists():
        trained = read_run(checkpoint)
        return Source("run", trained.source, trained, (checkpoint_of(checkpoint),))
    return Source("checkpoint", checkpoint)


def _adapters(path: Path) -> Source:
    """The source of a folder that peft wrote; only LoRA of a Qwen2.5-Omni is merged by name."""
    settings: Mapping[str, Any] = read_json(path / _ADAPTER)
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{path / _ADAPTER}: names no base_model_name_or_path")
    file = path / "adapter_model.safetensors"
    files = (file, path / _ADAPTER)
    if kind_of(base) != "omni":
        return Source("adapter", base, None, files)
    if settings.get("peft_type") != "LORA" or settings.get("use_dora") or settings.get("rank_pattern"):
        raise InputError(f"{path}: only plain LoRA adapters are merged; export the model merged")
    try:
        held = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error!s:.120})") from None
    fronts = ("base_model.model.", "thinker.")
    tensors = {}
    for name, tensor in held.items():
        for front in fronts:
            name = name.removeprefix(front)
        tensors[bare(name)] = tensor
    lora = {"rank": settings["r"], "alpha": settings["lora_alpha"], "dropout": 0.0}
    return Source("adapter", base, TrainedPolicy(file, 0, base, tensors, lora, None), files)


def load_voter(
    checkpoint: str,
    source: Source,
    style: str,
    dtype: str = "auto",
    attention: str = "sdpa",
    system: str | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """The model, ready to reply to asks by what it says; arguments as of `OmniVoter`. InputError as `kind_of`."""
    scoring: Scoring = "generate"
    settings = (source.base, scoring, style, dtype, attention, system, max_new_tokens, temperature, seed)
    if kind_of(source.base) != "omni":
        chat = ChatVoter(*settings)
        if source.kind == "adapter":
            chat.model.load_adapter(checkpoint)
        return chat.eval()
    voter = OmniVoter(*settings)
    if source.trained is not None:
        _take_weights(voter, source.trained)
    return voter.eval()


@torch.no_grad()
def _take_weights(voter: OmniVoter, trained: TrainedPolicy) -> None:
    """Puts a run's weights into the model, tensor by tensor; tied ones are one tensor."""
    own = {bare(name): tensor for name, tensor in voter.policy.thinker.state_dict(keep_vars=True).items()}
    for name, tensor in trained.weights():
        if (held := own.get(bare(name))) is not None:
            held.copy_(tensor.to(held.dtype))
