"""What a lab brings along: a step of a recipe, and a callback with a fault of its own."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L


def clean(source: str, out: str, least: int = 1) -> dict[str, object]:
    """Copies the lines of a file that have so many words; what it returns is no JSON."""
    lines = [line for line in Path(source).read_text().splitlines() if len(line.split()) >= least]
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "questions.jsonl").write_text("\n".join(lines))
    return {"lines": len(lines), "folder": Path(out)}


class Faulty(L.Callback):
    """Cannot be made, for a reason that no configuration explains."""

    def __init__(self) -> None:
        raise KeyError("a fault in the lab's code")


def planted(planted: str, index: str, out: str) -> dict:
    """A label table from the truth of generated sounds: strong where the answer can only be heard."""
    import pyarrow as pa

    from earwitness.curriculum.table import read_arrow, write_arrow

    truth = {row["key"]: row["planted"] for row in map(json.loads, Path(planted).read_text().splitlines())}
    table = read_arrow(index)
    labels = ["strong" if truth[key] == "heard" else "weak" for key in table.column("key").to_pylist()]
    write_arrow(pa.table({"uid": table.column("uid"), "label": labels}), out)
    return {"labels": len(labels)}
