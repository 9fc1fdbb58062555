"""The table of an experiment as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...reports.page import points, share


def table_lines(whole: Mapping[str, Any]) -> list[str]:
    """Before, after and change of every arm, the contrasts with the reference, and what seeds add; line by line."""
    results = whole["results"]
    out: list[str] = []
    for name in results["left_out"]:
        rows = [["arm", "questions", "n", "before", "after", "change", "p (Holm)", "seeds, sd"]]
        accuracy = [row for row in results["accuracy"] if row["benchmark"] == name]
        for number, row in enumerate(accuracy):
            first = number == 0 or accuracy[number - 1]["arm"] != row["arm"]
            sds = ", ".join(f"{axis} {100 * one['sd']:.1f}" for axis, one in row["spread"]["after"].items())
            numbers = [share(row["before"]), share(row["after"]), _points(row["gain"]), f"{row['p_holm']:.2g}"]
            rows.append(
                [row["arm"] if first else "", row["label"], f"{row['questions']:,}", *numbers, sds or "one run"]
            )
        out += ["", name, *_aligned(rows)]
        stages = [row for row in results["stages"] if row["benchmark"] == name]
        if stages:
            rows = [["stage by stage", "questions", "change", "p (Holm)"]]
            rows += [
                [f"{r['arm']}: {r['from']} to {r['to']}", r["label"], _points(r["gain"]), f"{r['p_holm']:.2g}"]
                for r in stages
            ]
            out += ["", *_aligned(rows)]
        contrasts = [row for row in results["contrasts"] if row["benchmark"] == name]
        if contrasts:
            rows = [[f"after, against {results['reference']}", "questions", "difference", "p (Holm)"]]
            rows += [[r["arm"], r["label"], _points(r["difference"]), f"{r['p_holm']:.2g}"] for r in contrasts]
            out += ["", *_aligned(rows)]
        inner = [row for row in results["interactions"] if row["benchmark"] == name]
        if inner:
            rows = [["change of strong minus change of weak", "", "points", "p (Holm)"]]
            rows += [[r["arm"], "", _points(r["interaction"]), f"{r['p_holm']:.2g}"] for r in inner]
            out += ["", *_aligned(rows)]
    return out


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _points(value: Sequence[float | None]) -> str:
    if any(one is None for one in value):
        return "unknown" if value[0] is None else f"{100 * value[0]:+.1f}"
    return points([float(one) for one in value if one is not None])
