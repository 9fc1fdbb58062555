"""Which of Lightning's strategies exchange the gradients of a step over the ranks, and which would train wrongly.

And that a run which is continued exchanges them as one that goes on."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from ...errors import InputError
from .fsdp2 import FSDP2


def check_strategy(strategy: Any) -> None:
    """InputError for a strategy under which every process would train by itself, or not at all, without a word."""
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, FSDP2)):
        raise InputError(
            f"trainer.strategy: under {type(strategy).__name__} gradients of this model would not be exchanged between "
            "the processes; use ddp, or earwitness.FSDP2 to divide the weights over them"
        )


def settle_buckets(trainer: Any) -> None:
    """Has DDP lay out its buckets of gradients before the first step, as they stay; a collective operation.

    It does so after a process's first backward pass. From three ranks on, where a gradient lies decides in which order
    it is summed: the first step of a continued run would round otherwise than the same step of one that goes on.
    """
    wrapped = trainer.strategy.model
    if not isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
        return
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    if wrapped.find_unused_parameters or wrapped.static_graph:  # buckets that never move; passes that are counted
        return
    nothing = torch.stack([parameter.flatten()[:1].sum() * 0 for parameter in trained]).sum()
    trainer.lightning_module.manual_backward(nothing)
    for parameter in trained:
        parameter.grad = None
