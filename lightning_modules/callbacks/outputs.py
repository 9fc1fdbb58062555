"""Callbacks that write the results of a run: the trained policy as a published checkpoint, and tables of answers."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from ...datamodules.voting.answer_store import write_answers
from ...errors import InputError
from ..policy.checkpoint import save_thinker
from ..policy.weights import merged_weights


class ExportPolicy(L.Callback):
    """Writes the policy to `folder` when training ends, unless it was interrupted, in the published layout.

    LoRA adapters are merged. vLLM and transformers' classes for Qwen2.5-Omni read the folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes the checkpoint on rank 0; the other ranks give their parts of sharded weights, and wait."""
        policy = pl_module.net
        if trainer.interrupted:
            return
        state = {}
        if policy.sharded:
            for name, tensor in merged_weights(policy):
                if trainer.is_global_zero:
                    state[name] = tensor.to("cpu")
        elif trainer.is_global_zero:
            state = dict(merged_weights(policy))
        if trainer.is_global_zero:
            save_thinker(state, policy.base.config, policy.processor, self.folder, policy.checkpoint)
        trainer.strategy.barrier("export")


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
