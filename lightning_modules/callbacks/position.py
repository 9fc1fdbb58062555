"""The callback that has every batch trained once: the position moves when a batch was trained, and never skips."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ...datamodules.module import AudioQuestions
from ...errors import InputError
from ..checkpoints.whole_file import WholeFile


class PlanPosition(L.Callback):
    """Checks each batch against the plan's position and moves the data module's, which checkpoints save.

    Loaders prepare batches ahead, and trainers lose loader states in ways that depend on the version: a batch that is
    not the next one stops the run instead of being trained twice or skipped.
    """

    def __init__(self) -> None:
        self._optimizer_steps: int | None = None  # the trainer's, when the position last moved

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Has checkpoints written whole, and counts a batch before any other callback can save one."""
        if stage != "fit":
            return
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFile()
        others = [each for each in trainer.callbacks if not isinstance(each, _Count)]  # type: ignore[attr-defined]
        trainer.callbacks = [_Count(self), *others]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Refuses a checkpoint whose weights are further than its position; shows where the curriculum stands."""
        data, steps = trainer.datamodule, trainer.global_step  # type: ignore[attr-defined]
        if self._optimizer_steps not in (None, steps):
            raise InputError(
                f"the checkpoint was written in the middle of batch {data.position}: after optimizer step {steps}, "
                f"{self._optimizer_steps} when the last batch ended; resume from the one before it"
            )
        self._optimizer_steps = steps
        data.write_record()

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

    def trained(self, trainer: L.Trainer, batch: Any) -> None:
        """One more batch is trained."""
        self._optimizer_steps = trainer.global_step
        trainer.datamodule.trained(batch)  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Optimizer steps when the position last moved."""
        return {"optimizer_steps": self._optimizer_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `on_train_start` compares with the trainer's."""
        self._optimizer_steps = state_dict["optimizer_steps"]

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Counts bad samples that a loader process met."""
        _record_bad_samples(trainer, batch)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Counts bad samples that a loader process met."""
        _record_bad_samples(trainer, batch)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Counts bad samples that a loader process met."""
        _record_bad_samples(trainer, batch)

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        """Shows where the curriculum stands."""
        trainer.datamodule.write_record()  # type: ignore[attr-defined]

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Shows where the curriculum stands."""
        trainer.datamodule.write_record()  # type: ignore[attr-defined]


def _record_bad_samples(trainer: L.Trainer, batch: Any) -> None:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, AudioQuestions):
        data.record_bad_samples(batch)


class _Count(L.Callback):
    """First of the trainer's callbacks: what another one saves when a batch ends holds the batch."""

    def __init__(self, position: PlanPosition) -> None:
        self.position = position

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """One more batch is trained."""
        self.position.trained(trainer, batch)
