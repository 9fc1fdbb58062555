"""The learning rate of every step: a warm-up, then a cosine."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Any


@dataclass
class Schedule:
    """Linear warm-up over `warmup_steps`, then a cosine from 1 to `final` times the optimizer's learning rate."""

    warmup_steps: int = 0
    final: float = 0.0

    def factor(self, step: int, total_steps: int) -> float:
        """Multiplier of step 0 .. total_steps - 1; the first step of a warm-up of w is 1 / w."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * min(1.0, progress)))


def set_rate(optimizer: Any, factor: float) -> float:
    """Gives every group of the optimizer its first learning rate times the factor; returns the last group's."""
    rate = 0.0
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        rate = group["lr"] = group["initial_lr"] * factor
    return rate
