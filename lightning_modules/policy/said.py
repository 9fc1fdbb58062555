"""What is known of completions without asking the device that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Said(NamedTuple):
    """N completions whose tokens `OmniPolicy.check_targets` has seen.

    lengths: [N] tokens that count, which are the first ones of every completion. group: completions of every prompt,
    which are neighbours; 0 where they may be anything.
    """

    lengths: Sequence[int]
    group: int = 0

    def places(self, targets: Tensor) -> Tensor:
        """[K] where the flattened targets [N, C] count, on their device."""
        width = targets.shape[1]
        flat = [np.arange(length) + row * width for row, length in enumerate(self.lengths)]
        return torch.from_numpy(np.concatenate(flat)).to(targets.device, non_blocking=True)
