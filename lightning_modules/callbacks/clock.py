"""Where the wall clock of training goes: waiting for data, checkpoints, validation, and the phases of a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L


class Clock:
    """Seconds per kind of work since `lap`, heard from the actions that the trainer tells its profiler.

    Whatever profiler a user chose goes on as before.
    """

    _KINDS = {"train_dataloader_next": "data_wait", "save_checkpoint": "checkpoint"}

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        self._start, self._profiler = time.perf_counter(), None

    def listen(self, profiler: Any) -> None:
        """Hears the profiler's actions from now on, until `leave`."""
        self.leave()
        self._profiler = profiler
        profiler.start = self._heard(profiler.start, self.begin)
        profiler.stop = self._heard(profiler.stop, self.end)

    def leave(self) -> None:
        """Lets go of the profiler."""
        if self._profiler is not None:
            del self._profiler.start, self._profiler.stop
            self._profiler = None

    def _heard(self, original: Callable[[str], None], note: Callable[[str], None]) -> Callable[[str], None]:
        def both(action: str) -> None:
            original(action)
            for ending, kind in self._KINDS.items():
                if action.endswith(ending):
                    note(kind)

        return both

    def begin(self, kind: str) -> None:
        """Work of this kind begins."""
        self._begun[kind] = time.perf_counter()

    def end(self, kind: str) -> None:
        """Work of this kind ends; without a beginning nothing is counted."""
        if kind in self._begun:
            self.add(kind, time.perf_counter() - self._begun.pop(kind))

    def add(self, kind: str, seconds: float) -> None:
        """Counts seconds that were measured elsewhere."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def lap(self) -> tuple[float, dict[str, float]]:
        """The seconds since the last lap, and how many of them went into each kind; begins anew."""
        now = time.perf_counter()
        whole, parts = now - self._start, self.seconds
        self._start, self.seconds = now, {}
        return whole, parts


class Validating(L.Callback):
    """Tells a clock when validation begins and ends; a checkpoint written meanwhile counts as a checkpoint alone."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_validation_start(self, *_: Any) -> None:
        """Begins to count validation."""
        self.clock.begin("validation")
        self._before = self.clock.seconds.get("checkpoint", 0.0)

    def on_validation_end(self, *_: Any) -> None:
        """Ends it, and takes out what a checkpoint took."""
        self.clock.end("validation")
        self.clock.add("validation", self._before - self.clock.seconds.get("checkpoint", 0.0))
