"""Votes: a voter's answers as numbers, how often it was right of how often it was asked, under every condition.

An answer table has a row per (uid, condition, rotation, draw) with `correct` (null: not judged, so not asked) and,
where options were scored, `scores` (log-prob of each option in the order of the file), `right_option` and `p_right`.
An answer whose `verdict` is unfinished or unreadable is a missing vote, whatever `correct` says of it: evaluation calls
it not right, as its denominator is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InputError
from ..arrays import Bools, Floats, Hashes, Ints
from ..identity import splitmix64
from .constant import luck_of_places
from .jury import VoteMatrix
from .measures import smoothed_rate
from .verdicts import UNREAD, read_answer_table


@dataclass(frozen=True)
class Tally:
    """One voter's answers to M questions under one condition.

    uid: [M], ascending. right: [M] right answers. asked: [M] answers. p_right: [M] mean over rotations of the right
    option's probability, NaN where options were not scored. log_excess: [M] mean over rotations of the right option's
    log-prob less the mean over the options, which the calibrated contribution needs. truth: [M] place of the right
    option in the order of the file. in_order, right_in_order: [M, R] answers, and right ones, in each order of the
    options. They are None where the table does not say.
    best_text: [M] how often the best constant text is right of questions of the same kind. unread: [M] answers that
    are unfinished or unreadable.
    """

    uid: Hashes
    right: Ints
    asked: Ints
    p_right: Floats
    log_excess: Floats
    truth: Ints | None = None
    in_order: Ints | None = None
    right_in_order: Ints | None = None
    best_text: Floats | None = None
    unread: Ints | None = None

    def rate(self) -> Floats:
        """[M] probability of the right option: scored where it was, else the smoothed share of right answers."""
        return np.where(np.isnan(self.p_right), smoothed_rate(self.right, self.asked), self.p_right)


def read_tallies(path: str | Path) -> dict[str, Tally]:
    """Condition -> tally of one voter's answer table.

    Raises InputError where columns are missing, or an answer to the same question is given twice.
    """
    table = read_answer_table(path)
    _refuse_repeated(table, path)
    conditions = sorted(pc.unique(table.column("condition")).to_pylist())
    return {name: _tally(table.filter(pc.equal(table.column("condition"), name))) for name in conditions}


def _refuse_repeated(table: pa.Table, path: str | Path) -> None:
    """Raises InputError where two rows answer the same question, rotation and draw under the same condition."""
    if not _may_repeat(table):
        return
    keys = [name for name in ("condition", "uid", "rotation", "draw") if name in table.column_names]
    counts = table.group_by(keys, use_threads=False).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts.column("count_all"), 1))
    if len(twice):
        row = {name: twice.column(name)[0].as_py() for name in keys}
        raise InputError(f"{path}: the voter answered a question twice under one condition: {row}; one vote counts")


def _may_repeat(table: pa.Table) -> bool:
    """Whether two rows have the same identity, or (once in billions) only the same hash of it; grouping is slow."""
    hashed = table.column("uid").to_numpy().astype(np.uint64)
    condition = table.column("condition").combine_chunks().dictionary_encode()
    parts = [condition.indices.to_numpy(zero_copy_only=False)]
    parts += [table.column(name).to_numpy() for name in ("rotation", "draw") if name in table.column_names]
    for part in parts:
        hashed = splitmix64(hashed) ^ part.astype(np.uint64)
    hashed.sort()
    return bool((hashed[1:] == hashed[:-1]).any())


def _tally(table: pa.Table) -> Tally:
    """The tally of the answers under one condition."""
    uid = table.column("uid").to_numpy().astype(np.uint64)
    unread = _unread(table)
    judged = pc.is_valid(table.column("correct")).to_numpy() & ~unread
    correct = pc.fill_null(table.column("correct"), False).cast(pa.float64()).to_numpy() * judged
    names, number = _grouped(uid)
    size = len(names)
    right, asked = np.bincount(number, correct, size), np.bincount(number, judged, size)
    truth, in_order, right_in_order = _orders(table, number, (judged, correct), size)
    return Tally(
        names,
        right.astype(np.int64),
        asked.astype(np.int64),
        _mean(table, "p_right", number, size),
        _log_excess(table, number, size),
        truth,
        in_order,
        right_in_order,
        unread=np.bincount(number, unread, size).astype(np.int64),
    )


def _unread(table: pa.Table) -> Bools:
    """[A] whether an answer is unfinished or unreadable."""
    if "verdict" not in table.column_names:
        return np.zeros(len(table), bool)
    found: Bools = pc.fill_null(pc.is_in(table.column("verdict"), pa.array(UNREAD)), False).to_numpy()
    return found


def _orders(table: pa.Table, number: Ints, counted: tuple[Any, Any], size: int) -> Any:
    """[size] places of the right options in the file, then [size, R] sums over the answers in each order, or all None.

    number: [A] the question of each answer. counted: what is summed, [A] each: answers that count, right ones.
    """
    if "right_option" not in table.column_names or table.column("right_option").null_count:
        return None, None, None
    truth = np.zeros(size, np.int16)
    truth[number] = table.column("right_option").to_numpy()
    if "rotation" not in table.column_names:
        return truth, *(np.bincount(number, one, size)[:, None].astype(np.int16) for one in counted)
    order = table.column("rotation").to_numpy().astype(np.int64)
    orders = int(order.max(initial=0)) + 1
    place = number * orders + order
    return truth, *(np.bincount(place, one, size * orders).reshape(size, orders).astype(np.int16) for one in counted)


def _grouped(uid: Hashes) -> tuple[Hashes, Ints]:
    """Different uids [M], ascending, and the place of each of uid [A] among them, as np.unique returns them."""
    if len(uid) and (uid[1:] >= uid[:-1]).all():  # stored tables are in order, which saves most of the time
        first = np.concatenate([[True], uid[1:] > uid[:-1]])
        return uid[first], np.cumsum(first) - 1
    return np.unique(uid, return_inverse=True)


def _mean(table: pa.Table, column: str, number: Ints, size: int) -> Floats:
    """[size] mean of a column over the answers to each question, without nulls; NaN where there is no value."""
    if column not in table.column_names:
        return np.full(size, np.nan)
    return _mean_of(table.column(column).to_numpy().astype(float), number, size)


def _mean_of(values: Floats, number: Ints, size: int) -> Floats:
    """[size] mean of the values [A] of each number [A], without NaN."""
    there = ~np.isnan(values)
    total = np.bincount(number[there], values[there], size)
    count = np.bincount(number[there], minlength=size)
    mean: Floats = np.full(size, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _log_excess(table: pa.Table, number: Ints, size: int) -> Floats:
    """[size] mean over the answers to a question of (log-prob of the right option - mean over the options)."""
    if "scores" not in table.column_names or "right_option" not in table.column_names:
        return np.full(size, np.nan)
    scores = table.column("scores").combine_chunks()
    scored = pc.and_(pc.is_valid(scores), pc.is_valid(table.column("right_option"))).to_numpy(zero_copy_only=False)
    excess = np.full(len(table), np.nan)
    if scored.any():
        kept = scores.filter(pa.array(scored))
        flat, sizes = kept.flatten().to_numpy(zero_copy_only=False), pc.list_value_length(kept).to_numpy()
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        truth = table.column("right_option").to_numpy()[scored].astype(int)
        excess[scored] = flat[starts + truth] - np.add.reduceat(flat.astype(float), starts) / sizes
    return _mean_of(excess, number, size)


def vote_matrix(tallies: Sequence[Tally | None], uid: Hashes, num_choices: Ints) -> VoteMatrix:
    """The votes on the questions uid [N]; a voter without a tally, or a question it was not asked, is missing."""
    right = np.zeros((len(uid), len(tallies)), np.int64)
    asked, choices = np.zeros_like(right), np.asarray(num_choices)
    luck = np.repeat(1 / choices.astype(float)[:, None], len(tallies), axis=1)
    best, own = luck.copy(), luck.copy()
    for j, tally in enumerate(tallies):
        if tally is not None:
            rows, place = matched(uid, tally.uid)
            right[rows, j], asked[rows, j] = tally.right[place], tally.asked[place]
            if tally.truth is not None and tally.in_order is not None and tally.right_in_order is not None:
                counts = (tally.in_order[place], tally.right_in_order[place])
                luck[rows, j], own[rows, j] = luck_of_places(tally.truth[place], *counts, choices[rows])
            text = 0.0 if tally.best_text is None else tally.best_text[place]
            best[rows, j] = np.maximum(luck[rows, j], text)
    if not any(tally is not None and (tally.truth is not None or tally.best_text is not None) for tally in tallies):
        return VoteMatrix(right, asked, choices)
    return VoteMatrix(right, asked, choices, luck, best, own)


def matched(uid: Hashes, other: Hashes) -> tuple[Ints, Ints]:
    """Places in `uid` and in `other`, which ascends, of the identities that both hold: two arrays of one length."""
    if not len(other):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    slot = np.minimum(np.searchsorted(other, uid), len(other) - 1)
    shared = np.flatnonzero(other[slot] == uid)
    return shared, slot[shared]


def over_voters(values: Sequence[tuple[Hashes, Floats]], uid: Hashes) -> Floats:
    """[N] mean over the voters' values of each question, NaN where none has one.

    values: a pair per voter, its questions' uids, ascending, and as many values, NaN where missing.
    """
    total, count = np.zeros(len(uid)), np.zeros(len(uid))
    for voter_uid, value in values:
        rows, place = matched(uid, voter_uid)
        there = ~np.isnan(value[place])
        total[rows[there]] += value[place][there]
        count[rows[there]] += 1
    mean: Floats = np.full(len(uid), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean
