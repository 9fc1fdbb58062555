"""Questions of a page from an index, label table and answer tables."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..boundary.files import JSON_BYTES, read_text
from ..curriculum.contribution.verdicts import verdict_in
from ..curriculum.identity import keyed, uid_of
from ..curriculum.table import Categorical, Table, read_arrow, read_table
from ..datamodules.questions.question import Question
from ..datamodules.shards.reader import ShardReader
from ..datamodules.voting.picks import picked_option
from .records import Item, Reply
from .sounds import clip_at

MOST = 10_000
_NUMBERS = ("ac_vote", "votes", "difficulty", "ac_p", "ac_log", "ac_cal", "necessity", "p_audio", "p_silence")
_FACTS = {"label": "label", "question_type": "type", "source": "source", "split": "split"}
_ANSWER = ("uid", "condition", "raw", "answer", "correct", "verdict", "rotation", "draw", "scores")
_AHEAD = 256


def read_items(
    reader: ShardReader,
    answers: Mapping[str, str | Path],
    labels: str | Path | None = None,
    planted: str | Path | None = None,
    most: int = MOST,
) -> tuple[list[Item], int]:
    """The questions that were answered, by the order of the index, and how many there are in all.

    answers: voter -> answer table. labels: their label table. planted: how each can be answered, where that is known.
    most: more are drawn by the hash of their identity. Raises InputError where a file cannot be read.
    """
    tables = {voter: _replies(path) for voter, path in answers.items()}
    orders = {
        voter: 1 + max((record.get("rotation") or 0 for records in of_voter.values() for record in records), default=0)
        for voter, of_voter in tables.items()
    }
    table = read_table(reader.path, labels)
    asked = {uid for of_voter in tables.values() for uid in of_voter}
    row_of = {uid: row for row, uid in enumerate(reader.numbers["uid"].tolist()) if uid in asked}
    rows = np.array(sorted(row_of.values()), np.int64)
    total = len(rows)
    if total > most:
        rows = np.sort(rows[np.argsort(keyed(reader.numbers["uid"][rows], "page"))[:most]])
    truth = _planted(planted)
    items = []
    for start in range(0, len(rows), _AHEAD):
        part = [int(row) for row in rows[start : start + _AHEAD]]
        fetched = reader.fetch(part, []) if reader.files.remote else None
        for row in part:
            question = reader.question(row, fetched)
            facts, numbers = _known(table, row, question)
            if question.uid in truth:
                facts["planted"] = truth[question.uid]
            replies = [
                _reply(voter, record, question, orders[voter])
                for voter, of_voter in tables.items()
                for record in of_voter[question.uid]
            ]
            answer = None if reader.unanswered[row] else question.answer
            items.append(
                Item(
                    question.key,
                    question.question,
                    question.choices,
                    answer,
                    facts,
                    numbers,
                    clip_at(reader, row),
                    replies,
                )
            )
    return items, total


def _replies(path: str | Path) -> defaultdict[int, list[dict[str, Any]]]:
    """uid -> the records of an answer table."""
    table = read_arrow(path)
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in table.select([name for name in _ANSWER if name in table.column_names]).to_pylist():
        found[record["uid"]].append(record)
    return found


def _reply(voter: str, record: Mapping[str, Any], question: Question, orders: int) -> Reply:
    choices = question.choices
    right = choices.index(question.answer) if question.answer in choices else -1
    option, _ = picked_option(record, choices, right, orders)
    outcome = verdict_in(record) or "missing"
    said = outcome in ("right", "wrong") and option >= 0
    pick = choices[option] if said else None
    text = record.get("raw") or ("" if record.get("scores") else record.get("answer")) or ""
    return Reply(voter, record["condition"], text, pick, outcome, int(record.get("rotation") or 0))


def _known(table: Table, row: int, question: Question) -> tuple[dict[str, str], dict[str, float]]:
    """Facts and numbers of a row: of the index, the label table, and the columns that were kept of its file."""
    facts: dict[str, str] = {}
    for column, name in _FACTS.items():
        value = table.columns.get(column)
        if isinstance(value, Categorical):
            facts[name] = value.names[value.codes[row]] if value.codes[row] >= 0 else ""
    if "label" in facts:
        facts["label"] = facts["label"] or "unlabelled"
    numbers: dict[str, float] = {}
    for column in _NUMBERS:
        found = table.columns.get(column)
        if isinstance(found, np.ndarray) and np.isfinite(found[row]):
            numbers[column] = float(found[row])
    seconds = table.columns.get("duration_s")
    if isinstance(seconds, np.ndarray):
        numbers["seconds"] = round(float(seconds[row]), 3)
    for name, kept in question.columns:
        if isinstance(kept, bool | str):
            facts.setdefault(name, str(kept))
        else:
            numbers.setdefault(name, float(kept))
    return facts, numbers


def _planted(path: str | Path | None) -> dict[int, str]:
    """uid -> how a question can be answered, from a JSONL of {"key", "planted"}."""
    if path is None:
        return {}
    found = {}
    for text in read_text(path, JSON_BYTES).splitlines():
        record = json.loads(text)
        source, _, identifier = record["key"].partition("/")
        found[uid_of(source, identifier)] = record["planted"]
    return found
