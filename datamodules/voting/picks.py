"""Which option a voter picked, and where it stood: read back from its answer table for a sample of the questions.

Answer tables hold texts; the options stand in the shards. A few thousand questions say how answers lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...curriculum.contribution.constant import Picks, best_texts, places_shown
from ...curriculum.contribution.verdicts import read_answer_table
from ...curriculum.identity import keyed
from ..questions.answers import letter_of
from ..shards.reader import ShardReader

MOST = 2_000
_AHEAD = 256


@dataclass(frozen=True)
class Sampled:
    """Questions of a sample, by ascending uid [S]: their options, the right one's text, and their kind, [S] each.

    column: of the index that gives the kind, question_type or, where that is empty, source.
    """

    uid: np.ndarray
    choices: list[tuple[str, ...]]
    answers: list[str]
    kinds: list[str]
    column: str

    def best_texts(self, reader: ShardReader, uid: np.ndarray) -> np.ndarray:
        """[M] share of the questions of the same kind that one constant text is right of, for the questions uid [M].

        0 where there are too few of a kind to say so.
        """
        shares = best_texts(self.kinds, [_plain(answer) for answer in self.answers])
        names = reader.names(self.column)
        of_code = np.array([*(shares.get(name, shares.get("", 0.0)) for name in names), shares.get("", 0.0)])
        order = np.argsort(reader.numbers["uid"])
        known = reader.numbers["uid"][order]
        slot = np.minimum(np.searchsorted(known, uid), len(known) - 1)
        found: np.ndarray = np.where(known[slot] == uid, of_code[reader.codes(self.column)[order[slot]]], 0.0)
        return found


def sample_questions(reader: ShardReader, rows: np.ndarray, most: int = MOST) -> Sampled:
    """Reads at most so many of the questions at these rows [n], drawn by the hash of their identity.

    Raises InputError where one cannot be read.
    """
    uid = reader.numbers["uid"][rows]
    drawn = rows[np.argsort(keyed(uid, "picks"))[:most]]
    drawn = drawn[np.argsort(reader.numbers["uid"][drawn])]
    column = "question_type" if any(reader.text("question_type", int(row)) for row in drawn) else "source"
    questions = []
    for start in range(0, len(drawn), _AHEAD):
        part = [int(row) for row in drawn[start : start + _AHEAD]]
        fetched = reader.fetch(part, []) if reader.files.remote else None
        questions += [reader.question(row, fetched) for row in part]
    return Sampled(
        reader.numbers["uid"][drawn],
        [question.choices for question in questions],
        [question.answer for question in questions],
        [reader.text(column, int(row)) or "" for row in drawn],
        column,
    )


def read_picks(path: str | Path, condition: str, sampled: Sampled) -> Picks:
    """What a voter picked, from its answers under the condition to the sampled questions that were judged."""
    table = read_answer_table(path)
    wanted = pa.array(sampled.uid, pa.uint64())
    kept = pc.and_(pc.equal(table.column("condition"), condition), pc.is_in(table.column("uid"), wanted))
    table = table.filter(pc.and_(kept, pc.is_valid(table.column("correct"))))
    number = np.searchsorted(sampled.uid, table.column("uid").to_numpy())
    columns = {name: table.column(name).to_pylist() if name in table.column_names else None for name in _READ}
    rotation = np.array(columns["rotation"] or [0] * len(table), np.int64)
    orders = int(rotation.max(initial=0)) + 1
    options, texts = [], []
    for row, question in enumerate(number.tolist()):
        choices = sampled.choices[question]
        right = choices.index(sampled.answers[question])
        said = {n: c[row] for n, c in columns.items() if c is not None}
        picked, text = picked_option(said, choices, right, orders)
        options.append(picked)
        texts.append(text)
    option = np.array(options, np.int64)
    answer = np.array([sampled.choices[q].index(sampled.answers[q]) for q in number.tolist()], np.int64)
    choices_of = np.array([len(sampled.choices[q]) for q in number.tolist()], np.int64)
    place = np.where(option >= 0, places_shown(option, rotation, choices_of, orders), -1)
    return Picks(
        number,
        place,
        places_shown(answer, rotation, choices_of, orders),
        option,
        answer,
        choices_of,
        np.array(columns["correct"], bool),
        texts,
        [_plain(sampled.answers[q]) for q in number.tolist()],
        [sampled.kinds[q] for q in number.tolist()],
    )


_READ = ("answer", "raw", "correct", "scores", "rotation")


def picked_option(said: Mapping[str, Any], choices: Sequence[str], right: int, orders: int = 1) -> tuple[int, str]:
    """The option in an answer, -1 for none, and its text in lower case, else what was said.

    said: the row of the answer table. right: place of the right option, -1 where it is not known. orders: of the
    options in which the voter was asked; a letter names what stood there in the order of the row.
    """
    scores, text = said.get("scores"), said.get("answer") or ""
    plain = [_plain(choice) for choice in choices]
    if scores:
        option = int(np.nanargmax(scores))
    elif _plain(text) in plain:
        option = plain.index(_plain(text))
    elif said.get("correct") and right >= 0:
        option = right
    else:
        option = ascii_uppercase.find(letter_of(said.get("raw") or text, choices) or "-")
        turn = int(said.get("rotation") or 0) * len(choices) // max(1, min(orders, len(choices)))
        option = (option + turn) % len(choices) if option >= 0 else option
    return option, plain[option] if option >= 0 else _plain(text)[:80]


def _plain(text: str) -> str:
    return text.strip().lower()
