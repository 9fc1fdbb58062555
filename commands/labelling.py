"""A labelling job: every voter is asked what it was not asked yet; then labels, statistics and a report.

A file of this kind:
    index: data/shards/index.arrow
    out: runs/labels
    conditions: [audio, silence]
    rule: majority
    voters:
      - name: kimi
        endpoint: {url: "http://host:8000/v1", model: moonshotai/Kimi-Audio-7B-Instruct}
        style: letters
        rule: letter
      - {name: r1-aqa, checkpoint: mispeech/r1-aqa, scoring: generate}
      - {name: omni, checkpoint: Qwen/Qwen2.5-Omni-7B, scoring: options, rotations: all}
      - {name: earlier, answers: runs/votes/earlier.arrow}
Answers are kept one by one, so an interrupted job goes on where it stopped and asks nothing twice.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..curriculum.contribution.jury import parse_rule
from ..curriculum.contribution.jury_report import describe_jury
from ..curriculum.contribution.labels import label, read_about
from ..curriculum.contribution.verdicts import Readable, check_table, read_verdicts
from ..curriculum.contribution.votes import read_tallies
from ..curriculum.statistics import wilson_interval
from ..curriculum.table import Table, read_arrow, read_table
from ..datamodules.questions.answers import reading_of
from ..datamodules.questions.prompts import prompt_text
from ..datamodules.questions.question import Question
from ..datamodules.shards.reader import ShardReader
from ..datamodules.storage.files import Reading
from ..datamodules.voting.answer_store import AnswerStore
from ..datamodules.voting.rejudging import JUDGED, judge_again
from ..datamodules.voting.tasks import NO_AUDIO, Ask, Reply, Task, VoterTasks, price
from ..errors import InputError
from ..lightning_modules.voters.endpoint import Endpoint
from ..progress import counter
from .label_job import LabelJob, VoterSpec
from .local_asking import ask_local


class Questions(NamedTuple):
    """The questions of a job, opened once: the reader and the table of their index, and the rows [N] of the pool."""

    reader: ShardReader
    table: Table
    rows: np.ndarray


def open_questions(job: LabelJob) -> Questions:
    """Opens the index of a job; InputError where it is not there, or where no question is in the pool."""
    table = read_table(job.index)
    rows = table.where(job.pool)
    if not len(rows):
        raise InputError(f"no question in the pool {job.pool}")
    return Questions(ShardReader(job.index, Reading(shards=job.shards)), table, rows)


def run_job(job: LabelJob, dry_run: bool = False) -> dict[str, Any]:
    """Asks, labels and reports; returns counts for a printed line, nothing on other ranks than the first.

    dry_run: prints the requests, minutes of audio, tokens and money that asking would take, and asks nothing.
    """
    questions = open_questions(job)
    folder = Path(job.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: out must be a folder")
    for voter in job.voters:
        _check_checkpoint(voter, job.conditions)
    answers: dict[str, str] = {}
    totals: list[dict[str, int]] = []
    for voter in job.voters:
        most = job.max_unreadable if voter.max_unreadable is None else voter.max_unreadable
        if voter.answers is not None:
            answers[voter.name] = voter.answers
            if not dry_run and not _rank():
                _say(check_table(voter.name, voter.answers, most).line())
            continue
        voter_tasks = VoterTasks(questions.reader, voter.prompting, job.seed)
        store = AnswerStore(folder / "answers" / f"{voter.name}.arrow")
        tasks = voter_tasks.tasks(questions.rows.tolist(), job.conditions)
        described = _described(voter, voter_tasks)
        store.refuse_changed(voter.name, described, free=JUDGED)
        missing = set(store.missing([task.id for task in tasks]))
        todo = [task for task in tasks if task.id in missing]
        if dry_run:
            print(f"{voter.name}: {_priced(price(voter_tasks, todo, voter.price), len(tasks) - len(todo))}")
            continue
        if not _rank():
            _say(judge_again(voter.name, voter_tasks, store, described))
            store.remember(described)
        totals.append(_ask(voter, voter_tasks, store, todo, len(tasks), most))
        answers[voter.name] = str(store.file)
    if dry_run or _rank():
        return {}
    asked = {key: sum(counts[key] for counts in totals) for key in ("asked", "failed")} if totals else {}
    return asked | finish_job(job, questions, answers)


def _check_checkpoint(voter: VoterSpec, conditions: Sequence[str]) -> None:
    """Before the first voter is asked, what would stop the last."""
    if voter.local is not None:
        from ..lightning_modules.voters.local import kind_of

        if kind_of(voter.local.checkpoint) == "omni" and NO_AUDIO in conditions:
            raise InputError(f"{voter.name}: Qwen2.5-Omni is asked with a recording here; use silence, or an endpoint")


def _priced(takes: Mapping[str, Any], done: int) -> str:
    """What asking takes, as a line; done: tasks that are answered already."""
    text = f"{takes['requests']:,} requests, {takes['audio_minutes']:,} minutes of audio, "
    text += f"about {takes['input_tokens']:,} input tokens"
    if "cost" in takes:
        text += f", about {takes['cost']:,} in money"
    return text + (f" ({done:,} are answered already)" if done else "")


def _described(voter: VoterSpec, voter_tasks: VoterTasks) -> dict[str, Any]:
    """All that answers depend on: model, settings, words of the prompt, recordings and seed."""
    words = prompt_text(voter.prompting.style, "{question}", ("{first}", "{second}"))
    asked = {"prompt": words, "content": voter_tasks.reader.content(), "seed": voter_tasks.seed}
    return voter.described() | asked | reading_of(voter.prompting.rule)


def _ask(
    voter: VoterSpec, voter_tasks: VoterTasks, store: AnswerStore, todo: list[Task], total: int, most: float
) -> dict[str, int]:
    """Asks a voter what is left to do and keeps the answers one by one; returns counts. total: of its tasks.

    most: share of its answers that may be unfinished or unreadable; InputError beyond it, whenever they were asked.
    """
    counts = {"asked": len(todo), "failed": 0, "input_tokens": 0, "output_tokens": 0}
    readable = Readable(voter.name, most, store.read())
    ways_out = (
        f"judge what is stored by another rule, or ask anew ({store.folder} removed, or the voter renamed) in another "
        f"style or with a larger {'max_new_tokens' if voter.local else 'max_tokens'}"
    )
    if not _rank():
        readable.check(ways_out)
    if voter.endpoint is not None and todo and not _rank():
        failures: list[dict[str, Any]] = []
        with counter(f"asking {voter.name}", total, total - len(todo)) as advance:

            def take(ask: Ask, reply: Reply) -> None:
                if reply.error:
                    failures.append({**ask.task.id._asdict(), "error": reply.error})
                else:
                    record = voter_tasks.record(ask, reply)
                    store.append([record])
                    readable.add(record)
                counts["input_tokens"] += reply.prompt_tokens
                counts["output_tokens"] += reply.completion_tokens
                advance()

            def asks() -> Iterator[Ask]:
                for task in todo:
                    readable.check(ways_out)
                    yield voter_tasks.ask(task)

            try:
                voter.endpoint.ask_all(asks(), take, answered_before=len(todo) < total)
            finally:
                _write_failures(store.file.with_suffix(".failed.jsonl"), failures)
        counts["failed"] = len(failures)
    elif voter.local is not None and todo:
        ask_local(voter, voter.local, voter_tasks, store, todo, readable)
    if not _rank():
        whole = Readable(voter.name, most, store.read())  # of all processes
        _say(whole.line())
        whole.check(ways_out)
        store.finish()
    return counts


def _say(line: str) -> None:
    """Prints a line beside the progress; nothing for ""."""
    if line:
        print(line, file=sys.stderr, flush=True)


def _rank() -> int:
    """This process's number where a launcher started several: only the first talks to servers and writes tables."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return max(int(os.environ.get(name, "0")) for name in ("NODE_RANK", "LOCAL_RANK"))  # Lightning's own launcher


def _write_failures(path: Path, failures: Iterable[Mapping[str, Any]]) -> None:
    """Lists what failed in a file beside the answers; removes the list of a run before where nothing did."""
    lines = "".join(json.dumps(failure) + "\n" for failure in failures)
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines)
        print(f"some requests failed, see {path}; the same command asks them again", file=sys.stderr)
    else:
        path.unlink(missing_ok=True)


def finish_job(job: LabelJob, questions: Questions, answers: Mapping[str, str]) -> dict[str, Any]:
    """Writes labels, statistics and report; returns counts of the labels and where they are.

    answers: voter -> its answer table.
    """
    folder = Path(job.out)
    about = {
        "conditions": job.conditions,
        "asked": [voter.described() for voter in job.voters],
        "seed": job.seed,
    }
    labels = folder / "labels.arrow"
    table = questions.table.take(questions.rows)
    options: dict[str, Any] = {"index": job.index, "rule": job.rule, "condition": job.condition, "about": about}
    counts = label(
        dict(answers), str(labels), allow_missing=job.allow_missing, only=table.uid, max_unreadable=1.0, **options
    )
    tallies = {name: read_tallies(path) for name, path in answers.items()}
    jury = describe_jury(tallies, table, parse_rule(job.rule), job.condition, job.bootstrap)
    jury["verdicts"] = {name: read_verdicts(path) for name, path in answers.items()}
    jury |= {"title": job.title, "about": read_about(labels), "index": job.index}
    if job.judge is not None:
        jury["categories"] = _categories(job.judge, questions.reader, labels)
    (folder / "jury.json").write_text(json.dumps(_finite(jury), indent=1, default=str, allow_nan=False))
    from ..reports.label_page import build_jury_page

    page = build_jury_page(jury, questions.reader, labels, answers, folder / "report.html")
    return counts | {"labels": str(labels), "report": str(page)}


def _finite(value: Any) -> Any:
    """The value with None for every number that is missing: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _categories(judge: Endpoint, reader: ShardReader, labels: Path) -> dict[str, Any]:
    """Why the weak questions need no audio: counts per category; every judgement is kept in a table.

    labels: the label table; what is judged already is not asked again.
    """
    from ..lightning_modules.voters.judge import CATEGORIES, PROMPT, category_of, judge_questions

    table = read_arrow(labels)
    weak = {
        u for u, name in zip(*(table.column(c).to_pylist() for c in ("uid", "label")), strict=True) if name == "weak"
    }
    store = AnswerStore(labels.parent / "answers" / "categories.arrow")
    asked = {name: getattr(judge, name) for name in ("model", "system", "temperature", "max_tokens", "body")}
    asked |= {"prompt": PROMPT, "content": reader.content()}
    store.refuse_changed("the judge", asked)
    store.remember(asked)
    done = {record["uid"] for record in store.read()}
    rows = [row for row, uid in enumerate(reader.numbers["uid"].tolist()) if uid in weak and uid not in done]

    def take(question: Question, category: str, reply: Reply) -> None:
        if not reply.error:
            record = {"uid": question.uid, "key": question.key, "condition": "category", "raw": reply.text}
            record |= {"num_tokens": reply.completion_tokens, "finished": reply.finished}
            store.append([record | {"answer": category}])
        advance()

    with counter("judging weak questions", len(weak), len(weak) - len(rows)) as advance:
        judge_questions(judge, [reader.question(row) for row in rows], take, answered_before=bool(done))
    store.rewrite(lambda records: [{**r, "answer": category_of(r["raw"], r["finished"])} for r in records])
    store.finish()
    of_weak = [record for record in store.read() if record["uid"] in weak]
    said = [record["answer"] for record in of_weak]
    counts = {name: said.count(name) for name in CATEGORIES}
    named = sum(counts.values())
    return {
        "judge": judge.model,
        "weak": len(weak),
        "counts": counts,
        "undecided": len(weak) - named,
        "unfinished": sum(not record["finished"] and not record["answer"] for record in of_weak),
        "implicit": [counts[CATEGORIES[1]] / max(1, named), *wilson_interval(counts[CATEGORIES[1]], named)],
    }
