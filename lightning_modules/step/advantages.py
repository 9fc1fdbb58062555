"""The advantages of a step's completions, where statistics of the batch are those of all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..objectives.advantages import compute_advantages
from ..objectives.grpo_config import GRPOConfig
from ..ranks import Ranks
from .experience import Experience


def set_advantages(
    experiences: Sequence[Experience], config: GRPOConfig, reward_weights: Mapping[str, float], ranks: Ranks
) -> None:
    """Gives every experience its advantages [N]; completions of prompts that do not train have none.

    reward_weights: of the reward functions, by name; they matter where every reward has advantages of its own.
    """
    kept = torch.cat([experience.kept[experience.group] for experience in experiences])
    total = torch.cat([experience.scored.total for experience in experiences]).masked_fill(~kept, torch.nan)
    parts = torch.stack([torch.cat([e.scored.parts[name] for e in experiences]) for name in reward_weights])
    parts = parts.masked_fill(~kept, torch.nan)
    starts = torch.tensor([0, *(len(experience.batch) for experience in experiences)]).cumsum(0)
    group = torch.cat([e.group + start for e, start in zip(experiences, starts, strict=False)])
    everyone = ranks.gathered((total, parts, group))
    offsets, offset = [], 0  # groups are numbered through over all ranks
    for _, _, theirs in everyone:
        offsets.append(theirs + offset)
        offset += int(theirs.max()) + 1
    totals = torch.cat([theirs[0] for theirs in everyone])
    groups = torch.cat(offsets)
    advantages = compute_advantages(
        config.advantages,
        totals,
        groups,
        parts=torch.cat([theirs[1] for theirs in everyone], 1),
        weights=list(reward_weights.values()),
        leave_one_out=config.leave_one_out,
    )
    before = sum(len(theirs[0]) for theirs in everyone[: ranks.rank])
    own = advantages[before : before + len(total)]
    sizes = [len(experience.texts) for experience in experiences]
    for experience, values in zip(experiences, own.split(sizes), strict=True):
        experience.advantages = values
