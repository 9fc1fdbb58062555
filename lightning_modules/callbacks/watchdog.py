"""A thread that says who hangs: when no step ends for long, every rank tells where it is, and what it works on."""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import timedelta
from types import FrameType
from typing import Any

import lightning as L
import torch

from ...boundary.words import say
from ...errors import InputError
from ..connections import end_when_silent

_PACKAGE = __name__.split(".")[0]


class Watchdog(L.Callback):
    """Says on rank 0, when a batch takes longer than `stall_s`, the step, the rows and the line of every rank.

    A collective operation that one rank does not enter holds up all of them, and ends with a message about the others.
    A rank whose host is lost, with its cable or its power, ends the others after `silent_s`.

    Args:
        stall_s: seconds for one batch of training, validation or prediction; said again after twice, four times, ...
        silent_s: seconds after which a host that does not answer is lost.
    """

    def __init__(self, stall_s: float = 300.0, silent_s: float = 60.0) -> None:
        if min(stall_s, silent_s) <= 0:
            raise InputError(f"Watchdog: stall_s and silent_s must be positive, got {stall_s} and {silent_s}")
        self.stall_s, self.silent_s = stall_s, silent_s
        self._at, self._what = time.monotonic(), "starting"
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Starts the thread of this process."""
        self._beat("starting")
        end_when_silent(self.silent_s)
        if self._thread is None or not self._thread.is_alive():
            self._done.clear()
            whose = trainer.global_rank, trainer.world_size, threading.get_ident()
            self._thread = threading.Thread(target=self._watch, args=whose, name="watchdog", daemon=True)
            self._thread.start()

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Ends the thread."""
        self._done.set()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Ends the thread."""
        self._done.set()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Watches the connections between the ranks; later ones, as to a server, have rules of their own."""
        end_when_silent(self.silent_s)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A new batch begins."""
        self._beat(f"step {batch.step}, rows {_rows(batch)}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The batch is trained."""
        self._beat(f"after step {batch.step}")

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        """A new batch begins."""
        self._beat(f"questions, rows {_rows(batch)}")

    def on_test_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        """A new batch begins."""
        self._beat(f"questions, rows {_rows(batch)}")

    def on_predict_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        """A new batch begins."""
        self._beat(f"questions, rows {_rows(batch)}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """What comes after training begins."""
        self._beat("the end of training")

    def _beat(self, what: str) -> None:
        self._at, self._what = time.monotonic(), what

    def _watch(self, rank: int, world_size: int, main: int) -> None:
        wait, said_of = self.stall_s, self._at
        while not self._done.wait(min(wait, self.stall_s) / 10):
            if self._at != said_of:
                wait, said_of = self.stall_s, self._at
            if time.monotonic() - said_of < wait:
                continue
            here = f"{self._what}, in {_place(sys._current_frames().get(main))}"
            told = {rank: here} if world_size == 1 else _told(rank, world_size, here, self.stall_s / 4)
            if rank == 0 and not self._done.is_set():
                lines = [f"rank {each}: {told.get(each, 'says nothing')}" for each in range(world_size)]
                say(f"no batch has ended for {wait:.0f} s; " + "; ".join(lines), file=sys.stderr, flush=True)
            wait *= 2


def _rows(batch: Any) -> str:
    """The keys of its questions, the first eight."""
    keys = [sample.question.key for sample in batch.samples]
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")


def _place(frame: FrameType | None) -> str:
    """Where a thread is: the innermost line of this package, and the one outside that it waits in."""
    inner = outer = "no Python code"
    while frame is not None:
        place = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno})"
        inner = place if inner == "no Python code" else inner
        if str(frame.f_globals.get("__name__", "")).split(".")[0] == _PACKAGE:
            outer = place
            break
        frame = frame.f_back
    return inner if inner == outer or outer == "no Python code" else f"{outer}, {inner}"


def _told(rank: int, world_size: int, here: str, seconds: float) -> dict[int, str]:
    """Rank -> what it says of itself, of the ranks that hang as well; through the store they met at."""
    store = torch.distributed.distributed_c10d._get_default_store()
    store.set(f"watchdog/{rank}", json.dumps([time.time(), here]))
    if rank:
        return {}
    time.sleep(seconds)  # the others notice a little later
    found = {}
    for each in range(world_size):
        try:
            store.wait([f"watchdog/{each}"], timedelta(seconds=1))
            found[each] = json.loads(store.get(f"watchdog/{each}"))[1]
        except (RuntimeError, ValueError):
            continue
    return found
