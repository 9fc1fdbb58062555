"""SFT and GRPO taking turns, step by step, as an interleave of the curriculum says."""

from __future__ import annotations

from ..datamodules.batch import Batch
from .grpo import GRPO
from .sft import SFT


class Interleaved(GRPO, SFT):
    """One policy and one optimizer for both algorithms; arguments as in GRPO.

    The batch's stage says whose turn it is. A micro-batch has as many prompts in either.
    """

    algorithms = ("sft", "grpo")

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the algorithm whose turn it is."""
        if self.data.stage_of(batch).algorithm == "sft":
            SFT.training_step(self, batch, batch_idx)
        else:
            GRPO.training_step(self, batch, batch_idx)
