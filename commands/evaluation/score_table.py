"""The table of a whole run on public benchmarks: models, what changed between them, published numbers beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...boundary.files import made_folder, read_json, write_text
from ...curriculum.statistics import holm
from ...errors import InputError
from ...reports.page import html_of, plain, points, row_of, share, table_of
from ...reports.pages import write_page
from ...reports.records import Overview, Section
from .comparison import compare_results

_RULES = ("official", "strict")


def score_table(
    results: dict[str, str],
    out: str,
    published: dict[str, dict[str, float]] | None = None,
    title: str = "Benchmarks",
) -> dict[str, Any]:
    """Writes `out/table.md`, `out/table.json` and the page `out/report.html`; returns where the page is.

    results: model -> folder of results of `earwitness evaluate`, in the order of training; each model is compared with
    the one before it and the last with the first, question by question. published: row -> benchmark -> percent.
    InputError where a folder holds no results, or two share no question.
    """
    if not results:
        raise InputError("score_table: no results given")
    found = {name: _read(Path(folder)) for name, folder in results.items()}
    changes, warnings = _changes(results)
    names = list(dict.fromkeys(one for benchmarks in found.values() for one in benchmarks))
    table = {"scores": _scores(found), "published": published or {}, "changes": changes, "warnings": warnings}
    folder = Path(out)
    made_folder(folder)
    write_text(folder / "table.json", json.dumps(table, indent=1) + "\n")
    write_text(folder / "table.md", "\n".join(_markdown(table, names)) + "\n")
    pages = [f"{name}: {Path(path) / 'report.html'}" for name, path in results.items()]
    sections = [Section("Scores", _score_rows(table, names)), Section("What changed", _change_rows(changes))]
    lead = (
        "Official is the published scorer's number, strict an exact answer over all questions of the file. Published "
        "numbers are of others' runs, with prompts, parsers and versions of the files that may differ."
    )
    page = write_page(folder / "report.html", Overview(title, lead, (), warnings, sections, {"pages": pages}))
    return {"table": str(folder / "table.md"), "report": str(page)}


def _read(folder: Path) -> dict[str, Any]:
    """Benchmark -> what was found, of a folder of results."""
    if not (folder / "results.json").is_file():
        raise InputError(f"{folder}: holds no results.json; `earwitness evaluate` writes it")
    return {one["name"]: one for one in read_json(folder / "results.json")["benchmarks"] if "scores" in one}


def _scores(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Model -> benchmark -> condition -> rule -> share of right answers with the ends of its interval."""
    return {
        model: {
            name: {
                condition: {rule: scores[rule]["accuracy"] for rule in _rules_of(one)}
                for condition, scores in one["scores"].items()
            }
            for name, one in benchmarks.items()
        }
        for model, benchmarks in found.items()
    }


def _rules_of(found: Mapping[str, Any]) -> list[str]:
    """The rules that are shown of a benchmark: the official one where there is one, and the strict one."""
    return [rule for rule in _RULES if rule == "strict" or found["official_rule"]]


def _changes(results: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Paired comparisons by the strict rule, p adjusted for all of them (Holm), and warnings."""
    names = list(results)
    pairs = list(pairwise(names)) + ([(names[0], names[-1])] if len(names) > 2 else [])
    changes: list[dict[str, Any]] = []
    warnings: list[str] = []
    for a, b in pairs:
        compared = compare_results(results[a], results[b])
        changes += [one | {"from": a, "to": b} for one in compared["comparisons"] if one["rule"] == "strict"]
        warnings += [f"{a} and {b}: {warning}" for warning in compared["warnings"]]
    for change, adjusted in zip(changes, holm([one["p"] for one in changes]), strict=True):
        change["p_holm"] = adjusted
    return changes, warnings


def _cells(table: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Rows of the table as texts: (model and what it heard, one cell per benchmark)."""
    rows: list[tuple[str, list[str]]] = []
    for name, values in table["published"].items():
        rows.append((name, [f"{values[one]:.1f} %" if one in values else "" for one in names]))
    for model, benchmarks in table["scores"].items():
        heard = list(dict.fromkeys(condition for one in benchmarks.values() for condition in one))
        for condition in heard:
            for rule in _RULES:
                cells = [_share(benchmarks.get(one, {}).get(condition, {}).get(rule)) for one in names]
                if any(cells):
                    rows.append((f"{model}, {condition}, {rule}", cells))
    return rows


def _share(value: Sequence[float | None] | None) -> str:
    if value is None or any(one is None for one in value):
        return ""
    return share([float(one) for one in value if one is not None])


def _markdown(table: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(cells)} |" for row, cells in _cells(table, names)]
    lines += ["", "| change, strict | benchmark | heard | points | p (Holm) |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['from']} to {one['to']} | {one['benchmark']} | {one['condition']} | {points(one['difference'])} | "
        f"{one['p_holm']:.3g} |"
        for one in table["changes"]
    ]
    return lines


def _score_rows(table: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = [row_of([plain(row), *map(html_of, cells)]) for row, cells in _cells(table, names)]
    return table_of(["", *map(plain, names)], rows, "Right answers by model and benchmark")


def _change_rows(changes: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        row_of(
            [
                plain(f"{one['from']} to {one['to']}"),
                plain(one["benchmark"]),
                plain(one["condition"]),
                html_of(points(one["difference"])),
                f"{one['gained']:,}",
                f"{one['lost']:,}",
                f"{one['p_holm']:.3g}",
            ]
        )
        for one in changes
    ]
    head = ["from, to", "benchmark", "heard", "change in points", "gained", "lost", "p (Holm)"]
    return table_of(head, rows, "Paired changes by the strict rule", left=3)
