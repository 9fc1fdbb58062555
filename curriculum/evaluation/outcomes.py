"""What a model answered to a set of questions: outcomes by condition, order of the options and rule, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..arrays import Bools, Floats, Hashes, Ints
from ..contribution.constant import Picks, places_shown
from ..contribution.verdicts import VERDICTS

OUTCOMES = (*VERDICTS, "missing")
RIGHT, WRONG, UNFINISHED, UNREADABLE, MISSING = range(len(OUTCOMES))
NOT_ASKED = -1  # in this order of the options: the question has fewer
DROPPED = -2  # by the published scorer, from its denominator


@dataclass(frozen=True)
class Heard:
    """The answers under one condition, in R orders of the options: order r shows them turned by r places.

    Args:
        outcomes: rule -> [R, N] places in OUTCOMES, or NOT_ASKED.
        official: [N] what the published scorer says of the order of the file: 1 right, 0 wrong, DROPPED.
        option: [R, N] place in the file of the option that was picked, -1 for none.
    """

    outcomes: Mapping[str, Ints]
    official: Ints
    option: Ints

    def right(self, rule: str) -> Floats:
        """[N] share of the orders of the options in which a question was answered rightly."""
        found = self.outcomes[rule]
        asked = found != NOT_ASKED
        share: Floats = (found == RIGHT).sum(axis=0) / np.maximum(1, asked.sum(axis=0))
        return share

    def first(self, rule: str) -> Floats:
        """[N] 1 where the answer in the order of the file was right, else 0."""
        first: Floats = (self.outcomes[rule][0] == RIGHT).astype(float)
        return first


@dataclass(frozen=True)
class QuestionSet:
    """N questions with what was answered; those that cannot be asked stand behind the others, and are missing.

    Args:
        uid: [N] identities. clip: [N] equal where questions share a recording. keys: [N] readable identities.
        choices: [N] options in the order of the file. truth: [N] place of the right one, -1 where it is not known.
        facets: grouping -> [N] values, "" for none. heard: condition -> answers.
    """

    uid: Hashes
    clip: Hashes
    keys: Sequence[str]
    choices: Sequence[Sequence[str]]
    truth: Ints
    facets: Mapping[str, Sequence[str]]
    heard: Mapping[str, Heard] = field(default_factory=dict)

    @property
    def askable(self) -> Bools:
        """[N] questions that can be asked."""
        return np.array([len(choices) > 0 for choices in self.choices], bool)

    @property
    def answered(self) -> bool:
        """Whether the right answers are known; where one of them is not, none is judged."""
        return bool((self.truth[self.askable] >= 0).all())

    @property
    def num_choices(self) -> Ints:
        """[N] how many options each question has."""
        return np.array([len(choices) for choices in self.choices], np.int64)

    def picks(self, condition: str) -> Picks:
        """What was picked under a condition, in every order of the options, by place and by content."""
        heard, count = self.heard[condition], self.num_choices
        asked = np.stack([found != NOT_ASKED for found in next(iter(heard.outcomes.values()))]) & self.askable
        rotation, question = np.nonzero(asked)
        option, answer, size = heard.option[rotation, question], self.truth[question], count[question]
        shown = places_shown(np.maximum(option, 0), rotation, size, size)
        texts, truths = (self._texts(question, places) for places in (option, answer))
        kinds = self.facets.get("task") or self.facets.get("question_type") or [""] * len(self.keys)
        return Picks(
            question,
            np.where(option >= 0, shown, -1),
            np.where(answer >= 0, places_shown(np.maximum(answer, 0), rotation, size, size), -1),
            option,
            answer,
            size,
            option == answer,
            texts,
            truths,
            [kinds[q] for q in question.tolist()],
        )

    def _texts(self, question: Ints, places: Ints) -> list[str]:
        """The options at places [A] of questions [A], in lower case; "" for none."""
        pairs = zip(question.tolist(), places.tolist(), strict=True)
        return [self.choices[q][place].strip().lower() if place >= 0 else "" for q, place in pairs]
