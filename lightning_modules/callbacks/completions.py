"""Knows how to show what a policy says while it trains: a table of all completions, and a page to read."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import InputError
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
        """Every n-th step; SFT steps have no completions."""
        if batch.step % self.every_n_steps or not pl_module.experiences:
            return
        gathered = pl_module.ranks.gathered([row for each in pl_module.experiences for row in records(each)])
        if trainer.is_global_zero:
            rows = [row for part in gathered for row in part]
            self.folder.mkdir(parents=True, exist_ok=True)
            _whole(self.folder / f"step-{batch.step:06d}.parquet", lambda path: pq.write_table(_table(rows), path))
            page = completions_page(rows, self.prompts)
            _whole(self.folder / "latest.html", lambda path: path.write_text(page, encoding="utf-8"))


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
    scratch = path.with_name(path.name + ".partial")
    write(scratch)
    scratch.replace(path)


_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
h1{font-size:1.3rem} section{border-top:1px solid #d5dae0;padding:.8rem 0} .meta{color:#5b6570;font-size:.85rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin-top:.4rem} td,th{text-align:left;padding:.2rem .5rem}
th{color:#5b6570;font-weight:500;border-bottom:1px solid #d5dae0}
td.n{text-align:right;font-variant-numeric:tabular-nums}
td.said{font-family:ui-monospace,monospace;white-space:pre-wrap;word-break:break-word;width:60%}
.up td:first-child{border-left:4px solid #1a7f5a} .down td:first-child{border-left:4px solid #c4453c}
.flat td:first-child{border-left:4px solid #b8c0c8} b.right{color:#1a7f5a} .cut{color:#9a6700}
"""


def completions_page(rows: list[dict[str, Any]], prompts: int) -> str:
    """HTML: each question with its options and its group, best first; green was worth more than the group's mean.

    Questions that taught something come first; completions with the same words and reward are one line.
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["uid"], row["key"]), []).append(row)
    shown = sorted(groups.values(), key=lambda group: all(row["advantage"] == 0 for row in group))[:prompts]
    step = rows[0]["step"] if rows else 0
    body = "".join(_section(group) for group in shown)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Completions, step {step}</title>"
        f"<style>{_STYLE}</style><h1>Completions of step {step}</h1>"
        f"<p class='meta'>{len(shown)} of {len(groups)} questions, those that taught something first. Green: worth "
        f"more than the mean of its group, red: less, grey: nothing to learn.</p>{body}</html>"
    )


def _section(group: list[dict[str, Any]]) -> str:
    first = group[0]
    choices = " &middot; ".join(
        f"<b class='right'>{escape(choice)}</b>" if choice == first["answer"] else escape(choice)
        for choice in first["choices"]
    )
    meta = [first["label"] or "unlabelled", escape(first["key"])]
    if first["silence"] is not None:
        meta.append(f"right in silence {first['silence']:.2f}")
    if not first["kept"]:
        meta.append("not trained on: no advantage")
    names = [name for name, _ in first["parts"]]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("said", *names, "reward", "advantage", "tokens"))
    ordered = sorted(group, key=lambda row: -(row["reward"] if row["reward"] is not None else float("-inf")))
    same: dict[tuple, list[dict[str, Any]]] = {}
    for row in ordered:
        same.setdefault((row["completion"], row["reward"], row["finished"]), []).append(row)
    lines = "".join(_line(alike[0], len(alike)) for alike in same.values())
    return (
        f"<section><div>{escape(first['question'])}</div><div>{choices}</div>"
        f"<div class='meta'>{' | '.join(meta)}</div><table><tr>{head}</tr>{lines}</table></section>"
    )


def _line(row: dict[str, Any], times: int) -> str:
    kind = "flat" if row["advantage"] == 0 else "up" if row["advantage"] > 0 else "down"
    cut = "" if row["finished"] else " <span class='cut'>(cut)</span>"
    values = [*(value for _, value in row["parts"]), row["reward"], row["advantage"]]
    cells = "".join(f"<td class='n'>{'&ndash;' if value is None else f'{value:.2f}'}</td>" for value in values)
    said = escape(row["completion"]) or "<span class='meta'>nothing</span>"
    often = f" <span class='meta'>&times; {times}</span>" if times > 1 else ""
    return (
        f"<tr class='{kind}'><td class='said'>{said}{cut}{often}</td>{cells}<td class='n'>{row['num_tokens']}</td></tr>"
    )
