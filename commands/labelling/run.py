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
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...boundary.environment import hidden, names
from ...boundary.files import alone_in, write_text
from ...boundary.words import say
from ...curriculum.contribution.verdicts import Readable, check_table
from ...curriculum.table import read_table
from ...datamodules.questions.answers import reading_of
from ...datamodules.questions.prompts import prompt_text
from ...datamodules.shards.reader import ShardReader
from ...datamodules.storage.address import redacted
from ...datamodules.storage.files import Reading
from ...datamodules.voting.answer_store import AnswerStore
from ...datamodules.voting.rejudging import JUDGED, judge_again
from ...datamodules.voting.tasks import NO_AUDIO, Ask, Reply, Task, VoterTasks, price
from ...errors import InputError
from ...lightning_modules.voters.endpoint import Endpoint
from ...progress import counter
from .job import LabelJob, Questions, VoterSpec
from .local import ask_local
from .results import finish_job


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
    if dry_run or _rank():
        return _ask_voters(job, questions, dry_run)
    with alone_in(folder, "labelling"):
        return _ask_voters(job, questions, dry_run)


def _ask_voters(job: LabelJob, questions: Questions, dry_run: bool) -> dict[str, Any]:
    folder = Path(job.out)
    job = replace(job, voters=[_as_it_began(voter, folder) for voter in job.voters])
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
        store = _store(folder, voter)
        tasks = voter_tasks.tasks(questions.rows.tolist(), job.conditions)
        described = _described(voter, voter_tasks)
        store.refuse_changed(voter.name, described, free=JUDGED)
        missing = set(store.missing([task.id for task in tasks]))
        todo = [task for task in tasks if task.id in missing]
        if dry_run:
            takes = _priced(price(voter_tasks, todo, voter.price), len(tasks) - len(todo))
            say(f"{voter.name}: {takes}; {_where(voter)}")
            continue
        if not _rank():
            _say(judge_again(voter.name, voter_tasks, store, described))
            store.remember(described)
        totals.append(_ask(voter, voter_tasks, store, todo, len(tasks), most))
        answers[voter.name] = str(store.file)
    if dry_run:
        if job.judge is not None:
            say(f"the judge: {_sent_to(job.judge)}")
        if read := names():
            say(f"of the environment it reads {', '.join(read)}")
    if dry_run or _rank():
        return {}
    asked = {key: sum(counts[key] for counts in totals) for key in ("asked", "failed")} if totals else {}
    return asked | finish_job(job, questions, answers)


def _where(voter: VoterSpec) -> str:
    """Where a voter's questions go, and which variable of the environment goes with them."""
    return _sent_to(voter.endpoint) if voter.endpoint else f"loaded here from {voter.local and voter.local.checkpoint}"


def _sent_to(endpoint: Endpoint) -> str:
    key = f"with the key in {endpoint.key_env}" if endpoint.key_env else "without a key"
    where = ", ".join(map(redacted, endpoint.urls))
    return f"sends questions and recordings to {where}, {key}"


def _store(folder: Path, voter: VoterSpec) -> AnswerStore:
    return AnswerStore(folder / "answers" / f"{voter.name}.arrow")


def _as_it_began(voter: VoterSpec, folder: Path) -> VoterSpec:
    """The voter, in as many orders of the options as it was asked in before, where the job does not say how many."""
    asked = _store(folder, voter).folder / "asked.json"
    if "rotations" in voter.said or not asked.is_file():
        return voter
    before = _store(folder, voter).described().get("rotations", 1)
    if before == voter.prompting.rotations:
        return voter
    if not _rank():
        say(f"{voter.name}: goes on as it began, with rotations: {before}", file=sys.stderr)
    return replace(voter, prompting=replace(voter.prompting, rotations=before))


def _check_checkpoint(voter: VoterSpec, conditions: Sequence[str]) -> None:
    """Before the first voter is asked, what would stop the last."""
    if voter.local is not None:
        from ...lightning_modules.voters.local import kind_of

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
                    record = voter_tasks.record(ask, reply) | {"prompt_tokens": reply.prompt_tokens}
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
        if voter.endpoint is not None and (spent := store.tokens())[0]:
            _say(f"{voter.name}: {spent[0]:,} tokens in and {spent[1]:,} out, of all runs")
        store.finish()
    return counts


def _say(line: str) -> None:
    """Prints a line beside the progress; nothing for ""."""
    if line:
        say(line, file=sys.stderr, flush=True)


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
        write_text(path, hidden(lines))
        say(f"some requests failed, see {path}; the same command asks them again", file=sys.stderr)
    else:
        path.unlink(missing_ok=True)
