"""A lab's own training and asking, in no time: a model is a file with a number, how much it has seen of which label.

What it answers is a hash of question and seed, and right more often the more it has seen of the question's label.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from earwitness.curriculum.identity import keyed, splitmix64, unit
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import read_arrow, read_table, write_arrow

TRAIN, TEST = 400, 120


def _ran(folder: Path, name: str) -> None:
    """Counts how often a step was run to its end: a line in a file beside all folders."""
    with (folder.parent / "ran.txt").open("a") as file:
        file.write(f"{name} {folder.name}\n")


def corpus(out: str, seed: int = 1, seconds: float = 0.0) -> dict[str, int]:
    """An index and labels of made-up questions, three on a recording."""
    time.sleep(seconds)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    uid = splitmix64(np.arange(TRAIN + TEST, dtype=np.uint64) + np.uint64(1_000 * seed))
    weak = unit(keyed(uid, seed, "label")) < 0.55
    index = {
        "uid": uid,
        "source": [("a", "b")[int(n) % 2] for n in range(len(uid))],
        "split": ["train"] * TRAIN + ["test"] * TEST,
        "clip": splitmix64(np.arange(len(uid), dtype=np.uint64) // np.uint64(3)),
        "duration_s": 2.0 + (uid % np.uint64(7)).astype(float),
        "num_choices": np.full(len(uid), 4.0),
    }
    write_arrow(pa.table(index), folder / "index.arrow")
    write_arrow(pa.table({"uid": uid, "label": np.where(weak, "weak", "strong")}), folder / "labels.arrow")
    _ran(folder, "corpus")
    return {"questions": len(uid)}


def train(
    checkpoint: str,
    index: str,
    labels: str,
    curriculum: dict[str, Any],
    stage: str,
    out: str,
    lr: float = 1.0,
    seed: int = 1,
    seconds: float = 0.0,
) -> dict[str, float]:
    """Adds to the model what the stage of the curriculum shows it."""
    time.sleep(seconds)
    table = read_table(index, labels)
    table = table.take(table.where({"split": "train"}))
    plan = Plan(parse_curriculum(curriculum), table)
    mix = plan.composition(stage, "label")
    model = json.loads(Path(checkpoint).read_text())
    for label in ("weak", "strong"):
        model[label] = min(0.95, model[label] + lr * mix.get(label, 0) / 1_000)
    model["seed"] = model["seed"] * 31 + seed
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(model))
    _ran(Path(out).parent, stage)
    return model


def start(out: str) -> None:
    """A model that guesses."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps({"weak": 0.4, "strong": 0.3, "seed": 0}))


def ask(checkpoint: str, index: str, labels: str, out: str) -> None:
    """An answer table of the test questions, with the audio and in silence."""
    model = json.loads(Path(checkpoint).read_text())
    whole = read_arrow(index)
    label = dict(zip(*(read_arrow(labels).column(name).to_pylist() for name in ("uid", "label")), strict=True))
    rows = [
        uid
        for uid, split in zip(*(whole.column(n).to_pylist() for n in ("uid", "split")), strict=True)
        if split == "test"
    ]
    uid = np.array(rows, np.uint64)
    share = np.array([model[label[one]] for one in rows])
    columns: dict[str, list[Any]] = {name: [] for name in ("uid", "condition", "correct")}
    for condition, of in (("audio", share), ("silence", np.full(len(uid), 0.25))):
        right = unit(keyed(uid, model["seed"], condition)) < of
        columns["uid"] += rows
        columns["condition"] += [condition] * len(rows)
        columns["correct"] += right.tolist()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_arrow(pa.table(columns | {"uid": pa.array(columns["uid"], pa.uint64())}), out)
