"""SFT targets: the answer, with the question's reasoning before it where that is trained on.

The index does not know which questions hold reasoning. A bounded number of them is therefore checked when training is
set up, and each one when its batch is built; a question without it stops the run, as another in its place would change
what the curriculum trains on.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from ...curriculum.plan.compile import StagePlan, runs
from ...curriculum.schedule.stages import Stage
from ...errors import InputError
from ..questions.answers import reasoned_text, target_text
from ..questions.question import Question
from ..shards.reader import ShardReader
from ..storage.files import RemoteFiles

_MOST_CHECKED = 2_000  # 0.05 s where the shards lie in memory, some seconds from a server
_WAY_OUT = "give a pool where all have it (by source, or a column of the label table), or set training.reasoning: none"


def target_of(question: Question, reasoning: str) -> str:
    """The target text of a question; reasoning: one of `requests.REASONING`. Raises InputError where it has none."""
    if reasoning == "none":
        return target_text(question.answer)
    text = _reasoning(question, reasoning)
    if not text and reasoning == "given":
        return target_text(question.answer)
    if not text:
        raise InputError(f"{question.key} has no {reasoning}_cot to learn from; {_WAY_OUT}")
    return reasoned_text(text, question.answer)


def asked_of(stage: Stage, reasoning: str) -> tuple[str, str]:
    """(style of the prompts, reasoning in the targets) of a stage that trains on `reasoning`.

    GRPO is asked to think, and has no reasoning in its targets: it learns from its own.
    """
    if reasoning == "none":
        return "paper", "none"
    return "think", reasoning if stage.algorithm == "sft" else "none"


def check_reasoning(reader: ShardReader, plan: StagePlan, rows: np.ndarray, reasoning: str) -> None:
    """Raises an InputError with the number of the stage's questions that lack the reasoning, and the first of them.

    rows: [M] rows of the index that the plan's rows stand for. At most 2,000 questions are read, evenly spaced, and
    none where whole shards would be copied for it. One that cannot be read is passed over: it is recorded, and
    replaced, when its batch is built.
    """
    if asked_of(plan.stage, reasoning)[1] in ("none", "given") or _copies(reader):
        return
    # An adaptive stage has no fixed rows: any question of its pool may come up.
    planned = plan.row_set() if plan.stage.window is None else plan.deck[runs(plan.first, plan.left)]
    checked = np.sort(rows[planned])
    if len(checked) > _MOST_CHECKED:
        checked = checked[np.linspace(0, len(checked) - 1, _MOST_CHECKED).astype(np.int64)]
    fetched = reader.fetch(map(int, checked), ()) if reader.files.remote else None
    lacking, read = [], 0
    for row in map(int, checked):
        with suppress(InputError):
            question = reader.question(row, fetched)
            read += 1
            if not _reasoning(question, reasoning):
                lacking.append(question.key)
    if lacking:
        raise InputError(
            f"stage {plan.stage.name!r}: {len(lacking)} of {read} questions checked have no {reasoning}_cot to "
            f"learn from, {lacking[0]} the first; {_WAY_OUT}"
        )


def _copies(reader: ShardReader) -> bool:
    """Whether reading one question copies its whole shard."""
    return isinstance(reader.files, RemoteFiles) and reader.files.reading.cache is not None


def _reasoning(question: Question, reasoning: str) -> str:
    texts = {"structured": question.structured_cot, "unstructured": question.unstructured_cot}
    return (texts[reasoning] if reasoning in texts else next(filter(None, texts.values()), "")).strip()
