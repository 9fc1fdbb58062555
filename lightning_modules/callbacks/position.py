"""Knows that every batch is trained once: the position moves when a batch was trained, and never skips."""

from __future__ import annotations

from typing import Any

import lightning as L


class PlanPosition(L.Callback):
    """Checks each batch against the plan's position and moves the data module's, which checkpoints save.

    Loaders prepare batches ahead, and trainers lose loader states in ways that depend on the version: a batch that is
    not the next one stops the run instead of being trained twice or skipped.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Compares the batch's step and plan with the data module's."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        expected = (data.plan.fingerprint, data.position)
        if (batch.plan, batch.step) != expected:
            raise RuntimeError(
                f"batch {batch.step} of plan {batch.plan} came, batch {expected[1]} of plan {expected[0]} was due; "
                "the loader was restored at another position than the weights"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One more batch is trained."""
        trainer.datamodule.trained(batch)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Shows where the curriculum stands."""
        trainer.datamodule.write_record()  # type: ignore[attr-defined]

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        """Shows where the curriculum stands."""
        trainer.datamodule.write_record()  # type: ignore[attr-defined]

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Shows where the curriculum stands."""
        trainer.datamodule.write_record()  # type: ignore[attr-defined]
