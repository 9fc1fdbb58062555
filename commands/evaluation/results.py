"""What is made of an evaluation's answers: figures, predictions, outcomes by question, provenance, the page."""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ... import __version__
from ...boundary.files import read_text, write_text
from ...curriculum.arrays import Texts
from ...curriculum.contribution.jury import STRONG, WEAK
from ...curriculum.evaluation.benchmark_report import describe_benchmark
from ...curriculum.evaluation.contrasts import correct_for_many
from ...curriculum.evaluation.outcomes import NOT_ASKED, OUTCOMES, QuestionSet
from ...curriculum.table import read_arrow, write_arrow
from ...datamodules.benchmarks.questions import OpenBenchmark
from ...datamodules.questions.answers import reading_of
from ...datamodules.voting.answer_store import AnswerStore
from ...datamodules.voting.evaluation import EvaluationTasks, Judge
from ...errors import InputError
from ...reports.evaluation_page import build_evaluation_page
from ...reports.records import Item
from .job import BenchmarkSpec, EvaluationJob
from .overlap import overlaps
from .page import items_of, sampled

RESULTS = "results.json"
_PACKAGES = ("torch", "transformers", "numpy", "pyarrow")
_SHOWN = 20  # reasons that stand in results.json; all of them are in missing/NAME.jsonl


@dataclass(frozen=True)
class Answered:
    """One benchmark with what was answered: its tasks and the store of the answers."""

    opened: OpenBenchmark
    tasks: EvaluationTasks
    store: AnswerStore


def write_results(
    job: EvaluationJob, answered: Sequence[Answered], facts: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Writes everything that is made of the answers; returns the content of results.json.

    facts: what the answers depend on of model and prompt.
    """
    rules = [job.rule] if job.rule else []
    results: list[dict[str, Any]] = []
    items: list[Item] = []
    for one in answered:
        one.store.finish()
        records = one.store.read()
        judge = Judge(one.opened, one.tasks, rules)
        questions = judge.question_set(records, job.conditions)
        labels = given_labels(job.benchmarks[one.opened.name], one.opened, questions)
        found = _about(one, job, questions) | describe_benchmark(questions, job.main_rule, labels)
        found["missing"] = _missing(folder / "missing" / f"{one.opened.name}.jsonl", one.opened)
        found["warnings"] += [
            f"{count:,} of {found['questions']:,} questions were not answered under {name}, and count as wrong: "
            "its numbers say little of the model"
            for name, count in found["missing"]["questions"].items()
            if count > found["questions"] / 10
        ]
        found["predictions"] = _write_predictions(one, judge, records, job, folder / "predictions")
        _write_outcomes(questions, labels, folder / "outcomes" / f"{one.opened.name}.arrow")
        results.append(found)
        items += items_of(one.opened.name, judge, records, questions, job.main_rule, list(labels.values()))
        if job.train_index:
            found["overlap"] = overlaps(one.opened, job.train_index)
    tests = correct_for_many(results)
    whole = {
        "title": job.title or f"Evaluation of {job.model or job.checkpoint}",
        "made": _provenance(job, facts),
        "tests": tests,
        "benchmarks": results,
    }
    whole = dict(finite(whole))
    write_text(folder / RESULTS, json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    build_evaluation_page(whole, sampled(items), folder / "report.html")
    return whole


def _provenance(job: EvaluationJob, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers were made with: model, prompt, decoding, parser, versions; no address and no key."""
    versions = {"earwitness": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    parser = reading_of(job.rule) if job.rule and job.rule != "strict" else reading_of("exact")
    return {
        **facts,
        "parser": {"rule": job.main_rule, "reading": parser["reading"]},
        "conditions": job.conditions,
        "rotations": job.rotations,
        "versions": versions,
    }


def _about(one: Answered, job: EvaluationJob, questions: QuestionSet) -> dict[str, Any]:
    """What the benchmark is, and the hashes of its files."""
    opened, benchmark = one.opened, one.opened.benchmark
    facts = list(benchmark.facts)
    if benchmark.official is None:
        facts.insert(0, f"no official number: {benchmark.why_not}")
    if job.rule == "mmau" and benchmark.name == "mmsu":
        facts.append("rule mmau ignores the order of words, which inflated published results on MMSU")
    if opened.lists:
        lists = [f"{count} values of {name} are lists" for name, count in opened.lists.items()]
        facts.append(f"{', '.join(lists)}; they count as what they hold")
    return {
        "name": opened.name,
        "benchmark": benchmark.name,
        "file": opened.path,
        "question_hash": opened.question_hash,
        "audio_hash": opened.audio_hash,
        "official_rule": benchmark.rule,
        "facts": facts,
        "left_out": opened.left_out,
        "recordings": len(np.unique(questions.clip)),
    }


def _missing(path: Path, opened: OpenBenchmark) -> dict[str, Any]:
    """What was not asked or not answered: records that are no questions, and failures by condition, with reasons."""
    failures = [json.loads(line) for line in read_text(path).splitlines()] if path.is_file() else []
    reader = opened.reader
    names = dict(zip(reader.numbers["uid"].tolist(), map(reader.key, range(len(reader))), strict=True))
    counts = Counter(failure["condition"] for failure in failures)
    whole = Counter(condition for condition, _ in {(failure["condition"], failure["uid"]) for failure in failures})
    reasons = {f"{names.get(failure['uid'], failure['uid'])}: {failure['error']}" for failure in failures}
    reasons |= {reason for _, reason in opened.unusable}
    return {
        "records": len(opened.unusable),
        "tasks": dict(sorted(counts.items())),
        "questions": dict(sorted(whole.items())),
        "reasons": sorted(reasons)[:_SHOWN],
        "more": max(0, len(reasons) - _SHOWN),
    }


def given_labels(spec: BenchmarkSpec, opened: OpenBenchmark, questions: QuestionSet) -> dict[str, Texts]:
    """Origin -> [N] strong, weak or "": from a label table and from lists of ids. InputError for none."""
    found: dict[str, Texts] = {}
    if spec.labels:
        table = read_arrow(spec.labels)
        if not {"uid", "label"} <= set(table.column_names):
            raise InputError(f"{spec.labels}: has no columns uid and label; `earwitness label` writes such a table")
        of_uid = dict(zip(table.column("uid").to_pylist(), table.column("label").to_pylist(), strict=True))
        labels = np.array([of_uid.get(uid) or "" for uid in questions.uid.tolist()], dtype="<U6")
        if not (labels != "").any():
            raise InputError(f"{spec.labels}: labels no question of {opened.path}; it belongs to another corpus")
        found[f"labels of {Path(spec.labels).name}"] = labels
    listed = np.full(len(questions.keys), "", dtype="<U6")
    for label, path in ((STRONG, spec.strong), (WEAK, spec.weak)):
        if path:
            listed[_listed(path, questions)] = label
    if (listed != "").any():
        found["lists of ids"] = listed
    return found


def _listed(path: str, questions: QuestionSet) -> np.ndarray:
    """[n] questions whose id or key stands in a file, one a line; InputError where none does."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such list of ids")
    wanted = {line.strip() for line in read_text(path).splitlines() if line.strip()}
    rows = [n for n, key in enumerate(questions.keys) if key in wanted or key.partition("/")[2] in wanted]
    if not rows:
        raise InputError(f"{path}: none of its {len(wanted):,} ids is of a question in the file")
    return np.array(rows, np.int64)


def _write_predictions(
    one: Answered, judge: Judge, records: Sequence[Mapping[str, Any]], job: EvaluationJob, folder: Path
) -> dict[str, list[str]]:
    """Writes predictions in the benchmark's own form for every condition; returns condition -> files."""
    write = one.opened.benchmark.write
    written: dict[str, list[str]] = {}
    for condition in job.conditions if write is not None else ():
        predicted = judge.predicted(record for record in records if record["condition"] == condition)
        assert write is not None
        for name, content in write(predicted).items():
            place = folder / one.opened.name / condition.replace(":", "-") / name
            write_text(place, content)
            written.setdefault(condition, []).append(str(place.relative_to(folder.parent)))
    return written


def _write_outcomes(questions: QuestionSet, labels: Mapping[str, Texts], path: Path) -> None:
    """Writes every question's outcomes, as a table with a row for each condition and order of the options.

    labels: origin -> [N]; a question's label is the first that is known, null where none is.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("uid", "key", "clip", "condition", "rotation", "official")}
    columns["label"] = []
    names = ["missing" if code < 0 else OUTCOMES[code] for code in range(-1, len(OUTCOMES))]
    rules = list(next(iter(questions.heard.values())).outcomes)
    columns |= {rule: [] for rule in rules} | {"option": []}
    for condition, heard in questions.heard.items():
        asked = heard.outcomes[rules[0]] != NOT_ASKED
        for rotation, row in np.argwhere(asked).tolist():
            columns["uid"].append(int(questions.uid[row]))
            columns["key"].append(questions.keys[row])
            columns["clip"].append(int(questions.clip[row]))
            columns["condition"].append(condition)
            columns["rotation"].append(rotation)
            columns["official"].append(int(heard.official[row]) if rotation == 0 else None)
            columns["option"].append(int(heard.option[rotation, row]))
            columns["label"].append(next((str(one[row]) for one in labels.values() if one[row]), None))
            for rule in rules:
                columns[rule].append(names[int(heard.outcomes[rule][rotation, row]) + 1])
    kinds = {"uid": pa.uint64(), "clip": pa.uint64(), "label": pa.string()}
    write_arrow(pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()}), path)


def finite(value: Any) -> Any:
    """The value with None for every number that is missing: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
