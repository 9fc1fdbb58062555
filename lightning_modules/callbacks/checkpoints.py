"""The callback that saves a run: after so many steps, when it is interrupted, and at its end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from ...errors import InputError
from ..checkpoints.folders import FILE, Keep, begun, finished
from ..checkpoints.whole_file import unwritten


class Checkpoints(Checkpoint):
    """Saves `FOLDER/step-00000120/trainer.ckpt` between two steps, and names it in `FOLDER/last`.

    A checkpoint is written when validation and logs of its step are done, so that a run that goes on from it repeats
    and leaves out nothing.

    Args:
        folder: where they go. every_n_steps: batches of the plan between two. keep: which of them stay.
        asynchronous: a thread writes while training goes on; needs memory for a copy of what is saved. Strategies
            that write shards are waited for.
    """

    def __init__(
        self, folder: str, every_n_steps: int = 250, keep: Keep | None = None, asynchronous: bool = False
    ) -> None:
        if every_n_steps < 1:
            raise InputError(f"Checkpoints: every_n_steps must be at least 1, got {every_n_steps}")
        self.folder, self.every_n_steps, self.keep = Path(folder), every_n_steps, keep or Keep()
        self.asynchronous = asynchronous
        self._saved = 0  # the step of the checkpoint that was written or read last
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Starts to count from the step that the run continues from."""
        self._saved = trainer.datamodule.position  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Saves what the steps before this batch left, where it is time to."""
        if trainer.datamodule.position % self.every_n_steps == 0:  # type: ignore[attr-defined]
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Saves the end of training, before it is exported."""
        self.save(trainer)
        self.wait(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Waits for what is being written."""
        if self._pending is not None:
            self._pending.exception()

    def save(self, trainer: L.Trainer) -> Path | None:
        """Saves the run as it is between two steps, unless that is done; a collective operation.

        Returns the checkpoint's folder, None where no step is trained yet. InputError on all ranks where it cannot be
        written; the one before it stays.
        """
        step: int = trainer.datamodule.position  # type: ignore[attr-defined]
        target = self.folder / f"step-{step:08d}"
        if not step or step == self._saved:
            return target if step else None
        self.wait(trainer)
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.save()
        partial, failed = target.with_suffix(".partial"), None
        if trainer.is_global_zero:
            failed = self._attempt(target, lambda: begun(self.folder, step))
        self._agree(trainer, failed)
        content = trainer._checkpoint_connector.dump_checkpoint(False)
        shards = type(trainer.strategy).save_checkpoint is not L.pytorch.strategies.Strategy.save_checkpoint
        if self.asynchronous and not shards:
            if trainer.is_global_zero:
                content = _copied(content)
                self._writer = self._writer or ThreadPoolExecutor(1, "checkpoint")
                self._pending = self._writer.submit(self._write, trainer, content, partial)
        else:
            self._agree(
                trainer, self._attempt(target, lambda: trainer.strategy.save_checkpoint(content, partial / FILE))
            )
            if trainer.is_global_zero:
                failed = self._attempt(target, lambda: finished(partial, self.keep))
            self._agree(trainer, failed)
        self._saved = step
        return target

    def _write(self, trainer: L.Trainer, content: dict[str, Any], partial: Path) -> None:
        target = partial.with_suffix("")
        for act in (
            lambda: trainer.strategy.checkpoint_io.save_checkpoint(content, partial / FILE),
            lambda: finished(partial, self.keep),
        ):
            if failed := self._attempt(target, act):
                raise failed

    @staticmethod
    def _attempt(target: Path, act: Callable[[], Any]) -> InputError | None:
        """Does it; what to say where the disk does not take it, which then keeps no half of it."""
        try:
            act()
        except (InputError, OSError) as error:
            shutil.rmtree(target.with_suffix(".partial"), ignore_errors=True)
            said = str(error if isinstance(error, InputError) else unwritten(target, error))
            return InputError(said.replace(f"{target}.partial/{FILE}", str(target)))
        return None

    def wait(self, trainer: L.Trainer) -> None:
        """Has the checkpoint that a thread writes on the disk; its InputError comes here, on all ranks."""
        if self.asynchronous:
            failed = None if self._pending is None else self._pending.exception()
            self._pending = None
            self._agree(trainer, failed)

    def _agree(self, trainer: L.Trainer, failed: BaseException | None) -> None:
        module: Any = trainer.lightning_module
        for said in module.ranks.gathered(None if failed is None else str(failed)):
            if said is not None:
                raise InputError(said) from failed


def _copied(value: Any) -> Any:
    """The same content in memory of its own, on the CPU: training goes on changing the tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, _copied(each)) for key, each in value.items())
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value
