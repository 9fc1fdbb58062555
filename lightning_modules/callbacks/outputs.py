"""Callbacks that write the results of a run: the trained policy as a published checkpoint, and tables of answers."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import torch

from ...boundary.words import say
from ...datamodules.voting.answer_store import write_answers
from ...errors import InputError
from ..policy.export import FORMS, check_export, policy_weights, write_policy
from ..policy.files import Weights
from .interruption import told_to_end


class ExportPolicy(L.Callback):
    """Writes the policy to `folder` when training ends, unless it was interrupted.

    The folder is replaced as a whole once the new model is on the disk; vLLM and transformers' classes read it.

    Args:
        folder: where; not the folder of the model that training starts from.
        form: "merged" is the thinker with its adapters merged, in the published layout; "full-omni" has the source's
            talker and token2wav beside it; "adapter" is a folder of peft's with the adapters alone.
    """

    def __init__(self, folder: str, form: str = "merged") -> None:
        if form not in FORMS:
            raise InputError(f"ExportPolicy: no form {form!r}; there are {', '.join(FORMS)}")
        self.folder, self.form = folder, form

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Refuses, before anything is trained, a folder or form that could not be written at the end."""
        check_export(pl_module.net, self.folder, self.form)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes on rank 0 what all ranks read; where it cannot be written, every rank raises the same InputError.

        Where rank 0 is told to end, the folder stays as it was: training is saved, the same command exports it.
        """
        if trainer.interrupted:
            return
        failed = None
        weights = policy_weights(pl_module.net, self.form)
        if trainer.is_global_zero:
            try:
                write_policy(_while_wanted(weights, trainer), pl_module.net, self.folder, self.form)
            except _Unwanted:
                say(f"{self.folder} is not written; the same command exports what is saved", file=sys.stderr)
            except InputError as error:
                failed = str(error)
        if pl_module.net.sharded:  # gathering needs all ranks, to the end
            for _ in weights:
                pass
        failed = trainer.strategy.broadcast(failed)
        if failed:
            raise InputError(failed)


class _Unwanted(Exception):
    """The run was told to end."""


def _while_wanted(weights: Weights, trainer: L.Trainer) -> Weights:
    for pair in weights:
        if told_to_end(trainer):
            raise _Unwanted
        yield pair


class AnswerTable(L.Callback):
    """Writes the answers of `predict` on all ranks to one answer table, with one row per question and condition.

    `correct` is false where an answer is unfinished or unreadable, so that its mean is the accuracy over all questions.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self._records: list[dict[str, Any]] = []

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Collects the batch's records (one dict per answer) on this rank."""
        self._records += outputs

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Gathers the ranks' records and writes them on rank 0, sorted by condition and then uid.

        InputError where there are none.
        """
        gathered = [self._records]
        if trainer.world_size > 1:
            gathered = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self._records)
        if trainer.is_global_zero:
            records = sorted((row for part in gathered for row in part), key=lambda row: (row["condition"], row["uid"]))
            if not records:
                raise InputError(f"{self.file}: no question was asked; is the evaluation pool empty?")
            write_answers(records, self.file)
        self._records = []
        trainer.strategy.barrier("answers")
