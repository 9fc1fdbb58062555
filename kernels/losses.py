"""Losses fused with the log-probs they are made of: with a trainable head 6NHV operations instead of 8NHV.

GRPO variants follow the papers as TRL's trainer has them (checked against its numbers): grpo (mean over sequences of
the mean over tokens), dapo and bnpo (mean over tokens), dr_grpo (divided by sequences x longest length), cispo.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .core import linear_logprob, linear_token_loss
from .numerators import wide

LOSS_TYPES = ("grpo", "dapo", "bnpo", "dr_grpo", "cispo")


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

    Raises ValueError for another reduction, and what `linear_logprob` raises.
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

    return linear_token_loss(hidden, weight, labels, loss_of, ignore_index=ignore_index, **options).loss


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    advantages: Tensor,
    *,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    mask: Tensor | None = None,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    delta: float | None = None,
    beta: float = 0.0,
    loss_type: str = "grpo",
    importance_level: str = "token",
    num_items: float | None = None,
    max_completion_length: int | None = None,
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The GRPO loss of B completions, and metrics: mean `kl`, `clip_low`, `clip_high` and `ratio` over the tokens.

    Args:
        hidden: [B, L, H]. weight: [V, H]. targets: [B, L]. advantages: [B] or [B, L].
        old_logprob: [B, L] of the policy that sampled; None where this is the first pass: the ratio is 1.
        ref_logprob: [B, L], needed where beta is not 0. mask: [B, L], 1 on the tokens that count; default all.
        eps_low, eps_high, delta: ratio times advantage is clipped to [1 - low, 1 + high]; the ratio itself at delta.
            For cispo eps_high is the largest ratio.
        loss_type: one of grpo, dapo, bnpo, dr_grpo, cispo. importance_level: "token", or "sequence" (GSPO).
        num_items: the denominator over all micro-batches and ranks: completions for grpo and dr_grpo, tokens for
            the others; default this call's. max_completion_length: for dr_grpo.
        options: temperature, exclude, backend, max_workspace_bytes of `linear_logprob`.

    Raises ValueError for unknown variants and for missing reference log-probs or lengths.
    """
    _check(loss_type, importance_level, targets, advantages, beta, ref_logprob)
    dtype = wide(hidden.dtype)
    mask = torch.ones(targets.shape, dtype=dtype, device=hidden.device) if mask is None else mask.to(dtype)
    advantages = (advantages if advantages.ndim == 2 else advantages[:, None]).to(dtype).expand(targets.shape)
    factor = _factors(mask, loss_type, num_items, max_completion_length)
    masked = targets.masked_fill(mask == 0, options.setdefault("ignore_index", -100))
    clip = _Clip(eps_low, eps_high, delta, beta, loss_type == "cispo")
    if importance_level == "sequence":
        logprob = linear_logprob(hidden, weight, masked, **options).logprob
        log_ratio = logprob - (logprob.detach() if old_logprob is None else old_logprob)
        log_ratio = ((log_ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)).expand_as(mask)
        loss = (clip.terms(logprob, log_ratio, ref_logprob, advantages) * factor).sum()
        logprob, log_ratio = logprob.detach(), log_ratio.detach()
        return loss, clip.metrics(logprob, log_ratio, ref_logprob, advantages, mask)
    old_flat, ref_flat = (None if x is None else x.reshape(-1).to(dtype) for x in (old_logprob, ref_logprob))
    advantage_flat, factor_flat = advantages.reshape(-1), factor.reshape(-1)

    def loss_of(logprob: Tensor, tokens: Tensor) -> Tensor:
        old = logprob.detach() if old_flat is None else old_flat[tokens]
        ref = None if ref_flat is None else ref_flat[tokens]
        return factor_flat[tokens] * clip.terms(logprob, logprob - old, ref, advantage_flat[tokens])

    loss, logprob, _ = linear_token_loss(hidden, weight, masked, loss_of, **options)
    log_ratio = logprob - (logprob if old_logprob is None else old_logprob)
    return loss, clip.metrics(logprob, log_ratio, ref_logprob, advantages, mask)


def _check(loss_type: str, level: str, targets: Tensor, advantages: Tensor, beta: float, ref: Tensor | None) -> None:
    """Raises ValueError for an unknown variant, missing reference log-probs and wrong shapes."""
    if loss_type not in LOSS_TYPES or level not in ("token", "sequence"):
        raise ValueError(
            f"no loss {loss_type!r} at level {level!r}; there are {', '.join(LOSS_TYPES)}, token, sequence"
        )
    if beta and ref is None:
        raise ValueError(f"beta {beta} needs the log-probs of a reference policy, ref_logprob")
    if targets.ndim != 2 or advantages.shape not in (targets.shape, targets.shape[:1]):
        raise ValueError(f"targets must be [B, L] and advantages [B] or [B, L], got {tuple(advantages.shape)}")


def _factors(mask: Tensor, loss_type: str, num_items: float | None, longest: int | None) -> Tensor:
    """[B, L] what a token's term is multiplied with: mask and denominators."""
    if loss_type == "dr_grpo":
        if longest is None:
            raise ValueError("dr_grpo divides by the longest completion allowed; give max_completion_length")
        return mask / ((len(mask) if num_items is None else num_items) * longest)
    if loss_type == "grpo":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / max(len(mask) if num_items is None else num_items, 1e-12)
    tokens = mask.sum().clamp(min=1) if num_items is None else num_items
    return mask / tokens


class _Clip(NamedTuple):
    """How a token's ratio and advantage become its loss."""

    low: float
    high: float
    delta: float | None
    beta: float
    cispo: bool

    def terms(self, logprob: Tensor, log_ratio: Tensor, ref: Tensor | None, advantage: Tensor) -> Tensor:
        """[...] loss of each token, before mask and denominator; all arguments [...]."""
        ratio = log_ratio.exp()
        if self.cispo:
            term = -ratio.detach().clamp(max=self.high) * advantage * logprob
        else:
            bounded = ratio if self.delta is None else ratio.clamp(max=self.delta)
            term = -torch.minimum(bounded * advantage, ratio.clamp(1 - self.low, 1 + self.high) * advantage)
        return term + self.beta * _k3(logprob, ref) if self.beta and ref is not None else term

    def metrics(
        self, logprob: Tensor, log_ratio: Tensor, ref: Tensor | None, advantages: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Means over the tokens that count; all arguments [B, L] and without a gradient."""
        ratio = log_ratio.exp()
        low, high = (ratio < 1 - self.low) & (advantages < 0), (ratio > 1 + self.high) & (advantages > 0)
        per_token = {"ratio": ratio, "clip_low": low, "clip_high": high}
        if ref is not None:
            per_token["kl"] = _k3(logprob, ref)
        return {name: (value * mask).sum() / mask.sum().clamp(min=1) for name, value in per_token.items()}


def _k3(logprob: Tensor, ref: Tensor) -> Tensor:
    """[...] estimate of the KL divergence from the reference: exp(d) - d - 1, d = ref - logprob (Schulman 2020)."""
    difference = ref - logprob
    return difference.exp() - difference - 1
