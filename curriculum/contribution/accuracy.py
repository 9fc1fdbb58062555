"""Audio contribution as accuracy: with the audio, without it, and the difference, by group of questions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ..arrays import Bools, Floats, Hashes, Ints
from ..statistics import mcnemar, paired_difference, wilson_interval
from ..table import Categorical, Table
from .verdicts import VERDICTS, read_answer_table, verdicts_of


@dataclass(frozen=True)
class Contribution:
    """The 2x2 table of one group of questions: how many were answered rightly with audio, in silence, both, neither."""

    questions: int
    both: int
    audio_only: int
    silence_only: int
    neither: int

    @property
    def audio_accuracy(self) -> float:
        """Share of the questions answered rightly with the audio."""
        return (self.both + self.audio_only) / self.questions

    @property
    def silence_accuracy(self) -> float:
        """Share of the questions answered rightly in silence."""
        return (self.both + self.silence_only) / self.questions

    def summary(self, with_audio: Floats, with_silence: Floats) -> dict[str, Any]:
        """Counts, shares with 95 % intervals, and McNemar's mid-p, ready for JSON.

        with_audio, with_silence: the [questions] of 0/1 that the table was made from.
        """
        difference = paired_difference(with_silence, with_audio)
        return asdict(self) | {
            "audio": [self.audio_accuracy, *wilson_interval(with_audio.sum(), self.questions)],
            "silence": [self.silence_accuracy, *wilson_interval(with_silence.sum(), self.questions)],
            "contribution": list(difference),
            "mcnemar_mid_p": mcnemar(self.audio_only, self.silence_only),
        }


def audio_contribution(with_audio: npt.ArrayLike, with_silence: npt.ArrayLike) -> Ints:
    """[N] the paper's measure: AC = 1[right with audio] - 1[right with 30 s of silence], in {-1, 0, 1}."""
    return np.asarray(with_audio, np.int8) - np.asarray(with_silence, np.int8)


def contribution(with_audio: npt.ArrayLike, with_silence: npt.ArrayLike) -> Contribution:
    """The 2x2 table of two [N] 0/1 vectors over the same questions."""
    a, s = np.asarray(with_audio, bool), np.asarray(with_silence, bool)
    return Contribution(len(a), int((a & s).sum()), int((a & ~s).sum()), int((~a & s).sum()), int((~a & ~s).sum()))


@dataclass(frozen=True)
class Answers:
    """One model's answers to the questions uid [N].

    `correct[condition]` [N] is 1 where it was right, else 0; `verdict[condition]` [N] holds places in VERDICTS.
    """

    uid: Hashes
    correct: dict[str, Floats]
    verdict: dict[str, Ints] = field(default_factory=dict)


def read_answers(path: str | Path) -> Answers:
    """Reads an answer table, ordered by uid.

    What is unfinished or unreadable is not right. Raises InputError unless every question was asked once under every
    condition of the file, and judged.
    """
    table = read_answer_table(path)
    condition, verdicts = np.asarray(table.column("condition").to_pylist()), verdicts_of(table)
    if count := verdicts.count(None):
        raise InputError(f"{path}: {count} answers were not judged; ask again, or give questions that have an answer")
    uid = table.column("uid").to_numpy().astype(np.uint64)
    found = np.array([VERDICTS.index(name) for name in verdicts if name is not None], np.int64)
    questions = np.unique(uid)
    verdict: dict[str, Ints] = {}
    for name in np.unique(condition).tolist():
        rows = np.flatnonzero(condition == name)
        rows = rows[np.argsort(uid[rows])]
        if not np.array_equal(uid[rows], questions):
            raise InputError(
                f"{path}: condition {name!r} has {len(rows)} answers to {len(np.unique(uid[rows]))} of "
                f"{len(questions)} questions; every question must be asked once under every condition"
            )
        verdict[name] = found[rows]
    return Answers(questions, {name: (places == 0).astype(float) for name, places in verdict.items()}, verdict)


def group_rows(answers: Answers, table: Table, columns: list[str]) -> dict[str, Bools]:
    """Groups as [N] bool over the answered questions: "all", and "column=value" for each value of each text column.

    Raises InputError where the table lacks an answered question or a column.
    """
    order = np.argsort(table.uid)
    slot = order[np.minimum(np.searchsorted(table.uid[order], answers.uid), len(table) - 1)]
    if not np.array_equal(table.uid[slot], answers.uid):
        raise InputError("answers name questions that the index does not hold; they belong to another corpus")
    groups = {"all": np.ones(len(slot), bool)}
    for column in columns:
        text: Categorical = table.text(column)
        for code, name in enumerate(text.names):
            rows = text.codes[slot] == code
            if rows.any():
                groups[f"{column}={name}"] = rows
    return groups


def contribution_by_group(answers: Answers, groups: dict[str, Bools]) -> dict[str, dict[str, Any]]:
    """Group -> summary of its contribution, see `Contribution.summary`; groups are [N] bool over the questions.

    `answers` of a summary says of both conditions how many answers have each of VERDICTS. Raises InputError where the
    answers lack the condition audio or silence.
    """
    missing = {"audio", "silence"} - set(answers.correct)
    if missing:
        raise InputError(f"answers lack the condition {sorted(missing)[0]!r}; both audio and silence are needed")
    audio, silence = answers.correct["audio"], answers.correct["silence"]
    return {
        name: contribution(audio[rows], silence[rows]).summary(audio[rows], silence[rows])
        | {"answers": {heard: _counts(answers.verdict[heard][rows]) for heard in ("audio", "silence")}}
        for name, rows in groups.items()
    }


def _counts(verdict: Ints) -> dict[str, int]:
    """How many of the places [N] in VERDICTS are each."""
    return dict(zip(VERDICTS, np.bincount(verdict, minlength=len(VERDICTS)).tolist(), strict=True))
