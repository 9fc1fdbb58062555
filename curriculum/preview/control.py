"""The control sheet: what differs between the arms of an experiment that is not what they are meant to differ in.

Configurations are compared key by key, and what follows from them by numbers: totals of samples, steps, tokens and
FLOPs, and the rows and their order in stages whose configuration is the same. A key is declared by itself, by any key
above it, or by a pattern with `*` for a part: `curriculum.stages.*.pool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any, NamedTuple

from ..plan.fingerprint import differences

NEARLY = 0.02  # totals that differ by less are the same


class Difference(NamedTuple):
    """One thing in which an arm is not like another; by: the declared key that covers it, None where none does."""

    arm: str
    other: str
    key: str
    value: Any
    other_value: Any
    by: str | None

    def refused(self, where: str) -> str:
        """Why the experiment is not run, and how to allow it; where: the file of the experiment."""
        return (
            f"{where}: arm {self.other!r} differs from {self.arm!r} in {self.key}: {in_words(self.value)} -> "
            f"{in_words(self.other_value)}; make it the same, or name {self.key} in `differs` where it is meant"
        )


def configuration_differences(
    arms: Mapping[str, Mapping[str, Any]], declared: Mapping[str, Sequence[str]]
) -> list[Difference]:
    """Every key in which an arm's configuration is not the first arm's.

    arms: name -> {"curriculum": ..., "steps": ...} before seeds. declared: arm -> keys that may differ. The curriculum
    is compared once, with its stages by name, and not again in the steps that hold it.
    """
    first = next(iter(arms))
    plain = {name: _comparable(arm) for name, arm in arms.items()}
    return [
        Difference(first, name, key, old, new, covered(key, declared.get(name, ())))
        for name in arms
        if name != first
        for key, old, new in differences(plain[first], plain[name])
    ]


def planned_differences(
    sheet: Mapping[str, Any], curricula: Mapping[str, Mapping[str, Any]], declared: Mapping[str, Sequence[str]]
) -> list[Difference]:
    """What is not the same in numbers: totals (`totals.steps`) against the first arm's, rows (`rows.sft`) of any two.

    sheet: of `compare`. Totals count that are matched, or all but tokens where nothing is. Rows count where two arms
    have the same stage in the same words over the same cells, and yet other rows, or another order of them.
    """
    first = next(iter(sheet["totals"]))
    common = {(*one["arms"], one["stage"]): one for one in sheet["overlap"]}
    units = ("samples", "steps", "flops") if sheet["match"] == "none" else (sheet["match"],)
    found: list[Difference] = []
    for name, total in sheet["totals"].items():
        for unit in units:
            a, b = sheet["totals"][first][unit], total[unit]
            if a and b is not None and abs(b / a - 1) > NEARLY:
                by = covered(f"totals.{unit}", declared.get(name, ()))
                found.append(Difference(first, name, f"totals.{unit}", a, b, by))
    for a, b in combinations(sheet["order"], 2):
        if any(curricula[a].get(key) != curricula[b].get(key) for key in ("seed", "cells", "columns")):
            continue  # those are other rows by declaration
        one, other = (_stages(curricula[name]) for name in (a, b))
        for stage, order in sheet["order"][a].items():
            if one.get(stage) == other.get(stage) is not None and order != sheet["order"][b].get(stage):
                rows, shared = sheet["arms"][a]["stages"][stage]["rows"], common[a, b, stage]["shared"]
                what = "the same in another order" if shared == rows else f"{shared:,} of them, and others"
                by = covered(f"rows.{stage}", [*declared.get(a, ()), *declared.get(b, ())])
                found.append(Difference(a, b, f"rows.{stage}", f"{rows:,} questions", what, by))
    return found


def covered(key: str, declared: Sequence[str]) -> str | None:
    """The declared key that covers a key, None where none does."""
    parts = key.replace("[", ".").replace("]", "").split(".")
    for one in declared:
        wanted = one.replace("[", ".").replace("]", "").split(".")
        if len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted)):
            return one
    return None


def unused(found: Sequence[Difference], declared: Mapping[str, Sequence[str]]) -> list[str]:
    """The declared keys in which no two arms differ."""
    used = {difference.by for difference in found}
    return sorted({one for keys in declared.values() for one in keys} - used)


def sheet_lines(
    found: Sequence[Difference], declared: Mapping[str, Sequence[str]], arms: Sequence[str], planned: bool
) -> list[str]:
    """The differences as text for a terminal: what is declared, and what is not; planned: whether all are known."""
    lines = ["", f"differences from {arms[0]}"]
    for name in arms[1:]:
        own = [one for one in found if one.other == name]
        lines.append(f"  {name}{'' if own else ': none'}")
        for one in own:
            mark = "declared" if one.by else "NOT DECLARED"
            other = "" if one.arm == arms[0] else f" (from {one.arm})"
            lines.append(f"    {one.key}: {in_words(one.value)} -> {in_words(one.other_value)}{other}   {mark}")
    left = [one for one in found if one.by is None]
    lines.append(f"{len(left)} of {len(found)} differences are not declared" if left else "no unintended difference")
    if not planned:
        lines.append("note: rows and totals are not compared yet; they are known once the labels are there")
    else:
        lines += [f"note: {key} is declared, and no arm differs in it" for key in unused(found, declared)]
    return lines


def _comparable(arm: Mapping[str, Any]) -> dict[str, Any]:
    """The arm's configuration, its curriculum alone and with its stages by name."""
    curriculum = arm["curriculum"]

    def plain(value: Any) -> Any:
        if value == curriculum:
            return "the curriculum"
        if isinstance(value, Mapping):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list) else value

    without_seed = {key: value for key, value in curriculum.items() if key != "seed"}  # every arm has those of the draw
    return {"curriculum": {**without_seed, "stages": _stages(curriculum)}, "steps": plain(arm["steps"])}


def _stages(curriculum: Mapping[str, Any]) -> dict[str, Any]:
    return {str(stage.get("name", number)): stage for number, stage in enumerate(curriculum.get("stages") or ())}


def in_words(value: Any) -> str:
    """A value of a configuration in at most 80 letters; a whole stage or step is "there"."""
    if value is None:
        return "none"
    if isinstance(value, float) and (abs(value) >= 100 or value.is_integer()):
        return f"{value:.3g}" if abs(value) >= 1e9 else f"{value:,.0f}"
    text = "there" if isinstance(value, Mapping) and {"algorithm", "do"} & set(value) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
