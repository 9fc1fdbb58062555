"""Per-token log-probabilities from hidden states and the lm_head, without the [N, V] logits.

    logprob[i] = log softmax(hidden[i] @ weight.T / temperature)[targets[i]]

The plain-torch backend here is the specification: any device, any dtype, chunked over tokens. Ignored tokens are
dropped before the first product. With a frozen head (LoRA) the gradient of every token's log-prob is formed in the
forward pass, d logprob / d hidden = (W[y] - E_p[W]) / T, so any loss on top costs no recomputation; with a trainable
head the chunks are recomputed in the backward pass.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class LogProbOutput(NamedTuple):
    """Float32 (float64 for float64 input) tensors of the targets' shape; 0 where the target is ignored."""

    logprob: Tensor
    entropy: Tensor | None


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    exclude: Tensor | None = None,
    return_entropy: bool = False,
    max_workspace_bytes: int = 1 << 28,
) -> LogProbOutput:
    """Log-probability of each target token.

    Args:
        hidden: [..., H] final hidden states. weight: [V, H] lm_head, same dtype. targets: [...] int64.
        temperature: divides the logits; positive and finite.
        ignore_index: targets of this value get log-prob 0, entropy 0 and an exactly zero gradient.
        exclude: [E] token ids whose probability is 0, as in a sampler that suppresses them.
        return_entropy: also the entropy in nats of the same distribution, without a gradient.
        max_workspace_bytes: bound on the logits held at a time; sets the chunk length.

    Raises ValueError for wrong shapes, a bad temperature, and targets outside the vocabulary or excluded from it;
    TypeError for a head that is not a plain tensor (take `.weight` of an unwrapped lm_head) or of another dtype.
    """
    _check(hidden, weight, targets, temperature)
    flat_hidden, flat_targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    kept = (flat_targets != ignore_index).nonzero().squeeze(1)
    wanted = flat_targets[kept]
    if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(weight):
        raise ValueError(f"targets must lie in [0, {len(weight)}) or be {ignore_index}")
    if exclude is not None and torch.isin(wanted, exclude).any():
        raise ValueError("a target is among the excluded token ids; its probability is 0")
    rows = flat_hidden[kept]
    chunk = max(1, max_workspace_bytes // (4 * len(weight)))
    logprob, entropy = _LinearLogProb.apply(rows, weight, wanted, temperature, exclude, return_entropy, chunk)
    shape = targets.shape
    # Copied into zeros even where no token is left: the empty result still hangs on hidden and weight in the graph.
    full = logprob.new_zeros(len(flat_targets)).index_copy(0, kept, logprob)
    if entropy is not None:
        entropy = torch.zeros_like(full).index_copy(0, kept, entropy).reshape(shape)
    return LogProbOutput(full.reshape(shape), entropy)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> None:
    if type(weight) not in (Tensor, torch.nn.Parameter):
        raise TypeError(f"weight must be a plain tensor, got {type(weight).__name__}; gather or unwrap the lm_head")
    if hidden.dtype != weight.dtype:
        raise TypeError(f"hidden is {hidden.dtype} and weight {weight.dtype}; they must agree")
    if weight.ndim != 2 or hidden.shape[-1] != weight.shape[1] or hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"shapes must be hidden [..., H], weight [V, H], targets [...]; got {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)}, {tuple(targets.shape)}"
        )
    if isinstance(temperature, bool) or not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def _chunk_logp(rows: Tensor, weight: Tensor, temperature: float, exclude: Tensor | None) -> Tensor:
    """[C, V] log-softmax in float32 (float64 stays)."""
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    logits = (rows.to(dtype) @ weight.to(dtype).T).div_(temperature)
    if exclude is not None:
        logits[:, exclude] = -torch.inf
    return torch.log_softmax(logits, dim=-1)


class _LinearLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight, targets, temperature, exclude, return_entropy, chunk):
        head_frozen = not ctx.needs_input_grad[1]
        precompute = head_frozen and ctx.needs_input_grad[0]
        logps, entropies, slopes = [], [], []
        for start in range(0, len(rows), chunk):
            part, target = rows[start : start + chunk], targets[start : start + chunk, None]
            logp = _chunk_logp(part, weight, temperature, exclude)
            logps.append(logp.gather(1, target).squeeze(1))
            p = logp.exp()
            if return_entropy:
                entropies.append(-(p * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1))
            if precompute:
                slopes.append(((_onehot_minus(p, target) @ weight.to(p.dtype)) / temperature).to(rows.dtype))
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        empty = rows.new_zeros(0, dtype=dtype)
        logprob = torch.cat(logps) if logps else empty
        entropy = (torch.cat(entropies) if entropies else empty.clone()) if return_entropy else None
        ctx.head_frozen, ctx.temperature, ctx.chunk, ctx.exclude = head_frozen, temperature, chunk, exclude
        slope = torch.cat(slopes) if slopes else rows.new_zeros(rows.shape)
        ctx.save_for_backward(*((slope,) if head_frozen else (rows, weight, targets)))
        if entropy is not None:
            ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprob, _grad_entropy):
        if ctx.head_frozen:
            (slope,) = ctx.saved_tensors
            return (grad_logprob[:, None] * slope).to(slope.dtype), None, None, None, None, None, None
        rows, weight, targets = ctx.saved_tensors
        dtype = grad_logprob.dtype
        grad_rows = torch.empty_like(rows)
        grad_weight = torch.zeros(weight.shape, dtype=dtype, device=weight.device)
        for start in range(0, len(rows), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            p = _chunk_logp(rows[part], weight, ctx.temperature, ctx.exclude).exp_()
            slope = _onehot_minus(p, targets[part, None]).mul_(grad_logprob[part, None] / ctx.temperature)
            grad_rows[part] = (slope @ weight.to(dtype)).to(rows.dtype)
            grad_weight.addmm_(slope.T, rows[part].to(dtype))
        return grad_rows, grad_weight.to(weight.dtype), None, None, None, None, None


def _onehot_minus(p: Tensor, target: Tensor) -> Tensor:
    """onehot(target) - p in place; the target's entry as the sum of the others, so that 1 - p never cancels."""
    p.scatter_(1, target, 0.0)
    rest = p.sum(-1, keepdim=True)
    return p.neg_().scatter_(1, target, rest)
