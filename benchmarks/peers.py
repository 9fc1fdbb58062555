"""Who is compared: our backends by mode, plain torch, and the peers that are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from earwitness.kernels.linear_logprob import linear_cross_entropy, linear_grpo_loss, linear_logprob

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    """cut-cross-entropy without dropping small gradients."""
    from cut_cross_entropy import linear_cross_entropy as cce  # type: ignore[import-not-found]

    return cce(x, w, t, filter_eps=None)


def native(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """torch's own fused linear cross entropy, where it has one."""
    return torch.nn.functional.linear_cross_entropy(x, w, t)  # type: ignore[attr-defined]


def providers(mode: str, device: str) -> tuple[dict[str, Step], list[str]]:
    """Providers of a mode, and peers that are not installed."""
    names = ("triton_rows", "triton_fused") if device == "cuda" else ("torch",)
    found: dict[str, Step] = {f"ours {name}": ours(name)[mode] for name in names}
    missing: list[str] = []
    if mode == "grpo":
        return found, missing
    found["torch naive"] = naive
    if device == "cuda":
        found["torch chunks + checkpoint"] = checkpointed
        found["torch compiled"] = torch.compile(naive)
    for name, module, step in (
        ("liger-kernel", "liger_kernel", liger),
        ("cut-cross-entropy", "cut_cross_entropy", cut),
    ):
        try:
            importlib.import_module(module)
            found[name] = step
        except ImportError:
            missing.append(name)
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        found["torch native"] = native
    else:
        missing.append("torch native")
    return found, missing
