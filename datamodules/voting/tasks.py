"""What a voter is asked, every question under every condition, rotation and draw, and what its reply means.

How the model is reached is the business of `lightning_modules/voters`; `answer_store.py` keeps the records made here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...curriculum.contribution.rotation import rotations
from ...curriculum.contribution.verdicts import Verdict
from ...curriculum.schedule.budget import Cost
from ...errors import InputError
from ..audio.waves import SAMPLE_RATE
from ..batches.condition_audio import ConditionAudio
from ..batches.conditions import Condition, parse_condition
from ..questions.answers import RULES, extract_answer, letter_of, rule_named, verdict
from ..questions.prompts import LETTERED, prompt_text, shows_letters
from ..questions.question import Question
from ..shards.reader import ShardReader
from .answer_store import AnswerId

NO_AUDIO = "none"
_OF_LETTERS = ("letter", "mmsu")  # rules
Scoring = Literal["generate", "options", "letters"]
_RATES = ("audio_minute", "input_million", "output_million", "output_tokens")


@dataclass
class PromptingSpec:
    """How a voter is asked and judged.

    Args:
        style: of the prompt, see `prompts.py`. rule: of judging, see `answers.py`. Both may be import paths.
        scoring: "generate" judges what it says; "options" compares the log-probs of the options as whole answers,
            "letters" those of their letters, and calls the likeliest its answer.
        rotations: orders of the options each question is asked in, evenly spread over the cycle; "all" for each place.
        draws: answers per question and order, where they are sampled.

    Raises InputError for unknown names and for combinations that make no sense.
    """

    style: str = "paper"
    rule: str = "exact"
    scoring: Scoring = "generate"
    rotations: int | Literal["all"] = "all"
    draws: int = 1

    def __post_init__(self) -> None:
        lettered = shows_letters(self.style)
        rule_named(self.rule)
        if self.scoring not in ("generate", "options", "letters"):
            raise InputError(f"scoring is generate, options or letters, got {self.scoring!r}")
        if self.scoring == "letters" and not lettered:
            raise InputError(
                f"scoring by letters needs a style that shows letters: {', '.join(LETTERED)}, or your own with an "
                "attribute `lettered = True`"
            )
        if self.scoring == "options" and lettered:
            raise InputError("options are scored as texts; with a style that shows letters, score by letters")
        if (
            self.scoring == "generate"
            and self.style == "letters"
            and self.rule in RULES
            and self.rule not in _OF_LETTERS
        ):
            raise InputError(
                f"style letters asks for a letter, which rule {self.rule} never finds right; use rule letter"
            )
        if self.rule == "mmsu" and not lettered:
            raise InputError("rule mmsu reads nothing but a letter; it needs a style that shows letters")
        if self.rotations != "all" and (not isinstance(self.rotations, int) or self.rotations < 1):
            raise InputError(f"rotations is a number from 1 on or 'all', got {self.rotations!r}")
        if self.draws < 1 or (self.draws > 1 and self.scoring != "generate"):
            raise InputError("draws is 1 or more, and 1 where options are scored")


@dataclass(frozen=True)
class Task:
    """One thing to ask: a row of the index under one condition, in one order of its options; draws count from 0."""

    id: AnswerId
    row: int


@dataclass(frozen=True)
class Ask:
    """A task with all that a voter needs: the user's words, the options in the order shown, and the recording.

    wave: [n] float32 at 16 kHz, None where nothing is heard. sound: equal for asks that hear the same.
    """

    task: Task
    text: str
    choices: tuple[str, ...]
    wave: np.ndarray | None
    sound: tuple[str, int] = ("", 0)


@dataclass
class Reply:
    """What a voter returned: a text, or log-probs of the options in the order shown, or an error.

    refused: the error is about this question alone; other questions may well be answered.
    """

    task: Task
    text: str = ""
    error: str = ""
    refused: bool = False
    scores: list[float] | None = None
    letters: dict[str, float] = field(default_factory=dict)  # log-probs of letters as the first token
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: bool = True


class VoterTasks:
    """The tasks of one voter over one index: lists them, makes them ready to ask, and judges the replies.

    seed: of noise and of the other recordings that mismatched questions hear.
    """

    def __init__(self, reader: ShardReader, prompting: PromptingSpec, seed: int = 0) -> None:
        self.reader, self.prompting, self.seed = reader, prompting, seed
        self.audio = ConditionAudio(reader, seed)

    def tasks(self, rows: Iterable[int], conditions: Sequence[str]) -> list[Task]:
        """All tasks, by condition; questions about one recording, and the orders of one question, stand together.

        Raises InputError for an unknown condition, and where questions have no answer.
        """
        for condition in conditions:
            self._condition(condition)
        rows = np.fromiter(rows, np.int64)
        self.reader.check_answered(rows, "voted on")
        order = sorted((int(row) for row in rows), key=lambda row: (self.reader.clip(row), row))
        return [
            Task(AnswerId(self.reader.uid(row), condition, rotation, draw), row)
            for condition in conditions
            for row in order
            for rotation in range(len(self._orders(row)))
            for draw in range(self.prompting.draws)
        ]

    def _condition(self, name: str) -> Condition | None:
        """The condition of a task; None where the question is asked without any recording."""
        return None if name == NO_AUDIO else parse_condition(name)

    def _orders(self, row: int) -> list[list[int]]:
        """The orders of the options that a question is asked in, as places in the file."""
        wanted = None if self.prompting.rotations == "all" else self.prompting.rotations
        return rotations(int(self.reader.numbers["num_choices"][row]), wanted)

    def shown(self, row: int, question: Question, rotation: int) -> tuple[str, ...]:
        """The options of the row's question in the order that a rotation shows them."""
        return tuple(question.choices[option] for option in self._orders(row)[rotation])

    def ask_text(self, task: Task) -> str:
        """The words of the user's turn."""
        return self._words(task)[0]

    def _words(self, task: Task) -> tuple[str, tuple[str, ...]]:
        """The words of the user's turn, and the options in the order shown."""
        question = self.reader.question(task.row)
        choices = self.shown(task.row, question, task.id.rotation)
        return prompt_text(self.prompting.style, question.question, choices), choices

    def ask(self, task: Task) -> Ask:
        """The task with its words and its recording. Raises InputError where one of them cannot be read."""
        text, choices = self._words(task)
        condition = self._condition(task.id.condition)
        if condition is None:
            return Ask(task, text, choices, None)
        return Ask(task, text, choices, self.audio.wave(task.row, condition), self.audio.key(task.row, condition))

    def seconds(self, task: Task) -> float:
        """Seconds of audio that the task hears, without reading it."""
        condition = self._condition(task.id.condition)
        return 0.0 if condition is None else self.audio.num_samples(task.row, condition) / SAMPLE_RATE

    def record(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        """The row of the answer table: the raw text, the answer in it, its verdict.

        `correct` is None unless the verdict is right or wrong, as no other answer is a vote. A reply that failed has no
        verdict; one whose scores do not cover the letters is unreadable; both say why in `raw` and have no `answer`.
        Raises InputError where a rule of the user's returns no bool.
        """
        question = self.reader.question(ask.task.row)
        truth = question.choices.index(question.answer)
        record: dict[str, Any] = {**ask.task.id._asdict(), "key": question.key, "label": "", "right_option": truth}
        if reply.error:
            return record | {"raw": reply.error, "answer": None, "num_tokens": 0, "finished": False} | _counted(None)
        scores = self._scores(ask, reply)
        if self.prompting.scoring != "generate":
            if scores is None:
                reason = "the model gave no log-probs of the letters"
                lost = {"raw": reason, "answer": None, "num_tokens": 0, "finished": False}
                return record | lost | _counted("unreadable")
            chosen = ask.choices[int(np.nanargmax(scores))]
            record |= {"raw": chosen, "answer": chosen} | _counted("right" if chosen == question.answer else "wrong")
        else:
            record |= {"raw": reply.text} | self.judged(reply.text, reply.finished, question.answer, ask.choices)
        record |= {"num_tokens": reply.completion_tokens, "finished": reply.finished}
        if scores is not None:
            same = [place for place, choice in enumerate(question.choices) if choice == question.answer]
            by_option = _by_option(scores, self._orders(ask.task.row)[ask.task.id.rotation])
            record |= {"scores": by_option, "p_right": _share(by_option, same)}
        return record

    def judged(self, text: str, finished: bool, answer: str, choices: Sequence[str]) -> dict[str, Any]:
        """What the rule makes of a completion: `answer`, `verdict` and `correct`.

        `answer` is the option of a chosen letter under rule `letter`, else the tagged text.
        """
        rule, lettered = self.prompting.rule, shows_letters(self.prompting.style)
        found = _counted(verdict(rule, text, answer, choices, finished, lettered))
        letter = letter_of(text, choices, lettered) if rule == "letter" else ""
        return {"answer": choices[ord(letter) - ord("A")] if letter else extract_answer(text)} | found

    def _scores(self, ask: Ask, reply: Reply) -> list[float] | None:
        """Log-probs in the order shown; a letter that was not named is as unlikely as the least likely that was."""
        if reply.scores is not None:
            return reply.scores
        if not shows_letters(self.prompting.style):  # "A" began a word
            return None
        shown = [chr(ord("A") + place) for place in range(len(ask.choices))]
        if not any(letter in reply.letters for letter in shown):
            return None
        floor = min(reply.letters.values())
        return [reply.letters.get(letter, floor) for letter in shown]


def _counted(found: Verdict | None) -> dict[str, Any]:
    """A verdict as a vote's columns: neither right nor wrong is no vote."""
    return {"verdict": found, "correct": found == "right" if found in ("right", "wrong") else None}


def _by_option(scores: Sequence[float], order: Sequence[int]) -> list[float]:
    """Scores of the options in the order of the file, from those in the order shown."""
    by_option = [math.nan] * len(order)
    for place, option in enumerate(order):
        by_option[option] = float(scores[place])
    return by_option


def _share(scores: Sequence[float], options: Sequence[int]) -> float:
    """The probability of some options together, in [0, 1]: the softmax over the options' log-probs.

    A benchmark may show the right option twice.
    """
    shifted = np.exp(np.asarray(scores) - max(scores))
    return float(shifted[list(options)].sum() / shifted.sum())


def price(
    voter_tasks: VoterTasks, tasks: Sequence[Task], rates: Mapping[str, float] | None = None
) -> dict[str, int | float]:
    """What asking would take: requests, minutes of audio, input tokens (a token for every four letters of text).

    rates: money per `audio_minute`, `input_million` and `output_million` tokens, where there are any, and the
    `output_tokens` of an answer (16); they add `cost`. Raises InputError for another rate.
    """
    audio_s = sum(voter_tasks.seconds(task) for task in tasks)
    sample = tasks[:: max(1, len(tasks) // 200)]
    letters = [len(voter_tasks.ask_text(task)) for task in sample]
    text_tokens = int(len(tasks) * (np.mean(letters) if letters else 0) / 4)
    input_tokens = text_tokens + int(Cost.audio_tokens_per_s * audio_s)
    totals: dict[str, int | float] = {
        "requests": len(tasks),
        "audio_minutes": round(audio_s / 60, 1),
        "input_tokens": input_tokens,
    }
    if rates:
        check_rates(rates)
        cost = rates.get("audio_minute", 0.0) * audio_s / 60
        cost += rates.get("input_million", 0.0) * input_tokens / 1e6
        cost += rates.get("output_million", 0.0) * len(tasks) * rates.get("output_tokens", 16) / 1e6
        totals["cost"] = round(cost, 2)
    return totals


def check_rates(rates: Mapping[str, float]) -> None:
    """Raises InputError for a rate that `price` does not know."""
    unknown = sorted(set(rates) - set(_RATES))
    if unknown:
        raise InputError(f"price: unknown rate {unknown[0]!r}; there are {', '.join(_RATES)}")
