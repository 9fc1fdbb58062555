"""How much of a stage is still to do, in the curriculum's own costs: steps differ in length, and stages in kind."""

from __future__ import annotations

import numpy as np

from ..arrays import Floats
from .plan import Plan

_MOST = 2000  # steps that are looked at one by one; of a longer stage every n-th


def step_costs(plan: Plan, stage: str) -> tuple[Floats, list[str]]:
    """[S] FLOPs of every step of a stage or interleave, and [S] the names of the stages whose turn it is.

    NaN where an adaptive stage has not planned the step yet. Where durations are unknown, questions cost the same.
    """
    steps = plan.num_steps(stage)
    turns = [plan.member(stage, step)[0] for step in range(steps)]
    duration = plan.table.columns.get("duration_s")
    seconds = np.nan_to_num(duration) if isinstance(duration, np.ndarray) else np.zeros(len(plan.table))
    costs = np.full(steps, np.nan)
    for name in set(turns):
        own = np.flatnonzero(np.array(turns) == name)
        looked = own[:: max(1, len(own) // _MOST)]
        looked = looked[[plan.ready(stage, int(step)) for step in looked]]
        for step in looked.tolist():
            rows, weights = plan.batch(stage, step)
            algorithm = plan.stage_plan(name).stage.algorithm
            costs[step] = plan.curriculum.cost.flops(algorithm, seconds[rows][weights > 0]).sum()
        if len(looked) and len(looked) < len(own):
            known = [step for step in own.tolist() if plan.ready(stage, step)]
            costs[known] = np.interp(known, looked, costs[looked])
    return costs, turns
