"""What is made of a labelling job's answers: labels, statistics, the reasons of weak questions, the page."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...boundary.environment import hidden_in
from ...boundary.files import write_text
from ...boundary.words import say
from ...curriculum.contribution.jury import parse_rule
from ...curriculum.contribution.jury_report import describe_jury
from ...curriculum.contribution.labels import label, read_about
from ...curriculum.contribution.verdicts import read_verdicts
from ...curriculum.contribution.votes import read_tallies
from ...curriculum.statistics import wilson_interval
from ...curriculum.table import read_arrow
from ...datamodules.questions.question import Question
from ...datamodules.shards.reader import ShardReader
from ...datamodules.voting.answer_store import AnswerStore
from ...datamodules.voting.picks import read_picks, sample_questions
from ...datamodules.voting.tasks import Reply
from ...lightning_modules.voters.endpoint import Endpoint
from ...progress import counter
from .job import LabelJob, Questions


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
    table, reader = questions.table.take(questions.rows), questions.reader
    sampled = sample_questions(reader, questions.rows)
    tallies = {name: read_tallies(path) for name, path in answers.items()}
    for of_voter in tallies.values():
        for condition, tally in of_voter.items():
            of_voter[condition] = replace(tally, best_text=sampled.best_texts(reader, tally.uid))
    about["voters"] = [{"name": name, "answers": path} for name, path in answers.items()]
    options: dict[str, Any] = {"index": job.index, "rule": job.rule, "condition": job.condition, "about": about}
    options |= {"allow_missing": job.allow_missing, "only": table.uid, "max_unreadable": 1.0}
    counts = label(tallies, str(labels), **options)
    picks = {name: read_picks(path, job.condition, sampled) for name, path in answers.items()}
    jury = describe_jury(tallies, table, parse_rule(job.rule), job.condition, job.bootstrap, picks)
    jury["verdicts"] = {name: read_verdicts(path) for name, path in answers.items()}
    for warning in jury["warnings"]:
        say(f"warning: {warning}", file=sys.stderr)
    jury |= {"title": job.title, "about": read_about(labels), "index": job.index}
    if job.judge is not None:
        jury["categories"] = _categories(job.judge, questions.reader, labels)
    jury = hidden_in(jury)
    write_text(folder / "jury.json", json.dumps(_finite(jury), indent=1, default=str, allow_nan=False))
    from ...reports.label_page import build_jury_page

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
    from ...lightning_modules.voters.judge import CATEGORIES, PROMPT, category_of, judge_questions

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
