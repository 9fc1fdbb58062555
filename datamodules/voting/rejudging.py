"""Stored answers judged again, where the rule or the way it reads answers has changed; nothing is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...curriculum.contribution.verdicts import verdict_in
from ..questions.answers import reading_of
from .answer_store import AnswerStore, answer_id
from .tasks import VoterTasks

JUDGED = ("rule", "reading")  # of how a voter is described: what its answers do not depend on, only their verdicts
_AT_A_TIME = 1_024


def judge_again(name: str, voter_tasks: VoterTasks, store: AnswerStore, described: Mapping[str, Any]) -> str:
    """Judges stored answers by the present rule where another judged them; returns a line that says so, or "".

    name: of the voter. described: how it is asked and judged, to be written down with its answers. Scored options are
    judged by no rule. After a kill in between all are judged once more.
    """
    reading, before = reading_of(voter_tasks.prompting.rule), store.described()
    if voter_tasks.prompting.scoring != "generate" or all(before.get(key) == reading[key] for key in JUDGED):
        return ""
    old = {answer_id(record): verdict_in(record) for record in store.read()}
    if not old:
        return ""
    store.remember({key: value for key, value in described.items() if key not in JUDGED})
    store.rewrite(lambda records: judged_again(voter_tasks, records))
    changed = sum(verdict_in(record) != old[answer_id(record)] for record in store.read())
    return f"{name}: {len(old):,} stored answers judged again by rule {reading['rule']}, {changed:,} of them otherwise"


def judged_again(voter_tasks: VoterTasks, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of generated answers as the present rule judges them; what failed stays as it is."""
    reader = voter_tasks.reader
    rows = {int(uid): row for row, uid in enumerate(reader.numbers["uid"].tolist())}
    again: list[dict[str, Any]] = []
    for start in range(0, len(records), _AT_A_TIME):
        part = records[start : start + _AT_A_TIME]
        fetched = reader.fetch({rows[record["uid"]] for record in part}, ())
        for record in part:
            found: dict[str, Any] = {}
            if record.get("correct") is not None or record.get("verdict") is not None:
                row = rows[record["uid"]]
                question = reader.question(row, fetched)
                choices = voter_tasks.shown(row, question, record.get("rotation", 0))
                finished = record.get("finished") is not False
                found = voter_tasks.judged(record["raw"] or "", finished, question.answer, choices)
            again.append({**record, **found})
    return again
