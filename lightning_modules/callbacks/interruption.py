"""What SIGTERM and SLURM's warning do to a run: it saves between two steps, and ends with a code that says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint

from ...boundary.words import say
from .checkpoints import Checkpoints


class Interrupted(SystemExit):
    """A run that a signal ended: 143 after SIGTERM, 138 after SIGUSR1, as shells count."""


class Interruption(L.Callback):
    """Notes SIGTERM (in SLURM jobs also the signal before their end); between two steps all ranks save and end.

    In place of Lightning's own handlers, which save nothing and end with 0, or save into the working directory. After
    SLURM's signal the job is put back into its queue, where the same command continues.
    """

    def __init__(self) -> None:
        self.told, self._pid = 0, os.getpid()  # the first signal that came
        self._before: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Takes the signals from Lightning; until training starts only SLURM's is listened to."""
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = lambda: None
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if SLURMEnvironment.detect():
            number = getattr(environment, "requeue_signal", None) or signal.SIGUSR1
            self._listen(number, partial(self._leave, trainer.global_rank))

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Listens to all of them from now on."""
        for number in [*self._before, signal.SIGTERM]:
            self._listen(number, self._note)

    def _listen(self, number: int, act: Callable[[int, FrameType | None], None]) -> None:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(number, act)
            self._before.setdefault(number, before)

    def _leave(self, rank: int, number: int, frame: FrameType | None) -> None:
        """Ends at once: nothing is trained yet that could be saved."""
        self._elsewhere(number)
        if rank == 0:
            _requeue()
        raise Interrupted(128 + number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._elsewhere(number)
        self.told = self.told or number

    def _elsewhere(self, number: int) -> None:
        if os.getpid() != self._pid:  # a loader process that was forked later
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Saves and ends where any rank was told to, before the next batch is trained."""
        self.check(trainer)

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Saves and ends in the middle of a validation, which is done again when the run continues."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.check(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Ends with the signal's code also where training was just over: nothing may start after it."""
        number = int(pl_module.ranks.most(self.told))
        self._restore()
        if number:
            self._end(trainer, number, "training was over; the same command does what is left")

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Gives the signals back to whoever listened before."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def check(self, trainer: L.Trainer) -> None:
        """Where any rank was told to, saves what the last finished step left, and ends; a collective operation."""
        module: Any = trainer.lightning_module
        number = int(module.ranks.most(self.told))
        if not number:
            return
        saved = _save(trainer)
        self._end(trainer, number, f"saved {saved}; the same command continues" if saved else "nothing is saved")

    def _end(self, trainer: L.Trainer, number: int, what: str) -> None:
        name, step = signal.Signals(number).name, trainer.datamodule.position  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            say(f"{name} after step {step}: {what}", file=sys.stderr, flush=True)
            if number != signal.SIGTERM:
                _requeue()
        environment = getattr(trainer.strategy, "cluster_environment", None)
        launched = environment is not None and not environment.creates_processes_externally
        # Lightning kills rank 0 where a process that it started ends with another code.
        raise Interrupted(0 if launched and trainer.local_rank else 128 + number)


def told_to_end(trainer: L.Trainer) -> bool:
    """Whether this rank was told to end; the others may not have been."""
    return any(isinstance(each, Interruption) and each.told > 0 for each in trainer.callbacks)  # type: ignore[attr-defined]


def end_where_told(trainer: L.Trainer) -> None:
    """Saves what the last finished step left, and ends, where any rank was told to; a collective operation."""
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, Interruption):
            each.check(trainer)


def _save(trainer: L.Trainer) -> Path | None:
    """By our callback, else by Lightning's; None where there is neither, or nothing trained yet."""
    if not trainer.datamodule.position:  # type: ignore[attr-defined]
        return None
    saved = None
    for each in trainer.checkpoint_callbacks:
        if isinstance(each, Checkpoints):
            saved = each.save(trainer)
            each.wait(trainer)
        elif isinstance(each, ModelCheckpoint) and each.save_last:
            each._save_last_checkpoint(trainer, each._monitor_candidates(trainer))
            saved = saved or Path(each.last_model_path)
    return saved


def _requeue() -> None:
    """Has SLURM run the job again; says so, also where it cannot be had."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        said = "is queued again" if not done.returncode else f"could not be queued again: {done.stderr.strip()}"
    except OSError as error:
        said = f"could not be queued again: {error}"
    say(f"SLURM job {job} {said}", file=sys.stderr, flush=True)
