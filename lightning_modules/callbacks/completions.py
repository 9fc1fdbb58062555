"""A callback that shows what a policy says while it trains: a table of all completions, and a page to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import pyarrow.parquet as pq

from ...boundary.files import made_folder, replacing
from ...errors import InputError
from ...reports.completions_page import completions_page
from ..step.experience import Experience

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "uid": pa.uint64(),
        "key": pa.string(),
        "label": pa.string(),
        "question": pa.string(),
        "choices": pa.list_(pa.string()),
        "answer": pa.string(),
        "completion": pa.string(),
        "reward": pa.float64(),  # null where no function could score it
        "parts": pa.map_(pa.string(), pa.float64()),
        "advantage": pa.float64(),
        "num_tokens": pa.int32(),
        "finished": pa.bool_(),
        "kept": pa.bool_(),
        "silence": pa.float64(),
    }
)


class CompletionTable(L.Callback):
    """Writes `step-NNNNNN.parquet` with every completion of a step from all ranks, and `latest.html` to look at.

    Args:
        folder: where they go. every_n_steps: optimizer steps between two tables. prompts: how many the page shows.
    """

    def __init__(self, folder: str, every_n_steps: int = 10, prompts: int = 12) -> None:
        if every_n_steps < 1:
            raise InputError(f"CompletionTable: every_n_steps must be at least 1, got {every_n_steps}")
        self.folder, self.every_n_steps, self.prompts = Path(folder), every_n_steps, prompts

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes table and page of every n-th step; SFT steps have no completions."""
        if batch.step % self.every_n_steps or not pl_module.experiences:
            return
        gathered = pl_module.ranks.gathered([row for each in pl_module.experiences for row in records(each)])
        if trainer.is_global_zero:
            rows = [row for part in gathered for row in part]
            made_folder(self.folder)
            _whole(self.folder / f"step-{batch.step:06d}.parquet", lambda file: pq.write_table(_table(rows), file))
            page = completions_page(rows, self.prompts)
            _whole(self.folder / "latest.html", lambda file: file.write(page.encode("utf-8", "backslashreplace")))


def records(each: Experience) -> list[dict[str, Any]]:
    """One record per completion, group by group; the padding of a last batch is left out."""
    found = []
    order = [(prompt, row) for prompt, rows in enumerate(each.rows.tolist()) for row in rows]
    tokens, finished = each.completions.mask.sum(1).tolist(), each.completions.finished.tolist()
    for prompt, row in order:
        sample = each.batch.samples[prompt]
        if not bool(each.real[prompt]):
            continue
        found.append(
            {
                "step": each.batch.step,
                "uid": sample.question.uid,
                "key": sample.question.key,
                "label": sample.label,
                "question": sample.question.question,
                "choices": list(sample.choices),
                "answer": sample.question.answer,
                "completion": each.texts[row],
                "reward": _number(each.scored.total[row]),
                "parts": [(name, _number(part[row])) for name, part in each.scored.parts.items()],
                "advantage": float(each.advantages[row]),
                "num_tokens": tokens[row],
                "finished": finished[row],
                "kept": bool(each.kept[prompt]),
                "silence": None if each.silence is None else float(each.silence[prompt]),
            }
        )
    return found


def _number(value: Any) -> float | None:
    return None if bool(value.isnan()) else float(value)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def _whole(path: Path, write: Any) -> None:
    with replacing(path) as file:
        write(file)
