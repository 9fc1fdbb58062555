"""What should raise doubts about a plan before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Ints
from ..plan.plan import Plan
from ..plan.pools import pool_of


def doubts_of(
    plan: Plan,
    stages: Mapping[str, Any],
    whole: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Ints],
    shared: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Sentences about what may surprise; none of it is an error.

    stages: their summaries. whole: the mix of the table. rows: stage -> its rows. shared: what two stages have in
    common.
    """
    doubts = []
    if outside := int((plan.cell_of_row < 0).sum()):
        doubts.append(
            f"{outside:,} of {len(plan.cell_of_row):,} rows lack a value that `cells` asks for; no stage has them"
        )
    for name, stage in stages.items():
        taken = plan.stages[name]
        if taken.cut:
            doubts.append(f"{name} takes {taken.rows:,} of the {taken.wanted:,} rows that its budget names")
        covered = stage["rows"] / max(stage["pool"], 1)
        if covered < 0.01:
            doubts.append(
                f"{name} takes {stage['rows']:,} of the {stage['pool']:,} rows of its pool ({covered:.2%}): "
                "which ones is a source of variance; `claim: first` gives every arm the same"
            )
        shift = _distance(stage["mix"].get("source", {}), whole.get("source", {}))
        if shift > 0.1:
            doubts.append(
                f"{name} has another mix of sources than the table (total variation {shift:.0%}): label and source are "
                "confounded; `{matched: {by: source}}` in its weight holds the mix"
            )
        if stage["padding"]:
            doubts.append(f"{name}: the last batch has {stage['padding']} questions fewer than the others")
        doubts += _unused(plan, name)
        doubts += _without_advantage(plan, name, rows[name])
    for entry in shared:
        if entry.get("clip") and "clip" not in plan.curriculum.disjoint:
            a, b = entry["stages"]
            doubts.append(
                f"{entry['clip']:,} rows of {b} share their recording with {a}; `disjoint: [uid, clip]` forbids it"
            )
    return doubts


def _unused(plan: Plan, name: str) -> list[str]:
    """Doubts about cells of which the stage takes nothing, or nothing more in its second half."""
    stage_plan = plan.stage_plan(name)
    if stage_plan.stage.window is not None:
        return []
    pool = pool_of(stage_plan.stage, plan.cells) & (stage_plan.left > 0)
    unused, cells, doubts = pool & (stage_plan.rows_per_cell() == 0), int(pool.sum()), []
    if unused.any():
        count = int(stage_plan.left[unused].sum())
        doubts.append(f"{name} takes no row of {int(unused.sum())} of the {cells} cells of its pool ({count:,} rows)")
    half = stage_plan.matrix[: max(1, stage_plan.planned // 2)].sum(axis=0)
    empty = pool & (half >= stage_plan.left)
    if len(stage_plan.matrix) > 3 and empty.sum() > 0.1 * cells:
        doubts.append(
            f"{name}: {int(empty.sum())} of {cells} cells have no row left after its first half; use fewer bins"
        )
    return doubts


def _without_advantage(plan: Plan, name: str, rows: Ints) -> list[str]:
    """The expected share of groups without an advantage, where the table holds accuracies with audio."""
    p = plan.table.columns.get("p_audio")
    if plan.stage_plan(name).stage.algorithm != "grpo" or not isinstance(p, np.ndarray) or not len(rows):
        return []
    known, size = p[rows][~np.isnan(p[rows])], plan.curriculum.cost.group_size
    share = float(np.mean(known**size + (1 - known) ** size)) if len(known) else 0.0
    return [f"{name}: {share:.0%} of its groups of {size} are expected to have no advantage"]


def _distance(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Total variation between two mixes, in [0, 1]."""
    total_a, total_b = sum(a.values()) or 1, sum(b.values()) or 1
    return sum(abs(a.get(k, 0) / total_a - b.get(k, 0) / total_b) for k in {*a, *b}) / 2
