"""The processes that train together: sums over them, and what each of them has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import torch

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run. Every method is a collective operation: all ranks must enter it.

    rank: its number, from 0. world_size: how many there are. device: on which sums over several ranks are made; the
    backend of the process group must know it.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sums(self, *values: float) -> list[float]:
        """The sum of each value over all ranks, in float64."""
        if self.world_size == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def greatest(self, value: float) -> float:
        """The greatest of the ranks' values."""
        return max(self.gathered(value))

    def gathered(self, value: Value) -> list[Value]:
        """Every rank's value, in the order of the ranks; tensors in it must lie on the CPU."""
        if self.world_size == 1:
            return [value]
        values: list[Value] = [value] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values
