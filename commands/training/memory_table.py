"""What `earwitness plan CONFIG --memory` prints: what a training configuration needs of each GPU, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ...boundary.words import say
from ...configs.files import read_yaml
from ...datamodules.processors.model_files import check_model_files
from ...errors import InputError
from ...lightning_modules.policy.adapters import Lora
from ...lightning_modules.policy.memory import STRATEGIES, Lengths, Memory, measured, memory_of
from .architectures import architecture_of

_PARTS = ("weights", "gradients", "optimizer", "reference", "gathered", "activations", "sampling", "total")


def show_memory(
    config: str, overrides: Sequence[str], gpus: int, strategies: Sequence[str], seconds: float, room_gb: float
) -> None:
    """Prints GB (1e9 bytes) per GPU for each strategy; no weights are loaded.

    config: file of `earwitness fit`. overrides: words like `model.init_args.micro_batch_size=2`. seconds: of the
    recordings. room_gb: of one GPU. InputError where the file does not say a policy, or its config.json is not there.
    """
    spec = _resolved(config, overrides)
    checkpoint = str(spec["model"]["init_args"]["policy"]["init_args"]["checkpoint"])
    needs = memory_needs(spec, _config_of(checkpoint), gpus, strategies, seconds)
    say(f"{checkpoint}: {needs.said}; GB per GPU")
    say(f"{'strategy':<10}" + "".join(f"{name:>12}" for name in _PARTS))
    for strategy, memory in needs.of.items():
        say(f"{strategy:<10}" + _row(memory) + ("" if memory.total < 1e9 * room_gb else f"   more than {room_gb:g}"))
    say("total: the most at any moment; vLLM on the same GPU, buckets of DDP and the CUDA context come on top")


class Needs(NamedTuple):
    """What a configuration needs: in words what it was counted for, and strategy -> memory of a GPU."""

    said: str
    of: dict[str, Memory]


def memory_needs(
    spec: Mapping[str, Any], architecture: Any, gpus: int, strategies: Sequence[str], seconds: float
) -> Needs:
    """What a configuration of `earwitness fit` needs of each GPU.

    spec: its mapping, resolved. architecture: the model's config. strategies: one or more. seconds: of the recordings.
    """
    model = spec["model"]["init_args"]
    policy = {name: value for name, value in model["policy"]["init_args"].items() if name != "checkpoint"}
    if policy.get("dtype", "auto") == "auto":
        policy["dtype"] = "bfloat16"
    if policy.get("lora") is not None:
        policy["lora"] = Lora(**policy["lora"])
    grpo = "GRPO" in spec["model"]["class_path"] or "Interleaved" in spec["model"]["class_path"]
    lengths = _lengths(spec, model, grpo, gpus, seconds)
    reference = grpo and float((model.get("objective") or {}).get("beta", 0.0)) > 0
    adam = "Adam" in str((model.get("optimizer") or {}).get("class_path", "AdamW"))
    options = _sharding(spec)
    needs = {}
    for strategy in strategies:
        sharded = strategy == "fsdp2"
        recomputed = {"gradient_checkpointing": True} if sharded and options.get("recompute") else {}
        found = measured(architecture, policy | recomputed, lengths, strategy)
        parts = int(options.get("shard_over") or gpus) if sharded else gpus
        how = str(options.get("gather", "auto")), bool(options.get("cpu_offload"))
        needs[strategy] = memory_of(found, parts, reference, 2 if adam else 1, *how)
    return Needs(_said(lengths, policy, gpus), needs)


def _row(memory: Memory) -> str:
    return "".join(f"{getattr(memory, name) / 1e9:>12.1f}" for name in _PARTS)


def _resolved(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    path = Path(config)
    if not path.is_file():
        raise InputError(f"{config}: no such file; --memory takes a configuration of `earwitness fit`")
    spec = read_yaml(path)
    spec.merge_with_dotlist(list(overrides))
    plain: Any = OmegaConf.to_container(spec, resolve=True)
    try:
        plain["model"]["init_args"]["policy"]["init_args"]["checkpoint"]
    except (KeyError, TypeError):
        raise InputError(
            f"{config}: says no model.init_args.policy.init_args.checkpoint; --memory takes a file of `earwitness fit`"
        ) from None
    return plain  # type: ignore[no-any-return]


def _sharding(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of FSDP2 that the file gives, if it does."""
    strategy = (spec.get("trainer") or {}).get("strategy")
    options = strategy.get("init_args") if isinstance(strategy, dict) else None
    return dict(options or {})


def _lengths(spec: Mapping[str, Any], model: Mapping[str, Any], grpo: bool, gpus: int, seconds: float) -> Lengths:
    """The micro-batch that the file says; what all of a GPU's prompts are sampled at once for."""
    prompts = int(model.get("micro_batch_size") or (1 if grpo else 8))
    if not grpo:
        return Lengths(prompts, seconds)
    rollout = model.get("rollout") or {}
    here = "vllm" not in str((model.get("engine") or {}).get("class_path", "")).lower()
    batch = _batch_size(spec) or prompts * gpus
    group, said = int(rollout.get("group_size", 8)), int(rollout.get("max_new_tokens", 32))
    return Lengths(prompts, seconds, said=said, group=group, samples=here, rollout=max(1, -(-batch // gpus)))


def _batch_size(spec: Mapping[str, Any]) -> int | None:
    training = ((spec.get("data") or {}).get("init_args") or {}).get("training") or {}
    curriculum = training.get("curriculum")
    stages = curriculum.get("stages", []) if isinstance(curriculum, dict) else []
    found = [stage.get("batch_size") for stage in stages if stage.get("name") == training.get("stage")]
    return int(found[0]) if found and found[0] else None


def _config_of(checkpoint: str) -> Any:
    """The checkpoint's config; that of a published name is known without the hub."""
    known_by_name = architecture_of(checkpoint)
    if known_by_name is not None:
        return known_by_name
    from transformers import AutoConfig

    check_model_files(checkpoint)
    try:
        config: Any = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{checkpoint}: no config.json of a model ({reason}); name another with paths.model="
        ) from None
    return config


def _said(lengths: Lengths, policy: dict[str, Any], gpus: int) -> str:
    """The configuration in words."""
    how = "full" if policy.get("lora") is None else f"LoRA of rank {policy['lora'].rank}"
    recomputed = ", recomputed" if policy.get("gradient_checkpointing") else ""
    each = f"{lengths.prompts} x {lengths.group} answers" if lengths.group > 1 else f"{lengths.prompts} answers"
    rollout = f", {lengths.rollout} prompts sampled at once" if lengths.samples else ""
    return f"{how}{recomputed}, {gpus} GPUs, {lengths.seconds:g} s of sound, {each} a pass{rollout}"


def known(strategies: Sequence[str] | None) -> Sequence[str]:
    """The strategies to show; all where none is named."""
    return strategies or STRATEGIES
