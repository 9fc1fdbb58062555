"""Answers as records: what was said to every question of a batch, and what it is judged to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...datamodules.batch import Batch
from ...datamodules.questions.answers import extract_answer, verdict
from ..policy.omni import OmniPolicy
from ..rollout.engine import Completions, completion_keys
from ..rollout.sampling import sample


def answers(policy: OmniPolicy, batch: Batch, length: int, temperature: float, seed: int) -> list[dict[str, Any]]:
    """What a policy says to a batch: one record per question, see `answer_records`.

    length: of the longest answer, in tokens. temperature: 0 is greedy. seed: of the draws.
    """
    uids = [s.question.uid for s in batch.samples]
    keys = completion_keys(uids, 1, seed, "answer", batch.samples[0].condition)
    done = sample(policy, batch.prompts, max_new_tokens=length, temperature=temperature, keys=keys)
    return answer_records(batch, policy.processor.decode(done.ids, done.mask), done)


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
