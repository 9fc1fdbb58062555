"""Knows the losses: supervised negative log-likelihood, and GRPO as the paper trains it.

All tensors are [N, C] over completions and token positions unless said otherwise; `mask` is 1 on the tokens that count.
The denominator is an argument, so that the sum over micro-batches and ranks is exact.

GRPO here is the paper's (ms-swift's and TRL's `loss_type="grpo"`): the mean over sequences of the mean over their
tokens, ratio clipped on both sides, k3 estimator of the KL divergence to the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nll_loss(logprob: Tensor, mask: Tensor, weights: Tensor, *, denominator: float) -> Tensor:
    """-sum_i w_i sum_t m_it logprob_it / denominator. weights: [N]; denominator: the step's number of tokens."""
    return -(weights[:, None] * logprob * mask).sum() / denominator


def k3(logprob: Tensor, reference: Tensor) -> Tensor:
    """Per-token KL(policy || reference) estimate exp(d) - d - 1 with d = reference - logprob (Schulman 2020)."""
    difference = reference - logprob
    return torch.exp(difference) - difference - 1


def clipped_surrogate(logprob: Tensor, old: Tensor, advantages: Tensor, eps_low: float, eps_high: float) -> Tensor:
    """Per-token -min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), rho = exp(logprob - old). advantages: [N]."""
    ratio = torch.exp(logprob - old)
    gain = advantages[:, None]
    return -torch.minimum(ratio * gain, ratio.clamp(1 - eps_low, 1 + eps_high) * gain)


def grpo_loss(
    logprob: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    num_completions: float,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    beta: float = 0.001,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum over sequences of their token mean of surrogate + beta KL, divided by the step's number of completions.

    weights: [N] loss weights, 1 where None. A completion without tokens adds 0 and is counted. reference may be None
    where beta is 0.
    """
    per_token = clipped_surrogate(logprob, old, advantages, eps_low, eps_high)
    if beta:
        if reference is None:
            raise ValueError(f"beta {beta} needs the log-probs of a reference policy")
        per_token = per_token + beta * k3(logprob, reference)
    lengths = mask.sum(-1).clamp(min=1)
    per_sequence = (per_token * mask).sum(-1) / lengths
    return (per_sequence if weights is None else per_sequence * weights).sum() / num_completions
