"""The callback that has every batch trained once: the position moves when a batch was trained, and never skips."""

from __future__ import annotations

from copy import deepcopy
from importlib.metadata import version
from platform import python_version
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ...datamodules.module import AudioQuestions
from ...errors import InputError
from ..checkpoints.whole_file import WholeFile
from ..strategies.synchronised import settle_buckets
from .interruption import Interruption
from .validating import validate_now
from .watchdog import Watchdog


class PlanPosition(L.Callback):
    """Checks each batch against the plan's position and moves the data module's, which checkpoints save.

    Loaders prepare batches ahead, and trainers lose loader states in ways that depend on the version: a batch that is
    not the next one stops the run instead of being trained twice or skipped.
    """

    def __init__(self) -> None:
        self._optimizer_steps: int | None = None  # the trainer's, when the position last moved
        self._loops: dict[str, Any] | None = None  # Lightning's counters, when the position last moved
        self._validated = True  # whether the validation that is due after the last batch is done
        self._stopped = False  # by a callback, before the end of the plan
        self._groups: list[dict[str, Any]] = []  # the optimizer's settings, as configured

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Has checkpoints written whole, counts a batch before any other callback can save one, compares the ranks."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFile()
        if stage != "fit":
            return
        ours = (_Count, Interruption)
        others = [each for each in trainer.callbacks if not isinstance(each, ours)]  # type: ignore[attr-defined]
        if trainer.world_size > 1 and not any(isinstance(each, Watchdog) for each in others):
            others.insert(0, Watchdog())
            others[0].setup(trainer, pl_module, stage)
        interruption = Interruption()
        interruption.setup(trainer, pl_module, stage)
        trainer.callbacks = [_Count(self), *others, interruption]  # type: ignore[attr-defined]
        pl_module.ranks.agree({"data": trainer.datamodule.state_dict(), "software": _software()})  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Compares the ranks' optimizers, and has all ranks start with the weights of rank 0."""
        self._groups = [_settings(group) for each in trainer.optimizers for group in each.param_groups]
        pl_module.ranks.agree({"optimizer": self._groups})
        for parameter in pl_module.parameters() if trainer.world_size > 1 else ():
            if parameter.requires_grad and type(parameter.data) is torch.Tensor:  # sharded ones are the strategy's
                torch.distributed.broadcast(parameter.data, src=0)

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Refuses a checkpoint whose weights are further than its position, or that another optimizer wrote.

        A validation that was cut off is done first, and before the first step one that all later ones compare with.
        """
        data, steps = trainer.datamodule, trainer.global_step  # type: ignore[attr-defined]
        if self._optimizer_steps not in (None, steps):
            raise InputError(
                f"the checkpoint was written in the middle of batch {data.position}: after optimizer step {steps}, "
                f"{self._optimizer_steps} when the last batch ended; resume from the one before it"
            )
        self._refuse_other_settings(trainer)
        self._optimizer_steps = steps
        settle_buckets(trainer)
        data.write_record()
        # Lightning would count a second round of batches where its limit, or the plan, is reached.
        trainer.should_stop = self._stopped or data.position >= trainer.num_training_batches
        if not self._validated or (not data.position and trainer.fit_loop.epoch_loop._should_check_val_epoch()):
            validate_now(trainer)

    def _refuse_other_settings(self, trainer: L.Trainer) -> None:
        """A restored optimizer has the settings that it was saved with: those of the configuration must be the same."""
        restored = [_settings(group) for each in trainer.optimizers for group in each.param_groups]
        for now, then in zip(self._groups, restored, strict=True):
            for name in [name for name in now if name in then and now[name] != then[name]]:
                what = "learning rate" if name == "lr" else name
                raise InputError(
                    f"the optimizer's {what} is {now[name]}, in the checkpoint it is {then[name]}; set it back to "
                    "continue, or start anew with --fresh, which moves the old checkpoints aside"
                )

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
        loop = trainer.fit_loop
        self._loops = deepcopy(loop.state_dict())
        self._loops["epoch_loop.batch_progress"]["is_last_batch"] = False  # of the loader; the plan may go on
        if loop.epoch_loop._is_training_done:  # the end is validated too
            trainer.val_check_batch, trainer._val_check_time_interval = 1, None  # type: ignore[attr-defined]
        self._validated = not loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """The validation that was due is done."""
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Whether a callback ended training: what was saved at its end is not trained on."""
        self._stopped = trainer.should_stop

    def state_dict(self) -> dict[str, Any]:
        """Optimizer steps when the position last moved; what is left to do after them."""
        done = {"validated": self._validated, "stopped": self._stopped}
        return {"optimizer_steps": self._optimizer_steps, **done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `on_train_start` compares with the trainer's."""
        self._optimizer_steps = state_dict["optimizer_steps"]
        self._validated, self._stopped = state_dict.get("validated", True), state_dict.get("stopped", False)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the counters, for a checkpoint before the next batch."""
        self._loops = deepcopy(checkpoint["loops"]["fit_loop"])

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Counts bad samples that a loader process met."""
        _record_bad_samples(trainer, batch)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Counts bad samples that a loader process met."""
        _record_bad_samples(trainer, batch)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Counts bad samples that a loader process met."""
        _record_bad_samples(trainer, batch)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Shows where the curriculum stands; whenever it is saved, the trainer counts as when the last batch ended.

        Lightning's own counters depend on the hook, and at the end of training say that nothing is left of the plan.
        """
        if self._loops is not None and self._optimizer_steps == trainer.global_step:
            checkpoint["loops"]["fit_loop"] = deepcopy(self._loops)
        trainer.datamodule.write_record()  # type: ignore[attr-defined]

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Shows where the curriculum stands."""
        trainer.datamodule.write_record()  # type: ignore[attr-defined]


def _record_bad_samples(trainer: L.Trainer, batch: Any) -> None:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, AudioQuestions):
        data.record_bad_samples(batch)


def _software() -> dict[str, str]:
    """The versions of what computes."""
    return {"python": python_version()} | {
        name: version(name) for name in ("torch", "transformers", "lightning", "numpy")
    }


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What one of an optimizer's groups of parameters is configured with; `lr` is the rate before the schedule."""
    how = ("params", "initial_lr", "foreach", "fused", "capturable", "differentiable")
    numbers = {name: value for name, value in group.items() if name not in how}
    return numbers | {"lr": group.get("initial_lr", group["lr"])}


class _Count(L.Callback):
    """First of the trainer's callbacks: what another one saves when a batch ends holds the batch."""

    def __init__(self, position: PlanPosition) -> None:
        self.position = position

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """One more batch is trained."""
        self.position.trained(trainer, batch)
