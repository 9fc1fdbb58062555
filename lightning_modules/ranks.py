"""The processes that train together: sums over them, and what each of them has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from ..curriculum.plan.fingerprint import differences
from ..errors import InputError

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

    def most(self, value: float) -> float:
        """The greatest of the ranks' values, as one small tensor."""
        if self.world_size == 1:
            return float(value)
        most = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return float(most.item())

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

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raises InputError on all ranks where one has other `facts` than rank 0, naming the first that differs."""
        first, *others = self.gathered(facts)
        for rank, theirs in enumerate(others, 1):
            for name, ours, value in differences(first, theirs):
                raise InputError(
                    f"rank {rank} has another {name} than rank 0: {value}, not {ours}; "
                    "start all ranks with the same command, files and software"
                )
