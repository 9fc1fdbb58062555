"""How much of what trains an optimizer step moved: a learning rate below the weights' rounding moves nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_PER_TENSOR = 256


class Moved:
    """Remembers up to 256 elements, evenly spread, of each of these tensors before a step; of shards, those here."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self._before = _spread(weights)

    def counts(self) -> tuple[int, int]:
        """How many of the remembered elements have another value now, and how many there are."""
        return int(torch.count_nonzero(_spread(self._weights) != self._before)), self._before.numel()


def _spread(weights: Sequence[Tensor]) -> Tensor:
    """A copy of at most 256 elements of each tensor, or of its shard that lies here."""
    parts = []
    for weight in weights:
        flat = getattr(weight, "_local_tensor", weight).detach().reshape(-1)
        parts.append(flat[:: max(1, -(-flat.numel() // _PER_TENSOR))])
    return torch.cat(parts)
