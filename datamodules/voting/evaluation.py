"""A benchmark's questions as tasks, and the stored replies as outcomes under every rule.

The orders of the options are numbered by how far they are turned, so that an evaluation in one order can be continued
in all. What was said is judged again whenever results are made: another rule asks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from ...curriculum.contribution.rotation import rotations
from ...curriculum.contribution.verdicts import VERDICTS, Verdict
from ...curriculum.evaluation.outcomes import DROPPED, MISSING, NOT_ASKED, Heard, QuestionSet
from ...curriculum.identity import hash64
from ..benchmarks.benchmark import Predicted
from ..benchmarks.questions import OpenBenchmark
from ..questions.answers import extract_answer, letter_of, verdict
from ..questions.prompts import shows_letters
from .answer_store import AnswerId
from .tasks import Ask, PromptingSpec, Reply, Task, VoterTasks

STRICT, LETTER = "strict", "letter"


class EvaluationTasks(VoterTasks):
    """The tasks of an evaluation; a task's rotation is by how many places its options are turned.

    orders: of the options each question is asked in, evenly spread over the cycle, or "all". Questions without an
    answer are asked, and not judged.
    """

    def __init__(self, reader: Any, prompting: PromptingSpec, orders: int | Literal["all"] = 1, seed: int = 0) -> None:
        super().__init__(reader, prompting, seed)  # whose `_orders` must be all of them
        self.wanted = orders

    def shifts(self, count: int) -> list[int]:
        """By how many places the options of a question with so many are turned, in each of its orders."""
        return [order[0] for order in rotations(count, None if self.wanted == "all" else self.wanted)]

    def tasks(self, rows: Iterable[int], conditions: Sequence[str]) -> list[Task]:
        """All tasks, by condition; questions about one recording, and the orders of one question, stand together."""
        for condition in conditions:
            self._condition(condition)
        order = sorted((int(row) for row in rows), key=lambda row: (self.reader.clip(row), row))
        count = self.reader.numbers["num_choices"]
        return [
            Task(AnswerId(self.reader.uid(row), condition, shift, 0), row)
            for condition in conditions
            for row in order
            for shift in self.shifts(int(count[row]))
        ]

    def record(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        """The row of the answer table, see `VoterTasks.record`, and what was `heard`; no verdict without an answer."""
        question = self.reader.question(ask.task.row)
        heard = {"heard": list(ask.sound)}
        if question.answer or reply.error:
            return super().record(ask, reply) | heard
        record: dict[str, Any] = {**ask.task.id._asdict(), "key": question.key, "label": "", "right_option": None}
        record |= {"raw": reply.text, "answer": extract_answer(reply.text), "verdict": None, "correct": None}
        return record | {"num_tokens": reply.completion_tokens, "finished": reply.finished} | heard


def strict(raw: str, answer: str, choices: Sequence[str], finished: bool, lettered: bool) -> Verdict:
    """The strict verdict: the option's own text, or, where letters were shown, its letter, and nothing else."""
    if lettered:
        said = extract_answer(raw).strip().strip("().:[]*").strip()
        if len(said) == 1 and said.upper() in ascii_uppercase[: len(choices)]:
            return "right" if choices[ascii_uppercase.index(said.upper())] == answer else "wrong"
    return verdict("exact", raw, answer, choices, finished, lettered)


class Judge:
    """The stored replies to one benchmark as outcomes.

    rules: names beside strict and letter, of `questions/answers.py` or import paths. style: of the prompts.
    """

    def __init__(self, opened: OpenBenchmark, tasks: EvaluationTasks, rules: Sequence[str] = ()) -> None:
        self.opened, self.tasks = opened, tasks
        self.lettered = shows_letters(tasks.prompting.style)
        self.rules = [STRICT, LETTER, *(rule for rule in rules if rule not in (STRICT, LETTER))]
        self.questions = [opened.reader.question(row) for row in range(len(opened.reader))]

    def verdicts(self, raw: str, answer: str, choices: Sequence[str], finished: bool) -> dict[str, Verdict]:
        """Rule -> verdict on one reply."""
        found = {STRICT: strict(raw, answer, choices, finished, self.lettered)}
        for rule in self.rules[1:]:
            found[rule] = verdict(rule, raw, answer, choices, finished, self.lettered)
        return found

    def question_set(self, records: Iterable[Mapping[str, Any]], conditions: Sequence[str]) -> QuestionSet:
        """All questions of the file, those that cannot be asked behind the others, and the outcomes by condition."""
        opened, extra = self.opened, len(self.opened.unusable)
        reader = opened.reader
        clip = np.concatenate([reader.numbers["clip"], [hash64("unusable", n) for n in range(extra)]]).astype(np.uint64)
        uid = [hash64(opened.path, place) for place, _ in opened.unusable]
        answers = [(q.choices.index(q.answer) if q.answer else -1) for q in self.questions]
        by_condition: dict[str, list[Mapping[str, Any]]] = {name: [] for name in conditions}
        for record in records:
            if record["condition"] in by_condition:
                by_condition[record["condition"]].append(record)
        return QuestionSet(
            np.concatenate([reader.numbers["uid"], np.array(uid, np.uint64)]).astype(np.uint64),
            clip,
            [question.key for question in self.questions] + [place for place, _ in opened.unusable],
            [question.choices for question in self.questions] + [()] * extra,
            np.array(answers + [-1] * extra, np.int64),
            {name: [*values, *[""] * extra] for name, values in opened.facets.items()},
            {name: self.heard(found) for name, found in by_condition.items()},
        )

    def heard(self, records: Iterable[Mapping[str, Any]]) -> Heard:
        """The outcomes of the replies under one condition; a question without a reply is missing."""
        count, extra = len(self.questions), len(self.opened.unusable)
        most = max(len(question.choices) for question in self.questions)
        outcomes = {rule: np.full((most, count + extra), NOT_ASKED, np.int64) for rule in self.rules}
        option = np.full((most, count + extra), -1, np.int64)
        said = [""] * count
        for row, question in enumerate(self.questions):
            for shift in self.tasks.shifts(len(question.choices)):
                for found in outcomes.values():
                    found[shift, row] = MISSING
        for found in outcomes.values():
            found[0, count:] = MISSING
        rows = {int(uid): row for row, uid in enumerate(self.opened.reader.numbers["uid"].tolist())}
        for record in records:
            row, shift = rows.get(int(record["uid"]), -1), int(record.get("rotation") or 0)
            if row < 0 or record.get("raw") is None or outcomes[STRICT][shift, row] == NOT_ASKED:
                continue
            self._take(record, row, shift, outcomes, option)
            if shift == 0:
                said[row] = self.opened.benchmark.said(record["raw"], self.questions[row].choices, self.lettered)
        return Heard(outcomes, self._official(said, extra), option)

    def _take(
        self, record: Mapping[str, Any], row: int, shift: int, outcomes: Mapping[str, np.ndarray], option: np.ndarray
    ) -> None:
        """Puts one reply's verdicts, and the option that it picks, into the arrays."""
        question, raw = self.questions[row], str(record["raw"])
        shown = self.tasks.shown(row, question, shift)
        finished = record.get("finished") is not False
        if question.answer:
            for rule, found in self.verdicts(raw, question.answer, shown, finished).items():
                outcomes[rule][shift, row] = VERDICTS.index(found)
        letter = letter_of(raw, shown, self.lettered)
        if letter:
            option[shift, row] = (ascii_uppercase.index(letter) + shift) % len(shown)
        if not question.answer:
            read: Verdict = "wrong" if letter else "unreadable" if finished else "unfinished"
            for judged in outcomes.values():
                judged[shift, row] = VERDICTS.index(read)

    def _official(self, said: Sequence[str], extra: int) -> np.ndarray:
        """[N] what the published scorer says, 1, 0 or DROPPED; all 0 where there is none, or no answers."""
        scorer = self.opened.benchmark.official
        found = np.zeros(len(said) + extra, np.int64)
        if scorer is None:
            return found
        for row, question in enumerate(self.questions):
            right = scorer(said[row], question.answer, question.choices) if question.answer else False
            found[row] = DROPPED if right is None else int(right)
        found[len(said) :] = DROPPED if scorer("", "?", ("?", "!")) is None else 0
        return found

    def predicted(self, records: Iterable[Mapping[str, Any]]) -> list[Predicted]:
        """What the benchmark's own form of predictions is written from: the replies in the order of the file."""
        rows = {int(uid): row for row, uid in enumerate(self.opened.reader.numbers["uid"].tolist())}
        said: list[tuple[str, int | None]] = [("", None)] * len(rows)
        for record in records:
            row = rows.get(int(record["uid"]), -1)
            if row < 0 or record.get("rotation") or record.get("raw") is None:
                continue
            choices = self.questions[row].choices
            letter = letter_of(record["raw"], choices, self.lettered)
            option = ascii_uppercase.index(letter) if letter else None
            said[row] = self.opened.benchmark.said(record["raw"], choices, self.lettered), option
        found = [
            Predicted(record, question.key, *one)
            for record, question, one in zip(self.opened.records, self.questions, said, strict=True)
        ]
        places = zip(self.opened.faulty, self.opened.unusable, strict=True)
        return found + [Predicted(record, place, "", None) for record, (place, _) in places]
