"""The learning rate of every step: a warm-up, then a cosine."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, pi
from typing import Any

from ...errors import InputError


@dataclass
class Schedule:
    """Linear warm-up, then a cosine from 1 to `final` times the optimizer's learning rate.

    warmup_steps: of the warm-up; or warmup_share, its share of all steps, rounded up. cosine_steps: the steps that
    warm-up and cosine are laid out for, where training ends before them: a model that was taken out of a longer run;
    0: those of the stage. InputError for a share outside [0, 1), and for both a share and steps.
    """

    warmup_steps: int = 0
    final: float = 0.0
    warmup_share: float = 0.0
    cosine_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_share < 1 or (self.warmup_share and self.warmup_steps):
            raise InputError(
                f"warmup_share is a share of all steps, from 0 to less than 1, in the place of warmup_steps; got "
                f"{self.warmup_share} and {self.warmup_steps}"
            )
        if self.cosine_steps < 0:
            raise InputError(f"cosine_steps is a number of steps, or 0 for those of the stage, got {self.cosine_steps}")

    def factor(self, step: int, total_steps: int) -> float:
        """Multiplier of step 0 .. total_steps - 1; the first step of a warm-up of w is 1 / w."""
        total_steps = self.cosine_steps or total_steps
        warmup = self.warmup_steps or ceil(round(self.warmup_share * total_steps, 6))
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * min(1.0, progress)))


def set_rate(optimizer: Any, factor: float) -> float:
    """Gives every group of the optimizer its first learning rate times the factor; returns the last group's."""
    rate = 0.0
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        rate = group["lr"] = group["initial_lr"] * factor
    return rate
