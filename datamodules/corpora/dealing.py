"""Knows how a question set with a planted truth is dealt: every type, answer and way to answer in equal turns.

A world is what a builder knows: its question types with their answers, how each can leak, and how to draft a question.
Three groups come out, told apart by `source`: the question bank; `listening`, captions and questions on other clips,
from which a backbone gets its hearing; `reading-a`, `-b`, `-c`, texts on those other clips, one slice per voter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...curriculum.identity import hash64
from .writing import HEARD, Draft

VOTERS = ("a", "b", "c")
Job = Callable[[], Draft]


@dataclass(frozen=True)
class Request:
    """What one question must be: `kind` says how it can be answered, `clip` names the recording."""

    source: str
    identifier: str
    split: str
    question_type: str
    answer: str
    kind: str
    clip: str
    caption: bool = False


@dataclass(frozen=True)
class World:
    """`name` of the bank, `turns` of question types (repeat one to ask it more often), answers and leaks by type."""

    name: str
    seed: int
    turns: Sequence[str]
    answers: Mapping[str, Sequence[str]]
    leaks: Mapping[str, Sequence[str]]
    draft: Callable[[Request], Draft]

    def job(self, request: Request) -> Job:
        """The draft, made when it is called."""
        return lambda: self.draft(request)


def bank(world: World, split: str, count: int, strong_share: float) -> Iterator[Job]:
    """The question bank of one split: `strong_share` of it can only be heard; answers are balanced in every group."""
    heard, seen = round(count * strong_share), Counter[tuple[str, str]]()
    for number in range(count):
        turn = number if number < heard else number - heard
        question_type = world.turns[turn % len(world.turns)]
        leaks = world.leaks[question_type]
        kind = HEARD if number < heard else leaks[seen[question_type, "leak"] % len(leaks)]
        if kind != HEARD:
            seen[question_type, "leak"] += 1
        answers = world.answers[question_type]
        answer = answers[seen[question_type, kind] % len(answers)]
        seen[question_type, kind] += 1
        name = f"{split}-{number:05d}"
        yield world.job(Request(world.name, name, split, question_type, answer, kind, name))


def listening(world: World, count: int) -> list[Request]:
    """Questions and captions that can only be heard, on clips of their own."""
    seen, requests = Counter[str](), []
    for number in range(count):
        question_type = world.turns[number % len(world.turns)]
        answers = world.answers[question_type]
        answer = answers[seen[question_type] % len(answers)]
        seen[question_type] += 1
        caption = number // len(world.turns) % 2 == 1
        name = f"listening-{number:05d}"
        requests.append(Request("listening", name, "train", question_type, answer, HEARD, name, caption))
    return requests


def reading(world: World, count: int, heard: Sequence[Request]) -> Iterator[Job]:
    """Texts on the listening clips: two thirds leak, one third cannot be answered by reading."""
    for voter in VOTERS:
        for number in range(count):
            base = heard[hash64(world.seed, voter, "reading", number) % len(heard)]
            leaks = world.leaks[base.question_type]
            kinds = (leaks[0], leaks[-1], HEARD)
            yield world.job(
                Request(
                    f"reading-{voter}",
                    f"{number:05d}",
                    "train",
                    base.question_type,
                    base.answer,
                    kinds[number % 3],
                    base.clip,
                )
            )
