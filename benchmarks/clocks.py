"""What both trainers of swift.py load: a clock of every step's CPU seconds, and a reward that differs within groups.

A line of JSON per step goes to the file that the variable STEP_CLOCK names: CPU seconds of the process so far, its peak
memory in MiB so far, and what the trainer logged of the step before. The first line is written before the first step.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LOGGED = ("loss", "train/loss", "completions/mean_length", "rollout/mean_tokens")


def tick(logged: Mapping[str, Any] | None = None) -> None:
    """Appends a line; logged: names and numbers of the trainer, of which those in LOGGED are kept."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    line: dict[str, Any] = {
        "cpu_s": time.process_time(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }
    line |= {name: float(value) for name, value in (logged or {}).items() if name in LOGGED}
    with Path(os.environ["STEP_CLOCK"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def spread(completions: list[str], **columns: Any) -> list[float]:
    """A reward that differs within groups: the number of letters modulo 7."""
    return [float(len(text) % 7) for text in completions]


with suppress(ImportError):
    from lightning import Callback

    class LightningClock(Callback):
        """A tick before the first step and after each."""

        def on_train_start(self, trainer, module) -> None:
            tick()

        def on_train_batch_end(self, trainer, *_) -> None:
            tick(trainer.callback_metrics)


if "swift" in sys.modules:  # as its external plugin
    from swift.callbacks import TrainerCallback, callbacks_map  # type: ignore[import-not-found]
    from swift.rewards import ORM, orms  # type: ignore[import-not-found]

    class SwiftClock(TrainerCallback):  # type: ignore[misc]
        """A tick before the first step and after each, when its numbers are logged."""

        def on_train_begin(self, *_, **__) -> None:
            tick()

        def on_log(self, args, state, control, logs=None, **_) -> None:
            if logs and "loss" in logs:
                tick(logs)

    class Spread(ORM):  # type: ignore[misc]
        """The reward above."""

        def __call__(self, completions, **columns):
            return spread(completions)

    callbacks_map["clock"] = SwiftClock
    orms["spread"] = Spread
