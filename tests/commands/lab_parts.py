"""What a lab brings along: a step of a recipe, and a callback with a fault of its own."""

from __future__ import annotations

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
