"""An evaluation's questions as records of its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...curriculum.arrays import Texts
from ...curriculum.evaluation.outcomes import MISSING, NOT_ASKED, OUTCOMES, QuestionSet
from ...curriculum.identity import hash64
from ...datamodules.benchmarks.questions import FileReader
from ...datamodules.voting.evaluation import Judge
from ...reports.records import Clip, Item, Reply
from ...reports.sounds import clip_at

MOST = 10_000  # questions on a page; others are left out by a hash of their identity


def items_of(
    name: str,
    judge: Judge,
    records: Iterable[Mapping[str, Any]],
    questions: QuestionSet,
    rule: str,
    labels: Sequence[Texts],
) -> list[Item]:
    """The questions of one benchmark with their replies, as judged by a rule; a label is the first that is known."""
    by_row: dict[int, dict[tuple[str, int], str]] = {}
    rows = {uid: row for row, uid in enumerate(questions.uid.tolist())}
    for record in records:
        key = (record["condition"], int(record.get("rotation") or 0))
        by_row.setdefault(rows.get(int(record["uid"]), -1), {})[key] = str(record.get("raw") or "")
    items = []
    for row, question in enumerate(judge.questions):
        facts = {"set": name} | {facet: values[row] for facet, values in questions.facets.items() if values[row]}
        facts.setdefault("type", question.question_type)
        label = next((str(one[row]) for one in labels if one[row]), "")
        if label:
            facts["label"] = label
        items.append(
            Item(
                f"{name}:{question.key}",
                question.question,
                question.choices,
                question.answer or None,
                facts,
                {},
                _clip(judge, row),
                _replies(judge, questions, row, by_row.get(row, {}), rule),
            )
        )
    return items


def sampled(items: Sequence[Item]) -> list[Item]:
    """At most MOST of the items, drawn by a hash of their identity, in their order."""
    if len(items) <= MOST:
        return list(items)
    kept = sorted(range(len(items)), key=lambda n: hash64("page", items[n].id))[:MOST]
    return [items[n] for n in sorted(kept)]


def _replies(
    judge: Judge, questions: QuestionSet, row: int, said: Mapping[tuple[str, int], str], rule: str
) -> list[Reply]:
    replies = []
    voter = "the model"
    for condition, heard in questions.heard.items():
        for shift, found in enumerate(heard.outcomes[rule][:, row].tolist()):
            if found == NOT_ASKED:
                continue
            option = int(heard.option[shift, row])
            pick = questions.choices[row][option] if option >= 0 and found != MISSING else None
            text = said.get((condition, shift), "")
            replies.append(Reply(voter, condition, text, pick, OUTCOMES[found], shift))
    return replies


def _clip(judge: Judge, row: int) -> Clip | None:
    """Where the row's recording is; None where it was not packed."""
    reader = judge.opened.reader
    if not isinstance(reader, FileReader):
        return clip_at(reader, row)
    if reader.packed is None or reader.row_in_shards[row] < 0:
        return None
    return clip_at(reader.packed, reader.row_in_shards[row])
