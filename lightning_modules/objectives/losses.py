"""The losses: supervised negative log-likelihood, and the family of policy losses around GRPO.

All tensors are [N, C] over completions and token positions unless said otherwise; `mask` is 1 on the tokens that count.
The denominator is an argument, counted over the whole step, so that the sum over micro-batches and ranks is exact.
With the ratio rho = exp(logprob - old), the advantage A and the loss weight w_i of a completion of n_i tokens, the loss
of a token is

    grpo dapo bnpo dr_grpo    -min(min(rho, delta) A, clip(rho, 1 - low, 1 + high) A)
    gspo                      the same with rho = exp(mean of logprob - old over the completion's tokens)
    cispo                     -min(rho, high) A logprob, no gradient through the ratio; high is the largest ratio itself
    sapo                      -A sigmoid(tau (rho - 1)) 4 / tau, tau 1.0 where A > 0 and 1.05 elsewhere

times the correction, plus the penalty, and their sum is

    grpo gspo sapo            sum_i w_i (sum_t m l / max(n_i, 1)) / completions
    dapo bnpo cispo           sum_i w_i sum_t m l / tokens
    dr_grpo                   sum_i w_i sum_t m l / (completions x longest completion allowed)

`grpo` is the paper's, with the numbers of ms-swift's and TRL's loss_type="grpo". Deviations: the count of the whole
step where those average the means of micro-batches and ranks. TRL's bnpo averages token means of micro-batches, which
depends on how a batch is split; with the step's count it is dapo. A completion without tokens adds 0 and is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...configs.plugins import Guarded, function_named
from ...errors import InputError
from .differences import difference

DENOMINATORS = ("completions", "tokens", "budget")
SAPO_TEMPERATURES = (1.0, 1.05)  # where the advantage is positive, and elsewhere


@dataclass
class Clip:
    """The trust region: ratios are clipped to [1 - low, 1 + high].

    Args:
        low, high: distances from ratio 1; for cispo, high is the largest ratio itself.
        delta: an upper bound of the ratio where the clip does not act (A < 0), "two-sided" clipping; None: none.
    """

    low: float = 0.2
    high: float = 0.2
    delta: float | None = None

    def __post_init__(self) -> None:
        """InputError where the ratio 1 lies outside the bounds."""
        if not (0 <= self.low <= 1 and self.high >= 0):
            raise InputError(f"clip: 0 <= low <= 1 and high >= 0 are needed; got low {self.low}, high {self.high}")
        if self.delta is not None and self.delta <= 1:
            raise InputError(f"clip: delta is a ratio above 1, or null; got {self.delta}")


class Loss(NamedTuple):
    """A policy loss and what its denominator counts over the step.

    denominator: "completions", "tokens", or "budget": completions times the longest completion allowed.
    """

    function: Callable[..., Tensor]
    denominator: str


CLIP = Clip()


def nll_loss(logprob: Tensor, mask: Tensor, weights: Tensor, *, denominator: float) -> Tensor:
    """The supervised loss, a scalar in nats: -sum_i w_i sum_t m_it logprob_it / denominator.

    logprob, mask: [N, C]. weights: [N]. denominator: the step's number of tokens that count, over all ranks.
    """
    counted = torch.where(mask != 0, logprob, torch.zeros_like(logprob))
    return -(weights[:, None] * counted).sum() / denominator


def ratio(logprob: Tensor, old: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """The importance ratio exp(logprob - old): [N, C] for level "token", 1 outside the mask; [N, 1], the exp of the
    completion's mean difference, for "sequence".

    A token whose log-prob is not finite under either policy is treated as masked. A completion without tokens has the
    sequence ratio 1. InputError for another level.
    """
    gap, counts = difference(logprob, old, mask)
    if level == "token":
        return gap.exp()
    if level != "sequence":
        raise InputError(f"ratio: no level {level!r}; there are token, sequence")
    return (gap.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True).clamp(min=1)).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """-min(min(rho, delta) A, clip(rho, 1 - low, 1 + high) A) in the shape of the ratio [N, C] or [N, 1].

    advantages: [N].
    """
    advantage = advantages.to(ratio.dtype)[:, None]
    clipped = ratio.clamp(1 - clip.low, 1 + clip.high)
    bounded = ratio if clip.delta is None else ratio.clamp(max=clip.delta)
    return -torch.minimum(bounded * advantage, clipped * advantage)


def grpo(
    logprob: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    denominator: float,
    clip: Clip = CLIP,
    penalty: Tensor | None = None,
    correction: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """The paper's loss, a scalar: clipped surrogate, mean over a completion's tokens, sum over completions.

    Args, the same for every loss here and for a user's:
        logprob: [N, C] of the policy, with a gradient. old: [N, C] of the policy that sampled, without.
        advantages: [N]. weights: [N] loss weights, 1 where None.
        penalty: [N, C] added to each token's loss, beta times the KL; None where beta is 0.
        correction: [N, C] or [N, 1] detached importance weight; multiplies the policy part, not the penalty.
        denominator: > 0, the step's count over micro-batches and ranks; InputError otherwise.

    A token whose log-prob is not finite under either policy is treated as masked, also in a completion's length;
    values outside the mask, NaN included, reach neither loss nor gradient.
    """
    policy = clipped_surrogate(ratio(logprob, old, mask), advantages, clip)
    counts = difference(logprob, old, mask)[1]
    return _sequence_means(_per_token(policy, counts, correction, penalty), counts, denominator, weights)


def gspo(
    logprob: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    denominator: float,
    clip: Clip = CLIP,
    penalty: Tensor | None = None,
    correction: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """grpo with one ratio per completion, exp of its mean log ratio (Zheng et al. 2025). Arguments as in grpo."""
    policy = clipped_surrogate(ratio(logprob, old, mask, "sequence"), advantages, clip)
    counts = difference(logprob, old, mask)[1]
    return _sequence_means(_per_token(policy, counts, correction, penalty), counts, denominator, weights)


def sapo(
    logprob: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    denominator: float,
    clip: Clip = CLIP,
    penalty: Tensor | None = None,
    correction: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """A soft gate in place of the clip, whose slope at ratio 1 is -A. Arguments as in grpo; `clip` is not used."""
    advantage = advantages.to(logprob.dtype)[:, None]
    tau = torch.full_like(advantage, SAPO_TEMPERATURES[1]).masked_fill(advantage > 0, SAPO_TEMPERATURES[0])
    policy = -advantage * torch.sigmoid(tau * (ratio(logprob, old, mask) - 1)) * 4 / tau
    counts = difference(logprob, old, mask)[1]
    return _sequence_means(_per_token(policy, counts, correction, penalty), counts, denominator, weights)


def dapo(
    logprob: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    denominator: float,
    clip: Clip = CLIP,
    penalty: Tensor | None = None,
    correction: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """grpo's tokens, each with the same share of the step (Yu et al. 2025). Arguments as in grpo.

    bnpo and dr_grpo (Liu et al. 2025) are this sum over another denominator or, with the step's count, the same.
    """
    policy = clipped_surrogate(ratio(logprob, old, mask), advantages, clip)
    counts = difference(logprob, old, mask)[1]
    return _token_sum(_per_token(policy, counts, correction, penalty), denominator, weights)


def cispo(
    logprob: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    denominator: float,
    clip: Clip = CLIP,
    penalty: Tensor | None = None,
    correction: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """The policy gradient with a bounded ratio as its weight: no token loses its gradient (MiniMax 2025).

    Arguments as in grpo; only `clip.high` is used, the largest ratio itself: InputError below 1, since the distance 0.2
    of the other losses would silently be a factor of 0.2.
    """
    if clip.high < 1:
        raise InputError(f"loss cispo: clip.high is the largest ratio itself, at least 1, as in 5.0; got {clip.high}")
    weight = ratio(logprob, old, mask).detach().clamp(max=clip.high)
    counts = difference(logprob, old, mask)[1]
    score = torch.where(counts, logprob, torch.zeros_like(logprob))
    policy = -weight * advantages.to(logprob.dtype)[:, None] * score
    return _token_sum(_per_token(policy, counts, correction, penalty), denominator, weights)


bnpo = dr_grpo = dapo

LOSSES: dict[str, Loss] = {
    "grpo": Loss(grpo, "completions"),
    "dapo": Loss(dapo, "tokens"),
    "bnpo": Loss(bnpo, "tokens"),
    "dr_grpo": Loss(dr_grpo, "budget"),
    "gspo": Loss(gspo, "completions"),
    "cispo": Loss(cispo, "tokens"),
    "sapo": Loss(sapo, "completions"),
}
# What a token's loss depends on is the token alone; its share in the sum is the same for all, or one of its completion.
SHARES: dict[Callable[..., Tensor], str] = {grpo: "completion", sapo: "completion", dapo: "token", cispo: "token"}


_TAKES = "logprob, old, advantages, mask, *, denominator, clip, weights, penalty, correction"


def loss_named(name: str) -> Loss:
    """A loss of LOSSES, or the user's function at that import path.

    A function of the user's has grpo's signature and may have an attribute `denominator` ("completions" where it has
    none). InputError where there is neither, or for a denominator that is not known.
    """
    if name in LOSSES:
        return LOSSES[name]
    function = function_named(name, {known: loss.function for known, loss in LOSSES.items()}, "loss")
    denominator = getattr(function, "denominator", "completions")
    if denominator not in DENOMINATORS:
        raise InputError(f"loss {name!r}: no denominator {denominator!r}; there are {', '.join(DENOMINATORS)}")
    return Loss(Guarded(function, name, "objective.loss", _TAKES), denominator)


def clip_metrics(ratio: Tensor, advantages: Tensor, mask: Tensor, clip: Clip) -> dict[str, Tensor]:
    """Values to log of every token, name -> [N, C], 0 where a token does not count.

    Names: `ratio` itself; `clip_low`, whether ratio < 1 - low and A < 0, and `clip_high`, whether ratio > 1 + high and
    A > 0: these tokens have no policy gradient; `tokens`, whether it counts, whose sum divides the others' into means.
    ratio, mask: [N, C]. advantages: [N]. cispo bounds the ratio at high itself: give Clip(1, high - 1).
    """
    counts = mask != 0
    advantage = advantages[:, None]
    low = (ratio < 1 - clip.low) & (advantage < 0) & counts
    high = (ratio > 1 + clip.high) & (advantage > 0) & counts
    kept = torch.where(counts, ratio.detach(), torch.zeros_like(ratio))
    return {"ratio": kept, "clip_low": low, "clip_high": high, "tokens": counts}


def _per_token(policy: Tensor, counts: Tensor, correction: Tensor | None, penalty: Tensor | None) -> Tensor:
    """[N, C] loss of every token, the corrected policy part plus the penalty; 0 where a token does not count."""
    if correction is not None:
        policy = policy * torch.where(counts, correction, torch.zeros_like(correction))
    if penalty is not None:
        policy = policy + penalty
    return torch.where(counts, policy, torch.zeros_like(policy))


def _sequence_means(per_token: Tensor, counts: Tensor, denominator: float, weights: Tensor | None) -> Tensor:
    """The sum over completions of their means per token, over the denominator."""
    return _sum(per_token.sum(-1) / counts.sum(-1).clamp(min=1), denominator, weights)


def _token_sum(per_token: Tensor, denominator: float, weights: Tensor | None) -> Tensor:
    """The sum over all tokens, over the denominator."""
    return _sum(per_token.sum(-1), denominator, weights)


def _sum(per_sequence: Tensor, denominator: float, weights: Tensor | None) -> Tensor:
    """The weighted sum of [N] over the denominator. InputError for one that is not above 0."""
    if not denominator > 0:
        raise InputError(f"loss: the denominator is the step's count, above 0; got {denominator}")
    return (per_sequence if weights is None else per_sequence * weights).sum() / denominator
