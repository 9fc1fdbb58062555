"""How often the present policy answers each question rightly: a column that curricula decide by."""

from __future__ import annotations

from typing import Any

import lightning as L
import pyarrow as pa
import torch

from ...curriculum.table import write_arrow
from ...datamodules.batches.conditions import KINDS
from ...errors import InputError
from ..rollout.engine import Rollout
from ..step.probing import rollout_accuracy

SCHEMA = pa.schema(
    {"uid": pa.uint64(), "key": pa.string(), "pass_rate": pa.float64(), "passes": pa.int32(), "samples": pa.int32()}
)


class PassRateTable(L.Callback):
    """Samples every question of `predict` so many times and writes a label table with how often it was right.

    Columns: uid, key, pass_rate = passes / samples. The draws depend on the question and the seed alone, not on
    batches, ranks or order. Raises InputError for questions without an answer, or under several conditions.

    Args:
        file: the Arrow table to write; `labels: [labels.arrow, FILE]` of the data joins it.
        samples: completions per question. temperature: of their draws. max_new_tokens: of the longest, the module's
            own by default. seed: of the draws.
    """

    def __init__(
        self, file: str, samples: int = 8, temperature: float = 1.0, max_new_tokens: int | None = None, seed: int = 0
    ) -> None:
        Rollout(samples, temperature, max_new_tokens or 1, seed)  # refuses what cannot be sampled
        self.file, self.samples, self.temperature = file, samples, temperature
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self._records: list[dict[str, Any]] = []

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Samples the batch's questions on this rank."""
        length = self.max_new_tokens or pl_module.max_new_tokens
        rollout, name = Rollout(self.samples, self.temperature, length, self.seed), ("pass_rate", self.seed)
        rates = [
            rollout_accuracy(pl_module.net, batch, rows, rollout=rollout, name=name)
            for rows in pl_module.micro_batches(len(batch))
        ]
        for sample, rate in zip(batch.samples, torch.cat(rates).tolist(), strict=True):
            if not sample.question.answer:
                raise InputError(f"{self.file}: {sample.question.key} has no answer, so that nobody knows who passes")
            if sample.weight > 0:
                record = {"uid": sample.question.uid, "key": sample.question.key, "condition": sample.condition}
                passes = round(rate * self.samples)
                counts = {"pass_rate": passes / self.samples, "passes": passes, "samples": self.samples}
                self._records.append(record | counts)

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes the records of all ranks, sorted by uid, on rank 0."""
        records = [one for part in pl_module.ranks.gathered(self._records) for one in part]
        self._records = []
        conditions = sorted({one["condition"] for one in records}, key=lambda name: KINDS.index(name.partition(":")[0]))
        if len(conditions) != 1:
            raise InputError(
                f"{self.file}: a pass rate is of one condition, got {', '.join(conditions) or 'no question'}"
            )
        if trainer.is_global_zero:
            rows = [{name: one[name] for name in SCHEMA.names} for one in sorted(records, key=lambda one: one["uid"])]
            write_arrow(pa.Table.from_pylist(rows, SCHEMA), self.file)
        trainer.strategy.barrier("pass rates")
