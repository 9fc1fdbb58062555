"""Balanced question sets with a planted truth: every type, answer and way to answer comes up equally often.

A world is what a builder knows: its question types with their answers, how each can leak, and how to draft a question.
Three sets come out, with a `source` each: the question bank, under the world's name; `listening`, captions and
questions on other clips, from which a backbone learns to hear; `reading-a`, `-b` and `-c`, texts on those other clips,
from which one text-only voter each learns to guess.
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
class QuestionSpec:
    """What one question must be, before its words are chosen.

    kind: how it can be answered, one of HEARD, LOGIC and PRIOR. clip: name of its recording. caption: the answer is
    asked for as a caption, not by a question.
    """

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
    """What a builder knows.

    name: `source` of its question bank. turns: the order in which question types take turns; one that occurs twice is
    asked twice as often. answers, leaks: by question type, what may be right, and which of LOGIC and PRIOR can give it
    away. draft: words and recording of a question.
    """

    name: str
    seed: int
    turns: Sequence[str]
    answers: Mapping[str, Sequence[str]]
    leaks: Mapping[str, Sequence[str]]
    draft: Callable[[QuestionSpec], Draft]

    def job(self, spec: QuestionSpec) -> Job:
        """A function that makes the draft when it is called, so that waves are made one at a time."""
        return lambda: self.draft(spec)


def bank(world: World, split: str, count: int, strong_share: float) -> Iterator[Job]:
    """The question bank of one split: `count` questions, of which a share in [0, 1] can only be answered by hearing.

    Answers are balanced within every question type and kind.
    """
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
        yield world.job(QuestionSpec(world.name, name, split, question_type, answer, kind, name))


def listening(world: World, count: int) -> list[QuestionSpec]:
    """Questions and captions, in equal parts, that can only be answered by hearing, on clips of their own."""
    seen, specs = Counter[str](), []
    for number in range(count):
        question_type = world.turns[number % len(world.turns)]
        answers = world.answers[question_type]
        answer = answers[seen[question_type] % len(answers)]
        seen[question_type] += 1
        caption = number // len(world.turns) % 2 == 1
        name = f"listening-{number:05d}"
        specs.append(QuestionSpec("listening", name, "train", question_type, answer, HEARD, name, caption))
    return specs


def reading(world: World, count: int, heard: Sequence[QuestionSpec]) -> Iterator[Job]:
    """`count` questions per voter on the `heard` clips: two thirds leak, one third cannot be answered by reading."""
    for voter in VOTERS:
        for number in range(count):
            base = heard[hash64(world.seed, voter, "reading", number) % len(heard)]
            leaks = world.leaks[base.question_type]
            kinds = (leaks[0], leaks[-1], HEARD)
            yield world.job(
                QuestionSpec(
                    f"reading-{voter}",
                    f"{number:05d}",
                    "train",
                    base.question_type,
                    base.answer,
                    kinds[number % 3],
                    base.clip,
                )
            )
