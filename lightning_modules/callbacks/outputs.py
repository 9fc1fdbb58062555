"""Knows what a run leaves behind: the trained policy as a published checkpoint, and tables of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import torch

from ...curriculum.table import write_arrow
from ...errors import InputError
from ..policy.checkpoint import save_thinker, thinker_state

ANSWER_SCHEMA = pa.schema(
    {
        "uid": pa.uint64(),
        "key": pa.string(),
        "condition": pa.string(),
        "label": pa.string(),
        "raw": pa.string(),
        "answer": pa.string(),
        "correct": pa.bool_(),
        "num_tokens": pa.int32(),
        "finished": pa.bool_(),
    }
)


class ExportPolicy(L.Callback):
    """Writes the policy to `folder` when training ends, in the layout every loader of Qwen2.5-Omni reads."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Rank 0 writes; the others wait."""
        if trainer.is_global_zero and not trainer.interrupted:
            policy = pl_module.net
            state = thinker_state(policy.thinker)
            save_thinker(state, policy.base.config, policy.processor, self.folder, policy.checkpoint)
        trainer.strategy.barrier("export")


class AnswerTable(L.Callback):
    """Writes the answers of `predict` to an Arrow file, one row per question and condition, from all ranks."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._records: list[dict[str, Any]] = []

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Keeps this rank's records."""
        self._records += outputs

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Gathers the ranks' records in file order of question and condition."""
        gathered = [self._records]
        if trainer.world_size > 1:
            gathered = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self._records)
        if trainer.is_global_zero:
            records = sorted((r for part in gathered for r in part), key=lambda r: (r["condition"], r["uid"]))
            if not records:
                raise InputError(f"{self.file}: no question was asked; is the evaluation pool empty?")
            write_arrow(pa.Table.from_pylist(records, ANSWER_SCHEMA), Path(self.file))
        self._records = []
        trainer.strategy.barrier("answers")
