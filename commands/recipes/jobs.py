"""Jobs with a file of their own as steps of a recipe: voters that label, benchmarks that are asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from ...boundary.environment import hidden_in
from ...boundary.files import made_folder, write_text
from ...errors import InputError
from ..evaluation.job import BenchmarkSpec, EvaluationJob
from ..processes.forwarding import forwarded


def label_by_voters(
    index: str,
    out: str,
    voters: list[dict[str, Any]],
    conditions: list[str] | None = None,
    condition: str = "silence",
    rule: dict[str, Any] | str = "majority",
    pool: dict[str, Any] | None = None,
    max_unreadable: float = 0.2,
) -> dict[str, Any]:
    """Asks the voters, or those of them that have not answered yet, and labels; see `earwitness label JOB.yaml`.

    out: folder of answers, labels.arrow, jury.json and report.html. voters and the other arguments: as in the file of a
    job. Returns counts. InputError where the job makes no sense, or a voter cannot be asked.
    """
    from ..labelling.job import job_of
    from ..labelling.run import run_job

    spec: dict[str, Any] = {"index": index, "out": out, "voters": voters, "condition": condition, "rule": rule}
    spec |= {"conditions": conditions or [condition], "pool": pool or {}, "max_unreadable": max_unreadable}
    job, file = job_of(spec, ""), _written(Path(out) / "job.yaml", spec)
    if all(one.local is None or (one.local.devices, one.local.num_nodes) == (1, 1) for one in job.voters):
        return run_job(job)
    _ended(forwarded([sys.executable, "-m", "earwitness", "label", str(file)]), file)  # launchers fork a command
    return {"labels": str(Path(out) / "labels.arrow")}


def ask_benchmarks(
    checkpoint: str,
    benchmarks: dict[str, BenchmarkSpec | None],
    out: str,
    conditions: list[str] | None = None,
    rotations: int | Literal["all"] = 1,
    style: str | None = None,
    rule: str | None = None,
    train_index: list[str] | None = None,
    batch_size: int = 16,
    devices: int = 1,
) -> dict[str, Any]:
    """Asks a model the benchmarks, as `earwitness evaluate` does, and writes the folder of results `out`.

    checkpoint, conditions, rotations, style, rule, train_index, batch_size: as of `EvaluationJob`. benchmarks: name ->
    its files; null leaves one out. devices: processes that share the questions. Returns what each benchmark's strict
    share of right answers with the first condition is. InputError where something is not there.
    """
    wanted = {name: spec for name, spec in benchmarks.items() if spec is not None}
    how: dict[str, Any] = {"rotations": rotations, "style": style, "rule": rule, "batch_size": batch_size}
    heard = conditions or ["audio", "silence"]
    job = EvaluationJob(checkpoint, wanted, out, conditions=heard, train_index=train_index or [], **how)
    if devices == 1:
        from ..evaluation.run import run_evaluation

        run_evaluation(job)
    else:
        file = _written(Path(out) / "job.yaml", asdict(job))
        code = "from earwitness.commands.launch import lightning_main; lightning_main()"
        words = ["run", "--devices", str(devices), "--", "evaluate", str(file)]
        _ended(forwarded([sys.executable, "-c", code, *words]), file)
    return strict_scores(out)


def check_job(verb: str, given: Mapping[str, Any], where: str) -> None:
    """Raises InputError, before any step runs, for what such a step would refuse when it begins; given: its arguments.

    Files that steps before write may not be there yet, so they are left out.
    """
    if verb == "label_by_voters":
        from ..labelling.job import job_of

        job_of({key: value for key, value in given.items() if value is not None}, where)
    elif verb == "ask_benchmarks":
        files = {name: replace(spec, labels=None, strong=None, weak=None) for name, spec in given["benchmarks"].items()
                 if spec is not None}  # fmt: skip
        known = {"conditions", "rotations", "style", "rule", "batch_size"}
        how = {key: value for key, value in given.items() if key in known and value is not None}
        try:
            EvaluationJob(given["checkpoint"], files, given["out"], **how)
        except InputError as error:
            raise InputError(f"{where}{error}") from None


def _ended(code: int, job: Path) -> None:
    """Goes on where a process of a job's own ended well; a signal that ended it ends this one with the same code."""
    if code > 128:
        raise SystemExit(code)
    if code:
        raise InputError(f"{job}: asking ended with code {code}; its messages are above")


def strict_scores(folder: str) -> dict[str, Any]:
    """Benchmark -> percent of right answers under the first condition, by the main rule, of a folder of results."""
    from ...boundary.files import read_json

    found = read_json(Path(folder) / "results.json")
    return {one["name"]: _percent(one) for one in found["benchmarks"] if "scores" in one}


def _percent(found: Mapping[str, Any]) -> float:
    first = next(iter(found["scores"].values()))
    return round(100 * float(first[found["rule"]]["accuracy"][0]), 1)


def _written(path: Path, job: Mapping[str, Any]) -> Path:
    """The job as a file for the command that does it; JSON is YAML."""
    made_folder(path.parent)
    write_text(path, json.dumps(hidden_in(dict(job)), indent=1) + "\n", private=True)
    return path
