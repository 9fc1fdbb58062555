"""Progress on standard output: a live bar on a terminal, a line every few seconds in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from ...boundary.words import say
from .throughput import shown


def progress_bar(every_s: float = 15.0) -> ProgressBar:
    """The callback that suits standard output; every_s: least seconds between two lines of a log file."""
    return LiveProgress() if sys.stdout.isatty() else LineProgress(every_s)


class LiveProgress(RichProgressBar):
    """Lightning's bar, with how fast the run is and how long it will take."""

    def get_metrics(self, trainer: L.Trainer, pl_module: Any) -> dict[str, Any]:
        """The metrics of the bar, and what Throughput says."""
        return {**super().get_metrics(trainer, pl_module), **shown(trainer)}


class LineProgress(ProgressBar):
    """Prints `step/steps` and the progress metrics, at most every `every_s` seconds and at the end."""

    def __init__(self, every_s: float = 15.0) -> None:
        super().__init__()
        self.every_s, self._last, self._enabled = every_s, time.monotonic(), True

    def disable(self) -> None:
        """Stops printing; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Resumes printing after `disable`."""
        self._enabled = True

    def _line(self, trainer: L.Trainer, what: str, done: int, total: Any, force: bool = False) -> None:
        """Prints `what done/total metrics`, where the last line is at least `every_s` old or `force` is set."""
        now = time.monotonic()
        if self._enabled and (force or now - self._last >= self.every_s):
            self._last = now
            numbers = {k: v for k, v in trainer.progress_bar_metrics.items() if isinstance(v, (int, float))}
            metrics = " ".join(f"{name} {value:.3f}" for name, value in numbers.items())
            if what in ("step", "trained"):
                metrics = " ".join([metrics, *(f"{name} {text}" for name, text in shown(trainer).items())]).strip()
            say(f"  {what} {done}/{total} {metrics}".rstrip(), flush=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Prints the step and the metrics, if the last line is old enough."""
        # `max_steps` counts optimizer steps, of which a batch may take several
        self._line(trainer, "step", batch_idx + 1, pl_module.total_steps())

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Prints the last step and its metrics in any case."""
        self._line(trainer, "trained", trainer.fit_loop.epoch_loop.batch_idx + 1, self.total_train_batches, force=True)

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Prints the batch, if the last line is old enough; args[3] is its number within its loader."""
        self._line(trainer, "batch", args[3] + 1, sum(trainer.num_predict_batches))
