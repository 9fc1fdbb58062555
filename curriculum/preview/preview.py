"""Knows what a plan says before anything is trained: counts, mixes, hours, FLOPs, overlaps, and what to doubt."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from ..arrays import Bools, Ints
from ..online.cursor import Cursor
from ..plan.plan import Plan
from ..table import Categorical

GLYPHS = " .:-=+*#%@"
MIXES = ("label", "source", "question_type")
_WIDTH = 50


def stage_rows(plan: Plan, stage: str) -> Ints:
    """[rows] in the order of the first pass; of an adaptive stage the windows that are planned."""
    dealt = plan.stage_plan(stage)
    return plan.rows(stage, np.arange(int(dealt.edges[dealt.planned])))


def describe(plan: Plan) -> dict[str, Any]:
    """Everything about a plan, ready for JSON; of an adaptive stage what is planned before anything is observed."""
    for name, dealt in plan.stages.items():
        if dealt.stage.window and not dealt.planned:
            plan = plan.copy()  # a cursor plans windows in its plan; the one that is looked at stays as it is
            Cursor(plan, name)
    rows = {name: stage_rows(plan, name) for name in plan.stages}
    inside = plan.cell_of_row >= 0
    everything = {c: _mix(plan, c, np.flatnonzero(inside)) for c in MIXES if _is_text(plan, c)}
    stages = {name: _stage(plan, name, rows[name]) for name in plan.stages}
    return {
        "fingerprint": plan.fingerprint,
        "rows": len(plan.table),
        "outside": int((~inside).sum()),
        "cells": len(plan.cells),
        "mix": everything,
        "stages": stages,
        "turns": {name: [plan.members(name)[k] for k in turns] for name, turns in plan.turns.items()},
        "overlaps": overlaps(plan, rows),
        "doubts": _doubts(plan, stages, everything, rows),
    }


def _stage(plan: Plan, name: str, rows: Ints) -> dict[str, Any]:
    dealt, cost = plan.stage_plan(name), plan.curriculum.cost
    stage, passes = dealt.stage, dealt.presented / max(dealt.rows, 1)
    found: dict[str, Any] = {
        "algorithm": stage.algorithm,
        "rows": dealt.rows,
        "presented": dealt.presented,
        "passes": passes,
        "steps": dealt.steps,
        "batch_size": stage.batch_size,
        "padding": dealt.steps * stage.batch_size - dealt.presented,
        "pool": int(dealt.left[_pool(plan, name)].sum()),
        "windows": [dealt.planned, len(dealt.matrix)] if stage.window else None,
        "first": [f"{uid:016x}" for uid in plan.table.uid[rows[:3]].tolist()],
        "last": [f"{uid:016x}" for uid in plan.table.uid[rows[-3:]].tolist()],
        "mix": {column: _mix(plan, column, rows) for column in MIXES if _is_text(plan, column)},
        "over_time": _over_time(plan, name),
        "hours": None,
        "tokens": None,
        "flops": None,
    }
    duration = plan.table.columns.get("duration_s")
    if isinstance(duration, np.ndarray) and len(rows):
        seconds = np.asarray(duration[rows], float)
        scale = dealt.presented / len(rows)  # an adaptive stage's later windows are taken to be like its first
        found["hours"] = float(np.nansum(seconds)) * scale / 3600
        found["tokens"] = float(np.nansum(cost.tokens(stage.algorithm, seconds))) * scale
        found["flops"] = float(np.nansum(cost.flops(stage.algorithm, seconds))) * scale
    return found


def _over_time(plan: Plan, name: str) -> dict[str, Any]:
    """Cards per value of each axis in up to 60 parts of the stage: {"edges": [...], axis: {value: [...]}}."""
    dealt, cells = plan.stage_plan(name), plan.cells
    matrix = dealt.matrix[: dealt.planned]
    starts = np.unique(np.linspace(0, len(matrix), min(len(matrix), 60) + 1).astype(int))[:-1]
    parts = np.add.reduceat(matrix, starts, axis=0) if len(matrix) else matrix
    out: dict[str, Any] = {"edges": [int(dealt.edges[s]) for s in [*starts, len(matrix)]], "axes": {}}
    for axis, names in cells.axes.items():
        group = cells.group(axis)
        sums = np.stack([np.bincount(group, weights=part, minlength=len(names)) for part in parts]).T.astype(int)
        shown = np.flatnonzero(sums.sum(1))
        out["axes"][axis] = {names[k]: sums[k].tolist() for k in shown}
    return out


def overlaps(plan: Plan, rows: dict[str, Ints]) -> list[dict[str, Any]]:
    """Of every two stages: rows of the second whose uid, recording or question text the first has too."""
    found = []
    for a, b in combinations(plan.stages, 2):
        entry: dict[str, Any] = {"stages": [a, b], "uid": int(np.isin(rows[b], rows[a]).sum())}
        for column in ("clip", "question"):
            if _is_identity(plan, column):
                thing = plan.table.identity(column)
                entry[column] = int(np.isin(thing[rows[b]], thing[rows[a]]).sum())
        found.append(entry)
    return found


def _doubts(plan: Plan, stages: dict[str, Any], everything: dict[str, Any], rows: dict[str, Ints]) -> list[str]:
    """Sentences about what may surprise; none of it is an error."""
    said = []
    outside = int((plan.cell_of_row < 0).sum())
    if outside:
        said.append(f"{outside:,} of {len(plan.cell_of_row):,} rows lack a value on a cell axis and are never dealt")
    for name, stage in stages.items():
        covered = stage["rows"] / max(stage["pool"], 1)
        if covered < 0.01:
            said.append(
                f"{name} deals {stage['rows']:,} of the {stage['pool']:,} rows of its pool ({covered:.2%}): "
                "which ones is a source of variance; `claim: first` gives every arm the same"
            )
        shift = _distance(stage["mix"].get("source", {}), everything.get("source", {}))
        if shift > 0.1:
            said.append(
                f"{name} has another mix of sources than the table (total variation {shift:.0%}): label and source are "
                "confounded; `{matched: {by: source}}` in its weight holds the mix"
            )
        if stage["padding"]:
            said.append(f"{name}: the last batch is padded with {stage['padding']} rows of weight 0")
        said += _dry(plan, name)
        said += _idle(plan, name, rows[name])
    for entry in overlaps(plan, rows):
        if entry.get("clip") and "clip" not in plan.curriculum.disjoint:
            a, b = entry["stages"]
            said.append(
                f"{entry['clip']:,} rows of {b} share their recording with {a}; `disjoint: [uid, clip]` forbids it"
            )
    return said


def _dry(plan: Plan, name: str) -> list[str]:
    dealt = plan.stage_plan(name)
    pool = _pool(plan, name) & (dealt.left > 0)
    never = pool & (dealt.cards_per_cell() == 0)
    said = []
    if never.any() and dealt.stage.window is None:
        count = int(dealt.left[never].sum())
        said.append(f"{name}: {int(never.sum())} cells of its pool ({count:,} rows) are never dealt")
    half = dealt.matrix[: max(1, dealt.planned // 2)].sum(axis=0)
    dry = pool & (half >= dealt.left)
    if dealt.stage.window is None and len(dealt.matrix) > 3 and dry.sum() > 0.1 * pool.sum():
        said.append(f"{name}: {int(dry.sum())} of {int(pool.sum())} cells run dry in its first half; use fewer bins")
    return said


def _idle(plan: Plan, name: str, rows: Ints) -> list[str]:
    """Expected share of groups without an advantage, where the table holds accuracies with audio."""
    p = plan.table.columns.get("p_audio")
    if plan.stage_plan(name).stage.algorithm != "grpo" or not isinstance(p, np.ndarray) or not len(rows):
        return []
    known, size = p[rows][~np.isnan(p[rows])], plan.curriculum.cost.group_size
    idle = float(np.mean(known**size + (1 - known) ** size)) if len(known) else 0.0
    return [f"{name}: {idle:.0%} of its groups of {size} are expected to have no advantage"]


def _pool(plan: Plan, name: str) -> Bools:
    from ..plan.compile import pool_of

    return pool_of(plan.stage_plan(name).stage, plan.cells)


def _is_identity(plan: Plan, column: str) -> bool:
    value = plan.table.columns.get(column)
    return isinstance(value, Categorical) or (value is not None and value.dtype == np.uint64)


def _is_text(plan: Plan, column: str) -> bool:
    return isinstance(plan.table.columns.get(column), Categorical)


def _mix(plan: Plan, column: str, rows: Ints) -> dict[str, int]:
    text = plan.table.text(column)
    counts = np.bincount(text.codes[rows] + 1, minlength=len(text.names) + 1)
    named = sorted(zip(("missing", *text.names), counts.tolist(), strict=True))
    return {name: count for name, count in named if count}


def _distance(a: dict[str, int], b: dict[str, int]) -> float:
    """Total variation between two mixes."""
    total_a, total_b = sum(a.values()) or 1, sum(b.values()) or 1
    return sum(abs(a.get(k, 0) / total_a - b.get(k, 0) / total_b) for k in {*a, *b}) / 2


def lines(found: dict[str, Any]) -> list[str]:
    """The description as text for a terminal."""
    out = [f"plan {found['fingerprint']}: {found['rows']:,} rows in {found['cells']:,} cells"]
    for column, mix in found["mix"].items():
        out.append(f"  {column}: " + _counts(mix))
    for name, stage in found["stages"].items():
        out += ["", f"{name} ({stage['algorithm']}): {stage['rows']:,} of {stage['pool']:,} rows, "]
        out[-1] += f"{stage['passes']:.2f} times each, in {stage['steps']:,} steps of {stage['batch_size']:,}"
        if stage["hours"] is not None:
            out.append(f"  {stage['hours']:,.1f} hours, {short(stage['tokens'])} tokens, {short(stage['flops'])} FLOPs")
        if stage["windows"]:
            out.append("  adaptive: {} of {} windows are planned before anything is observed".format(*stage["windows"]))
        out += [f"  {column}: {_counts(mix)}" for column, mix in stage["mix"].items()]
        out.append(f"  first {' '.join(stage['first'])} ... last {' '.join(stage['last'])}")
        for axis, groups in stage["over_time"]["axes"].items():
            if len(stage["over_time"]["edges"]) > 3 and len(groups) > 1:
                out += [f"  {axis} over the stage:", *_heat(groups)]
    for name, turns in found["turns"].items():
        out += [
            "",
            f"{name}: " + ", ".join(f"{m} has {turns.count(m)} of {len(turns)} steps" for m in dict.fromkeys(turns)),
        ]
    if found["overlaps"]:
        out.append("")
    for entry in found["overlaps"]:
        shared = ", ".join(f"{entry[k]:,} by {k}" for k in ("uid", "clip", "question") if k in entry)
        out.append(f"shared by {' and '.join(entry['stages'])}: {shared}")
    return out + [f"note: {doubt}" for doubt in found["doubts"]]


def _counts(mix: dict[str, int]) -> str:
    total = sum(mix.values()) or 1
    return ", ".join(f"{name} {count:,} ({count / total:.1%})" for name, count in mix.items())


def _heat(groups: dict[str, list[int]]) -> list[str]:
    """A line per value: the darker, the larger its share of the rows dealt at that time."""
    width = max(map(len, groups))
    values = np.array(list(groups.values()), float)
    places = np.linspace(0, values.shape[1], _WIDTH + 1).astype(int)[:-1]
    share = values / np.maximum(values.sum(0), 1)
    dark = np.ceil(share / max(float(share.max()), 1e-9) * (len(GLYPHS) - 1)).astype(int)[:, places]
    rows = zip(groups.items(), dark.tolist(), strict=True)
    return [f"    {n.rjust(width)} |{''.join(GLYPHS[d] for d in line)}| {sum(v):>9,}" for (n, v), line in rows]


def short(value: float | None) -> str:
    """A large number with three or four digits and a unit letter."""
    if value is None:
        return "unknown"
    for unit, size in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15)):
        if value < 1000 * size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.3e}"
