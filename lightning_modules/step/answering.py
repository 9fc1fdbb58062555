"""Answers as records: what was said to every question of a batch, and what it is judged to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...datamodules.batch import Batch
from ...datamodules.questions.answers import extract_answer, verdict
from ..rollout.engine import Completions


def answer_records(batch: Batch, texts: Sequence[str], done: Completions) -> list[dict[str, Any]]:
    """One record per question, without the padding of a last batch.

    texts: of the completions `done`, one per sample. `verdict` is by rule `exact`, `correct` whether it is "right";
    both are None where the answer is not known.
    """
    whole = done.finished.tolist()
    found = [
        verdict("exact", text, s.question.answer, s.choices, finished) if s.question.answer else None
        for s, text, finished in zip(batch.samples, texts, whole, strict=True)
    ]
    return [
        {
            "uid": s.question.uid,
            "key": s.question.key,
            "condition": s.condition,
            "label": s.label,
            "raw": text,
            "answer": extract_answer(text),
            "correct": None if judged is None else judged == "right",
            "verdict": judged,
            "num_tokens": tokens,
            "finished": finished,
        }
        for s, text, tokens, finished, judged in zip(
            batch.samples, texts, done.mask.sum(1).tolist(), whole, found, strict=True
        )
        if s.weight > 0
    ]
