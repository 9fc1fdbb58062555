"""How many rows a budget in hours or FLOPs pays for: by the mean cost of the cells, for the mix of the stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...errors import InputError
from ..arrays import Floats, Ints
from ..schedule.budget import Budget, Cost
from ..schedule.cells import Cells
from ..schedule.stages import Stage
from ..table import Table
from .compile import Progress, Shortage, allocate, block_edges, most_rows, way_out
from .pools import rehearsed


def priced(
    stage: Stage, cells: Cells, cost: Cost, table: Table, number: Ints, progress: Progress, before: str
) -> Stage:
    """The stage with its hours or FLOPs turned into samples; an InputError where the pool holds less.

    number: [N] cells of the table's rows. before: names of the stages that took rows before it, for messages.
    """
    unit, target = stage.budget.unit, float(stage.budget.hours or stage.budget.flops or 0.0)
    if stage.feedback is not None:  # an adaptive stage is priced by what it would take before anything is observed
        cells = cells.at(cells.left, cells.pool, stage.feedback.columns(stage.feedback.start(cells), cells))
    costs, left = cost_per_cell(stage, cells, cost, table, number), most_rows(stage, cells)

    def mix(count: int) -> Ints:
        per_cell: Ints = allocate(stage, cells, block_edges(stage, count), progress).sum(0)
        return per_cell

    rows = rows_for(target, costs, mix, left)
    if rows == left and left:
        whole = float((mix(left) * costs).sum())
        if target > whole * (1 + 1e-6):  # worth more rows than there are: what `on_short` decides about
            rows = int(target / whole * left)
            if stage.on_short == "error" and stage.budget.at_most is None:
                raise InputError(
                    f"stage {stage.name!r} wants {target:g} {unit}, the {left:,} rows left{before} have {whole:g}; "
                    f"{way_out(stage)}"
                )
    if not rows and left:
        raise InputError(f"stage {stage.name!r}: {target:g} {unit} pay for less than one row{before}")
    return replace(stage, budget=Budget(samples=max(1, rows), at_most=stage.budget.at_most))


def cost_per_cell(stage: Stage, cells: Cells, cost: Cost, table: Table, number: Ints) -> Floats:
    """[Q] mean hours or FLOPs of a row of each cell, over the rows whose duration is known.

    number: [N] cells of the rows. Raises InputError where no duration in a cell of the pool is known.
    """
    duration = table.columns.get("duration_s")
    if not isinstance(duration, np.ndarray):
        raise InputError(f"stage {stage.name!r}: a budget in {stage.budget.unit} needs the column duration_s")
    inside = (number >= 0) & ~np.isnan(duration)
    per_row = duration / 3600 if stage.budget.hours is not None else cost.flops(stage.algorithm, duration)
    count = np.bincount(number[inside], minlength=len(cells))
    unknown = np.flatnonzero((cells.pool | rehearsed(stage, cells)) & (cells.left > 0) & (count == 0))
    if len(unknown):
        raise InputError(f"stage {stage.name!r}: no row of {cells.name(int(unknown[0]))} has a duration_s")
    return np.bincount(number[inside], weights=per_row[inside], minlength=len(cells)) / np.maximum(count, 1)


def rows_for(target: float, per_cell: Floats, mix: Callable[[int], Ints], available: int) -> int:
    """The most rows, up to `available`, whose expected cost is within the target; found by bisection.

    per_cell: [Q] cost of a row of each cell. mix: rows -> [Q] how many of them come from each cell.
    """

    def affordable(count: int) -> bool:
        try:
            return float((mix(count) * per_cell).sum()) <= target * (1 + 1e-9)
        except Shortage:  # the cells with a positive weight hold fewer
            return False

    low, high = 0, available + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if affordable(middle) else (low, middle)
    return low
