"""What a configuration needs of a GPU's memory, counted without its weights: by a dry run of one micro-batch.

Weights that train are held in float32, with a copy in the type of the computation; frozen ones in that type alone.
Gradients and Adam's two moments are float32. Of a sharded policy each of n GPUs holds the n-th part; while it reads, it
gathers the weights around the layers and those of two layers, or all of them where prefixes are shared or completions
are sampled. vLLM, where there is one on the same GPU, comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from ...datamodules.batch import Prompts
from ...datamodules.processors.omni import AUDIO
from ...errors import InputError
from . import omni
from .dry_run import counting, head_like, replaced
from .omni import OmniPolicy

STRATEGIES = ("ddp", "fsdp2")


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
    rows = torch.arange(lengths.prompts).repeat_interleave(lengths.group)
    ids = torch.zeros(len(rows), lengths.said, dtype=torch.int64)
    prompts = prompts_like(policy, lengths, lengths.prompts)
    with replaced(omni, linear_logprob=head_like(1 << 30)), counting() as counter:
        policy(prompts, ids, torch.ones_like(ids), rows, entropy=lengths.samples).logprob.sum().backward()
    return counter.peak


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


@dataclass(frozen=True)
class Measured:
    """What a dry run found, whatever the strategy: counts, bytes of update and sampling, and what the policy is.

    width: bytes of a number in the type of the computation. shares: whether prefixes are shared. adapted: with LoRA.
    """

    counts: Counts
    activations: int
    sampling: int
    width: int
    shares: bool
    adapted: bool


def measured(config: Any, policy: Mapping[str, Any], lengths: Lengths) -> Measured:
    """A dry run of one micro-batch and, where the policy samples, of a rollout.

    config: of the model. policy: arguments of OmniPolicy, without the checkpoint.
    """
    given = {"dtype": "bfloat16", **policy}
    made = outline(config, **{name: value for name, value in given.items() if name != "attention"})
    sampling = sampling_bytes(made, lengths) if lengths.samples else 0
    width = getattr(torch, given["dtype"]).itemsize
    shares = made.share and not made.by_layers
    return Measured(counts_of(made), update_bytes(made, lengths), sampling, width, shares, made.adapted)


def memory_of(
    found: Measured, gpus: int = 8, strategy: str = "ddp", reference: bool = False, moments: int = 2
) -> Memory:
    """What each of `gpus` GPUs needs for a step.

    reference: a frozen copy is kept (full fine-tuning with a KL). moments: numbers that the optimizer keeps per weight.
    InputError for a strategy that is not in STRATEGIES.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"strategy: {', '.join(STRATEGIES)} are known, got {strategy!r}")
    counts, width, parts = found.counts, found.width, 1 if strategy == "ddp" else gpus
    everything, master = (counts.trained + counts.frozen) * width, 4 * counts.trained
    copies = counts.trained * width if width < 4 else 0
    in_update = in_rollout = 0
    if parts > 1:  # copies in 16 bits are made when weights are gathered; shards of what trains are float32 alone
        copies = 0
        in_rollout = everything if found.sampling else 0
        in_update = (
            everything + master
            if found.shares
            else (counts.root + 2 * counts.layer) * width * (1 if found.adapted else 2)
        )
    weights = (master + copies + counts.frozen * width) / parts
    gradients, optimizer = master / parts, moments * master / parts
    held = everything / parts if reference and not found.adapted else 0.0
    most = max(found.activations + in_update, found.sampling + in_rollout, master / parts)  # the last: of the optimizer
    total = weights + gradients + optimizer + held + most
    gathered = max(in_update, in_rollout)
    return Memory(weights, gradients, optimizer, held, gathered, found.activations, found.sampling, total)
