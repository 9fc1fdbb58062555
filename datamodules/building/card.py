"""The card of a built data set, as hubs show it: sources, licences, prompts, models, what was dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...boundary.files import write_text


def write_card(folder: Path, funnel: Mapping[str, Any], splits: Mapping[str, int], licenses: Counter[str]) -> None:
    """Writes `README.md` into the hub folder. funnel: as it stands in funnel.json."""
    lines = ["---", "license: other", "task_categories: [audio-text-to-text, question-answering]", "configs:"]
    lines += ["  - config_name: default", "    data_files:"]
    lines += [f"      - {{split: {split}, path: data/{split}-*.parquet}}" for split in sorted(splits)]
    lines += ["---", "", "# Multiple-choice questions about recordings", ""]
    lines += ["Built by `earwitness build`; annotations alone, the recordings come from their sources.", ""]
    lines += [f"Questions: {', '.join(f'{count:,} {split}' for split, count in sorted(splits.items()))}.", ""]
    lines += ["## Sources", "", "| source | questions |", "|---|---|"]
    composition = funnel["composition"]
    lines += [f"| {name} | {count:,} |" for name, (count, _) in composition["by_source"].items() if count]
    lines += ["", "## Licences of recordings or captions", "", "| licence | questions |", "|---|---|"]
    lines += [f"| {_cell(name)} | {count:,} |" for name, count in licenses.most_common()]
    lines += ["", "Each record's licence stands in `grades.arrow`, its origin in `provenance.arrow`.", ""]
    lines += ["## Models", "", "| role | model | answers | tokens in | tokens out |", "|---|---|---|---|---|"]
    for role, row in funnel["cost"].items():
        told = [role, _cell(row["model"]), f"{row['answers']:,}", f"{row['prompt']:,}", f"{row['completion']:,}"]
        lines.append(f"| {' | '.join(told)} |")
    lines += ["", "## Prompts", "", "| prompt | sha256, first 16 digits |", "|---|---|"]
    lines += [f"| {name} | `{digest}` |" for name, digest in funnel["prompts"].items()]
    lines += ["", "## What was dropped", "", "| stage | in | kept | dropped |", "|---|---|---|---|"]
    for stage in funnel["stages"]:
        dropped = ", ".join(f"{_cell(reason)} {count:,}" for reason, count in stage["dropped"].items()) or "-"
        lines.append(f"| {stage['stage']} | {stage['in']:,} | {stage['kept']:,} | {dropped} |")
    write_text(folder / "README.md", "\n".join(lines) + "\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
