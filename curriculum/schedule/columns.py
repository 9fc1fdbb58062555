"""Changes of a column before a curriculum is planned: controls that show what a result is due to.

columns: {label: {permute: {within: source}}}     is it the label?   (labels shuffled within each source)
columns: {label: {permute: {among: known}}}       is it the split?   (labels shuffled among all rows that have one)
columns: {label: {votes: {drop: [vote_2]}}}       is it one voter?   (labels from the other voters)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import InputError
from ..contribution.labels import STRONG, WEAK, acf_labels
from ..identity import keyed
from ..table import Categorical, Table, made_by

CHANGES = {"permute": ("within", "among"), "votes": ("drop", "at_least")}
AMONG = ("all", "known")  # which rows change places


def check_changes(spec: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """The `columns` of a curriculum file as column -> {change: arguments}.

    Raises InputError for an unknown change or argument. Whether the columns exist shows when they are changed.
    """
    if not isinstance(spec, Mapping):
        raise InputError("curriculum.columns must map columns to a change")
    for column, change in spec.items():
        where = f"curriculum.columns.{column}"
        if not isinstance(change, Mapping) or len(change) != 1 or next(iter(change)) not in CHANGES:
            raise InputError(f"{where}: one of {', '.join(CHANGES)} with its arguments is needed, got {change!r}")
        ((name, arguments),) = change.items()
        if arguments is not None and not isinstance(arguments, Mapping):
            raise InputError(f"{where}.{name}: a mapping of {', '.join(CHANGES[name])} is needed, got {arguments!r}")
        for key in arguments or {}:
            if key not in CHANGES[name]:
                raise InputError(f"{where}.{name}: unknown key {key!r}; it knows {', '.join(CHANGES[name])}")
        if (among := (arguments or {}).get("among", "all")) not in AMONG:
            raise InputError(f"{where}.{name}: among is one of {', '.join(AMONG)}, got {among!r}")
    return {str(c): {n: dict(a or {}) for n, a in change.items()} for c, change in spec.items()}


def changed(table: Table, changes: Mapping[str, Any], seed: int) -> Table:
    """The table with the changed columns; the others are shared, not copied.

    changes: as `check_changes` returns them. Raises InputError for columns or votes that the table does not have.
    """
    columns = dict(table.columns)
    for column, change in changes.items():
        ((name, arguments),) = change.items()
        if name == "permute":
            columns[column] = _permuted(table, column, arguments.get("within"), arguments.get("among", "all"), seed)
        else:
            drop = arguments.get("drop", [])
            columns[column] = _relabelled(
                table, column, [drop] if isinstance(drop, str) else drop, arguments.get("at_least")
            )
    return Table(table.uid, columns)


def _permuted(table: Table, column: str, within: str | None, among: str, seed: int) -> Categorical | np.ndarray:
    """The values shuffled among the rows of each group, by a hash of (seed, uid): counts per group stay.

    among: "all" rows, or those whose value is "known"; the others then stay without one.
    """
    if column not in table.columns:
        known = ", ".join(sorted(table.columns))
        raise InputError(f"columns.{column}: no such column in the table; there are {known}{made_by(column)}")
    group = table.text(within).codes if within else np.zeros(len(table), np.int32)
    values = table.columns[column]
    plain = values.codes if isinstance(values, Categorical) else values
    there = plain >= 0 if isinstance(values, Categorical) else plain == plain  # NaN is not
    rows = np.flatnonzero(there) if among == "known" else np.arange(len(table))
    uid = table.uid[rows]
    source = np.lexsort((uid, group[rows]))  # by identity, not by place in the file
    target = np.lexsort((keyed(uid, seed, "permute", column), group[rows]))
    moved = plain.copy()
    moved[rows[target]] = plain[rows[source]]
    return Categorical(moved, values.names) if isinstance(values, Categorical) else moved


def _relabelled(table: Table, column: str, drop: list[str], at_least: int | None) -> Categorical:
    """Labels from the vote columns that remain: weak where `at_least` voters were right, by default the majority."""
    names = sorted(n for n in table.columns if n.startswith("vote_"))
    unknown = [name for name in drop if name not in names]
    if unknown:
        there = ", ".join(names) or f"none{made_by('vote_0')}"
        raise InputError(f"columns.{column}: no votes {unknown[0]!r}; there are {there}")
    kept = [name for name in names if name not in drop]
    if not kept:
        raise InputError(f"columns.{column}: no voter is left; the label table needs vote_* columns")
    if at_least is not None and not (isinstance(at_least, int) and 1 <= at_least <= len(kept)):
        raise InputError(f"columns.{column}: at_least lies between 1 and the {len(kept)} voters, got {at_least!r}")
    votes = np.stack([np.asarray(table.columns[name], float) for name in kept], 1)
    labels = acf_labels(votes, len(kept) // 2 + 1 if at_least is None else at_least)
    known = (WEAK, STRONG)
    codes = np.select([labels == WEAK, labels == STRONG], [0, 1], default=-1)
    return Categorical(codes.astype(np.int32), known)
