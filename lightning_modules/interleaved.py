"""Knows SFT and GRPO taking turns, step by step, as an interleave of the curriculum says."""

from __future__ import annotations

from ..datamodules.batch import Batch
from .grpo import GRPO
from .sft import sft_step


class Interleaved(GRPO):
    """One policy and one optimizer for both objectives; arguments as in GRPO.

    The batch's stage says whose turn it is. A micro-batch has as many prompts in either.
    """

    algorithms = ("sft", "grpo")

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the objective whose turn it is."""
        plan = self.trainer.datamodule.plan  # type: ignore[attr-defined]
        if plan.stage_plan(batch.stage).stage.algorithm == "sft":
            sft_step(self, batch)
        else:
            super().training_step(batch, batch_idx)
