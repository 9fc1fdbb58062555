"""Which of Lightning's strategies exchange the gradients of a step over the ranks, and which would train wrongly."""

from __future__ import annotations

from typing import Any

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
