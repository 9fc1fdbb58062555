"""What a build writes: questions in AudioMCQ's layout (JSONL, Parquet, hub folder), grades and provenance by uid."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...boundary.files import made_folder
from ...curriculum.table import write_arrow
from .balance import Placed
from .draft import DIMENSIONS, structured, unstructured

QUESTIONS = pa.schema(
    {
        "source_dataset": pa.string(),
        "id": pa.string(),
        "question_type": pa.string(),
        "audio_path": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "choices": pa.list_(pa.string()),
        "structured_cot": pa.string(),
        "unstructured_cot": pa.string(),
        "split": pa.string(),
        "start": pa.float64(),  # of the part of the recording that is asked about, null for all of it
        "duration": pa.float64(),
    }
)
_AT_A_TIME = 5_000


def question_record(placed: Placed, closed_tags: bool = False) -> dict[str, Any]:
    """A record of the AudioMCQ layout; start and duration stand in it where the recording is to be cut."""
    draft = placed.draft
    item = draft.item
    record: dict[str, Any] = {
        "source_dataset": item.source,
        "id": item.id,
        "question_type": draft.type,
        "audio_path": item.audio,
        "question": draft.question,
        "answer": draft.answer,
        "choices": placed.choices,
        "structured_cot": structured(draft, closed_tags),
        "unstructured_cot": unstructured(draft),
        "split": item.split,
    }
    if item.cut and item.at is not None:
        record |= {"start": round(item.at[0], 3), "duration": round(item.at[1] - item.at[0], 3)}
    return record


def grade_record(placed: Placed) -> dict[str, Any]:
    """The grades and marks of a question, for `pool`, `cells` and `weight` of a curriculum."""
    draft = placed.draft
    record: dict[str, Any] = {"uid": draft.item.uid}
    record |= {f"grade_{name}": draft.grades.get(name) for name in DIMENSIONS}
    record["grade_least"] = min(draft.grades.values(), default=None)
    record |= {"license": draft.item.license, "unheard": draft.unheard, "attempts": draft.attempts}
    return record | {"repaired": draft.repaired, "rewritten": draft.rewritten}


_GRADES = pa.schema(
    [("uid", pa.uint64()), *((f"grade_{name}", pa.int8()) for name in DIMENSIONS), ("grade_least", pa.int8())]
    + [("license", pa.string()), ("unheard", pa.float32()), ("attempts", pa.int16())]
    + [("repaired", pa.bool_()), ("rewritten", pa.bool_())]
)
_PROVENANCE = pa.schema(
    [("uid", pa.uint64()), ("key", pa.string()), ("origin", pa.string()), ("license", pa.string())]
    + [("start", pa.float64()), ("end", pa.float64()), ("writer", pa.string()), ("grader", pa.string())]
    + [("prompts", pa.string()), ("reason", pa.string())]
)


def provenance_record(placed: Placed, about: Mapping[str, str]) -> dict[str, Any]:
    """Where a question comes from and who made it. about: writer, grader, and hashes of the prompts."""
    item = placed.draft.item
    start, end = item.at or (None, None)
    record = {"uid": item.uid, "key": f"{item.source}/{item.id}", "origin": item.origin, "license": item.license}
    return record | {"start": start, "end": end, "reason": placed.draft.reason, **about}


def write_all(placed: Iterable[Placed], out: Path, about: Mapping[str, str], closed_tags: bool) -> dict[str, int]:
    """Writes `questions.jsonl`, `questions.parquet`, `hub/data/`, `grades.arrow` and `provenance.arrow` in one pass.

    Returns the questions of each split. Files appear when all are whole.
    """
    hub = out / "hub" / "data"
    made_folder(hub)
    splits: dict[str, int] = {}
    grades: list[pa.RecordBatch] = []
    provenance: list[pa.RecordBatch] = []
    files = {"": pq.ParquetWriter(out / "questions.parquet.partial", QUESTIONS)}
    with (out / "questions.jsonl.partial").open("w", encoding="utf-8") as lines:
        for batch in _batches(placed):
            records = [question_record(one, closed_tags) for one in batch]
            lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            files[""].write_table(pa.Table.from_pylist(records, QUESTIONS))
            for split in sorted({record["split"] for record in records}):
                own = [record for record in records if record["split"] == split]
                splits[split] = splits.get(split, 0) + len(own)
                if split not in files:
                    files[split] = pq.ParquetWriter(hub / f"{split}.partial", QUESTIONS)
                files[split].write_table(pa.Table.from_pylist(own, QUESTIONS))
            grades.append(pa.RecordBatch.from_pylist(list(map(grade_record, batch)), _GRADES))
            rows = [provenance_record(one, about) for one in batch]
            provenance.append(pa.RecordBatch.from_pylist(rows, _PROVENANCE))
    for file in files.values():
        file.close()
    write_arrow(pa.Table.from_batches(grades, _GRADES), out / "grades.arrow")
    write_arrow(pa.Table.from_batches(provenance, _PROVENANCE), out / "provenance.arrow")
    for old in hub.glob("*.parquet"):
        old.unlink()
    for split in splits:
        (hub / f"{split}.partial").replace(hub / f"{split}-00000-of-00001.parquet")
    for name in ("questions.parquet", "questions.jsonl"):
        (out / f"{name}.partial").replace(out / name)
    return splits


def _batches(placed: Iterable[Placed]) -> Iterator[list[Placed]]:
    batch: list[Placed] = []
    for one in placed:
        batch.append(one)
        if len(batch) == _AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch
