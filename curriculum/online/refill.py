"""Refills: rows that take the places of groups without an advantage, from the same cells, the ends of the decks first.

Dropping such groups and refilling from the stream would change the mix of labels; a refill from the cell of what was
dropped keeps it. A row is taken once: the counts are part of a run's position.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Bools, Ints
from ..identity import splitmix64
from ..plan.decks import among
from ..plan.plan import Plan
from ..plan.stand_ins import claimed


def spare(plan: Plan, stage: str, cell: int) -> Ints:
    """Rows of the cell that neither the stage nor another takes, the end of the deck first.

    Of an adaptive stage, what is not planned yet; its later windows are planned without the rows taken here. Where
    several stages refill, each has its own part of the rows, since their runs do not know of each other. With
    `disjoint: [clip]` no row whose recording another stage has.
    """
    stage_plan = plan.stage_plan(stage)
    first, left = int(stage_plan.first[cell]), int(stage_plan.left[cell])
    begin = first + int(stage_plan.rows_per_cell()[cell])
    rows = stage_plan.deck[begin : first + left][::-1].astype(np.int64)
    refilling = [name for name, other in plan.stages.items() if other.stage.on_zero_advantage == "refill_same_cell"]
    if len(refilling) > 1 and stage in refilling:
        rows = rows[splitmix64(plan.table.uid[rows]) % len(refilling) == refilling.index(stage)]
    others = [claimed(plan, other) for name, other in plan.stages.items() if name != stage]
    if not others:
        return rows
    taken = np.concatenate(others)
    usable = ~np.isin(rows, taken)
    if "clip" in plan.curriculum.disjoint:
        clips = plan.table.identity("clip")
        usable &= ~among(clips[rows], clips[taken])
    return rows[usable]


class Refill:
    """The rows that refills of one stage have taken so far. taken: [Q] how many of each cell."""

    def __init__(self, plan: Plan, stage: str) -> None:
        self.plan, self.stage = plan, stage
        self.taken = np.zeros(len(plan.cells), np.int64)
        self._spare: dict[int, Ints] = {}

    def take(self, wanted: Ints, scarce: Bools | None = None, room: int = 0) -> dict[int, Ints]:
        """Cell -> its next rows, `wanted` [Q] of each or what is left.

        scarce: [Q] bool of cells that may give `room` rows at most, all of them together.
        """
        refilled = {}
        for cell in np.flatnonzero(wanted).tolist():
            bounded = scarce is not None and bool(scarce[cell])
            most = min(int(wanted[cell]), max(room, 0)) if bounded else int(wanted[cell])
            rows = self._of_cell(cell)[self.taken[cell] : self.taken[cell] + most]
            self.taken[cell] += len(rows)
            room -= len(rows) * bounded
            if len(rows):
                refilled[cell] = rows
        return refilled

    def rows(self) -> Ints:
        """All rows taken so far, cell after cell."""
        cells = np.flatnonzero(self.taken).tolist()
        return np.concatenate([np.empty(0, np.int64), *(self._of_cell(cell)[: self.taken[cell]] for cell in cells)])

    def _of_cell(self, cell: int) -> Ints:
        """The spare rows of a cell, those taken first.

        An adaptive stage's later windows take rows from the beginning of the deck, so that there are fewer and fewer;
        what was taken lies at the end and stays.
        """
        if self.plan.stage_plan(self.stage).stage.window is not None:
            return spare(self.plan, self.stage, cell)
        if cell not in self._spare:
            self._spare[cell] = spare(self.plan, self.stage, cell)
        return self._spare[cell]
