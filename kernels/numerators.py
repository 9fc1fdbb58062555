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
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SLAB = 8_192  # columns at a time where a whole chunk would need a second buffer
_NEAR = 1 << 18  # logits that stay in a core's cache from one look at them to the next


class Numerators(NamedTuple):
    """e [C, V], None where it was not kept; the others [C], float32 (float64 for float64 rows). entropy: in nats."""

    e: Tensor | None
    rest: Tensor
    total: Tensor
    logprob: Tensor
    lse: Tensor
    entropy: Tensor | None


class NumeratorOptions(NamedTuple):
    """How a backend makes numerators: temperature, excluded ids [E], and whether it returns entropies, and e (keep).

    support: [C, K] ids that alone have a probability, padded with -1; None for all. out: [>= C, V] in the wide type, of
    any content, for e to be made in; None for memory of its own. The reference backend takes these two.
    """

    temperature: float
    exclude: Tensor | None
    entropy: bool
    keep: bool
    support: Tensor | None = None
    out: Tensor | None = None


Backend = Callable[[Tensor, Tensor, Tensor, NumeratorOptions], Numerators]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over values of this type are kept in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def torch_numerators(rows: Tensor, weight: Tensor, targets: Tensor, options: NumeratorOptions) -> Numerators:
    """The reference backend: logits in float32 (float64 stays), anchored at each row's largest.

    rows: [C, H]. weight: [V, H]. targets: [C] token ids in [0, V), none of them excluded.
    """
    z = logits(rows, weight, 1 / options.temperature, options.out)
    if options.exclude is not None:
        z[:, options.exclude] = -torch.inf
    near = len(z) if z.is_cuda else max(1, _NEAR // z.shape[1])
    found = []
    for start in range(0, len(z), near):
        part = slice(start, start + near)
        support = None if options.support is None else options.support[part]
        found.append(_of_logits(z[part], targets[part], support, options.entropy))
    if len(found) == 1:
        rest, total, logprob, lse, entropy = found[0]
    else:
        rest, total, logprob, lse = (torch.cat(each) for each in list(zip(*found, strict=True))[:4])
        entropy = torch.cat([row[4] for row in found]) if options.entropy else None
    return Numerators(z if options.keep else None, rest, total, logprob, lse, entropy)


def _of_logits(z: Tensor, targets: Tensor, support: Tensor | None, want_entropy: bool) -> tuple[Any, ...]:
    """rest, total, logprob, lse and entropy, see Numerators, of logits z [R, V], which become e."""
    if support is not None:
        outside = torch.ones(len(z), z.shape[1] + 1, dtype=torch.bool, device=z.device)
        outside.scatter_(1, support.where(support >= 0, z.shape[1]), False)
        z.masked_fill_(outside[:, :-1], -torch.inf)
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
    if want_entropy:
        spread = sum(torch.special.entr(e[:, s : s + _SLAB]).sum(1) for s in range(0, e.shape[1], _SLAB))
        # log(total) as at_target - logprob: exact where the token is sure
        entropy = at_target - logprob + (spread + torch.special.entr(e_target)) / total
    return rest, total, logprob, top.squeeze(1) + log_total, entropy


def logits(rows: Tensor, weight: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """[C, V] scale x rows W^T, in float32 (float64 stays): with 16-bit logits log-probs would be off by 5e-2.

    out: memory [>= C, V] for them; on GPUs they have their own.
    """
    if out is not None:
        out = out[: len(rows)]
    if rows.dtype == wide(rows.dtype):
        out = rows.new_empty(len(rows), len(weight)) if out is None else out
        return torch.addmm(out, rows, weight.T, beta=0, alpha=scale, out=out)
    if rows.is_cuda:
        z = torch.mm(rows, weight.T, out_dtype=torch.float32)
        return z if scale == 1 else z.mul_(scale)
    out = rows.new_empty(len(rows), len(weight), dtype=torch.float32) if out is None else out
    wider = rows.float() * scale
    for s in range(0, len(weight), _SLAB):
        torch.mm(wider, weight[s : s + _SLAB].float().T, out=out[:, s : s + _SLAB])
    return out


def slopes(rows: Tensor, weight: Tensor, targets: Tensor, numerators: Numerators, temperature: float) -> Tensor:
    """[C, H] gradient of each row's log-prob by the row, in the rows' type; needs e."""
    assert numerators.e is not None
    scale = 1 / (temperature * numerators.total)
    mean = times_weight(numerators.e, weight)
    own = weight[targets].to(mean.dtype)
    return (own.mul_((numerators.rest * scale)[:, None]).sub_(mean.mul_(scale[:, None]))).to(rows.dtype)


def times_weight(e: Tensor, weight: Tensor) -> Tensor:
    """[C, H] e W with sums in float32 (float64 stays)."""
    if weight.dtype == wide(weight.dtype):
        return e @ weight
    if e.is_cuda:
        return torch.mm(e.to(weight.dtype), weight, out_dtype=torch.float32)
    out = e.new_zeros(len(e), weight.shape[1], dtype=torch.float32)
    for s in range(0, len(weight), _SLAB):
        out.addmm_(e[:, s : s + _SLAB].float(), weight[s : s + _SLAB].float())
    return out


def add_to_head(
    head: Tensor,
    rows: Tensor,
    targets: Tensor,
    numerators: Numerators,
    gain: Tensor,
    temperature: float,
    fresh: bool = False,
) -> None:
    """Adds the gradient of sum_i gain_i logprob_i by W to `head` [V, H], which has the wide type. gain: [C].

    fresh: the head has no content yet and is written instead.
    """
    assert numerators.e is not None
    scaled = rows.to(head.dtype) * (gain / (temperature * numerators.total)).unsqueeze(1)
    beta = 0 if fresh else 1
    if rows.dtype == head.dtype:
        head.addmm_(numerators.e.T, scaled, beta=beta, alpha=-1)
    elif rows.is_cuda:
        # In place: the sum of a second product of the head's size would move more bytes than the product needs time.
        given, low = numerators.e.to(rows.dtype).T, scaled.to(rows.dtype)
        torch.addmm(head, given, low, out_dtype=torch.float32, beta=beta, alpha=-1, out=head)
    else:
        for s in range(0, len(head), _SLAB):
            head[s : s + _SLAB].addmm_(numerators.e[:, s : s + _SLAB].float().T, scaled, beta=beta, alpha=-1)
    head.index_add_(0, targets, scaled.mul_(numerators.rest.unsqueeze(1)))


def entropy_numerators(numerators: Numerators, targets: Tensor) -> Tensor:
    """[C, V] p_v (log p_v + entropy): minus the gradient of the entropy by the logits. Needs e in float32."""
    assert numerators.e is not None and numerators.entropy is not None
    e = numerators.e.to(numerators.total.dtype)
    p = (e / numerators.total[:, None]).scatter_(1, targets[:, None], numerators.logprob.exp()[:, None])
    p_log_p: Tensor = torch.special.entr(p).neg_()
    return p_log_p.addcmul_(p, numerators.entropy[:, None].expand_as(p))
