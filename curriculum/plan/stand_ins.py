"""Stand-ins: which rows may take the place of one that cannot be read, from the same cell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arrays import Ints
from ..identity import hash64
from ..table import Categorical
from .compile import StagePlan, runs
from .decks import among
from .plan import Plan
from .pools import pool_of, rehearsed
from .seen import sees_again


def stand_ins(plan: Plan, stage: str, row: int) -> Iterator[int]:
    """Rows of the row's cell, in an order that depends on the row's identity alone, each with another recording.

    First the rows that no stage takes, then the stage's own of that cell, which then come once more. Never another
    stage's, and with `disjoint: [clip]` none whose recording another stage has; but for a row that the stage sees
    again, others that were seen.
    """
    stage_plan, cell = plan.stage_plan(stage), int(plan.cell_of_row[row])
    begin = int(stage_plan.first[cell])
    candidates = stage_plan.deck[begin : begin + int(stage_plan.left[cell])].astype(np.int64)
    others = [claimed(plan, other) for name, other in plan.stages.items() if name != stage]
    taken = np.concatenate([candidates[:0], *others])
    again = sees_again(stage_plan.stage) and bool(rehearsed(stage_plan.stage, plan.cells)[cell])
    usable = ~np.isin(candidates, taken) | again
    if not again and "clip" in plan.curriculum.disjoint:
        clips = plan.table.identity("clip")
        usable &= ~among(clips[candidates], clips[taken])
    own = np.isin(candidates, claimed(plan, stage_plan))
    clip = plan.table.columns.get("clip")
    recordings = clip.codes if isinstance(clip, Categorical) else clip
    if recordings is not None and isinstance(clip, Categorical) and recordings[row] < 0:
        recordings = None  # nobody knows which recording the row is about
    for pool in (candidates[usable & ~own], candidates[usable & own]):
        start = hash64(plan.curriculum.seed, "stand-in", stage, int(plan.table.uid[row])) % max(1, len(pool))
        for candidate in np.roll(pool, -start).tolist():
            if candidate != row and (recordings is None or recordings[candidate] != recordings[row]):
                yield candidate


def claimed(plan: Plan, stage_plan: StagePlan) -> Ints:
    """The rows that a stage takes, or that an adaptive one may still take: of each cell as many as its whole budget."""
    if stage_plan.stage.window is None:
        return stage_plan.row_set().astype(np.int64)
    pool = pool_of(stage_plan.stage, plan.cells) | rehearsed(stage_plan.stage, plan.cells)
    most = np.where(pool, np.minimum(stage_plan.left, stage_plan.rows), 0)
    return stage_plan.deck[runs(stage_plan.first, most)].astype(np.int64)
