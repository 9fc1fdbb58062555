"""One token of every row from its logits: the inverse of the distribution function at a hashed number.

The order is that of the vocabulary. Sums are float64, over exponentials in the logits' type: of blocks of the
vocabulary, then of one block's tokens, so that nothing of the vocabulary's size is made in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_BLOCK = 256
_FEW = 1_024  # kept tokens that are drawn from by themselves
_NEAR = 1 << 19  # logits that stay in a core's cache from one look at them to the next


class Drawn(NamedTuple):
    """One position of N completions: token ids [N], their log-probs [N] float32 (None where chosen greedily), and what
    the sampler kept [N, K], padded with -1 (None where it kept all).
    """

    token: Tensor
    logprob: Tensor | None
    support: Tensor | None


def draw(logits: Tensor, temperature: float, uniform: Tensor | None, top_k: int, top_p: float) -> Drawn:
    """The arg max of logits [N, V], or the inverse of the (truncated) distribution function at `uniform` [N] in [0, 1).

    uniform: float64, None for the arg max. top_k, top_p: as in `Rollout`.
    """
    if uniform is None:
        return Drawn(logits.argmax(-1), None, None)
    if not top_k and top_p >= 1:
        near = len(logits) if logits.is_cuda else max(1, _NEAR // logits.shape[1])
        rows = zip(logits.split(near), uniform.split(near), strict=True)
        found = [pick(_scaled(some, temperature), number) for some, number in rows]
        token, logprob = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
        return Drawn(token, logprob.float(), None)
    scaled = _scaled(logits, temperature)
    support = kept_tokens(scaled, top_k, top_p)
    if support.shape[1] > _FEW:
        token, logprob = pick(scaled.masked_fill(~kept_mask(support, scaled.shape[1]), -torch.inf), uniform)
        return Drawn(token, logprob.float(), support)
    ids = support.where(support >= 0, scaled.shape[1]).sort(-1).values  # padding behind all tokens
    inside = scaled.gather(1, ids.clamp(max=scaled.shape[1] - 1)).masked_fill(ids == scaled.shape[1], -torch.inf)
    place, logprob = pick(inside, uniform)
    return Drawn(ids.gather(1, place[:, None]).squeeze(1), logprob.float(), support)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Logits [N, V] over the temperature, the greatest of every row 0."""
    return (logits - logits.amax(-1, keepdim=True)).div_(temperature)


def kept_tokens(scaled: Tensor, top_k: int, top_p: float) -> Tensor:
    """[N, K] ids that truncation keeps, likeliest first, padded with -1: top_k, then the fewest that have top_p.

    scaled: [N, V] logits over the temperature. Tokens of probability 0 are never kept. K is top_k where that is given,
    else what the row with the most needs, for which the device is waited.
    """
    values, ids = scaled.topk(min(top_k or scaled.shape[1], scaled.shape[1]), -1)
    share = values.double().softmax(-1)
    keep = (share > 0) & (share.cumsum(-1) - share < top_p)
    return ids.where(keep, -1)[:, : scaled.shape[1] if top_k else max(1, int(keep.sum(1).max()))]


def kept_mask(support: Tensor, size: int) -> Tensor:
    """[N, V] bool, whether a token is among a row's ids in support [N, K], padded with -1. size: V."""
    mask = torch.zeros(len(support), size + 1, dtype=torch.bool, device=support.device)
    return mask.scatter_(1, support.where(support >= 0, size), True)[:, :size]


def pick(scaled: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """[N] token ids and their log-probs, float64: the inverse of the distribution function at `uniform` [N].

    scaled: [N, V] logits over the temperature.
    """
    top = scaled.amax(-1, keepdim=True)
    share = (scaled - top).exp_()
    if share.shape[1] % _BLOCK:
        share = nn.functional.pad(share, (0, -share.shape[1] % _BLOCK))
    share = share.unflatten(1, (-1, _BLOCK))
    mass = share.sum(-1, dtype=torch.float64).cumsum(-1)
    total = mass[:, -1:]
    wanted = uniform[:, None] * total
    at = torch.searchsorted(mass, wanted, right=True).clamp(max=mass.shape[1] - 1)
    block = share.gather(1, at[..., None].expand(-1, -1, _BLOCK)).squeeze(1)
    before = nn.functional.pad(mass, (1, 0)).gather(1, at)
    within = before + block.cumsum(-1, dtype=torch.float64)
    # Rounding may put the number behind the block's last token that can occur.
    possible = (block > 0).long() * torch.arange(_BLOCK, device=block.device)
    place = torch.searchsorted(within, wanted, right=True).minimum(possible.amax(-1, keepdim=True))
    token = at * _BLOCK + place
    logprob = (scaled.gather(1, token).double() - top.double()) - total.log()
    return token.squeeze(1), logprob.squeeze(1)
