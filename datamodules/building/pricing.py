"""What a build would take, before anything is asked: requests, tokens, money and hours of every stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from ..asking.runner import Asker, Want
from .draft import CHAIN, Draft
from .pipeline import Pipeline, Step

# Tokens of an answer, and letters of texts that are not written yet; measured answers take their place.
_ANSWER = {"question": 90, "reasoning": 110, "simple": 50, "repair": 220, "grade": 90, "probe": 4, "rewrite": 50}
_ANSWER |= {"probe again": 4}
_SHARE = {"repair": 0.05, "rewrite": 0.3, "probe again": 0.3}  # of the drafts that are asked about at all
_SAMPLE, _REQUEST = 200, 2_000
_SENTENCE = "a sentence of about a hundred letters that says what there is to hear in the recording, and why"


def prices(pipeline: Pipeline) -> list[dict[str, Any]]:
    """An entry per stage that asks: role, requests, input and output tokens, money, hours.

    Stages behind the last finished one are reckoned as if nothing were dropped, so that the sum is an upper bound but
    for answers that have to be asked again. Needs the stages that ask nothing to be done.
    """
    found, finished = [], True
    stages, known = pipeline.stages, 0
    for step in pipeline.steps():
        if finished and stages.is_done(step.name, step.depends):
            stages.skip(step.name, step.depends)
            known = stages.count()
            continue
        if step.wants is None and finished:
            stages.run(step.name, step.depends, step.make)
            known = stages.count()
            continue
        if step.wants is not None:
            asker = pipeline.askers[step.role]
            if finished:
                requests, letters = _open(asker, step.wants(stages.drafts()))
            else:
                example = (_example(draft) for draft in islice(stages.drafts(), _SAMPLE))
                requests, letters = int(known * _each(step, pipeline)), _letters(step.wants(example))
            found.append(_entry(step, asker, requests, letters / 4, pipeline.rules.calls == "two"))
            finished = False
    return found


def _each(step: Step, pipeline: Pipeline) -> float:
    """Requests for each draft."""
    orders = pipeline.rules.orders if step.role == "probe" else 1
    return _SHARE.get(step.name, 1.0) * orders * (1 + (pipeline.rules.canaries if step.name == "grade" else 0))


def _open(asker: Asker, wants: Iterable[Want]) -> tuple[int, float]:
    """How many wants have no answer yet, and letters of the average request of 200 of them."""
    count, letters, sampled = 0, 0, 0
    for request in asker.missing(wants):
        count += 1
        if sampled < _SAMPLE:
            sampled += 1
            letters += sum(len(message["content"]) for message in request.body["messages"])
    return count, letters / max(1, sampled)


def _letters(wants: Iterator[Want]) -> float:
    """Letters of an average request; of an ordinary one where no example is asked about."""
    sizes = [sum(len(message["content"]) for message in want.messages) for want in islice(wants, _SAMPLE)]
    return sum(sizes) / len(sizes) if sizes else _REQUEST


def _entry(step: Step, asker: Asker, requests: int, tokens: float, merged: bool) -> dict[str, Any]:
    answer = _ANSWER.get(step.name, 100) + (180 if merged and step.name == "question" else 0)
    asked, said = int(requests * tokens), requests * answer
    entry: dict[str, Any] = {"stage": step.name, "role": step.role, "requests": requests}
    entry |= {"input_tokens": asked, "output_tokens": said}
    entry["money"] = round(asker.model.cost(asked, said), 2)
    entry["hours"] = round(said / asker.model.tokens_per_s / 3_600, 2)
    return entry


def _example(draft: Draft) -> Draft:
    """A draft with texts of ordinary lengths where it has none."""
    draft.question = draft.question or "What is heard right after the first sound in the recording?"
    draft.answer = draft.answer or "a dog barking twice in the distance"
    draft.wrong = draft.wrong or ["a bell ringing three times slowly"] * 3
    draft.type = draft.type or draft.item.types[0]
    draft.chain = draft.chain or dict.fromkeys(CHAIN, _SENTENCE)
    draft.analysis = draft.analysis or _SENTENCE
    return draft
