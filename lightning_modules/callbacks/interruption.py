"""What SIGTERM and SLURM's warning do to a run: it saves between two steps, and ends with a code that says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
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
        self._received, self._pid = 0, os.getpid()
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Listens from now on."""
        environment = getattr(trainer.strategy, "cluster_environment", None)
        listened: list[int] = [signal.SIGTERM]
        if SLURMEnvironment.detect():
            listened.append(getattr(environment, "requeue_signal", None) or signal.SIGUSR1)
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in listened}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a loader process that was forked later
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = self._received or number

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Saves and ends where any rank was told to, before the next batch is trained."""
        self._check(trainer)

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Saves and ends in the middle of a validation, which is done again when the run continues."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._check(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Ends with the signal's code also where training was just over: nothing may start after it."""
        self._restore()
        if self._received:
            raise Interrupted(128 + self._received)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Gives the signals back to whoever listened before."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # at the end of a run Lightning has given them back already
                signal.signal(number, handler)
        self._before = {}

    def _check(self, trainer: L.Trainer) -> None:
        module: Any = trainer.lightning_module
        number = int(module.ranks.most(self._received))
        if not number:
            return
        saved = _save(trainer)
        name, step = signal.Signals(number).name, trainer.datamodule.position  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            what = f"saved {saved}; the same command continues" if saved else "nothing is saved"
            say(f"{name} after step {step}: {what}", file=sys.stderr, flush=True)
            if number != signal.SIGTERM:
                _requeue()
        environment = getattr(trainer.strategy, "cluster_environment", None)
        launched = environment is not None and not environment.creates_processes_externally
        # Lightning kills rank 0 where a process that it started ends with another code.
        raise Interrupted(0 if launched and trainer.local_rank else 128 + number)


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
