"""Compares the curricula of an experiment, its arms, side by side: what differs between them and what does not.

An arms file is a mapping with `base`, a curriculum, and `arms`, name -> changes:
    {}                                        the base itself
    {include: mixed_to_mixed}                 another curriculum file
    {stages.grpo.weight: {matched: ...}}      one value, at the end of a path as `key=value` has it
    {stages: [...], columns: {...}}           whole keys of the curriculum
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ...configs.overrides import assigned
from ...configs.typed import value_of
from ...errors import InputError
from ..plan.fingerprint import differences
from ..plan.plan import Plan
from ..schedule.budget import Budget
from ..schedule.stages import Curriculum, Stage, parse_curriculum
from ..table import Table
from .preview import describe, short, stage_rows
from .synthetic import over_a_made_up_table

MATCHES = ("none", "samples", "steps", "tokens", "flops")


def arms_of(spec: Mapping[str, Any], read: Callable[[str], Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Arm -> its curriculum's mapping, from an arms file; `read` returns the content of a file that it names.

    Raises InputError for other keys, and changes of a stage or key that is not there.
    """
    unknown = set(spec) - {"base", "arms", "match"}
    if unknown or not isinstance(spec.get("arms"), Mapping) or not spec["arms"]:
        raise InputError(f"an arms file has base, arms and match; got {', '.join(map(str, spec))}")
    base = spec.get("base", {})
    if not isinstance(base, str | Mapping):
        raise InputError(f"an arms file's base is a curriculum or the name of one, got {base!r}")
    base = dict(read(base) if isinstance(base, str) else base)
    return {
        str(name): _arm(str(name), base, {} if change is None else change, read)
        for name, change in spec["arms"].items()
    }


def _arm(name: str, base: dict[str, Any], change: Any, read: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """One arm's curriculum: the base, or the file that it includes, with its changes."""
    if not isinstance(change, Mapping):
        raise InputError(f"arm {name!r}: a mapping of changes is needed, got {change!r}")
    start = read(value_of(change["include"], str, f"arm {name!r}: include")) if "include" in change else base
    changes = [(str(key), value) for key, value in change.items() if key != "include"]
    return _named(name, assigned, start, changes)  # type: ignore[no-any-return]


def compare(
    arms: Mapping[str, Mapping[str, Any]], table: Table, match: str = "none", way: str | None = None
) -> dict[str, Any]:
    """The comparison, ready for JSON: every arm described, what differs from the first arm, and the rows in common.

    "order" has digests of the rows that stages deal, "budgets" what they are given.

    match: one of MATCHES; scales every arm's budgets so that its total equals the first arm's, or the smallest arm's
    where a pool cannot supply that ("matched_to"). way: what to do for another table, where this one is made up.
    Raises InputError that names the arm whose curriculum is wrong or does not fit the table.
    """
    if match not in MATCHES:
        raise InputError(f"match must be one of {', '.join(MATCHES)}, got {match!r}")
    parsed = {name: _named(name, parse_curriculum, spec) for name, spec in arms.items()}
    first, matched_to = next(iter(parsed)), None
    with over_a_made_up_table(way):
        plans = {name: _named(name, Plan, curriculum, table) for name, curriculum in parsed.items()}
        if match != "none":
            plans, matched_to = _matched(plans, table, match)
    sheets = {name: describe(plan) for name, plan in plans.items()}
    return {
        "match": match,
        "matched_to": matched_to,
        "arms": sheets,
        "totals": {name: {unit: _total(sheet, unit) for unit in MATCHES[1:]} for name, sheet in sheets.items()},
        "differences": {name: _differences(parsed[first], parsed[name]) for name in plans if name != first},
        "overlap": _jaccard(plans),
        "order": {name: {stage: _order(plan, stage) for stage in plan.stages} for name, plan in plans.items()},
        "budgets": {name: _budgets(plan) for name, plan in plans.items()},
    }


def _order(plan: Plan, stage: str) -> str:
    """16 hexadecimal digits of the questions of a stage in the order in which they are dealt the first time."""
    return hashlib.blake2b(plan.table.uid[stage_rows(plan, stage)].tobytes(), digest_size=8).hexdigest()


def _budgets(plan: Plan) -> dict[str, dict[str, Any]]:
    """Stage or interleave -> the budget or the steps that it has, scaled where arms are matched."""
    curriculum = plan.curriculum
    alone = [stage for stage in curriculum.stages if not curriculum.interleave_of(stage.name)]
    budgets: dict[str, dict[str, Any]] = {one.name: {"steps": one.steps} for one in curriculum.interleaves}
    return budgets | {stage.name: stage.described()["budget"] for stage in alone}


def _matched(plans: Mapping[str, Plan], table: Table, match: str) -> tuple[dict[str, Plan], str]:
    """The arms scaled to the total of the first, or of the smallest where a pool has too little; and which."""
    totals: dict[str, float] = {}
    for name, plan in plans.items():
        total = _total(describe(plan), match)
        if total is None:
            raise InputError(f"match {match}: the table has no duration_s, so {match} are not known")
        totals[name] = total
    first, smallest = next(iter(totals)), min(totals, key=lambda name: totals[name])
    try:
        scaled = {name: _scaled_to(plan, table, totals[first], totals[name], name) for name, plan in plans.items()}
        if not any(taken.cut for name in plans if name != first for taken in scaled[name].stages.values()):
            return scaled, first
    except InputError:  # not every pool has enough for the first arm's total
        if smallest == first:
            raise
    wanted = totals[smallest]
    return {name: _scaled_to(plan, table, wanted, totals[name], name) for name, plan in plans.items()}, smallest


def _scaled_to(plan: Plan, table: Table, wanted: float, total: float, name: str) -> Plan:
    """The plan with budgets times wanted / total; itself where that is one."""
    if abs(total - wanted) <= 0.5:
        return plan
    return _named(name, Plan, _named(name, _scaled, plan, wanted / total), table)  # type: ignore[no-any-return]


def _named(name: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """What `make(*arguments)` returns; where it raises an InputError, one that names the arm."""
    try:
        return make(*arguments)
    except InputError as error:
        raise InputError(f"arm {name!r}: {error}") from None


def _scaled(plan: Plan, factor: float) -> Curriculum:
    """The curriculum with all budgets times the factor; members of an interleave by their common number of steps.

    Where a budget is cut by `at_most` or `on_short`, the rows that the stage takes are scaled instead.
    """
    curriculum = plan.curriculum
    groups = tuple(replace(g, steps=max(1, round(len(plan.turns[g.name]) * factor))) for g in curriculum.interleaves)
    alone = tuple(
        stage if curriculum.interleave_of(stage.name) else replace(stage, budget=_scaled_budget(plan, stage, factor))
        for stage in curriculum.stages
    )
    return replace(curriculum, stages=alone, interleaves=groups)


def _scaled_budget(plan: Plan, stage: Stage, factor: float) -> Budget:
    taken, budget = plan.stage_plan(stage.name), stage.budget
    if taken.cut:
        more = {"samples": taken.rows, "epochs": budget.epochs, "at_most": budget.at_most}
        budget = Budget(**more)  # type: ignore[arg-type]
    return budget.scaled(factor)


def _total(sheet: Mapping[str, Any], unit: str) -> float | None:
    """The rows presented, steps, tokens or FLOPs of all stages; None where the table has no durations."""
    values = [stage["presented" if unit == "samples" else unit] for stage in sheet["stages"].values()]
    return None if any(value is None for value in values) else float(sum(values))


def _differences(base: Curriculum, other: Curriculum) -> list[str]:
    """The keys of the curriculum that are not the same: "stages.sft.pool.label: weak -> none"."""
    changed = differences(_by_name(base.described()), _by_name(other.described()))
    return [f"{key}: {_value(old)} -> {_value(new)}" for key, old, new in changed]


def _value(value: Any) -> str:
    """A value of a curriculum in short; a whole stage is "there"."""
    if value is None:
        return "none"
    return "there" if isinstance(value, dict) and "objective" in value else str(value)


def _by_name(described: dict[str, Any]) -> dict[str, Any]:
    """Stages as a mapping, so that an arm with one stage more does not differ in all that follow."""
    return described | {"stages": {stage["name"]: stage for stage in described["stages"]}}


def _jaccard(plans: Mapping[str, Plan]) -> list[dict[str, Any]]:
    """For every two arms and every stage that both have: |A and B| / |A or B| of the rows they take."""
    rows = {name: {stage: np.unique(stage_rows(plan, stage)) for stage in plan.stages} for name, plan in plans.items()}
    common = []
    for a, b in combinations(plans, 2):
        for stage in rows[a]:
            if stage in rows[b]:
                both = len(np.intersect1d(rows[a][stage], rows[b][stage], assume_unique=True))
                either = len(rows[a][stage]) + len(rows[b][stage]) - both
                common.append({"arms": [a, b], "stage": stage, "jaccard": both / max(either, 1), "shared": both})
    return common


def comparison_lines(sheet: Mapping[str, Any]) -> list[str]:
    """The comparison as text for a terminal, line by line."""
    rows = [["arm", "stage", "rows", "presented", "steps", "hours", "tokens", "FLOPs", "labels"]]
    for name, arm in sheet["arms"].items():
        for number, (stage, summary) in enumerate(arm["stages"].items()):
            mix = summary["mix"].get("label", {})
            total = sum(mix.values()) or 1
            labels = " ".join(f"{label} {count / total:.1%}" for label, count in mix.items())
            hours = "" if summary["hours"] is None else f"{summary['hours']:,.1f}"
            cells = [
                name if number == 0 else "",
                stage,
                f"{summary['rows']:,}",
                f"{summary['presented']:,}",
                f"{summary['steps']:,}",
            ]
            rows.append([*cells, hours, short(summary["tokens"]), short(summary["flops"]), labels])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    text = [
        " ".join(c.ljust(w) if k in (0, 1, 8) else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    out = [line.rstrip() for line in text]
    out += [
        "",
        f"budgets matched by {sheet['match']}" if sheet["match"] != "none" else "budgets as written, not matched",
    ]
    if sheet["matched_to"] not in (None, next(iter(sheet["totals"]))):
        out[-1] += f" to {sheet['matched_to']}, the smallest arm: not every pool has enough for more"
    first = next(iter(sheet["totals"].values()))
    for name, total in sheet["totals"].items():
        ratios = ", ".join(f"{unit} x{total[unit] / max(first[unit], 1e-9):.3f}" for unit in MATCHES[1:] if first[unit])
        out.append(f"  {name}: {ratios}")
    for name, keys in sheet["differences"].items():
        out += ["", f"{name} differs from {next(iter(sheet['arms']))} in", *(f"  {key}" for key in keys or ["nothing"])]
    out += ["", "rows in common (Jaccard)"]
    for entry in sheet["overlap"]:
        arms = " and ".join(entry["arms"])
        out.append(f"  {entry['stage']}: {arms}: {entry['jaccard']:.3f} ({entry['shared']:,} rows)")
    arms_of_doubt: dict[str, list[str]] = {}
    for name, arm in sheet["arms"].items():
        for doubt in arm["doubts"]:
            arms_of_doubt.setdefault(doubt, []).append(name)
    notes = [f"note: {', '.join(names)}: {doubt}" for doubt, names in arms_of_doubt.items()]
    return out + ([""] if notes else []) + notes
