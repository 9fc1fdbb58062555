"""One stage, compiled: the cells of its pool, its budget in rows, and the matrix of rows per block and cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from ...errors import InputError
from ..arrays import Floats, Ints
from ..schedule.allocation import round_block, water_fill
from ..schedule.cells import Cells
from ..schedule.stages import Stage
from .pools import describe_pool, rehearsed


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


def way_out(stage: Stage) -> str:
    """The end of a message about a shortage: what the user can do."""
    return "lower the budget" + ("" if stage.window else ", or set on_short to stop or repeat")


def rows_wanted(stage: Stage, cells: Cells, before: str) -> tuple[int, int]:
    """How many rows the stage takes and how many its budget names; fewer only where `at_most` or `on_short` says so.

    before: names of the stages that took rows before it, for the message. Raises Shortage.
    """
    pool, left = int(cells.size[cells.pool].sum()), int(cells.left[cells.pool].sum())
    if not pool:
        lacking = describe_pool(stage.pool) if stage.pool else f"a known {' and '.join(cells.axes)}"
        raise Shortage(
            f"stage {stage.name!r}: the table has no row with {lacking}; give it another pool, or leave it out"
        )
    wanted, granted = stage.budget.rows(stage.batch_size, pool, left)
    if not wanted:
        raise Shortage(
            f"stage {stage.name!r}: a fraction of {stage.budget.fraction} of the {pool:,} rows of its pool is less "
            "than one row; raise it"
        )
    most = most_rows(stage, cells)
    rows = min(granted, most) if stage.on_short != "error" else granted
    if stage.rehearse is not None and left and (rows > most or not cells.left[rehearsed(stage, cells)].any()):
        _refuse_rehearsal(stage, cells, granted)
    if rows > most or rows == 0:
        way = way_out(stage) if left else "lower the budget of the stages that take theirs first"
        own = wanted - (0 if stage.rehearse is None else stage.rehearse.rows(wanted))
        raise Shortage(
            f"stage {stage.name!r} wants {own:,} rows of {describe_pool(stage.pool)}, {left:,} are left{before}; {way}"
        )
    return rows, wanted


def most_rows(stage: Stage, cells: Cells) -> int:
    """How many rows the stage could take of what is left of its pool, with those that it rehearses beside them."""
    left = int(cells.left[cells.pool].sum())
    again = rehearsed(stage, cells)
    return left if stage.rehearse is None else stage.rehearse.most(left, int(cells.left[again].sum()))


def _refuse_rehearsal(stage: Stage, cells: Cells, rows: int) -> None:
    """Raises Shortage where so many rows of a stage rehearse more than there is."""
    rehearsal = stage.rehearse
    assert rehearsal is not None
    there, wanted = int(cells.left[rehearsed(stage, cells)].sum()), rehearsal.rows(rows)
    if wanted > there:
        who, other = ("the stages before it had", "false") if rehearsal.seen else ("no stage takes", "true")
        raise Shortage(
            f"stage {stage.name!r} rehearses {wanted:,} rows of {describe_pool(rehearsal.pool)}, {who} {there:,}; "
            f"lower the share, or say seen: {other}" + ("" if stage.window or not there else ", or on_short: repeat")
        )


def block_edges(stage: Stage, rows: int) -> Ints:
    """[blocks + 1] positions of a stage of so many rows where its blocks begin, and its end.

    A stage whose weight moves has at least a hundred blocks, each a whole number of batches.
    """
    block = stage.block
    if stage.window is not None:
        block = stage.window * stage.batch_size
    elif block is None:
        block = BLOCK
        weights = [stage.weight, stage.loss_weight, None if stage.rehearse is None else stage.rehearse.weight]
        if any(weight is not None and weight.moves for weight in weights):
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
        matrix[k], debt = allocate_block(stage, cells.at(left, cells.pool, cells.live), (start, stop), t, debt)
        left -= matrix[k]
        if matrix[k].sum() < stop - start:
            matrix = matrix[: k + bool(matrix[k].any())]
            break
    if not len(matrix):
        raise Shortage(f"stage {stage.name!r}: the cells that its weight wants have no row left; widen the weight")
    return matrix


def allocate_block(stage: Stage, cells: Cells, span: tuple[int, int], t: float, debt: Floats) -> tuple[Ints, Floats]:
    """How many of a block's rows come from each cell [Q], and the new debt [Q].

    span: where the block begins and ends in the stage. t: progress in its middle. debt: what rounding withheld from
    each cell, and gave to others, so far. What is rehearsed has its share of every block, to a row.
    Fewer rows than asked for only where `on_short` is "stop"; else Shortage is raised.
    """
    rehearsal, rows = stage.rehearse, span[1] - span[0]
    again = 0 if rehearsal is None else rehearsal.rows(span[1]) - rehearsal.rows(span[0])
    amount = stage.weight.amounts(cells, t, stage.mass_rule, may_be_empty=stage.on_short == "stop")
    taken, owed = _dealt(stage, cells, amount, rows - again, t, debt)
    if rehearsal is None:
        return taken, owed
    if (own := int(taken.sum())) < rows - again:
        again = rehearsal.beside(own)
    others = cells.at(cells.left, rehearsed(stage, cells), cells.live)
    amount = rehearsal.weight.amounts(others, t, rehearsal.weight.mass, may_be_empty=True)
    left = np.where(others.pool, others.left, 0)
    if left[amount > 0].sum() < again:
        amount = left.astype(float)
    more, owed_too = _dealt(stage, others, amount, again, t, debt)
    return taken + more, owed + owed_too


def _dealt(stage: Stage, cells: Cells, amount: Floats, rows: int, t: float, debt: Floats) -> tuple[Ints, Floats]:
    """So many rows of the pool in proportion to the amounts [Q], and the new debt [Q], 0 outside the pool."""
    left = np.where(cells.pool, cells.left, 0)
    open_ = (amount > 0) & (left > 0)
    supply = int(left[open_].sum())
    if supply < rows:
        if stage.on_short != "stop":
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
