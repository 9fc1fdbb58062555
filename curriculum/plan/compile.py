"""Knows how a stage becomes a matrix: its pool over the cells, its budget in rows, and the cards of every block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from ...errors import InputError
from ..schedule.allocation import round_block, water_fill
from ..schedule.cells import Axis, Bounds, Cells
from ..schedule.stages import Curriculum, Stage
from ..table import Table


class Shortage(InputError):
    """The pool, or what a weight wants of it, holds fewer rows than the budget."""


BLOCK = 8_192  # rows; a batch at a random place orders one block anew, in under a millisecond
Progress = Callable[[float], float]


@dataclass(frozen=True)
class StagePlan:
    """One stage, compiled.

    matrix: [blocks, Q] cards; -1 in the blocks of an adaptive stage that are not planned yet.
    edges: [blocks + 1] positions where the blocks begin. deck: rows; in it the stage's cards of a cell begin at
    `first` [Q] and are `left` [Q] many.
    loss: [blocks, Q] loss weights, None where all are 1. presented: rows over all steps, repetitions included.
    """

    stage: Stage
    matrix: np.ndarray
    edges: np.ndarray
    deck: np.ndarray
    first: np.ndarray
    left: np.ndarray
    presented: int
    loss: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Different rows this stage deals."""
        return int(self.edges[-1])

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage; its last batch may be padded."""
        return ceil(self.presented / self.stage.batch_size)

    @property
    def planned(self) -> int:
        """Blocks that are planned; all of them unless the stage adapts."""
        return int((self.matrix[:, :1] >= 0).sum()) if self.matrix.shape[1] else len(self.matrix)

    def cards_per_cell(self, blocks: int | None = None) -> np.ndarray:
        """[Q] cards of the first blocks, by default of all that are planned."""
        return self.matrix[: self.planned if blocks is None else blocks].sum(axis=0)

    def row_set(self, blocks: int | None = None) -> np.ndarray:
        """The rows of those blocks, deck by deck: quicker than in the order they are presented."""
        return self.deck[runs(self.first, self.cards_per_cell(blocks))]


def runs(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each run, end to end: [3, 9] and [2, 1] give [3, 4, 9]."""
    counts = np.asarray(counts, np.int64)
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def pool_axes(curriculum: Curriculum, table: Table) -> tuple[tuple[Axis, ...], dict[str, Bounds]]:
    """The axes, those that only a pool mentions included, and where the pools begin and end on each."""
    axes = {axis.name: axis for axis in curriculum.cells}
    bounds: dict[str, tuple[list[float], list[float]]] = {}
    for stage in curriculum.stages:
        for column, wanted in stage.pool.items():
            if column not in axes and column not in table.columns:
                raise InputError(
                    f"stage {stage.name!r}: pool column {column!r} is neither a cell axis nor a column of the table; "
                    f"there are {', '.join(sorted({*axes, *table.columns}))}"
                )
            if isinstance(wanted, Mapping):
                axes.setdefault(column, Axis(column, column, bins=1))
                lows, highs = bounds.setdefault(column, ([], []))
                for key, value in wanted.items():
                    if key not in ("min", "max") or not isinstance(value, (int, float)):
                        raise InputError(f"stage {stage.name!r}: pool {column} takes min and max, got {key}: {value!r}")
                    (lows if key == "min" else highs).append(float(value))
            else:
                axes.setdefault(column, Axis(column, column))
    ordered = tuple(sorted(axes.values(), key=lambda axis: axis.name))
    return ordered, {name: (low, high) for name, (low, high) in bounds.items()}


def pool_of(stage: Stage, cells: Cells) -> np.ndarray:
    """[Q] bool: the cells the stage may deal from."""
    pool = np.ones(len(cells), bool)
    for column, wanted in stage.pool.items():
        group = cells.group(column)
        if isinstance(wanted, Mapping):
            if column not in cells.edges:
                raise InputError(f"stage {stage.name!r}: pool {column} is text; give a value or a list of values")
            edges = cells.edges[column]
            low = np.concatenate([[-np.inf], edges])[group]
            high = np.concatenate([edges, [np.inf]])[group]
            if "min" in wanted:
                pool &= low >= edges.dtype.type(wanted["min"])
            if "max" in wanted:
                pool &= high <= np.nextafter(edges.dtype.type(wanted["max"]), np.inf)
            continue
        if column in cells.edges:
            raise InputError(f"stage {stage.name!r}: pool {column} is a number; give {{min: ..., max: ...}}")
        values = [wanted] if not isinstance(wanted, Sequence) or isinstance(wanted, str) else list(wanted)
        names = cells.axes[column]
        unknown = [value for value in values if value not in names]
        if unknown:
            raise InputError(f"stage {stage.name!r}: {column} is never {unknown[0]!r}; it is one of {sorted(names)}")
        pool &= np.isin(group, [names.index(value) for value in values])
    return pool


def way_out(stage: Stage) -> str:
    """What to do about a shortage."""
    return "lower the budget" + ("" if stage.window else ", or set on_short to stop or repeat")


def describe_pool(stage: Stage) -> str:
    """E.g. "label weak", for messages."""
    parts = []
    for column, wanted in stage.pool.items():
        if isinstance(wanted, Mapping):
            wanted = " and ".join(f"{key} {value}" for key, value in wanted.items())
        several = isinstance(wanted, Sequence) and not isinstance(wanted, str)
        parts.append(f"{column} {' or '.join(map(str, wanted)) if several else wanted}")
    return ", ".join(parts) or "all rows"


def rows_wanted(stage: Stage, cells: Cells, before: str) -> tuple[int, int]:
    """Rows the stage deals and rows it wants; fewer are dealt only where `on_short` says so."""
    available, budget = int(cells.left[cells.pool].sum()), stage.budget
    if budget.steps is not None:
        wanted = budget.steps * stage.batch_size
    elif budget.samples is not None:
        wanted = budget.samples
    else:
        share = Fraction(str(budget.fraction)) if budget.fraction is not None else Fraction(1)
        wanted = int(share * int(cells.size[cells.pool].sum()))  # 0.29 of 100 is 29, not 28
    rows = min(wanted, available) if stage.on_short != "error" else wanted
    if rows > available or rows == 0:
        raise Shortage(
            f"stage {stage.name!r} wants {wanted:,} rows of {describe_pool(stage)}, {available:,} are left{before}"
            + (f"; {way_out(stage)}" if wanted else "")
        )
    return rows, wanted


def block_edges(stage: Stage, rows: int) -> np.ndarray:
    """[blocks + 1] positions; a moving weight gets at least a hundred blocks, each a whole number of batches."""
    block = stage.block
    if stage.window is not None:
        block = stage.window * stage.batch_size
    elif block is None:
        block = BLOCK
        if stage.weight.moves or (stage.loss_weight is not None and stage.loss_weight.moves):
            block = min(block, ceil(rows / 100 / stage.batch_size) * stage.batch_size)
    return np.append(np.arange(0, rows, block), rows)


def deal(stage: Stage, cells: Cells, edges: np.ndarray, progress: Progress) -> np.ndarray:
    """[blocks, Q] cards of a stage whose mix does not depend on what will be observed."""
    left, debt = cells.left.astype(np.int64).copy(), np.zeros(len(cells))
    matrix = np.zeros((len(edges) - 1, len(cells)), np.int64)
    for k, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        t = progress((start + stop) / 2 / edges[-1])
        matrix[k], debt = deal_block(stage, cells.at(left, cells.pool, cells.live), stop - start, t, debt)
        left -= matrix[k]
        if matrix[k].sum() < stop - start:
            return matrix[: k + bool(matrix[k].any())]
    return matrix


def deal_block(stage: Stage, cells: Cells, cards: int, t: float, debt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cards [Q] and the new debt [Q]; fewer cards than asked for only where `on_short` is "stop"."""
    left = np.where(cells.pool, cells.left, 0)
    stop = stage.on_short == "stop"
    amount = stage.weight.amounts(cells, t, stage.mass_rule, may_be_empty=stop)
    open_ = (amount > 0) & (left > 0)
    supply = int(left[open_].sum())
    if supply < cards:
        if not stop:
            raise Shortage(
                f"stage {stage.name!r}: at {t:.1%} of it the cells with a positive weight have {supply:,} rows left, "
                f"{cards:,} are wanted; lower the budget{', widen' if stage.window is None else ' or widen'} the weight"
                + (", or set on_short to stop" if stage.window is None else "")
            )
        cards = supply
    # A cell that the weight no longer wants is owed nothing.
    target = np.where(open_, debt + water_fill(float(cards), amount, left), 0.0)
    dealt = round_block(target, open_, left, cards)
    return dealt, target - dealt


def loss_weights(stage: Stage, cells: Cells, matrix: np.ndarray, edges: np.ndarray, progress: Progress) -> Any:
    """[blocks, Q] loss weights with mean 1 over the rows dealt, or None."""
    if stage.loss_weight is None:
        return None
    out = np.zeros(matrix.shape)
    for k, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        here = cells.at(matrix[k], matrix[k] > 0, cells.live)
        amount = stage.loss_weight.amounts(here, progress((start + stop) / 2 / edges[-1]))
        out[k] = amount / np.maximum(matrix[k], 1)
    return out * (matrix.sum() / (out * matrix).sum())
