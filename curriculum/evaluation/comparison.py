"""Two models on the same questions: paired differences of every benchmark, condition and rule both have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ..statistics import cluster_mean, holm, mcnemar_exact

_KEYS = ("uid", "key", "clip", "condition", "rotation", "official", "option", "label")


def rules_of(table: pa.Table) -> list[str]:
    """The rules whose outcomes a table of `outcomes/` has."""
    return [name for name in table.column_names if name not in _KEYS]


def paired(before: pa.Table, after: pa.Table, benchmark: str) -> list[dict[str, Any]]:
    """Comparisons over the questions both were judged on, in the order of the file, by condition and rule.

    before, after: tables of `outcomes/`. Each: `questions`, shares `before` and `after`, `difference` with its interval
    clustered by recording, how many were `gained` and `lost`, McNemar's exact `p`.
    """
    found = []
    rows_of = [_first_order(table) for table in (before, after)]
    conditions = [name for name in rows_of[0] if name in rows_of[1]]
    for condition in conditions:
        a, b = rows_of[0][condition], rows_of[1][condition]
        shared = [uid for uid in a if uid in b]
        clip = np.array([a[uid]["clip"] for uid in shared], np.uint64)
        for rule in [name for name in rules_of(before) if name in rules_of(after)]:
            first, second = (np.array([float(one[uid][rule] == "right") for uid in shared]) for one in (a, b))
            if not shared:
                continue
            gained, lost = int((second > first).sum()), int((first > second).sum())
            found.append(
                {
                    "benchmark": benchmark,
                    "condition": condition,
                    "rule": rule,
                    "questions": len(shared),
                    "before": float(first.mean()),
                    "after": float(second.mean()),
                    "difference": list(cluster_mean(second - first, clip)),
                    "gained": gained,
                    "lost": lost,
                    "p": mcnemar_exact(gained, lost),
                }
            )
    return found


def _first_order(table: pa.Table) -> dict[str, dict[int, dict[str, Any]]]:
    """Condition -> uid -> row, of the order of the file."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["rotation"] == 0:
            found.setdefault(row["condition"], {})[row["uid"]] = row
    return found


def corrected(comparisons: list[dict[str, Any]]) -> int:
    """Puts `p_holm` beside the p of comparisons, one rule's of all benchmarks and conditions together; how many."""
    for rule in {one["rule"] for one in comparisons}:
        tests = [one for one in comparisons if one["rule"] == rule]
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
    return max(
        (sum(one["rule"] == rule for one in comparisons) for rule in {c["rule"] for c in comparisons}), default=0
    )


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Sentences on what two results were made with that is not the same, and so may make their numbers differ."""
    warnings = []
    made = before["made"], after["made"]
    for name in ("style", "prompt", "system", "max_new_tokens", "temperature", "dtype", "body", "parser", "rotations"):
        first, second = (one.get(name) for one in made)
        if first != second:
            warnings.append(f"{name} differs: {first!r:.100} and {second!r:.100}")
    for name in sorted({*made[0]["versions"], *made[1]["versions"]}):
        first, second = (one["versions"].get(name, "none") for one in made)
        if first != second:
            warnings.append(f"the version of {name} differs: {first} and {second}")
    of_name = {one["name"]: one for one in after["benchmarks"]}
    for one in before["benchmarks"]:
        other = of_name.get(one["name"])
        if other is None:
            warnings.append(f"{one['name']} is in the first results alone")
            continue
        for key, what in (("question_hash", "question file"), ("audio_hash", "recordings")):
            if one[key] != other[key]:
                warnings.append(
                    f"{one['name']}: the {what} differ: {one[key]} and {other[key]}; only shared questions count"
                )
        for place, side in (("first", one), ("second", other)):
            missing = side.get("missing", {}).get("tasks", {})
            warnings += [
                f"{one['name']}: {n:,} answers under {c} are missing in the {place}" for c, n in missing.items()
            ]
    shared = {one["name"] for one in before["benchmarks"]}
    warnings += [f"{name} is in the second results alone" for name in of_name if name not in shared]
    return warnings
