"""One stage, compiled: the cells of its pool, its budget in rows, and the matrix of rows per block and cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from ...configs.plugins import nearest
from ...errors import InputError
from ..arrays import Bools, Floats, Ints
from ..schedule.allocation import round_block, water_fill
from ..schedule.cells import Axis, Bounds, Cells
from ..schedule.stages import Curriculum, Stage
from ..table import Table, made_by


class Shortage(InputError):
    """The pool, or the part of it with a positive weight, holds fewer rows than the budget."""


BLOCK = 8_192  # rows; a batch at a random place orders one block anew, in under a millisecond
Progress = Callable[[float], float]  # of a stage -> of what its weight moves with: itself, or its whole interleave


@dataclass(frozen=True)
class StagePlan:
    """One stage over Q cells: how many rows each of its blocks takes of each cell, and which rows those are.

    matrix: [blocks, Q] rows taken; -1 in the blocks of an adaptive stage that are not planned yet.
    edges: [blocks + 1] positions in the stage where its blocks begin, and its end.
    deck: [M] rows of the table, cell after cell, each in the order in which stages take them. Of cell q the stage
    takes from `deck[first[q]]` on; `left` [Q] rows were there for it.
    loss: [blocks, Q] loss weights, None where all are 1. presented: rows over all steps, repetitions included.
    wanted: rows that the budget names, before `at_most` and `on_short`.
    """

    stage: Stage
    matrix: Ints
    edges: Ints
    deck: Ints
    first: Ints
    left: Ints
    presented: int
    loss: Floats | None = None
    wanted: int = 0

    @property
    def rows(self) -> int:
        """How many different rows the stage takes."""
        return int(self.edges[-1])

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage, the last of which may be padded."""
        return ceil(self.presented / self.stage.batch_size)

    @property
    def cut(self) -> bool:
        """Whether it takes fewer rows than its budget names, and does not make up for them by repeating some."""
        return self.wanted > self.rows and self.stage.on_short != "repeat"

    @property
    def planned(self) -> int:
        """How many blocks are planned: all, unless the stage adapts."""
        return int((self.matrix[:, :1] >= 0).sum()) if self.matrix.shape[1] else len(self.matrix)

    def rows_per_cell(self) -> Ints:
        """[Q] rows that the planned blocks take of each cell."""
        taken: Ints = self.matrix[: self.planned].sum(axis=0)
        return taken

    def row_set(self) -> Ints:
        """The rows of the planned blocks, cell after cell: quicker than in the order in which they are presented."""
        return self.deck[runs(self.first, self.rows_per_cell())]


def runs(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1, ... of each run, end to end: starts [3, 9] and counts [2, 1] give [3, 4, 9]."""
    counts = np.asarray(counts, np.int64)
    offsets: Ints = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return np.arange(len(offsets)) + offsets


def pool_axes(curriculum: Curriculum, table: Table) -> tuple[tuple[Axis, ...], dict[str, Bounds]]:
    """The axes of the cells, those that only a pool mentions included, and where pools begin and end on each.

    Raises InputError for a pool over an unknown column or with a bound that is not a number.
    """
    axes = {axis.name: axis for axis in curriculum.cells}
    bounds: dict[str, tuple[list[float], list[float]]] = {}
    for stage in curriculum.stages:
        for column, wanted in stage.pool.items():
            if column not in axes and column not in table.columns:
                raise InputError(
                    f"stage {stage.name!r}: pool column {column!r} is neither a cell axis nor a column of the table; "
                    + (nearest(column, sorted({*axes, *table.columns}), "there are") + made_by(column))
                )
            if isinstance(wanted, Mapping):
                axes.setdefault(column, Axis(column, column, bins=1))
                lows, highs = bounds.setdefault(column, ([], []))
                for key, value in wanted.items():
                    where = f"stage {stage.name!r}: pool {column}"
                    if key not in ("min", "max"):
                        raise InputError(f"{where} takes min and max, got {key}: {value!r}")
                    if isinstance(value, bool) or not isinstance(value, (int, float)):
                        raise InputError(f"{where}: {key} must be a number, got {value!r}")
                    (lows if key == "min" else highs).append(float(value))
            else:
                axes.setdefault(column, Axis(column, column))
    ordered = tuple(sorted(axes.values(), key=lambda axis: axis.name))
    return ordered, {name: (low, high) for name, (low, high) in bounds.items()}


def pool_of(stage: Stage, cells: Cells) -> Bools:
    """[Q] bool: the cells that the stage may take rows from.

    Raises InputError where the pool names a value that its axis does not have, or is of the wrong kind.
    """
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
        if not values:
            raise InputError(f"stage {stage.name!r}: pool {column} is an empty list; name a value")
        names = cells.axes[column]
        unknown = [value for value in values if value not in names]
        if unknown:
            raise InputError(f"stage {stage.name!r}: {column} is never {unknown[0]!r}; it is one of {sorted(names)}")
        pool &= np.isin(group, [names.index(value) for value in values])
    return pool


def way_out(stage: Stage) -> str:
    """The end of a message about a shortage: what the user can do."""
    return "lower the budget" + ("" if stage.window else ", or set on_short to stop or repeat")


def describe_pool(stage: Stage) -> str:
    """The pool in words, e.g. "label weak", for messages."""
    parts = []
    for column, wanted in stage.pool.items():
        if isinstance(wanted, Mapping):
            wanted = " and ".join(f"{key} {value}" for key, value in wanted.items())
        several = isinstance(wanted, Sequence) and not isinstance(wanted, str)
        parts.append(f"{column} {' or '.join(map(str, wanted)) if several else wanted}")
    return ", ".join(parts) or "all rows"


def rows_wanted(stage: Stage, cells: Cells, before: str) -> tuple[int, int]:
    """How many rows the stage takes and how many its budget names; fewer only where `at_most` or `on_short` says so.

    before: names of the stages that took rows before it, for the message. Raises Shortage.
    """
    pool, left = int(cells.size[cells.pool].sum()), int(cells.left[cells.pool].sum())
    if not pool:
        lacking = describe_pool(stage) if stage.pool else f"a known {' and '.join(cells.axes)}"
        raise Shortage(
            f"stage {stage.name!r}: the table has no row with {lacking}; give it another pool, or leave it out"
        )
    wanted, granted = stage.budget.rows(stage.batch_size, pool, left)
    if not wanted:
        raise Shortage(
            f"stage {stage.name!r}: a fraction of {stage.budget.fraction} of the {pool:,} rows of its pool is less "
            "than one row; raise it"
        )
    rows = min(granted, left) if stage.on_short != "error" else granted
    if rows > left or rows == 0:
        way = way_out(stage) if left else "lower the budget of the stages that take theirs first"
        raise Shortage(
            f"stage {stage.name!r} wants {wanted:,} rows of {describe_pool(stage)}, {left:,} are left{before}; {way}"
        )
    return rows, wanted


def block_edges(stage: Stage, rows: int) -> Ints:
    """[blocks + 1] positions of a stage of so many rows where its blocks begin, and its end.

    A stage whose weight moves has at least a hundred blocks, each a whole number of batches.
    """
    block = stage.block
    if stage.window is not None:
        block = stage.window * stage.batch_size
    elif block is None:
        block = BLOCK
        if stage.weight.moves or (stage.loss_weight is not None and stage.loss_weight.moves):
            block = min(block, ceil(rows / 100 / stage.batch_size) * stage.batch_size)
    return np.append(np.arange(0, rows, block), rows)


def allocate(stage: Stage, cells: Cells, edges: Ints, progress: Progress) -> Ints:
    """[blocks, Q] rows that each block takes of each cell, where the mix does not depend on observations.

    There are fewer blocks, and fewer rows in the last, where `on_short` is "stop" and the cells run out.
    """
    left = cells.left.astype(np.int64).copy()
    debt: Floats = np.zeros(len(cells))
    matrix = np.zeros((len(edges) - 1, len(cells)), np.int64)
    for k, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        t = progress((start + stop) / 2 / edges[-1])
        matrix[k], debt = allocate_block(stage, cells.at(left, cells.pool, cells.live), stop - start, t, debt)
        left -= matrix[k]
        if matrix[k].sum() < stop - start:
            matrix = matrix[: k + bool(matrix[k].any())]
            break
    if not len(matrix):
        raise Shortage(f"stage {stage.name!r}: the cells that its weight wants have no row left; widen the weight")
    return matrix


def allocate_block(stage: Stage, cells: Cells, rows: int, t: float, debt: Floats) -> tuple[Ints, Floats]:
    """How many of a block's rows come from each cell [Q], and the new debt [Q].

    t: progress in the middle of the block. debt: what rounding withheld from each cell, and gave to others, so far.
    Fewer rows than asked for only where `on_short` is "stop"; else Shortage is raised.
    """
    left = np.where(cells.pool, cells.left, 0)
    stop = stage.on_short == "stop"
    amount = stage.weight.amounts(cells, t, stage.mass_rule, may_be_empty=stop)
    open_ = (amount > 0) & (left > 0)
    supply = int(left[open_].sum())
    if supply < rows:
        if not stop:
            raise Shortage(
                f"stage {stage.name!r}: at {t:.1%} of it the cells with a positive weight have {supply:,} rows left, "
                f"{rows:,} are wanted; lower the budget{', widen' if stage.window is None else ' or widen'} the weight"
                + (", or set on_short to stop" if stage.window is None else "")
            )
        rows = supply
    # A cell that the weight no longer wants is owed nothing.
    target = np.where(open_, debt + water_fill(float(rows), amount, left), 0.0)
    taken = round_block(target, open_, left, rows)
    return taken, target - taken


def loss_weights(stage: Stage, cells: Cells, matrix: Ints, edges: Ints, progress: Progress) -> Floats | None:
    """[blocks, Q] loss weights with mean 1 over the rows that `matrix` [blocks, Q] takes; None where all are 1."""
    if stage.loss_weight is None:
        return None
    weights = np.zeros(matrix.shape)
    for k, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        of_block = cells.at(matrix[k], matrix[k] > 0, cells.live)
        amount = stage.loss_weight.amounts(of_block, progress((start + stop) / 2 / edges[-1]))
        weights[k] = amount / np.maximum(matrix[k], 1)
    scale: float = matrix.sum() / (weights * matrix).sum()
    return weights * scale
