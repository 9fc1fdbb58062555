"""Evaluation: models compared by accuracy with and without audio, paired gains, and labels against the truth."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...boundary.files import made_folder
from ...errors import InputError
from ..arrays import Bools
from ..contribution.accuracy import Answers, contribution_by_group, group_rows, read_answers
from ..contribution.labels import WEAK, lucky_weak_share
from ..identity import uid_of
from ..statistics import mcnemar, paired_difference, wilson_interval
from ..table import Categorical, Table, read_table

HEARD = "heard"  # only the audio gives the answer; the others are answered from the text, by logic or by habit
KINDS = (HEARD, "logic", "prior")


def evaluate(
    answers: dict[str, str],
    index: str,
    out: str,
    labels: str | None = None,
    planted: str | None = None,
    groups: list[str] | None = None,
    title: str = "earwitness",
    logs: dict[str, str] | None = None,
    curriculum: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes `results.json`, everything the report shows; returns how many questions there are, and its path.

    Raises InputError without answers, and where the models answered different questions.

    Args:
        answers: model name -> answer table, in the order of training; neighbours are compared, and first with last.
        index: the shards' index. labels: label table. out: JSON file to write.
        planted: JSONL of {"key", "planted"}: how each question can be answered, for corpora whose truth is known.
        groups: text columns to report by; default label and question_type, and planted where it is known.
        title: heading of the report.
        logs: stage name -> folder of its CSV logs, for the learning curves. curriculum: for the composition picture.
    """
    table = read_table(index, labels)
    columns = list(groups or [name for name in ("label", "question_type") if name in table.columns])
    result: dict[str, Any] = {"title": title, "logs": logs or {}}
    result["files"] = {"answers": answers, "index": index, "labels": labels, "planted": planted}
    if planted is not None:
        table = _with_planted(table, planted)
        columns += ["planted", "heard_type"]
        result["labels"] = _label_quality(table)
    tables = {name: read_answers(path) for name, path in answers.items()}
    if not tables:
        raise InputError("evaluate: no answer table given")
    result["models"] = {name: contribution_by_group(a, group_rows(a, table, columns)) for name, a in tables.items()}
    names = list(tables)
    pairs = list(pairwise(names)) + ([(names[0], names[-1])] if len(names) > 2 else [])
    result["gains"] = [
        {"from": a, "to": b, "group": group, **_gain(tables[a], tables[b], rows)}
        for a, b in pairs
        for group, rows in group_rows(tables[a], table, columns).items()
    ]
    if curriculum is not None:
        result["composition"] = _composition(curriculum, index, labels)
    path = Path(out)
    made_folder(path.parent)
    path.write_text(json.dumps(result, indent=1))
    return {"questions": len(next(iter(tables.values())).uid), "results": out}


def _with_planted(table: Table, path: str) -> Table:
    """Adds `planted` ("heard" or "leaks") and `heard_type`, the question type of what can only be heard."""
    truth = {}
    with Path(path).open() as file:
        for line in file:
            record = json.loads(line)
            if record["planted"] not in KINDS:
                raise InputError(f"{path}: {record['key']} is planted {record['planted']!r}, not one of {KINDS}")
            source, _, identifier = record["key"].partition("/")
            truth[uid_of(source, identifier)] = record["planted"]
    kinds = [truth.get(uid, "") for uid in table.uid.tolist()]
    names = (HEARD, "leaks")
    codes = np.array([-1 if not kind else int(kind != HEARD) for kind in kinds], np.int32)
    types = table.text("question_type")
    heard_types = Categorical(np.where(codes == 0, types.codes, -1).astype(np.int32), types.names)
    return Table(table.uid, table.columns | {"planted": Categorical(codes, names), "heard_type": heard_types})


def _label_quality(table: Table) -> dict[str, Any]:
    """How often weak and strong labels agree with the planted truth, over the labelled questions."""
    label, planted = table.text("label"), table.text("planted")
    rows = np.flatnonzero((label.codes >= 0) & (planted.codes >= 0))
    if not len(rows):
        raise InputError("no labelled question has a planted truth; the planted file belongs to another corpus")
    weak = np.array(label.names)[label.codes[rows]] == WEAK
    leaks = planted.codes[rows] == 1
    agree = int((weak == leaks).sum())
    choices = np.asarray(table.columns["num_choices"])[rows]
    return {
        "questions": len(rows),
        "agreement": [agree / len(rows), *wilson_interval(agree, len(rows))],
        "weak_and_leaks": int((weak & leaks).sum()),
        "weak_but_heard": int((weak & ~leaks).sum()),
        "strong_but_leaks": int((~weak & leaks).sum()),
        "strong_and_heard": int((~weak & ~leaks).sum()),
        # For the paper's rule, two of three voters; with other rules guessing makes more or fewer questions weak.
        "weak_by_luck_expected": lucky_weak_share(choices[~leaks]) if (~leaks).any() else None,
    }


def _gain(before: Answers, after: Answers, rows: Bools) -> dict[str, Any]:
    """The change of accuracy with audio over the questions `rows` [N], and McNemar's mid-p."""
    if not np.array_equal(before.uid, after.uid):
        raise InputError("two models answered different questions; their gains cannot be paired")
    a, b = before.correct["audio"][rows], after.correct["audio"][rows]
    gained, lost = int((b > a).sum()), int((a > b).sum())
    return {"difference": list(paired_difference(a, b)), "gained": gained, "lost": lost, "p": mcnemar(gained, lost)}


def _composition(spec: dict[str, Any], index: str, labels: str | None) -> dict[str, dict[str, int]]:
    """Stage -> label -> rows that the curriculum takes of the split "train"."""
    from ..plan.plan import Plan
    from ..schedule.stages import parse_curriculum

    table = read_table(index, labels)
    table = table.take(table.where({"split": "train"}))
    plan = Plan(parse_curriculum(spec), table)
    return {name: plan.composition(name, "label") for name in plan.stages}
