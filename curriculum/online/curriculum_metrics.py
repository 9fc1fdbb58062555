"""Knows where a curriculum is at a step: how far, with what numbers, in what planned mix, and what it has learnt."""

from __future__ import annotations

import numpy as np

from ..plan.interleave import turn_of
from ..plan.plan import Plan
from .cursor import Cursor

MOST_VALUES = 12  # of an axis; a finer one is for the report, not for a log of every step
SHOWN = ("ac", "necessity", "useful")


def curriculum_metrics(plan: Plan, stage: str, step: int, cursor: Cursor | None = None) -> dict[str, float]:
    """Numbers to log at a step of a stage or interleave.

    `curriculum/progress`: share of the stage's presentations before this step. `curriculum/{name}`: every number of
    the weight that moves, e.g. temperature or at, in the step's block. `data/planned/{axis}/{value}`: shares of the
    step's block. `live/{name}/{axis}/{value}`: means over cells of what an adaptive stage has observed.
    """
    name, number = plan.member(stage, step)
    dealt = plan.stage_plan(name)
    position = number * dealt.stage.batch_size
    place = min(position, dealt.presented - 1) % dealt.rows
    block = int(np.searchsorted(dealt.edges, place, "right")) - 1
    middle = float(dealt.edges[block] + dealt.edges[block + 1]) / 2 / dealt.rows
    if stage in plan.turns:  # a member was dealt by the progress of the whole
        turns = plan.turns[stage]
        middle = turn_of(np.flatnonzero(turns == plan.members(stage).index(name)), len(turns), middle)
    live = cursor.live() if cursor is not None else {}
    metrics = {"curriculum/progress": position / dealt.presented}
    weight = dealt.stage.weight
    for part in (*weight.factors, *weight.modifiers):
        metrics |= {f"curriculum/{key}": pace(middle, live) for key, pace in part.paces.items() if pace.moves}
    metrics |= shares(plan, dealt.matrix[block].astype(float), "data/planned")
    for column in SHOWN:
        if column in live:
            for key, cells in _groups(plan).items():
                metrics[f"live/{column}/{key}"] = float(np.mean(live[column][cells]))
    return metrics


def shares(plan: Plan, counts: np.ndarray, prefix: str) -> dict[str, float]:
    """`{prefix}/{axis}/{value}`: the parts of counts [Q] of the cells, where there are any."""
    total = max(float(counts.sum()), 1.0)
    found = {f"{prefix}/{key}": float(counts[cells].sum()) / total for key, cells in _groups(plan).items()}
    return {key: share for key, share in found.items() if share}


def _groups(plan: Plan) -> dict[str, np.ndarray]:
    """`{axis}/{value}` -> its cells."""
    groups: dict[str, np.ndarray] = {}
    for axis, names in plan.cells.axes.items():
        codes = plan.cells.group(axis)
        present = np.unique(codes)
        if len(present) <= MOST_VALUES:
            groups |= {f"{axis}/{names[code]}": np.flatnonzero(codes == code) for code in present.tolist()}
    return groups
