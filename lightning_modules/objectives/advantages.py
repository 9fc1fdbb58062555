"""Advantages: how much better a completion's reward is than those of its group, the completions of the same prompt.

Everything is computed in float64 over the members sorted by reward, so that the order of completions, and with it the
number of ranks, does not change a bit. A group with equal rewards gets exactly 0: the rounded mean of eight times 0.1
is not 0.1, and the spread that is left, divided by itself, would be an advantage of up to 1.

Advantages of your own are a function named by its import path (`advantages: my_lab.advantages.mine`):

    def mine(rewards, group):    # [N] float64 weighted rewards; [N] int64, equal for completions of one prompt
        return rewards - rewards.nanmean()    # [N]

N counts the completions of all ranks; every rank calls the function with the same values and keeps its own part, so it
must not draw at random. A reward is NaN where a completion could not be scored or does not train: leave it out of every
statistic. What is returned there does not matter, it becomes 0; anywhere else it must be finite. Dynamic sampling
(`on_zero_advantage`) goes by equal rewards, also where a function of your own would give such a group advantages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...configs.plugins import Guarded, function_named
from ...errors import InputError

SCALES = ("group", "batch", "none")


class _Groups(NamedTuple):
    """For every completion [N], the statistics (float64) of the scorable rewards of its group."""

    values: Tensor  # the completion's own reward, 0 where not scorable
    scored: Tensor  # bool: whether it could be scored
    size: Tensor  # how many of the group could be scored
    mean: Tensor
    squares: Tensor  # sum of squared distances from the mean
    lowest: Tensor
    highest: Tensor
    at_lowest: Tensor  # how many have the lowest reward
    at_highest: Tensor

    @property
    def constant(self) -> Tensor:
        """[N] bool: no two scorable rewards of the group differ; so it is with fewer than two."""
        return ~(self.lowest < self.highest)


def group_advantages(
    rewards: Tensor, group: Tensor, *, scale: str = "group", leave_one_out: bool = False, eps: float = 1e-4
) -> Tensor:
    """[N] distance from the group's mean reward, scaled; in the dtype of the rewards.

    Args:
        rewards: [N], NaN for a completion that could not be scored: it is left out of all statistics and gets 0.
        group: [N] int64 group number of each completion; groups may have different sizes and stand in any order.
        scale: "group" divides by the group's std + eps, as the paper's trainer and TRL do; "batch" by the std of all
            scorable rewards + eps; "none" by nothing (Dr. GRPO). Every std is unbiased (ddof = 1).
        leave_one_out: mean, and std of scale "group", of the other members, as in NeMo-RL. Where the others are fewer
            than two or equal they have no std, and the advantage is the plain difference.

    A constant group gets exactly 0 under every scale. InputError for another scale. The std of the others is the
    group's minus one member's part: exact to four digits where rewards differ by 1e-6 beside one at distance 1.
    """
    if scale not in SCALES:
        raise InputError(f"advantages: no scale {scale!r}; there are {', '.join(SCALES)}")
    stats = _groups(rewards, group)
    num_others = (stats.size - 1).clamp(min=1)
    distance = stats.values - stats.mean
    advantage = distance * stats.size / num_others if leave_one_out else distance
    if scale == "batch":
        advantage = advantage / (_spread(stats.values[stats.scored]) + eps)
    elif scale == "group" and not leave_one_out:
        advantage = advantage / ((stats.squares / num_others).sqrt() + eps)
    elif scale == "group":
        squares = stats.squares - distance.square() * stats.size / num_others
        variance = squares.clamp(min=0) / (num_others - 1).clamp(min=1)
        # Compared exactly, since a std of equal rewards is not 0 after rounding.
        others_equal = (stats.values == stats.lowest) & (stats.at_highest == stats.size - 1)
        others_equal |= (stats.values == stats.highest) & (stats.at_lowest == stats.size - 1)
        advantage = torch.where(others_equal, advantage, advantage / (variance.sqrt() + eps))
    return advantage.masked_fill(stats.constant | ~stats.scored, 0.0).to(rewards.dtype)


def gdpo_advantages(parts: Tensor, weights: Sequence[float], group: Tensor, *, eps: float = 1e-4) -> Tensor:
    """[N] advantages of rewards that are normalised one by one before they are added (GDPO, Liu et al. 2026).

    parts: [K, N] rewards of K functions, unweighted, NaN where one could not score; weights: [K]; group: [N] int64.
    With a_k the advantages of function k under scale "group" and s = sum_k w_k a_k over the functions that could score,
    the result is (s - mean s) / (std s + eps) over the batch, as in TRL. A completion that no function could score gets
    0, and so does a group in which every function is constant. InputError for another number of weights.
    """
    if len(weights) != len(parts):
        raise InputError(f"advantages: {len(weights)} weights for the rewards of {len(parts)} functions")
    scored = ~parts.isnan().all(0)
    constant = torch.ones_like(scored)
    total = torch.zeros(parts.shape[1], dtype=torch.float64, device=parts.device)
    for part, weight in zip(parts.double(), weights, strict=True):
        total += weight * group_advantages(part, group, eps=eps)
        constant &= constant_groups(part, group)
    known = total[scored]
    centred = total - (known.sort().values.mean() if len(known) else 0.0)
    return (centred / (_spread(known) + eps)).masked_fill(constant | ~scored, 0.0).to(parts.dtype)


ADVANTAGES: dict[str, Callable[..., Tensor]] = {
    **{scale: partial(group_advantages, scale=scale) for scale in SCALES},
    "gdpo": gdpo_advantages,
}


def advantages_named(name: str, where: str = "advantages") -> Callable[..., Tensor]:
    """The function of that name in ADVANTAGES, or the user's function at that import path.

    where: the key of the configuration, for messages. InputError where there is neither.
    """
    function = function_named(name, ADVANTAGES, where)
    return function if name in ADVANTAGES else Guarded(function, name, where, "rewards, group")


def compute_advantages(
    name: str, rewards: Tensor, group: Tensor, *, parts: Tensor, weights: Sequence[float], leave_one_out: bool = False
) -> Tensor:
    """[N] advantages under a name of ADVANTAGES or an import path; 0 for completions whose reward is NaN.

    rewards: [N] float64, the weighted sums. group: [N] int64. parts, weights: [K, N] and [K], the rewards of each
    function, for "gdpo" alone. leave_one_out: as in `group_advantages`, for the scales alone. InputError for a name
    that is not there, or for a user's function that does not return a finite number for every finite reward.
    """
    function = advantages_named(name)
    if name == "gdpo":
        return function(parts, weights, group)
    if name in SCALES:
        return function(rewards, group, leave_one_out=leave_one_out)
    result = function(rewards.clone(), group.clone())
    if not isinstance(result, Tensor) or result.shape != rewards.shape:
        got = f"shape {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise InputError(
            f"advantages {name!r}: one advantage per completion is needed, shape {list(rewards.shape)}; got {got}"
        )
    result = result.detach().to(rewards).masked_fill(rewards.isnan(), 0.0)
    if not result.isfinite().all():
        raise InputError(f"advantages {name!r}: an advantage is not finite where the reward is; leave NaN rewards out")
    return result


def constant_groups(rewards: Tensor, group: Tensor) -> Tensor:
    """[N] bool: whether all scorable rewards of a completion's group are equal, so that it has no advantage.

    rewards: [N], NaN where not scorable. group: [N] int64. True also where fewer than two of a group could be scored.
    """
    return _groups(rewards, group).constant


def _spread(values: Tensor) -> Tensor:
    """Unbiased std (ddof 1) of [M] float64 in whatever order, 0 for fewer than two."""
    ordered = values.sort().values
    return ordered.std() if len(values) > 1 else values.new_zeros(())


def _groups(rewards: Tensor, group: Tensor) -> _Groups:
    """The statistics of every completion's group; sums run over a group's rewards in ascending order."""
    scored = ~rewards.isnan()
    values = rewards.double().masked_fill(~scored, 0.0)
    numbers, index = torch.unique(group, return_inverse=True)
    order = values.argsort(stable=True)
    order = order[index[order].argsort(stable=True)]
    empty = torch.zeros(len(numbers), dtype=torch.float64, device=rewards.device)

    def group_sum(per_member: Tensor) -> Tensor:
        return empty.index_add(0, index[order], per_member.double()[order])[index]

    def group_extreme(fill: float, reduce: str) -> Tensor:
        return torch.full_like(empty, fill).scatter_reduce(0, index, values.masked_fill(~scored, fill), reduce)[index]

    size = group_sum(scored)
    mean = group_sum(values) / size.clamp(min=1)
    squares = group_sum((values - mean).square().masked_fill(~scored, 0.0))
    lowest, highest = group_extreme(torch.inf, "amin"), group_extreme(-torch.inf, "amax")
    at_lowest, at_highest = (group_sum(scored & (values == extreme)) for extreme in (lowest, highest))
    return _Groups(values, scored, size, mean, squares, lowest, highest, at_lowest, at_highest)
