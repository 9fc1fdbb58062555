"""Knows what SFT has a model say: the answer, with the question's reasoning before it where that is trained on.

The index does not know which questions hold reasoning. Whether they do is therefore looked at in a bounded number of
them when training is set up, and in each one when its batch is made; a question without it stops the run, as another
in its place would change what the curriculum deals.
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

_MOST_LOOKED_AT = 2_000  # 0.05 s where the shards lie in memory, some seconds from a server
_WAY_OUT = "give a pool where all have it (by source, or a column of the label table), or set training.reasoning: none"


def target_of(question: Question, reasoning: str) -> str:
    """The target text of a question; an InputError names one without the reasoning (one of `requests.REASONING`)."""
    if reasoning == "none":
        return target_text(question.answer)
    found = _reasoning(question, reasoning)
    if not found:
        raise InputError(f"{question.key} has no {reasoning}_cot to learn from; {_WAY_OUT}")
    return reasoned_text(found, question.answer)


def asked_of(stage: Stage, reasoning: str) -> tuple[str, str]:
    """Style of the prompts and reasoning in the targets: GRPO is asked to think, and learns from its own thinking."""
    if reasoning == "none":
        return "paper", "none"
    return "think", reasoning if stage.algorithm == "sft" else "none"


def check_reasoning(reader: ShardReader, dealt: StagePlan, rows: np.ndarray, reasoning: str) -> None:
    """Raises an InputError with the number of the stage's questions that lack the reasoning, and the first of them.

    rows: [M] rows of the index that the plan's rows stand for. Of more than 2,000 questions so many are looked at,
    evenly spaced; none where whole shards would be copied for it. One that cannot be read is passed over: what is bad
    is told, and replaced, when its batch is made.
    """
    if asked_of(dealt.stage, reasoning)[1] == "none" or _copies(reader):
        return
    mine = dealt.row_set() if dealt.stage.window is None else dealt.deck[runs(dealt.first, dealt.left)]
    mine = np.sort(rows[mine])
    if len(mine) > _MOST_LOOKED_AT:
        mine = mine[np.linspace(0, len(mine) - 1, _MOST_LOOKED_AT).astype(np.int64)]
    fetched = reader.fetch(map(int, mine), ()) if reader.files.remote else None
    lacking, read = [], 0
    for row in map(int, mine):
        with suppress(InputError):
            question = reader.question(row, fetched)
            read += 1
            if not _reasoning(question, reasoning):
                lacking.append(question.key)
    if lacking:
        raise InputError(
            f"stage {dealt.stage.name!r}: {len(lacking)} of {read} questions looked at have no {reasoning}_cot to "
            f"learn from, {lacking[0]} the first; {_WAY_OUT}"
        )


def _copies(reader: ShardReader) -> bool:
    return isinstance(reader.files, RemoteFiles) and reader.files.reading.cache is not None


def _reasoning(question: Question, reasoning: str) -> str:
    return {"structured": question.structured_cot, "unstructured": question.unstructured_cot}[reasoning].strip()
