"""Knows how log-probs are compared: only where the mask counts them, and where both are finite."""

from __future__ import annotations

import torch
from torch import Tensor


def difference(now: Tensor, before: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """now - before [N, C] where it counts and 0 elsewhere, and where it counts [N, C] bool.

    A token counts where the mask is not 0 and both log-probs are finite: one that a filter gave probability 0 under
    either policy has no ratio and is treated as masked, as in NeMo-RL. The zeros come before any exp, since the
    gradient of an exp that overflows is 0 x inf; what lies outside reaches neither value nor gradient.
    """
    raw = now - before
    counts = (mask != 0) & raw.isfinite()
    return torch.where(counts, raw, torch.zeros_like(raw)), counts
