"""Knows how training is shown: a live bar on a terminal, a line every few seconds in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar


def progress_bar(every_s: float = 15.0) -> ProgressBar:
    """The bar that suits standard output."""
    return RichProgressBar() if sys.stdout.isatty() else LineProgress(every_s)


class LineProgress(ProgressBar):
    """Prints `step/steps` and the progress metrics, at most every `every_s` seconds and at the end."""

    def __init__(self, every_s: float = 15.0) -> None:
        super().__init__()
        self.every_s, self._last, self._enabled = every_s, time.monotonic(), True

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Prints again."""
        self._enabled = True

    def _line(self, trainer: L.Trainer, what: str, done: int, total: Any, force: bool = False) -> None:
        now = time.monotonic()
        if self._enabled and (force or now - self._last >= self.every_s):
            self._last = now
            shown = {k: v for k, v in trainer.progress_bar_metrics.items() if isinstance(v, (int, float))}
            metrics = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
            print(f"  {what} {done}/{total} {metrics}".rstrip(), flush=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """One step more."""
        total = self.total_train_batches if trainer.max_steps < 0 else min(self.total_train_batches, trainer.max_steps)
        self._line(trainer, "step", batch_idx + 1, total)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The last metrics."""
        self._line(trainer, "trained", trainer.fit_loop.epoch_loop.batch_idx + 1, self.total_train_batches, force=True)

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """One batch more; the last arguments are the batch and loader numbers."""
        self._line(trainer, "batch", args[3] + 1, sum(trainer.num_predict_batches))
