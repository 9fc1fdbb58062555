"""Softmax numerators of one chunk of rows, and the products that turn them into gradients; plain torch, any device.

For row i with target y, logits z = x W^T / T and any anchor a: e_v = exp(z_v - a) for v != y, and 0 at v = y, so that
nothing cancels where the model is sure. With rest = sum e_v and total = rest + e_y,

    logprob = -log1p(rest / e_y)     p_v = e_v / total (v != y)     1 - p_y = rest / total
    d logprob / d x = (rest W[y] - e W) / (T total)
    d logprob / d W = (rest onehot(y) - e)^T x / (T total)

A backend makes the numerators; the products here are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_SLAB = 8_192  # columns at a time where a whole chunk would need a second buffer


class Numerators(NamedTuple):
    """e [C, V] (None where only the statistics are wanted); the others [C], float32 (float64 for float64 rows)."""

    e: Tensor | None
    rest: Tensor
    total: Tensor
    logprob: Tensor
    lse: Tensor
    entropy: Tensor | None


class Request(NamedTuple):
    """What a backend is asked for besides the rows: temperature, excluded ids [E], and which outputs."""

    temperature: float
    exclude: Tensor | None
    entropy: bool
    keep: bool


Backend = Callable[[Tensor, Tensor, Tensor, Request], Numerators]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def torch_numerators(rows: Tensor, weight: Tensor, targets: Tensor, request: Request) -> Numerators:
    """The specification: logits in float32 (float64 stays), anchored at each row's largest. targets: [C]."""
    z = logits(rows, weight, 1 / request.temperature)
    if request.exclude is not None:
        z[:, request.exclude] = -torch.inf
    top = z.amax(1, keepdim=True)
    z.sub_(top)
    target = targets[:, None]
    at_target = z.gather(1, target).squeeze(1)
    e = z.exp_()
    e_target = e.gather(1, target).squeeze(1)
    e.scatter_(1, target, 0.0)
    rest = e.sum(1)
    total = rest + e_target
    log_total = total.log()
    # Where e_y underflows, the token is so unlikely that the plain difference is as exact.
    tiny = torch.finfo(e.dtype).tiny * 1e6
    logprob = torch.where(e_target > tiny, -torch.log1p(rest / e_target.clamp(min=tiny)), at_target - log_total)
    entropy = None
    if request.entropy:
        spread = sum(torch.special.entr(e[:, s : s + _SLAB]).sum(1) for s in range(0, e.shape[1], _SLAB))
        # log(total) as at_target - logprob: exact where the token is sure
        entropy = at_target - logprob + (spread + torch.special.entr(e_target)) / total
    return Numerators(e if request.keep else None, rest, total, logprob, top.squeeze(1) + log_total, entropy)


def logits(rows: Tensor, weight: Tensor, scale: float) -> Tensor:
    """[C, V] scale x rows W^T, float32 (float64 stays): low-precision logits would cost log-probs 5e-2."""
    if rows.dtype == wide(rows.dtype):
        out = rows.new_empty(len(rows), len(weight))
        return torch.addmm(out, rows, weight.T, beta=0, alpha=scale, out=out)
    if rows.is_cuda:
        z = torch.mm(rows, weight.T, out_dtype=torch.float32)
        return z if scale == 1 else z.mul_(scale)
    out, wider = torch.empty(len(rows), len(weight)), rows.float() * scale
    for s in range(0, len(weight), _SLAB):
        torch.mm(wider, weight[s : s + _SLAB].float().T, out=out[:, s : s + _SLAB])
    return out


def slopes(rows: Tensor, weight: Tensor, targets: Tensor, found: Numerators, temperature: float) -> Tensor:
    """[C, H] d logprob / d x, in the rows' type."""
    assert found.e is not None
    scale = 1 / (temperature * found.total)
    mean = times_weight(found.e, weight)
    own = weight[targets].to(mean.dtype)
    return (own.mul_((found.rest * scale)[:, None]).sub_(mean.mul_(scale[:, None]))).to(rows.dtype)


def times_weight(e: Tensor, weight: Tensor) -> Tensor:
    """[C, H] e W with sums in float32 (float64 stays)."""
    if weight.dtype == wide(weight.dtype):
        return e @ weight
    if e.is_cuda:
        return torch.mm(e.to(weight.dtype), weight, out_dtype=torch.float32)
    out = torch.zeros(len(e), weight.shape[1])
    for s in range(0, len(weight), _SLAB):
        out.addmm_(e[:, s : s + _SLAB].float(), weight[s : s + _SLAB].float())
    return out


def add_to_head(
    head: Tensor, rows: Tensor, targets: Tensor, found: Numerators, gain: Tensor, temperature: float
) -> None:
    """Adds sum_i gain_i d logprob_i / d W to `head` [V, H], which has the wide type."""
    assert found.e is not None
    scaled = rows.to(head.dtype) * (gain / (temperature * found.total))[:, None]
    if rows.dtype == head.dtype:
        head.addmm_(found.e.T, scaled, alpha=-1)
    elif rows.is_cuda:
        low = scaled.to(rows.dtype)
        head -= torch.mm(found.e.to(rows.dtype).T, low, out_dtype=torch.float32)
    else:
        for s in range(0, len(head), _SLAB):
            head[s : s + _SLAB].addmm_(found.e[:, s : s + _SLAB].float().T, scaled, alpha=-1)
    head.index_add_(0, targets, scaled.mul_(found.rest[:, None]))


def entropy_numerators(found: Numerators, targets: Tensor) -> Tensor:
    """[C, V] p_v (log p_v + entropy): minus the gradient of the entropy by the logits. Needs float32 numerators."""
    assert found.e is not None and found.entropy is not None
    e = found.e.to(found.total.dtype)
    p = (e / found.total[:, None]).scatter_(1, targets[:, None], found.logprob.exp()[:, None])
    return torch.special.entr(p).neg_().addcmul_(p, found.entropy[:, None].expand_as(p))
