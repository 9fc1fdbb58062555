"""What `earwitness plan` shows: the questions a curriculum would train on, and how the arms of an experiment differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...boundary.files import made_folder, write_bytes, write_text
from ...boundary.words import say
from ...configs.files import find_file, read_beside, read_curriculum, read_yaml, resolved
from ...configs.overrides import overridden, split_name
from ...curriculum.plan.plan import Plan
from ...curriculum.preview.compare import arms_of, compare, comparison_lines
from ...curriculum.preview.preview import describe, lines
from ...curriculum.preview.synthetic import audiomcq_table, over_a_made_up_table
from ...curriculum.schedule.named import curriculum_of
from ...curriculum.table import Table, read_table
from ...errors import InputError

_OWN = "plan over your own with --index and --labels"


def show_plan(
    curriculum: str,
    index: str | None,
    labels: list[str] | None = None,
    out: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Prints the plan of a curriculum over the training rows; writes plan.json and plan.png into a folder.

    curriculum, index, labels: paths or a shipped name; without an index a made-up table. overrides: as `seed=3`.
    InputError where the file holds arms, or where the curriculum does not fit the table.
    """
    path = find_file(split_name(curriculum)[0])
    if "arms" in read_yaml(path):
        raise InputError(f"{path}: holds arms of an experiment; show them with --compare")
    spec = overridden(read_curriculum(curriculum), overrides)
    parsed, table = curriculum_of(spec, split_name(curriculum)[0]), training_rows(index, labels)
    with over_a_made_up_table(_OWN if index is None else None):
        described = describe(Plan(parsed, table))
    say("\n".join(lines(described)))
    folder = _folder(out, path.stem)
    write_text(folder / "plan.json", json.dumps(described, indent=1))
    from ...reports.figures import composition_over_time

    write_bytes(folder / "plan.png", composition_over_time(described))
    say(f"\nwritten: {folder / 'plan.json'}, {folder / 'plan.png'}")


def show_comparison(
    curricula: Sequence[str],
    index: str | None,
    labels: list[str] | None = None,
    out: str | None = None,
    match: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Prints several curricula, or the arms in one file, side by side; writes compare.json.

    match: what the arms' budgets are scaled to cost the same in; by default as the file says. overrides: words like
    `seed=3` for all arms, `mixed_to_strong.seed=3` for one. InputError for fewer than two arms, or two of one name.
    """
    arms: dict[str, Mapping[str, Any]] = {}
    for name in curricula:
        file, words = split_name(name)
        path = find_file(file)
        spec = read_yaml(path)
        if "arms" in spec:
            content = resolved(spec, path)
            match = match or content.get("match")
            more = _changed(arms_of(content, partial(read_beside, path)), words)
        else:
            more = {" ".join([path.stem, *words]): read_curriculum(name)}
        twice = set(more) & set(arms)
        if twice:
            raise InputError(f"{path}: there are two arms {sorted(twice)[0]!r}; rename one of the files")
        arms |= more
    if len(arms) < 2:
        raise InputError("--compare needs at least two curricula, or a file with `arms`")
    table, way = training_rows(index, labels), _OWN if index is None else None
    sheet = compare(_changed(arms, overrides), table, match or "none", way)
    say("\n".join(comparison_lines(sheet)))
    folder = _folder(out, "-".join(Path(split_name(name)[0]).stem for name in curricula)[:80])
    write_text(folder / "compare.json", json.dumps(sheet, indent=1))
    say(f"\nwritten: {folder / 'compare.json'}")


def training_rows(index: str | None, labels: list[str] | None) -> Table:
    """The rows of a table that may be trained on: the split "train" where the table has splits.

    Without an index, a made-up table with AudioMCQ's published counts.
    """
    if index is None and labels is not None:
        raise InputError(f"{labels[0]}: the made-up table has labels of its own; give --index, or leave --labels out")
    if index is None:
        return audiomcq_table()
    table = read_table(index, labels)
    if "split" not in table.columns:
        return table
    if "train" not in (splits := table.text("split").names):
        raise InputError(
            f"{index}: a plan is over the split 'train', which no question has; there are {', '.join(splits)}"
        )
    return table.take(table.where({"split": "train"}))


def _changed(arms: Mapping[str, Mapping[str, Any]], words: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The arms with overrides: `seed=3` is for all of them, `mixed_to_strong.seed=3` for the arm of that name."""
    changed: dict[str, Mapping[str, Any]] = {}
    for name, arm in arms.items():
        common = [word for word in words if not any(word.startswith(f"{one}.") for one in arms)]
        own = [word.removeprefix(f"{name}.") for word in words if word.startswith(f"{name}.")]
        try:
            changed[name] = overridden(arm, common + own)
        except InputError as error:
            raise InputError(f"arm {name!r}: {error}; ARM.key=value changes one arm alone") from None
    return changed


def _folder(out: str | None, name: str) -> Path:
    folder = Path(out) if out else Path("runs") / "plans" / name
    return made_folder(folder)
