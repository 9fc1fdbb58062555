"""Two folders of results compared, question by question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...boundary.files import read_json
from ...curriculum.evaluation.comparison import corrected, differences, paired
from ...curriculum.table import read_arrow
from ...errors import InputError
from .results import RESULTS, finite


def compare_results(first: str, second: str) -> dict[str, Any]:
    """Paired comparisons of what both evaluated, and warnings about what was not the same.

    first, second: folders of results. InputError where one is none, or they share no question.
    """
    results = [_results(Path(folder)) for folder in (first, second)]
    names = [one["name"] for one in results[0]["benchmarks"]]
    shared = [name for name in names if any(one["name"] == name for one in results[1]["benchmarks"])]
    comparisons = []
    for name in shared:
        tables = [read_arrow(Path(folder) / "outcomes" / f"{name}.arrow") for folder in (first, second)]
        comparisons += paired(tables[0], tables[1], name)
    if not comparisons:
        raise InputError(f"{first} and {second} share no question under one condition; nothing can be compared")
    tests = corrected(comparisons)
    whole = {"results": [first, second], "warnings": differences(*results), "tests": tests, "comparisons": comparisons}
    return dict(finite(whole))


def _results(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS
    if not path.is_file():
        raise InputError(f"{folder}: holds no {RESULTS}; `earwitness evaluate` writes it")
    return dict(read_json(path))
