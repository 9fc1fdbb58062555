"""Who is compared: our backends by mode, plain torch, and the peers that are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from earwitness.kernels.linear_logprob import linear_cross_entropy, linear_grpo_loss, linear_logprob

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
SUPPORTS = (50, 200, 4_000)
TRL_CHUNK = 32_768  # words at a time, as its trainers have it


def ours(backend: str) -> dict[str, Step]:
    """Our own, by mode."""
    options: dict[str, Any] = {"backend": backend}

    def logprob(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return -linear_logprob(x, w, t, **options).logprob.mean()

    def cross_entropy(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return linear_cross_entropy(x, w, t, **options)

    def grpo(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
        shape = (8, len(t) // 8)
        old = torch.full(shape, -1.0, device=x.device)
        gain = torch.linspace(-1, 1, 8, device=x.device)
        more: dict[str, Any] = {"old_logprob": old, "ref_logprob": old, "beta": 0.001}
        return linear_grpo_loss(x.view(*shape, -1), w, t.view(shape), gain, **more, **options)[0]

    return {"forward": logprob, "frozen": logprob, "trainable": logprob, "cross entropy": cross_entropy, "grpo": grpo}


def naive(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """All logits at once, log-softmax in float32."""
    return -torch.log_softmax((x @ w.T).float(), -1).gather(1, t[:, None]).mean()


def checkpointed(x: Tensor, w: Tensor, t: Tensor, size: int = 2_048) -> Tensor:
    """Chunks of rows under activation checkpointing, as several trainers have it."""
    from torch.utils.checkpoint import checkpoint

    parts = [
        checkpoint(naive, a, w, b, use_reentrant=False) * len(b)
        for a, b in zip(x.split(size), t.split(size), strict=True)
    ]
    return torch.stack(parts).sum() / len(t)


def liger(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """liger-kernel's fused linear cross entropy."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy  # type: ignore[import-not-found]

    found = liger_fused_linear_cross_entropy(x, w, t)
    return found[0] if isinstance(found, tuple) else found


def cut(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """cut-cross-entropy without dropping small gradients; on a CPU its compiled form."""
    from cut_cross_entropy import linear_cross_entropy as cce  # type: ignore[import-not-found]

    return cce(x, w, t, filter_eps=None) if x.is_cuda else cce(x, w, t, impl="torch_compile")


def native(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """torch's own fused linear cross entropy, where it has one."""
    return torch.nn.functional.linear_cross_entropy(x, w, t)  # type: ignore[attr-defined]


def trl(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """TRL's chunked log-probs, in chunks of as many words as its trainers use."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction  # type: ignore[import-not-found]

    return -ChunkedLogProbFunction.apply(x, w, None, t, 1.0, TRL_CHUNK, None, 1.0, ())[0].mean()


def liger_grpo(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """liger-kernel's chunked GRPO loss, over 8 completions as `ours`."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss  # type: ignore[import-not-found]

    loss = LigerFusedLinearGRPOLoss(beta=0.001, epsilon_high=0.28, loss_type="dapo", use_ref_model=True)
    shape = (8, len(t) // 8)
    old = torch.full(shape, -1.0, device=x.device)
    gain = torch.linspace(-1, 1, 8, device=x.device)
    more = {"ref_per_token_logps": old, "old_per_token_logps": old}
    return loss(x.view(*shape, -1), w, t.view(shape), torch.ones(shape, device=x.device), gain, **more)[0]


# Who can do what a mode asks for: the name, the module that must be there, and the step.
PEERS: dict[str, list[tuple[str, str, Step]]] = {
    "forward": [("TRL chunked", "trl.kernels.chunked_logprob", trl)],
    "frozen": [("TRL chunked", "trl.kernels.chunked_logprob", trl)],
    "trainable": [("TRL chunked", "trl.kernels.chunked_logprob", trl)],
    "cross entropy": [
        ("liger-kernel", "liger_kernel.transformers.functional", liger),
        ("cut-cross-entropy", "cut_cross_entropy", cut),
        ("TRL chunked", "trl.kernels.chunked_logprob", trl),
    ],
    "grpo": [("liger-kernel", "liger_kernel.chunked_loss", liger_grpo)],
}


def truncated(size: int) -> Step:
    """Our log-probs over the `size` words that top_k and top_p left of each row."""

    def step(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
        first = t[:, None].expand(-1, size)
        support = (first + 37 * torch.arange(size, device=t.device)) % len(w)
        return -linear_logprob(x, w.detach(), t, support=support).logprob.mean()

    return step


def providers(mode: str, device: str) -> tuple[dict[str, Step], list[str]]:
    """Providers of a mode, and peers that are not installed or do not run on the device."""
    if mode == "truncated":
        everything = {"ours, all words": ours("auto")["frozen"]}
        return everything | {f"ours, {size} words": truncated(size) for size in SUPPORTS}, []
    names = ("triton_rows", "triton_fused") if device == "cuda" else ("torch",)
    found: dict[str, Step] = {f"ours {name}": ours(name)[mode] for name in names}
    missing: list[str] = []
    if mode != "grpo":
        found["torch naive"] = naive
        if device == "cuda" or mode == "trainable":
            found["torch chunks + checkpoint"] = checkpointed
        if device == "cuda":
            found["torch compiled"] = torch.compile(naive)
    for name, module, step in PEERS[mode]:
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(name)
            continue
        if step is liger and device != "cuda":
            missing.append(f"{name} (needs a GPU)")
        else:
            found[name] = step
    if mode == "cross entropy":
        if hasattr(torch.nn.functional, "linear_cross_entropy"):
            found["torch native"] = native
        else:
            missing.append("torch native")
    return found, missing
