"""The four things an answer can be, counted apart; those that cannot be counted as votes, and when they are too many.

An answer table says it in the column `verdict`: right, wrong, unfinished (cut off before there was a whole answer) or
unreadable (finished, and no answer can be found in it); null where the request failed. Tables of before have `correct`
alone, and their answers are right or wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InputError
from ..table import read_arrow

Verdict = Literal["right", "wrong", "unfinished", "unreadable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
UNREAD: tuple[Verdict, ...] = VERDICTS[2:]
ENOUGH = 20  # answers before a share of them says anything


def verdict_in(record: Mapping[str, Any]) -> Verdict | None:
    """The verdict of a record, or what its `correct` says where it has none; None where it was not judged."""
    if record.get("verdict") is not None:
        found: Verdict = record["verdict"]
        return found
    return {True: VERDICTS[0], False: VERDICTS[1]}.get(record.get("correct"))  # type: ignore[arg-type]


def verdicts_of(table: pa.Table) -> list[Verdict | None]:
    """The verdict of every row of an answer table, see `verdict_in`."""
    names = [name for name in ("verdict", "correct") if name in table.column_names]
    return [verdict_in(row) for row in table.select(names).to_pylist()]


def counted(verdicts: Iterable[Verdict | None]) -> dict[str, int]:
    """How many have each of VERDICTS, in their order; what was not judged is not counted."""
    counts = Counter(verdicts)
    return {name: counts[name] for name in VERDICTS}


def read_answer_table(path: str | Path) -> pa.Table:
    """A voter's answer table; InputError where a column that is read of it is missing, of another kind, or too large.

    A column without any value has the kind that it would have.
    """
    table = read_arrow(path)
    for name in ("uid", "condition", "correct"):
        if name not in table.column_names:
            raise InputError(f"{path}: not an answer table: no column {name!r}")
    for place, name in enumerate(table.column_names):
        column = table.column(name)
        if name in ("uid", "condition", "rotation", "draw") and column.null_count:
            raise InputError(f"{path}: {column.null_count} answers have no {name}; remove them")
        if name in _KINDS and pa.types.is_null(column.type):
            table = table.set_column(place, name, pa.nulls(len(table), _KINDS[name].empty))
        elif name in _KINDS and not _KINDS[name].fits(column.type):
            raise InputError(f"{path}: not an answer table: {name!r} is {column.type!s:.60}, not {_KINDS[name].words}")
    for name, most in _MOST.items():
        bounds: dict[str, Any] = pc.min_max(table.column(name)).as_py() if name in table.column_names else {"min": None}
        if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] <= most:
            raise InputError(f"{path}: not an answer table: {name!r} goes from {bounds['min']} to {bounds['max']}")
    _check_values(table, path)
    return table


def _check_values(table: pa.Table, path: str | Path) -> None:
    """Raises InputError for a verdict that there is none of, and for scores of fewer options than the right one's."""
    if "verdict" in table.column_names:
        known = pc.is_in(table.column("verdict").cast(pa.string()), pa.array([*VERDICTS, None], pa.string()))
        if not pc.all(known, min_count=0).as_py():
            raise InputError(f"{path}: not an answer table: a verdict is none of {', '.join(VERDICTS)}")
    if {"scores", "right_option"} <= set(table.column_names):
        sizes = pc.list_value_length(table.column("scores"))
        right = pc.cast(table.column("right_option"), pa.int64())
        if not pc.all(pc.fill_null(pc.less(right, sizes), True), min_count=0).as_py():
            raise InputError(f"{path}: not an answer table: a right option is none of those with scores")


class _Kind(NamedTuple):
    fits: Callable[[pa.DataType], bool]
    words: str
    empty: pa.DataType


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


def _is_scores(kind: pa.DataType) -> bool:
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_floating(kind.value_type))


_MOST = {"rotation": 127, "draw": 32_767, "right_option": 127}
_WHOLE = _Kind(pa.types.is_integer, "whole numbers", pa.int64())
_KINDS = {
    **dict.fromkeys(("uid", "rotation", "draw", "right_option", "num_tokens"), _WHOLE),
    **dict.fromkeys(("condition", "verdict", "raw", "answer", "key"), _Kind(_is_text, "texts", pa.string())),
    **dict.fromkeys(("correct", "finished"), _Kind(pa.types.is_boolean, "true or false", pa.bool_())),
    "p_right": _Kind(pa.types.is_floating, "numbers", pa.float32()),
    "scores": _Kind(_is_scores, "lists of numbers", pa.list_(pa.float32())),
}


def read_verdicts(path: str | Path) -> dict[str, dict[str, int]]:
    """Condition -> how many answers of a table have each verdict."""
    table = read_answer_table(path)
    conditions, found = table.column("condition").to_pylist(), verdicts_of(table)
    return {
        name: counted(verdict for verdict, condition in zip(found, conditions, strict=True) if condition == name)
        for name in sorted(set(conditions))
    }


class Readable:
    """The verdicts on one voter's answers as they come, and whether too many of them are no votes.

    name: of the voter. most: the largest share, in [0, 1], that may be unfinished or unreadable, of at least ENOUGH
    answers. records: the answers so far, with `verdict` or `correct` and what was said as `raw`.
    """

    def __init__(self, name: str, most: float, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.name, self.most, self.counts, self.example = name, most, dict.fromkeys(VERDICTS, 0), ""
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts one answer."""
        found = verdict_in(record)
        if found is not None:
            self.counts[found] += 1
        if found in UNREAD and not self.example:
            self.example = record.get("raw") or ""

    @property
    def lost(self) -> int:
        """How many are unfinished or unreadable."""
        return self.counts["unfinished"] + self.counts["unreadable"]

    @property
    def passed(self) -> bool:
        """Whether there are enough answers, and too many of them are no votes."""
        total = sum(self.counts.values())
        return total >= ENOUGH and self.lost > self.most * total

    def line(self) -> str:
        """The counts in words: "kimi: 80 answers: 31 right, 40 wrong, 5 unfinished, 4 unreadable"."""
        counts = ", ".join(f"{number:,} {name}" for name, number in self.counts.items())
        return f"{self.name}: {sum(self.counts.values()):,} answers: {counts}"

    def check(self, ways_out: str) -> None:
        """Raises InputError where too many are no votes; ways_out: the end of its sentence, what can be done."""
        if self.passed:
            raise InputError(
                f"{self.line()}, more than the {self.most:g} of max_unreadable are unfinished or unreadable"
                f"{f', such as {self.example!r:.120}' if self.example else ''}: {ways_out}, or raise max_unreadable"
            )


def check_table(name: str, path: str | Path, most: float) -> Readable:
    """Counts the answers in a voter's table; InputError where more than `most` of them are unfinished or unreadable."""
    table = read_answer_table(path)
    columns = [column for column in ("verdict", "correct", "raw") if column in table.column_names]
    readable = Readable(name, most, table.select(columns).to_pylist())
    readable.check(f"ask again what is in {path}, with a longer answer allowed or in other words")
    return readable


def check_tables(tables: Mapping[str, Any], most: float) -> None:
    """`check_table` for each voter -> path of its table; InputError also where `most` is no share."""
    check_share(most)
    for name, path in tables.items():
        if isinstance(path, str | Path):
            check_table(name, path, most)


def check_share(max_unreadable: float) -> None:
    """Raises InputError unless `max_unreadable` is a share from 0 to 1."""
    if not 0 <= max_unreadable <= 1:
        raise InputError(f"max_unreadable is a share from 0 to 1, got {max_unreadable!r}")
