"""The judge of weak questions: whether one can be answered unheard because of its text, or by knowing the world.

The paper reports that 68.9 % of the weak questions need implicit knowledge alone and does not say how that was found.
This procedure is ours: a language model reads question, options and the right answer, without any audio, and names one
of two categories by the definitions below. Its words are kept; a reply that names neither is no category.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ...configs.prompt_files import read_prompt
from ...datamodules.questions.answers import extract_answer, verdict
from ...datamodules.questions.question import Question
from ...datamodules.voting.answer_store import AnswerId
from ...datamodules.voting.tasks import Ask, Reply, Task
from .endpoint import Endpoint

LOGICAL, IMPLICIT = "explicit logical reasoning", "implicit knowledge"
CATEGORIES = (LOGICAL, IMPLICIT)
_CONDITION = "category"
_SAID = re.compile(r"\b(A(?!\s+(?!or\b|and\b|is\b)[a-z])|B)\b")  # "A dog" says no letter

PROMPT = read_prompt("judge").fixed


def prompt_of(question: Question) -> str:
    """The judge's prompt about one question: the definitions, its words, options and right answer."""
    options = "\n".join(f"- {choice}" for choice in question.choices)
    return PROMPT.format(question=question.question, options=options, answer=question.answer)


def category_of(text: str, finished: bool = True) -> str:
    """The category, of CATEGORIES, that a reply names; "" where it names none or both.

    finished: the model ended it; one that was cut off must have named it outright.
    """
    found = verdict("letter", text, CATEGORIES[0], CATEGORIES, finished, lettered=True)
    if found in ("right", "wrong"):
        return CATEGORIES[found == "wrong"]
    said = extract_answer(text)
    named = set(_SAID.findall(said)) if finished and not said.startswith("<think>") else set()
    return CATEGORIES["AB".index(named.pop())] if len(named) == 1 else ""


def judge_questions(
    endpoint: Endpoint,
    questions: Sequence[Question],
    take: Callable[[Question, str, Reply], None],
    answered_before: bool = False,
) -> None:
    """Asks about every question and hands (question, category, reply) to `take` as the replies come.

    answered_before, and the InputError: as in `Endpoint.ask_all`.
    """
    by_uid = {question.uid: question for question in questions}

    def received(ask: Ask, reply: Reply) -> None:
        take(by_uid[ask.task.id.uid], "" if reply.error else category_of(reply.text, reply.finished), reply)

    endpoint.ask_all(_asks(questions), received, answered_before)


def _asks(questions: Iterable[Question]) -> Iterable[Ask]:
    """What the judge is asked of each question, without audio."""
    for number, question in enumerate(questions):
        task = Task(AnswerId(question.uid, _CONDITION), number)
        yield Ask(task, prompt_of(question), question.choices, None)
