"""What a configuration needs of a GPU's memory, counted without its weights: by a dry run of one micro-batch.

Weights that train are held in float32, with a copy in the type of the computation; frozen ones in that type alone.
Gradients and Adam's two moments are float32. Of a sharded policy each of n GPUs holds the n-th part. An update gathers
the weights around the layers and those of two layers, or all of them once a step, as `trainer.strategy.gather` says;
rollouts and the reference gather all. vLLM, where there is one on the same GPU, comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...datamodules.batch import Prompts
from ...datamodules.processors.omni import AUDIO
from ...errors import InputError
from . import omni
from .dry_run import counting, head_like, replaced
from .omni import OmniPolicy

STRATEGIES = ("ddp", "fsdp2")
GATHER = ("auto", "layer", "step")


@dataclass(frozen=True)
class Lengths:
    """The micro-batch: `prompts` questions about as many recordings of `seconds`, each answered `group` times.

    prefix, suffix: positions of text before and after the sound. said: of an answer. samples: they are sampled by the
    policy itself, all `rollout` prompts of a GPU at once.
    """

    prompts: int = 1
    seconds: float = 30.0
    prefix: int = 32
    suffix: int = 96
    said: int = 32
    group: int = 1
    samples: bool = False
    rollout: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU. gathered: weights of other GPUs' parts while reading. total: the most at any moment."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    gathered: float
    activations: float
    sampling: float
    total: float


@dataclass(frozen=True)
class Counts:
    """Numbers of weights: that train, that do not, those of the largest layer, and those outside of all layers."""

    trained: int
    frozen: int
    layer: int
    root: int


def outline(config: Any, dtype: str = "bfloat16", **given: Any) -> OmniPolicy:
    """A policy of this config whose weights have no content; given: as in OmniPolicy, without a checkpoint.

    config: of the thinker or of the whole Qwen2.5-Omni.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    config = getattr(config, "thinker_config", config)
    with torch.device("meta"):
        thinker: Any = Thinker._from_config(config, attn_implementation="sdpa", dtype=getattr(torch, dtype))
    _on_cpu(thinker)
    ids = {AUDIO: config.audio_token_id}
    tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda token: ids.get(token, 0))
    reading = SimpleNamespace(from_pretrained=lambda *_: SimpleNamespace(tokenizer=tokenizer))
    with replaced(omni, load_thinker=lambda *_, **__: thinker.eval(), OmniProcessor=reading):
        return OmniPolicy("", dtype=dtype, **given)


def _on_cpu(thinker: Any) -> None:
    """Frequencies and positions are computed from integers: they may be real, and stay small."""
    for module in thinker.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype)


def counts_of(policy: OmniPolicy) -> Counts:
    """How many weights there are of each kind."""
    parameters = list(policy.thinker.parameters())
    layers = [*policy.base.get_decoder().layers, *policy.tower.layers]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    visual = sum(p.numel() for name, p in policy.base.named_parameters() if name.startswith("visual"))
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    everything = sum(p.numel() for p in parameters)
    return Counts(trained, everything - trained, max(sizes), everything - sum(sizes) - visual)


def prompts_like(policy: OmniPolicy, lengths: Lengths, prompts: int) -> Prompts:
    """Prompts of these lengths; the sound has no content."""
    frames = round(lengths.seconds * 100)
    heard = (((frames - 1) // 2 + 1) - 2) // 2 + 1
    prefix = torch.zeros(prompts, lengths.prefix + heard, dtype=torch.int64)
    prefix[:, lengths.prefix // 2 : lengths.prefix // 2 + heard] = policy.audio_id
    suffix = torch.zeros(prompts, lengths.suffix, dtype=torch.int64)
    return Prompts(
        prefix,
        torch.ones_like(prefix),
        torch.empty(prompts, 128, frames, device="meta"),
        torch.ones(prompts, frames, dtype=torch.int64),
        suffix,
        torch.ones_like(suffix),
        torch.arange(prompts),
    )


def update_bytes(policy: OmniPolicy, lengths: Lengths) -> int:
    """The most that forward and backward pass of a micro-batch hold beside weights and gradients."""
    for parameter in policy.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    with replaced(omni, linear_logprob=head_like(1 << 30)), counting() as counter:
        _read(policy, lengths).sum().backward()
    return counter.peak


def _read(policy: OmniPolicy, lengths: Lengths) -> Tensor:
    """Log-probs of a micro-batch."""
    rows = torch.arange(lengths.prompts).repeat_interleave(lengths.group)
    ids = torch.zeros(len(rows), lengths.said, dtype=torch.int64)
    prompts = prompts_like(policy, lengths, lengths.prompts)
    logprob: Tensor = policy(prompts, ids, torch.ones_like(ids), rows, entropy=lengths.samples).logprob
    return logprob


@torch.no_grad()
def sampling_bytes(policy: OmniPolicy, lengths: Lengths) -> int:
    """The most that sampling holds: attention caches at their longest, and the head's numbers for one position."""
    with counting() as counter:
        state = policy.read(prompts_like(policy, lengths, lengths.rollout))
        state = state.expand(torch.arange(lengths.rollout).repeat_interleave(lengths.group))
        rows = lengths.rollout * lengths.group
        before = counter.peak
        for read in (lengths.said - 2, 1):  # of the whole way only the last position, the longest, is looked at
            counter.peak = counter.now
            if read > 0:
                said = torch.zeros(rows, read, dtype=torch.int64)
                state, _ = policy.extend(state, policy.embed(said), torch.ones_like(said))
        logits = (state.last @ policy.head.T).float().double()
        _share = logits.softmax(-1).cumsum(-1)
    return max(before, counter.peak)


@torch.no_grad()
def reading_bytes(policy: OmniPolicy, lengths: Lengths) -> int:
    """The most that log-probs of a micro-batch hold where no gradient is asked for, as of a reference."""
    with replaced(omni, linear_logprob=head_like(1 << 30)), counting() as counter:
        _read(policy, lengths)
    return counter.peak


@dataclass(frozen=True)
class Measured:
    """What a dry run found: counts, bytes that update, sampling and reading a reference hold, what the policy is.

    width: bytes of a number in the type of the computation. adapted: with LoRA. sharded: read as under FSDP2, where
    a layer reads all that it reads in one call.
    """

    counts: Counts
    activations: int
    sampling: int
    reading: int
    width: int
    adapted: bool
    sharded: bool


def measured(config: Any, policy: Mapping[str, Any], lengths: Lengths, strategy: str = "ddp") -> Measured:
    """A dry run of one micro-batch and, where the policy samples, of a rollout.

    config: of the model. policy: arguments of OmniPolicy, without the checkpoint. InputError for a strategy that is not
    in STRATEGIES.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"strategy: {', '.join(STRATEGIES)} are known, got {strategy!r}")
    given = {"dtype": "bfloat16", **policy}
    made = outline(config, **{name: value for name, value in given.items() if name != "attention"})
    sharded = strategy == "fsdp2"
    made.by_layers = made.by_layers or sharded
    sampling = sampling_bytes(made, lengths) if lengths.samples else 0
    reading = reading_bytes(made, lengths) if sharded else 0
    width = getattr(torch, given["dtype"]).itemsize
    return Measured(counts_of(made), update_bytes(made, lengths), sampling, reading, width, made.adapted, sharded)


def memory_of(
    found: Measured,
    gpus: int = 8,
    reference: bool = False,
    moments: int = 2,
    gather: str = "auto",
    offload: bool = False,
) -> Memory:
    """What each of `gpus` GPUs, that under FSDP2 hold one copy together, needs for a step.

    reference: of a KL is read, which with full fine-tuning is a frozen copy. moments: numbers that the optimizer keeps
    per weight. gather, offload: as FSDP2's options `gather` and `cpu_offload`. InputError for a `gather` not in GATHER.
    """
    if gather not in GATHER:
        raise InputError(f"gather: {', '.join(GATHER)} are known, got {gather!r}")
    counts, width, parts = found.counts, found.width, gpus if found.sharded else 1
    everything, master = (counts.trained + counts.frozen) * width, 4 * counts.trained
    copies = counts.trained * width if width < 4 else 0
    in_update = in_rollout = in_reading = 0
    if found.sharded:  # copies in 16 bits are made when weights are gathered; shards of what trains are float32 alone
        copies = 0
        in_rollout = everything if found.sampling else 0
        in_reading = everything if reference else 0
        at_once = gather == "step" or (gather == "auto" and found.adapted)
        of_layers = (counts.root + 2 * counts.layer) * width * (1 if found.adapted else 2)  # weights and gradients
        in_update = everything + master if at_once else of_layers
    weights = (master + copies + counts.frozen * width) / parts
    gradients, optimizer = master / parts, moments * master / parts
    held = everything / parts if reference and not found.adapted else 0.0
    if found.sharded and offload:
        weights = gradients = optimizer = held = 0.0
    reading = found.reading + in_reading if reference else 0
    in_step = 0.0 if found.sharded and offload else master / parts  # the optimizer's own
    most = max(found.activations + in_update, found.sampling + in_rollout, reading, in_step)
    total = weights + gradients + optimizer + held + most
    gathered = max(in_update, in_rollout, in_reading)
    return Memory(weights, gradients, optimizer, held, gathered, found.activations, found.sampling, total)
