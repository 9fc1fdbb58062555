"""Differences of log-probs, taken only where the mask counts a token and both log-probs are finite."""

from __future__ import annotations

import torch
from torch import Tensor


def difference(now: Tensor, before: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(now - before, counts): [N, C] in nats, 0 where a token does not count, and [N, C] bool whether it counts.

    now, before: [N, C] log-probs of the same tokens. mask: [N, C]. A token counts where the mask is not 0 and both
    log-probs are finite: one that a filter gave probability 0 under either policy has no ratio and is treated as
    masked, as in NeMo-RL. The zeros come before any exp, since the gradient of an exp that overflows is 0 x inf; what
    lies outside reaches neither value nor gradient.
    """
    raw = now - before
    counts = (mask != 0) & raw.isfinite()
    return torch.where(counts, raw, torch.zeros_like(raw)), counts
