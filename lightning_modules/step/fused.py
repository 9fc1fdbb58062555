"""Torch's Adam in one pass over the weights: no copies of their size, and no number asked of the device."""

from __future__ import annotations

import torch

_DEVICES = ("cpu", "cuda", "xpu", "mps")


def fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, set to its fused form where it is Adam or AdamW and nothing was said of `fused` or `foreach`.

    A checkpoint of an optimizer that was not continues without, as it was saved.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return optimizer
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    free = all(group.get(name) is None for group in optimizer.param_groups for name in ("fused", "foreach"))
    other = any(group.get(name) for group in optimizer.param_groups for name in ("capturable", "differentiable"))
    if free and not other and all(w.device.type in _DEVICES and w.is_floating_point() for w in weights):
        for group in (*optimizer.param_groups, optimizer.defaults):
            group["fused"] = True
    return optimizer
