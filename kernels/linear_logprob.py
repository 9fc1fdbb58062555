"""Per-token log-probabilities from hidden states and the lm_head, without the [N, V] logits.

    logprob[i] = log softmax(hidden[i] @ weight.T / temperature)[targets[i]]

Ignored tokens are dropped before the first product. One GEMM is 2NHV operations, N tokens, H wide, V words:

    frozen head (LoRA)                4NHV   d logprob / d hidden is formed in the forward pass, for any loss on top
    trainable head, a loss known here 6NHV   `linear_cross_entropy`, `linear_grpo_loss`: gradients in the forward pass
    trainable head, any loss on top   8NHV   numerators are made again in the backward pass

Backends make the softmax numerators of a chunk of rows (see numerators.py): `torch` anywhere, `triton_rows` and
`triton_fused` on NVIDIA GPUs. Results are bitwise equal from run to run: no atomics, nothing tuned at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backends import choose
from .functions import Frozen, Recompute, Setup, SinglePass
from .numerators import wide


class LogProbOutput(NamedTuple):
    """Float32 (float64 for float64 input) tensors of the targets' shape; 0 where the target is ignored."""

    logprob: Tensor
    entropy: Tensor | None
    lse: Tensor | None = None


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    exclude: Tensor | None = None,
    support: Tensor | None = None,
    return_entropy: bool = False,
    entropy_grad: bool = False,
    return_lse: bool = False,
    backend: str = "auto",
    max_workspace_bytes: int = 1 << 28,
    validate_targets: bool = True,
) -> LogProbOutput:
    """Log-probability of each target token.

    Args:
        hidden: [..., H] final hidden states. weight: [V, H] lm_head, same dtype. targets: [...] integers.
        temperature: divides the logits; positive and finite.
        ignore_index: targets of this value get log-prob 0, entropy 0 and an exactly zero gradient.
        exclude: [E] token ids whose probability is 0, as in a sampler that suppresses them.
        support: [..., K] token ids that a truncating sampler (top-k, top-p) kept, padded with -1: probabilities are
            renormalised over them, so that importance ratios agree with it. Every target must be among its ids.
        return_entropy: also the entropy in nats of the same distribution; `entropy_grad` makes it differentiable.
        return_lse: also the log of the sum of exponentials of the logits over the temperature, without a gradient.
        backend: "auto", "torch", "triton_rows" or "triton_fused".
        max_workspace_bytes: bound on the logits held at a time; sets the chunk length.
        validate_targets: check that targets are token ids; costs a synchronisation on GPUs. Unchecked, a target
            outside the vocabulary gives NaN, never another number.

    Raises ValueError for wrong shapes, a bad temperature, and targets outside the vocabulary, excluded from it or
    outside their support; TypeError for a head that is not a plain tensor or of another dtype.
    """
    hidden = _checked(hidden, weight, targets, temperature)
    flat_hidden, flat_targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    kept = (flat_targets != ignore_index).nonzero().squeeze(1)
    wanted = flat_targets[kept].long()
    inside = (wanted >= 0) & (wanted < len(weight))
    if validate_targets:
        _check_targets(wanted, inside, len(weight), ignore_index, exclude)
    rows = flat_hidden[kept]
    want_entropy = return_entropy or entropy_grad
    with torch.autocast(hidden.device.type, enabled=False):
        if support is not None:
            found = _over_support(rows, weight, wanted, support.reshape(len(flat_targets), -1)[kept], temperature)
        else:
            make, chunk = choose(backend, rows, weight, max_workspace_bytes)
            setup = Setup(make, chunk, temperature, exclude, want_entropy)
            safe = wanted if validate_targets else wanted.where(inside, 0)
            frozen = not weight.requires_grad and not entropy_grad
            function = Frozen if frozen else Recompute
            found = function.apply(rows, weight, safe, setup, entropy_grad)
    logprob, entropy, lse = found
    if not validate_targets:
        logprob = logprob.where(inside, torch.nan)
    # Copied into zeros even where no token is left: the empty result still hangs on hidden and weight in the graph.
    return LogProbOutput(
        _put_back(logprob, kept, targets),
        _put_back(entropy, kept, targets) if want_entropy else None,
        _put_back(lse, kept, targets) if return_lse else None,
    )


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    reduction: str = "mean",
    num_items: float | None = None,
    weights: Tensor | None = None,
    ignore_index: int = -100,
    **options: Any,
) -> Tensor:
    """Cross entropy of the labels: scalar for "mean" and "sum", [...] for "none"; a trainable head costs 6NHV.

    Args:
        hidden, weight, labels, ignore_index: as in `linear_logprob`.
        reduction: "mean" divides by `num_items`, or by the number of labels that are not ignored.
        num_items: the step's number of tokens over all micro-batches and ranks.
        weights: [...] factors of the tokens in the sum.
        options: temperature, exclude, backend, max_workspace_bytes of `linear_logprob`.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "none":
        loss = -linear_logprob(hidden, weight, labels, ignore_index=ignore_index, **options).logprob
        return loss if weights is None else loss * weights
    count = 1.0
    if reduction == "mean":
        count = float((labels != ignore_index).sum()) if num_items is None else float(num_items)
    factor = torch.full(labels.shape, 1 / max(count, 1e-12), device=hidden.device, dtype=wide(hidden.dtype))
    factor = factor if weights is None else factor * weights

    def loss_of(logprob: Tensor, tokens: Tensor) -> Tensor:
        return -(factor.reshape(-1)[tokens] * logprob)

    return linear_token_loss(hidden, weight, labels, loss_of, ignore_index=ignore_index, **options)[0]


def linear_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    exclude: Tensor | None = None,
    backend: str = "auto",
    max_workspace_bytes: int = 1 << 28,
) -> tuple[Tensor, Tensor]:
    """The sum of a loss of single tokens, and their log-probs [...] without a gradient; a trainable head costs 6NHV.

    loss_of(logprob [C], tokens [C]) -> [C]: losses of the tokens at these places of the flattened targets; its
    derivative is taken by autograd while the chunk's numerators are there. It must not couple tokens.
    """
    hidden = _checked(hidden, weight, targets, temperature)
    flat_hidden, flat_targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    kept = (flat_targets != ignore_index).nonzero().squeeze(1)
    wanted = flat_targets[kept].long()
    _check_targets(wanted, (wanted >= 0) & (wanted < len(weight)), len(weight), ignore_index, exclude)
    rows = flat_hidden[kept]
    with torch.autocast(hidden.device.type, enabled=False):
        make, chunk = choose(backend, rows, weight, max_workspace_bytes)
        setup = Setup(make, chunk, temperature, exclude, False)
        loss, logprob = SinglePass.apply(rows, weight, wanted, setup, loss_of, kept)
    return loss, _put_back(logprob, kept, targets)


def _put_back(part: Tensor, kept: Tensor, targets: Tensor) -> Tensor:
    """[...] zeros with the kept tokens' values in their places."""
    return part.new_zeros(targets.numel()).index_copy(0, kept, part).reshape(targets.shape)


def _checked(hidden: Tensor, weight: Any, targets: Tensor, temperature: float) -> Tensor:
    """hidden, cast under autocast; what cannot be computed is refused."""
    if type(weight) not in (Tensor, torch.nn.Parameter):
        raise TypeError(f"weight must be a plain tensor, got {type(weight).__name__}; {_advice(weight)}")
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(weight.dtype)
    if hidden.dtype != weight.dtype:
        raise TypeError(f"hidden is {hidden.dtype} and weight {weight.dtype}; they must agree")
    if targets.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"targets must be int64 or int32, got {targets.dtype}")
    if weight.ndim != 2 or hidden.shape[-1:] != weight.shape[1:] or hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"shapes must be hidden [..., H], weight [V, H], targets [...]; got {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)}, {tuple(targets.shape)}"
        )
    if isinstance(temperature, bool) or not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return hidden


def _advice(weight: Any) -> str:
    if hasattr(weight, "base_layer"):
        return "the lm_head is wrapped by an adapter, which would be lost; merge it, or leave the lm_head out of it"
    if hasattr(weight, "full_tensor"):
        return "gather it with .full_tensor() first"
    return "gather or unwrap the lm_head" + (" and pass its .weight" if hasattr(weight, "weight") else "")


def _check_targets(wanted: Tensor, inside: Tensor, size: int, ignore_index: int, exclude: Tensor | None) -> None:
    if not inside.all():
        raise ValueError(f"targets must lie in [0, {size}) or be {ignore_index}")
    if exclude is not None and torch.isin(wanted, exclude).any():
        raise ValueError("a target is among the excluded token ids; its probability is 0")


def _over_support(rows: Tensor, weight: Tensor, targets: Tensor, support: Tensor, temperature: float) -> tuple:
    """Log-prob, entropy and lse [N] over each row's kept ids; K words instead of V, so plain autograd serves."""
    valid = support >= 0
    if not (valid & (support == targets[:, None])).any(1).all():
        raise ValueError("a target is not in its support; a truncating sampler cannot have drawn it")
    scores, step = [], max(1, (1 << 24) // max(1, support.shape[1] * rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        words = torch.nn.functional.embedding(support[part].clamp(min=0), weight).to(wide(rows.dtype))
        scores.append((words * rows[part, None].to(wide(rows.dtype))).sum(-1) / temperature)
    z = torch.cat(scores) if scores else rows.new_zeros(support.shape, dtype=wide(rows.dtype)) + 0 * weight.sum()
    z = z.masked_fill(~valid, -torch.inf)
    logp = torch.log_softmax(z, -1)
    at = (support == targets[:, None]).to(torch.int64).argmax(1, keepdim=True)
    finite = logp.masked_fill(~valid, 0.0)
    entropy = -(finite.exp() * finite).masked_fill(~valid, 0.0).sum(-1)
    return logp.gather(1, at).squeeze(1), entropy, torch.logsumexp(z, -1).detach()
