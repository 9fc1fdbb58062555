"""A plan described before anything is trained: counts, mixes, hours, FLOPs, overlaps, and what should raise doubts."""

from __future__ import annotations

from itertools import combinations
from typing import Any, TypedDict

import numpy as np

from ..arrays import Ints
from ..online.cursor import Cursor
from ..plan.plan import Plan
from ..plan.pools import describe_pool, pool_of, rehearsed
from ..plan.seen import sees_again
from ..table import Categorical
from .doubts import doubts_of

GLYPHS = " .:-=+*#%@"
MIXES = ("label", "source", "question_type")
_WIDTH = 50


class OverTime(TypedDict):
    """How a stage's mix moves. edges: positions of its parts. axes: axis -> value -> rows in each part."""

    edges: list[int]
    axes: dict[str, dict[str, list[int]]]


class StageSummary(TypedDict):
    """One stage of a plan, ready for JSON.

    pool: rows it could take. windows: how many are planned, of how many; None where the stage does not adapt.
    first, last: uids in hexadecimal. mix: column -> value -> rows. hours, tokens, flops: None without durations.
    """

    algorithm: str
    rows: int
    presented: int
    passes: float
    steps: int
    batch_size: int
    padding: int
    pool: int
    windows: list[int] | None
    rehearsed: dict[str, Any] | None
    first: list[str]
    last: list[str]
    mix: dict[str, dict[str, int]]
    over_time: OverTime
    hours: float | None
    tokens: float | None
    flops: float | None


class PlanSummary(TypedDict):
    """A plan, ready for JSON. outside: rows in no cell. turns: interleave -> the stage of every step."""

    fingerprint: str
    rows: int
    outside: int
    cells: int
    mix: dict[str, dict[str, int]]
    stages: dict[str, StageSummary]
    turns: dict[str, list[str]]
    overlaps: list[dict[str, Any]]
    doubts: list[str]


def stage_rows(plan: Plan, stage: str) -> Ints:
    """[rows] of the table in the order of the stage's first pass; of an adaptive stage the windows that are planned."""
    stage_plan = plan.stage_plan(stage)
    return plan.rows(stage, np.arange(int(stage_plan.edges[stage_plan.planned])))


def describe(plan: Plan) -> PlanSummary:
    """Everything about a plan, ready for JSON; of an adaptive stage what is planned before anything is observed."""
    for name, stage_plan in plan.stages.items():
        if stage_plan.stage.window and not stage_plan.planned:
            plan = plan.copy()  # a cursor plans windows in its plan; the caller's stays as it is
            Cursor(plan, name)
    rows = {name: stage_rows(plan, name) for name in plan.stages}
    inside = plan.cell_of_row >= 0
    whole = {c: _mix(plan, c, np.flatnonzero(inside)) for c in MIXES if _is_text(plan, c)}
    stages = {name: _stage(plan, name, rows[name]) for name in plan.stages}
    shared = overlaps(plan, rows)
    return {
        "fingerprint": plan.fingerprint,
        "rows": len(plan.table),
        "outside": int((~inside).sum()),
        "cells": len(plan.cells),
        "mix": whole,
        "stages": stages,
        "turns": {name: [plan.members(name)[k] for k in turns] for name, turns in plan.turns.items()},
        "overlaps": shared,
        "doubts": doubts_of(plan, stages, whole, rows, shared),
    }


def _stage(plan: Plan, name: str, rows: Ints) -> StageSummary:
    """One stage, whose rows in the order of the first pass are given."""
    stage_plan, cost = plan.stage_plan(name), plan.curriculum.cost
    stage = stage_plan.stage
    summary: StageSummary = {
        "algorithm": stage.algorithm,
        "rows": stage_plan.rows,
        "presented": stage_plan.presented,
        "passes": stage_plan.presented / max(stage_plan.rows, 1),
        "steps": stage_plan.steps,
        "batch_size": stage.batch_size,
        "padding": stage_plan.steps * stage.batch_size - stage_plan.presented,
        "pool": int(stage_plan.left[pool_of(stage, plan.cells)].sum()),
        "windows": [stage_plan.planned, len(stage_plan.matrix)] if stage.window else None,
        "rehearsed": _rehearsed(plan, name),
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
        scale = stage_plan.presented / len(rows)  # an adaptive stage's later windows are taken to be like its first
        summary["hours"] = float(np.nansum(seconds)) * scale / 3600
        summary["tokens"] = float(np.nansum(cost.tokens(stage.algorithm, seconds))) * scale
        summary["flops"] = float(np.nansum(cost.flops(stage.algorithm, seconds))) * scale
    return summary


def _rehearsed(plan: Plan, name: str) -> dict[str, Any] | None:
    """How many rows a stage rehearses, of what, and whether others had them before."""
    stage_plan = plan.stage_plan(name)
    rehearsal = stage_plan.stage.rehearse
    if rehearsal is None:
        return None
    count = int(stage_plan.rows_per_cell()[rehearsed(stage_plan.stage, plan.cells)].sum())
    share = count / max(int(stage_plan.edges[stage_plan.planned]), 1)
    return {"rows": count, "share": share, "of": describe_pool(rehearsal.pool), "seen": rehearsal.seen}


def _over_time(plan: Plan, name: str) -> OverTime:
    """Rows per value of each axis in up to 60 parts of the stage, each a whole number of blocks."""
    stage_plan, cells = plan.stage_plan(name), plan.cells
    matrix = stage_plan.matrix[: stage_plan.planned]
    starts = np.unique(np.linspace(0, len(matrix), min(len(matrix), 60) + 1).astype(int))[:-1]
    parts = np.add.reduceat(matrix, starts, axis=0) if len(matrix) else matrix
    axes: dict[str, dict[str, list[int]]] = {}
    for axis, names in cells.axes.items():
        group = cells.group(axis)
        sums = np.stack([np.bincount(group, weights=part, minlength=len(names)) for part in parts]).T.astype(int)
        axes[axis] = {names[k]: sums[k].tolist() for k in np.flatnonzero(sums.sum(1))}
    return {"edges": [int(stage_plan.edges[s]) for s in [*starts, len(matrix)]], "axes": axes}


def overlaps(plan: Plan, rows: dict[str, Ints]) -> list[dict[str, Any]]:
    """For every two stages, how many rows of the second have a uid, recording or question text that the first has.

    rows: stage -> its rows. Returns {"stages": [a, b], "uid": n}, with "clip" and "question" where the table has them.
    What a stage sees again on purpose is left out of its rows; see `rehearsed` of its summary.
    """
    shared = []
    rows = {name: _for_itself(plan, name, of_stage) for name, of_stage in rows.items()}
    for a, b in combinations(plan.stages, 2):
        entry: dict[str, Any] = {"stages": [a, b], "uid": int(np.isin(rows[b], rows[a]).sum())}
        for column in ("clip", "question"):
            if _is_identity(plan, column):
                identity = plan.table.identity(column)
                entry[column] = int(np.isin(identity[rows[b]], identity[rows[a]]).sum())
        shared.append(entry)
    return shared


def _for_itself(plan: Plan, name: str, rows: Ints) -> Ints:
    stage = plan.stage_plan(name).stage
    if not sees_again(stage):
        return rows
    return rows[~rehearsed(stage, plan.cells)[plan.cell_of_row[rows]]]


def _is_identity(plan: Plan, column: str) -> bool:
    value = plan.table.columns.get(column)
    return isinstance(value, Categorical) or (value is not None and value.dtype == np.uint64)


def _is_text(plan: Plan, column: str) -> bool:
    return isinstance(plan.table.columns.get(column), Categorical)


def _mix(plan: Plan, column: str, rows: Ints) -> dict[str, int]:
    """Value -> rows that have it, for a text column; "missing" for those without one."""
    text = plan.table.text(column)
    counts = np.bincount(text.codes[rows] + 1, minlength=len(text.names) + 1)
    named = sorted(zip(("missing", *text.names), counts.tolist(), strict=True))
    return {name: count for name, count in named if count}


def lines(summary: PlanSummary) -> list[str]:
    """The description as text for a terminal, line by line."""
    out = [f"plan {summary['fingerprint']}: {summary['rows']:,} rows in {summary['cells']:,} cells"]
    for column, mix in summary["mix"].items():
        out.append(f"  {column}: " + _counts(mix))
    for name, stage in summary["stages"].items():
        out += ["", f"{name} ({stage['algorithm']}): {stage['rows']:,} of {stage['pool']:,} rows, "]
        out[-1] += f"{stage['passes']:.2f} times each, in {stage['steps']:,} steps of {stage['batch_size']:,}"
        if stage["hours"] is not None:
            out.append(f"  {stage['hours']:,.1f} hours, {short(stage['tokens'])} tokens, {short(stage['flops'])} FLOPs")
        if stage["windows"]:
            out.append("  adaptive: {} of {} windows are planned before anything is observed".format(*stage["windows"]))
        if (again := stage["rehearsed"]) is not None:
            had = "which the stages before it had" if again["seen"] else "which no other stage has"
            out.append(f"  rehearses {again['rows']:,} rows ({again['share']:.1%}) of {again['of']}, {had}")
        out += [f"  {column}: {_counts(mix)}" for column, mix in stage["mix"].items()]
        out.append(f"  first {' '.join(stage['first'])} ... last {' '.join(stage['last'])}")
        for axis, groups in stage["over_time"]["axes"].items():
            if len(stage["over_time"]["edges"]) > 3 and len(groups) > 1:
                out += [f"  {axis} over the stage:", *_heat(groups)]
    for name, turns in summary["turns"].items():
        parts = (f"{member} has {turns.count(member)} of {len(turns)} steps" for member in dict.fromkeys(turns))
        out += ["", f"{name}: {', '.join(parts)}"]
    if summary["overlaps"]:
        out.append("")
    for entry in summary["overlaps"]:
        shared = ", ".join(f"{entry[k]:,} by {k}" for k in ("uid", "clip", "question") if k in entry)
        out.append(f"shared by {' and '.join(entry['stages'])}: {shared}")
    return out + [f"note: {doubt}" for doubt in summary["doubts"]]


def _counts(mix: dict[str, int]) -> str:
    """E.g. "strong 4 (40.0%), weak 6 (60.0%)"."""
    total = sum(mix.values()) or 1
    return ", ".join(f"{name} {count:,} ({count / total:.1%})" for name, count in mix.items())


def _heat(groups: dict[str, list[int]]) -> list[str]:
    """A line per value: the darker, the larger its share of the rows at that time of the stage."""
    width = max(map(len, groups))
    values = np.array(list(groups.values()), float)
    places = np.linspace(0, values.shape[1], _WIDTH + 1).astype(int)[:-1]
    share = values / np.maximum(values.sum(0), 1)
    dark = np.ceil(share / max(float(share.max()), 1e-9) * (len(GLYPHS) - 1)).astype(int)[:, places]
    rows = zip(groups.items(), dark.tolist(), strict=True)
    return [f"    {n.rjust(width)} |{''.join(GLYPHS[d] for d in line)}| {sum(v):>9,}" for (n, v), line in rows]


def short(value: float | None) -> str:
    """A number with up to four digits and a unit letter, e.g. "1.25k"; "unknown" for None."""
    if value is None:
        return "unknown"
    for unit, size in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15)):
        if value < 1000 * size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.3e}"
