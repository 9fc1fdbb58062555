"""The answers of a page's questions as arrays: who was right under which condition, and what was picked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..curriculum.arrays import Bools, Floats, Ints
from ..curriculum.contribution.constant import Picks, best_texts, constant_answers, describe_picks, warning_of
from ..curriculum.evaluation.changes import states
from .records import OUTCOMES, Item

KINDS = ("type", "question_type", "task", "category")  # facts by which constant answers may differ


class Tally:
    """Answers of N questions.

    voters, conditions: in the order they come. right: (voter, condition) -> [N] share of right answers, NaN where it
    was not asked. cluster: [N] numbers that are equal where questions share a recording. silent: the condition without
    the audio, silence before none, "" where there is neither.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.voters = list(dict.fromkeys(reply.voter for item in items for reply in item.replies))
        self.conditions = list(dict.fromkeys(reply.condition for item in items for reply in item.replies))
        quiet = [name for name in self.conditions if name.startswith("silence")]
        self.silent = next(iter([*quiet, *(name for name in self.conditions if name == "none")]), "")
        clips: dict[str, int] = {}
        self.cluster: Ints = np.array(
            [clips.setdefault(item.audio.id if item.audio else f"no {item.id}", len(clips)) for item in items], np.int64
        )
        sums: dict[tuple[str, str], Floats] = {}
        asked: dict[tuple[str, str], Floats] = {}
        self.outcomes: dict[tuple[str, str], Counter[str]] = {}
        for place, item in enumerate(items):
            for reply in item.replies:
                key = (reply.voter, reply.condition)
                if key not in sums:
                    sums[key], asked[key], self.outcomes[key] = np.zeros(len(items)), np.zeros(len(items)), Counter()
                sums[key][place] += reply.outcome == "right"
                asked[key][place] += 1
                self.outcomes[key][reply.outcome] += 1
        with np.errstate(invalid="ignore", divide="ignore"):
            self.right = {key: sums[key] / asked[key] for key in sums}

    def of(self, voter: str, condition: str) -> Floats:
        """[N] share of right answers, NaN where it was not asked."""
        found = self.right.get((voter, condition))
        return np.full(len(self.items), np.nan) if found is None else found

    def states(self, voter: str) -> Ints:
        """[N] places in STATES, see `changes.states`."""
        return states(self.of(voter, "audio"), self.of(voter, self.silent))

    @property
    def paired(self) -> list[str]:
        """Voters that heard the audio and the silence."""
        return [v for v in self.voters if {(v, "audio"), (v, self.silent)} <= set(self.right)]

    @cached_property
    def groups(self) -> dict[str, Bools]:
        """Groups of questions, [N] bool: "all", and "fact=value" for facts of two to twelve values."""
        found: dict[str, Bools] = {"all": np.ones(len(self.items), bool)}
        for fact in dict.fromkeys(name for item in self.items for name in item.facts):
            values = np.array([item.facts.get(fact, "") for item in self.items], object)
            names = [name for name, _ in Counter(values.tolist()).most_common() if name]
            if 2 <= len(names) <= 12:
                found |= {f"{fact}={name}": np.asarray(values == name, bool) for name in names}
        return found

    def constant(self, rows: Bools) -> float:
        """How often the best constant answer is right among some questions: one place, or one text per kind.

        In all orders of the options every place is right as often; in one order, as often as answers stand there.
        """
        chosen = [item for item, taken in zip(self.items, rows, strict=True) if taken and item.answer is not None]
        if not chosen:
            return float("nan")
        truths = [str(item.answer).strip().lower() for item in chosen]
        kinds = [kind_of(item) for item in chosen]
        by_text = best_texts(kinds, truths)
        of_text = [by_text.get(kind, by_text.get("", 0.0)) for kind in kinds]
        best = 0.0
        for count in {len(item.choices) for item in chosen}:
            places = np.sum([_shown_at(item) for item in chosen if len(item.choices) == count], axis=0)
            best += float(places.max())
        return max(best / len(chosen), float(np.mean(of_text)))

    def guessing(self, rows: Bools) -> float:
        """How often an even guess among the options is right among some questions, mean of 1 / K."""
        shares = [1 / len(item.choices) for item, taken in zip(self.items, rows, strict=True) if taken and item.choices]
        return float(np.mean(shares)) if shares else float("nan")

    def picks(self, voter: str, condition: str) -> Picks:
        """What a voter picked under a condition, from its replies to questions with a known answer."""
        rows: list[tuple[Any, ...]] = []
        for place, item in enumerate(self.items):
            if item.answer is None:
                continue
            choices, answer = list(item.choices), list(item.choices).index(item.answer)
            replies = [r for r in item.replies if r.voter == voter and r.condition == condition]
            orders = min(len(choices), 1 + max((reply.rotation for reply in replies), default=0))
            for reply in replies:
                option = choices.index(reply.pick) if reply.pick in choices else -1
                turn = reply.rotation * len(choices) // orders
                shown = -1 if option < 0 else (option - turn) % len(choices)
                text = (reply.pick or "").strip().lower()
                right, truth = reply.outcome == OUTCOMES[0], (answer - turn) % len(choices)
                rows.append((place, shown, truth, option, answer, len(choices), right, text, item))
        columns = list(zip(*rows, strict=True)) if rows else [()] * 9
        numbers: list[Ints] = [np.array(column, np.int64) for column in columns[:6]]
        question, shown_at, truth_at, picked, right_one, count = numbers
        truths = [str(item.answer).strip().lower() for item in columns[8]]
        kinds, right_ones = [kind_of(item) for item in columns[8]], np.array(columns[6], bool)
        return Picks(question, shown_at, truth_at, picked, right_one, count, right_ones, columns[7], truths, kinds)

    def constants(self) -> list[str]:
        """A sentence for every voter and condition whose answers are constant."""
        found = []
        for voter, condition in self.right:
            text = warning_of(f"{voter} ({condition})", constant_answers(self.picks(voter, condition)))
            found += [text] if text else []
        return found

    def spread(self, voter: str, condition: str) -> dict[str, Any]:
        """How a voter's answers lie by place and by text, see `describe_picks`."""
        return describe_picks(self.picks(voter, condition))


def kind_of(item: Item) -> str:
    """The kind of a question: its type, task or category, "" where none is known."""
    return next((item.facts[name] for name in KINDS if item.facts.get(name)), "")


def _shown_at(item: Item) -> Floats:
    """[K] in which share of the orders that were asked the right option stood at each place."""
    turns = {reply.rotation for reply in item.replies} or {0}
    count, answer = len(item.choices), list(item.choices).index(str(item.answer))
    orders = min(count, 1 + max(turns))
    shown = [(answer - turn * count // orders) % count for turn in turns]
    return np.asarray(np.bincount(shown, minlength=count) / len(turns), float)
