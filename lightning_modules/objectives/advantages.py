"""Knows how rewards of a group become advantages."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, group: Tensor, eps: float = 1e-4) -> Tensor:
    """(r - mean) / (std + eps) within each group; std is unbiased (ddof = 1), as in the paper's trainer.

    rewards: [N], NaN for a completion that could not be scored: it is left out of its group and gets 0.
    group: [N] group number of each completion; groups may have different sizes and stand in any order.
    A group with equal rewards gets exactly 0, whatever the rounding of its mean.
    """
    advantages = torch.zeros_like(rewards, dtype=torch.float64)
    for number in group.unique():
        members = (group == number) & ~rewards.isnan()
        values = rewards[members].double()
        if len(values) > 1 and values.max() != values.min():
            advantages[members] = (values - values.mean()) / (values.std() + eps)
    return advantages.to(rewards.dtype)
