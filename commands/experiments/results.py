"""What the runs of an experiment answered, side by side: the recipe's own questions, and benchmarks if it asks any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...boundary.words import say
from ...curriculum.arrays import Floats, Hashes, Texts
from ...curriculum.contribution.accuracy import read_answers
from ...curriculum.evaluation.arms import Asked, Trial
from ...curriculum.evaluation.comparison import rules_of
from ...curriculum.identity import hash64
from ...curriculum.table import Categorical, Table, read_arrow, read_table
from ...errors import InputError
from .expansion import Expansion, RunOf

OWN = "held-out questions"


class Answered(NamedTuple):
    """What one run answered of a benchmark: [N] questions, their clusters and labels, what each model had right."""

    uid: Hashes
    cluster: Hashes
    label: Texts
    models: Mapping[str, Floats]


def asked_of(expansion: Expansion, cluster: str, condition: str = "audio") -> list[Asked]:
    """What all runs answered under a condition, by benchmark; only questions that all runs have count.

    cluster: "clip" or "source", what answers depend on each other by. Raises InputError where runs share no question,
    or label them differently.
    """
    found: dict[str, dict[RunOf, Answered]] = {}
    for run, places in expansion.places.items():
        for name in places.values():
            for benchmark, answered in _answered(expansion.steps[name], cluster, condition):
                found.setdefault(benchmark, {})[run] = answered
    for benchmark, runs in found.items():
        if missing := [run.name for run in expansion.places if run not in runs]:
            raise InputError(f"{benchmark}: {missing[0]} has no answers to it; every run must be asked the same")
    return [_shared(benchmark, runs) for benchmark, runs in found.items()]


def _answered(step: Mapping[str, Any], cluster: str, condition: str) -> Iterator[tuple[str, Answered]]:
    """The benchmarks whose answers a step of a run looks at: those of `evaluate`, and of `score_table`."""
    if step.get("do") == "evaluate":
        tables = [read_answers(path) for path in step["answers"].values()]
        if all(condition in table.correct for table in tables):
            uid = tables[0].uid
            if not all(np.array_equal(table.uid, uid) for table in tables):
                raise InputError(f"{step['out']}: the models of one run answered different questions")
            whole = read_table(step["index"], step.get("labels"))
            models = dict(zip(step["answers"], (table.correct[condition] for table in tables), strict=True))
            yield OWN, Answered(uid, *_facts(whole, uid, cluster), models)
    elif step.get("do") == "score_table":
        folders = {model: Path(folder) / "outcomes" for model, folder in step["results"].items()}
        for path in sorted(next(iter(folders.values())).glob("*.arrow")):
            if all((folder / path.name).is_file() for folder in folders.values()):
                of_model = {m: _outcomes(folder / path.name, condition, cluster) for m, folder in folders.items()}
                every = list(of_model.values())
                if shared := [uid for uid in every[0] if all(uid in one for one in every)]:
                    yield path.stem, _answered_by(of_model, shared)


def _answered_by(of_model: Mapping[str, Mapping[int, tuple[int, str, float]]], shared: Sequence[int]) -> Answered:
    """What was answered of the questions that all models have; of_model: model -> uid -> (cluster, label, right)."""
    first = next(iter(of_model.values()))
    cluster = np.array([first[uid][0] for uid in shared], np.uint64)
    label = np.array([first[uid][1] for uid in shared])
    models = {model: np.array([found[uid][2] for uid in shared]) for model, found in of_model.items()}
    return Answered(np.array(shared, np.uint64), cluster, label, models)


def _facts(table: Table, uid: Hashes, cluster: str) -> tuple[Hashes, Texts]:
    """[N] clusters and labels of questions that the index holds."""
    order = np.argsort(table.uid)
    slot = order[np.minimum(np.searchsorted(table.uid[order], uid), len(table) - 1)]
    if not np.array_equal(table.uid[slot], uid):
        raise InputError("answers name questions that the index does not hold; they belong to another corpus")
    label = table.columns.get("label")
    names = np.array([*label.names, ""])[label.codes[slot]] if isinstance(label, Categorical) else np.full(len(uid), "")
    return table.identity(cluster)[slot], names


def _outcomes(path: Path, condition: str, cluster: str) -> dict[int, tuple[int, str, float]]:
    """uid -> (cluster, label, 1 where it was right by the strict rule) in the order of the file's options."""
    table = read_arrow(path)
    rules = rules_of(table)
    rule = "strict" if "strict" in rules else rules[0]
    found = {}
    for row in table.to_pylist():
        if row["condition"] == condition and row["rotation"] == 0:
            belongs = int(row["clip"]) if cluster == "clip" else hash64("source", row["key"].partition("/")[0])
            found[int(row["uid"])] = (belongs, row.get("label") or "", float(row[rule] == "right"))
    return found


def _shared(benchmark: str, runs: Mapping[RunOf, Answered]) -> Asked:
    """One benchmark over the questions that all runs answered, which are said where they are not all."""
    every: Sequence[Answered] = list(runs.values())
    uid = every[0].uid
    for one in every[1:]:
        uid = np.intersect1d(uid, one.uid)
    uid = np.sort(uid)
    union = len(np.unique(np.concatenate([one.uid for one in every])))
    if not len(uid):
        raise InputError(f"{benchmark}: the runs share no question; arms are compared on the same questions")
    if union > len(uid):
        left = f"{union - len(uid):,} of {union:,} questions"
        say(f"note: {benchmark}: {left} were not answered by all runs; they do not count")
    trials, label, cluster = [], None, every[0].cluster
    for run, one in runs.items():
        order = np.argsort(one.uid)
        rows = order[np.searchsorted(one.uid[order], uid)]
        if label is not None and not np.array_equal(label, one.label[rows]):
            raise InputError(
                f"{benchmark}: {run.name} was judged by other labels; arms are compared by the same labels"
            )
        label, cluster = one.label[rows], one.cluster[rows]
        models = {name: right[rows] for name, right in one.models.items()}
        before, after = next(iter(models.values())), list(models.values())[-1]
        trials.append(Trial(run.arm, run.train, run.draw, before, after, models))
    assert label is not None
    return Asked(benchmark, cluster, label, trials, union - len(uid))
