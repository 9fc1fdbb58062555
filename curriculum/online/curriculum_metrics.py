"""Metrics of the curriculum at a step: progress, the numbers of its weight, the planned mix, and what was observed."""

from __future__ import annotations

import numpy as np

from ..arrays import Floats, Ints
from ..plan.interleave import turn_of
from ..plan.plan import Plan
from ..plan.pools import rehearsed
from .cursor import Cursor

MOST_VALUES = 12  # of an axis; a finer one is for the report, not for a log of every step
LIVE_COLUMNS = ("ac", "necessity", "useful", "fallen")  # observed columns that are logged


def curriculum_metrics(plan: Plan, stage: str, step: int, cursor: Cursor | None = None) -> dict[str, float]:
    """Numbers to log at a step of a stage or interleave.

    `curriculum/progress`: share of the stage's presentations before this step. `curriculum/{name}`: every number of
    the weight that moves, e.g. temperature or at, in the step's block. `data/planned/{axis}/{value}`: shares of the
    step's block, and `data/planned/rehearsed` of what the stage rehearses. `live/{name}/{axis}/{value}`: means over
    cells of what an adaptive stage has observed.
    """
    member, member_step = plan.member(stage, step)
    stage_plan = plan.stage_plan(member)
    position = member_step * stage_plan.stage.batch_size
    place = min(position, stage_plan.presented - 1) % stage_plan.rows
    block = int(np.searchsorted(stage_plan.edges, place, "right")) - 1
    progress = float(stage_plan.edges[block] + stage_plan.edges[block + 1]) / 2 / stage_plan.rows
    if stage in plan.turns:  # the weights of a member move with the progress of the whole interleave
        turns = plan.turns[stage]
        progress = turn_of(np.flatnonzero(turns == plan.members(stage).index(member)), len(turns), progress)
    live = cursor.live() if cursor is not None else {}
    metrics = {"curriculum/progress": position / stage_plan.presented}
    weight = stage_plan.stage.weight
    for part in (*weight.factors, *weight.modifiers):
        metrics |= {f"curriculum/{key}": pace(progress, live) for key, pace in part.paces.items() if pace.moves}
    counts = stage_plan.matrix[block].astype(float)
    metrics |= shares(plan, counts, "data/planned")
    if stage_plan.stage.rehearse is not None:
        again = rehearsed(stage_plan.stage, plan.cells)
        metrics["data/planned/rehearsed"] = float(counts[again].sum()) / max(float(counts.sum()), 1.0)
    for column in LIVE_COLUMNS:
        if column in live:
            for key, cells in _groups(plan).items():
                metrics[f"live/{column}/{key}"] = float(np.mean(live[column][cells]))
    return metrics


def shares(plan: Plan, counts: Floats, prefix: str) -> dict[str, float]:
    """`{prefix}/{axis}/{value}` -> its share in [0, 1] of the counts [Q] per cell; values without any are left out."""
    total = max(float(counts.sum()), 1.0)
    parts = {f"{prefix}/{key}": float(counts[cells].sum()) / total for key, cells in _groups(plan).items()}
    return {key: share for key, share in parts.items() if share}


def _groups(plan: Plan) -> dict[str, Ints]:
    """`{axis}/{value}` -> the numbers of its cells, for the axes with few values."""
    groups: dict[str, Ints] = {}
    for axis, names in plan.cells.axes.items():
        codes = plan.cells.group(axis)
        present = np.unique(codes)
        if len(present) <= MOST_VALUES:
            groups |= {f"{axis}/{names[code]}": np.flatnonzero(codes == code) for code in present.tolist()}
    return groups
