"""Knows which rows every batch of every stage holds: a curriculum compiled to an integer matrix over shuffled decks.

The rows of the table fall into cells; a cell's rows lie in a deck ordered by a hash of (seed, uid). A stage deals from
the tops of the decks: `matrix[block, cell]` cards in each block. Nothing is dealt twice, so stages are disjoint by
construction, budgets are exact, and a position is two integers. Ranks, workers and prefetching never enter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from ..errors import InputError
from .identity import keyed, splitmix64, unit
from .stages import Curriculum, Stage, num_presented, num_steps
from .table import Categorical, Table


@dataclass(frozen=True)
class Dealt:
    """One stage, compiled: matrix [blocks, cells] int64 of cards, `tops` [cells] cards dealt by earlier stages."""

    stage: Stage
    matrix: np.ndarray
    tops: np.ndarray
    presented: int

    @property
    def rows(self) -> int:
        """Different rows this stage deals."""
        return int(self.matrix.sum())

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return num_steps(self.presented, self.stage.batch_size)


class Plan:
    """All stages of a curriculum over one table. `batch` is pure: any step, in any order, from any process."""

    def __init__(self, curriculum: Curriculum, table: Table) -> None:
        self.curriculum, self.table = curriculum, table
        self.cell_names, cell = _cells(table, curriculum.cells)
        order = np.lexsort((keyed(table.uid, curriculum.seed, "deck"), cell))
        self._deck = order[cell[order] >= 0]
        self.sizes = np.bincount(cell[cell >= 0], minlength=len(self.cell_names))
        self._start = np.concatenate([[0], np.cumsum(self.sizes)])
        self.stages: dict[str, Dealt] = {}
        tops = np.zeros(len(self.cell_names), np.int64)
        for stage in curriculum.stages:
            dealt = _deal(stage, self.cell_names, curriculum.cells, self.sizes, tops)
            self.stages[stage.name] = dealt
            tops = tops + dealt.matrix.sum(axis=0)
        self.fingerprint = _fingerprint(curriculum, table, cell)
        self._recent: dict[tuple[str, int, int], np.ndarray] = {}

    def dealt(self, stage: str) -> Dealt:
        """The compiled stage of that name."""
        self.curriculum.stage(stage)
        return self.stages[stage]

    def batch(self, stage: str, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [B] and weights [B] of one optimizer step over all ranks; the padding of the last batch weighs 0."""
        dealt = self.dealt(stage)
        if not 0 <= step < dealt.steps:
            raise IndexError(f"stage {stage!r} has {dealt.steps} steps, asked for step {step}")
        size = dealt.stage.batch_size
        positions = np.arange(step * size, (step + 1) * size)
        weights = (positions < dealt.presented).astype(np.float32)
        rows = self.rows(stage, np.minimum(positions, dealt.presented - 1))
        return rows, weights

    def epoch_of(self, stage: str, step: int) -> int:
        """How often the dealt rows were presented before this step's first row."""
        dealt = self.dealt(stage)
        return step * dealt.stage.batch_size // dealt.rows

    def rows(self, stage: str, positions: np.ndarray) -> np.ndarray:
        """Table rows at these positions of the stage; position p of pass e is card p - e x dealt, reordered by e."""
        dealt = self.dealt(stage)
        edges = np.concatenate([[0], np.cumsum(dealt.matrix.sum(axis=1))])
        out = np.empty(len(positions), np.int64)
        epoch, card = np.divmod(positions, dealt.rows)
        block = np.searchsorted(edges, card, side="right") - 1
        for e, b in sorted(set(zip(epoch.tolist(), block.tolist(), strict=True))):
            mine = (epoch == e) & (block == b)
            out[mine] = self._block_rows(stage, b, e)[card[mine] - edges[b]]
        return out

    def _block_rows(self, stage: str, block: int, epoch: int) -> np.ndarray:
        """One block's rows, kept for the next batches."""
        key = (stage, block, epoch)
        if key not in self._recent:
            if len(self._recent) >= 8:
                self._recent.pop(next(iter(self._recent)))
            self._recent[key] = self._ordered_block(*key)
        return self._recent[key]

    def _ordered_block(self, stage: str, block: int, epoch: int) -> np.ndarray:
        """One block's rows, spread: card i of n of a cell stands at (i + u) / n, so every slice has the block's mix."""
        dealt = self.stages[stage]
        first = self._start[:-1] + dealt.tops + dealt.matrix[:block].sum(axis=0)
        rows, place = [], []
        for q in np.flatnonzero(dealt.matrix[block]):
            cards = self._deck[first[q] : first[q] + dealt.matrix[block, q]]
            shuffle = keyed(self.table.uid[cards], self.curriculum.seed, stage, epoch)
            cards, n = cards[np.argsort(shuffle)], len(cards)
            rows.append(cards)
            place.append((np.arange(n) + unit(np.sort(shuffle))) / n)
        return np.concatenate(rows)[np.argsort(np.concatenate(place), kind="stable")]

    def composition(self, stage: str, column: str) -> dict[str, int]:
        """How many of the stage's dealt rows have each value of a text column."""
        dealt = self.dealt(stage)
        rows = self.rows(stage, np.arange(dealt.rows))
        text = self.table.text(column)
        counts = np.bincount(text.codes[rows] + 1, minlength=len(text.names) + 1)
        names = ("unlabelled", *text.names)
        return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _cells(table: Table, columns: tuple[str, ...]) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Cell names and [N] cell numbers; rows with a missing value in a cell column are in no cell (-1)."""
    texts: list[Categorical] = [table.text(column) for column in columns]
    cell = np.zeros(len(table), np.int64)
    for text in texts:
        cell = np.where((cell < 0) | (text.codes < 0), -1, cell * len(text.names) + text.codes)
    # Cells are numbered by name, not by the order of the values in the file: row order must not matter.
    names = list(product(*(text.names for text in texts)))
    order = sorted(range(len(names)), key=lambda i: names[i])
    number = np.empty(len(names), np.int64)
    number[order] = np.arange(len(names))
    return [names[i] for i in order], np.where(cell < 0, -1, number[cell])


def _deal(stage: Stage, cells: list[tuple[str, ...]], columns: tuple[str, ...], sizes, tops) -> Dealt:
    _check_pool(stage, cells, columns)
    member = np.array([_in_pool(stage, cell, columns) for cell in cells], bool)
    left = np.where(member, sizes - tops, 0)
    available = int(left.sum())
    budget = stage.budget
    if budget.steps is not None:
        wanted = min(budget.steps * stage.batch_size, available)
    elif budget.fraction is not None:
        wanted = int(Fraction(str(budget.fraction)) * int(sizes[member].sum()))  # 0.29 of 100 is 29, not 28
    else:
        wanted = budget.samples or 0
    if wanted > available or wanted == 0:
        pool = dict(stage.pool) or "all rows"
        raise InputError(
            f"stage {stage.name!r} wants {wanted} rows of {pool}, {available} are left after earlier stages"
        )
    shares = _shares(stage, cells)
    edges = np.append(np.arange(0, wanted, stage.block), wanted)
    matrix = deal_matrix(np.diff(edges), left, shares)
    return Dealt(stage, matrix, np.array(tops), num_presented(budget, stage.batch_size, wanted))


def deal_matrix(blocks: np.ndarray, left: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """How many cards each block deals from each deck: [blocks, cells] int64, row sums exactly `blocks`.

    blocks: [K] cards per block. left: [Q] cards per deck. shares: [Q] wanted mix, or None for the mix of what is left.
    Block sums are water-filled over the decks and rounded by largest remainders with the debt carried on, so that
    every prefix stays within two cards of its target.
    """
    left = left.astype(np.int64).copy()
    debt = np.zeros(len(left))
    matrix = np.zeros((len(blocks), len(left)), np.int64)
    for k, cards in enumerate(blocks):
        mass = left.astype(float) if shares is None else np.where(left > 0, shares, 0.0)
        target = debt + _water_fill(float(cards), mass, left)
        dealt = np.clip(np.floor(target), 0, left).astype(np.int64)
        while (missing := int(cards) - int(dealt.sum())) != 0:
            step = 1 if missing > 0 else -1
            open_ = dealt < left if step > 0 else dealt > 0
            rest = np.where(open_, (target - dealt) * step, -np.inf)
            dealt[np.argsort(-rest, kind="stable")[: min(abs(missing), int(open_.sum()))]] += step
        matrix[k], debt, left = dealt, target - dealt, left - dealt
    return matrix


def _water_fill(cards: float, mass: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Shares `cards` out in proportion to mass, at most `left` each, the excess again in proportion."""
    filled = np.zeros(len(left))
    open_ = (mass > 0) & (left > 0)
    while cards > 1e-9:
        if not open_.any():
            raise InputError(f"the decks with a positive share run dry {cards:.0f} rows short; lower the budget")
        portion = np.where(open_, cards * mass / mass[open_].sum(), 0.0)
        portion = np.minimum(portion, left - filled)
        filled += portion
        cards -= float(portion.sum())
        open_ &= left - filled > 1e-9
    return filled


def _check_pool(stage: Stage, cells: list[tuple[str, ...]], columns: tuple[str, ...]) -> None:
    for column, wanted in stage.pool.items():
        if column not in columns:
            raise InputError(f"stage {stage.name!r}: pool column {column!r} is not a cell column; add it to `cells`")
        known = {cell[columns.index(column)] for cell in cells}
        for value in [wanted] if isinstance(wanted, str) else wanted:
            if value not in known:
                raise InputError(f"stage {stage.name!r}: {column} is never {value!r}; it is one of {sorted(known)}")


def _in_pool(stage: Stage, cell: tuple[str, ...], columns: tuple[str, ...]) -> bool:
    for column, wanted in stage.pool.items():
        values = [wanted] if isinstance(wanted, str) else list(wanted)
        if cell[columns.index(column)] not in values:
            return False
    return True


def _shares(stage: Stage, cells: list[tuple[str, ...]]) -> np.ndarray | None:
    if stage.shares is None:
        return None
    shares: Mapping[str, float] = stage.shares
    known = {value for cell in cells for value in cell}
    unknown = [name for name in shares if name not in known]
    if unknown:
        raise InputError(f"stage {stage.name!r}: shares name {unknown[0]!r}, no cell has it; there are {sorted(known)}")
    return np.array([np.prod([shares.get(value, 1.0) for value in cell]) for cell in cells], float)


def _fingerprint(curriculum: Curriculum, table: Table, cell: np.ndarray) -> str:
    """Changes with any edit of the curriculum, with any row added or removed, and when a row changes its cell's number.

    Cells are numbered by name; renaming all of them alike deals the same rows, and is the same plan.
    """
    mixed = splitmix64(keyed(table.uid, "fingerprint") ^ cell.astype(np.uint64))
    facts = [int(np.bitwise_xor.reduce(mixed)), int(mixed.sum(dtype=np.uint64)), len(table)]
    return hashlib.blake2b((curriculum.canonical() + json.dumps(facts)).encode(), digest_size=8).hexdigest()
