"""The table: the columns that a curriculum may decide on, one row per question; no path, no offset and no sound."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..boundary.files import is_file, replacing
from ..boundary.tables import read_table as read_checked
from ..errors import InputError
from .arrays import Bools, Hashes, Ints

_OF_INDEX = ("source", "question_type", "split", "clip", "duration_s", "num_choices")
_OF_SILENCE = ("label", "votes", "ac_vote", "difficulty")
_OF_AUDIO = ("p_audio", "p_silence", "ac_p", "ac_log", "ac_cal", "necessity")


def made_by(column: str) -> str:
    """The end of a message about a missing column: which command makes it; "" where none does."""
    if column in _OF_INDEX:
        return "; `earwitness shard` and `earwitness index` write it into an index"
    if column in _OF_SILENCE or column.startswith("vote_"):
        return "; `earwitness label` makes it: give its table with --labels (`labels` in a file)"
    if column in _OF_AUDIO:
        return "; `earwitness label` makes it where voters also hear the audio: give its table with --labels"
    if column in ("pass_rate", "passes", "samples"):
        return "; `earwitness predict` with the callback PassRateTable makes it: give its table with --labels"
    return ""


@dataclass(frozen=True)
class Categorical:
    """A text column: `names[codes[i]]` is row i's value; code -1 means the value is missing."""

    codes: Ints  # [N] int32
    names: tuple[str, ...]

    def equals(self, values: list[str], column: str) -> Bools:
        """[N] bool: the rows whose value is one of `values`; an InputError lists the values there are."""
        unknown = [value for value in values if value not in self.names]
        if unknown:
            raise InputError(f"column {column!r} has no value {unknown[0]!r}; it has {', '.join(self.names)}")
        return np.isin(self.codes, [self.names.index(value) for value in values])


@dataclass(frozen=True)
class Table:
    """Columns of one corpus: `uid` [N] uint64 without duplicates, and others of three kinds.

    Categorical: text. Float [N]: numbers, NaN where missing. uint64 [N]: identities such as `clip`, only ever compared.
    """

    uid: Hashes
    columns: dict[str, Categorical | np.ndarray]
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)  # what plans over the table share

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self.uid, self.columns)

    def __len__(self) -> int:
        return len(self.uid)

    def text(self, column: str) -> Categorical:
        """A text column; an InputError names the columns there are."""
        value = self.columns.get(column)
        if not isinstance(value, Categorical):
            known = ", ".join(sorted(self.columns)) or "none"
            raise InputError(f"no text column {column!r} in the table; there are {known}{made_by(column)}")
        return value

    def identity(self, column: str) -> Hashes:
        """[N] uint64, equal where rows have the same value, e.g. the same recording; missing texts are all equal.

        Raises InputError where the column is neither text nor uint64.
        """
        value = self.columns.get(column)
        if isinstance(value, Categorical):
            return value.codes.astype(np.uint64)
        if value is None or value.dtype != np.uint64:
            known = [n for n, v in self.columns.items() if isinstance(v, Categorical) or v.dtype == np.uint64]
            raise InputError(
                f"no identity column {column!r} in the table; there are {', '.join(sorted(known)) or 'none'}"
                + made_by(column)
            )
        return value

    def take(self, rows: Ints) -> Table:
        """The table of these rows (numbers, or [N] bool), in this order."""
        taken = {
            name: Categorical(value.codes[rows], value.names) if isinstance(value, Categorical) else value[rows]
            for name, value in self.columns.items()
        }
        return Table(self.uid[rows], taken)

    def where(self, pool: Mapping[str, str | list[str]]) -> npt.NDArray[np.intp]:
        """Row numbers whose text columns hold the pool's values, e.g. {"source": "sounds", "split": ["val", "test"]}.

        A column's value or list of values; rows must match every column. Raises InputError for unknown ones.
        """
        keep = np.ones(len(self), bool)
        for column, wanted in pool.items():
            keep &= self.text(column).equals([wanted] if isinstance(wanted, str) else list(wanted), column)
        return np.flatnonzero(keep)


def read_arrow(path: str | Path) -> pa.Table:
    """An Arrow (.arrow) or Parquet (.parquet) file as a table; the Arrow file is memory-mapped.

    Raises InputError where there is no such file, it is of neither format, or holds or declares what it cannot.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"{path}: a folder; name the table in it, such as {path / 'index.arrow'}")
    if not is_file(path):
        raise InputError(f"{path}: not found; write it with `earwitness shard` or `earwitness label`")
    try:
        return read_checked(path)
    except InputError as error:
        way = "rebuild it" if path.suffix in (".arrow", ".parquet") else "`earwitness shard` and `label` write tables"
        raise InputError(f"{error}; {way}") from error


def write_arrow(table: pa.Table, path: str | Path, compression: str | None = None) -> None:
    """Writes beside the target and renames, so that a reader never sees half a table."""
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with replacing(path) as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)


def _column(column: pa.ChunkedArray) -> Categorical | np.ndarray | None:
    """Text, [N] numbers or [N] uint64 identities; None for what a curriculum cannot decide on, e.g. byte offsets."""
    kind = column.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column, kind = column.cast(pa.string()), pa.string()
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        encoded = column.combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return Categorical(codes, tuple(encoded.dictionary.to_pylist()))
    # Other 64-bit integers are byte offsets.
    quantity = pa.types.is_integer(kind) and kind.bit_width < 64
    if quantity or pa.types.is_float16(kind) or pa.types.is_float64(kind) or pa.types.is_boolean(kind):
        column = column.cast(pa.float64())
    elif not pa.types.is_float32(kind) and (not pa.types.is_uint64(kind) or column.null_count):
        return None
    numbers: np.ndarray = column.to_numpy()
    return numbers


def read_table(index: str | Path, labels: str | Path | Sequence[str | Path] | None = None) -> Table:
    """The index's columns, joined by uid with a label table where one is given, or with several.

    Rows that a label table does not mention carry a missing value (code -1, or NaN), never a guess. Raises InputError
    for files without usable uids, for a label table of another corpus, and for a column that two of them have.
    """
    source = read_arrow(index)
    uid = _uid(source, index)
    columns: dict[str, Categorical | np.ndarray] = {}
    for name in source.column_names:
        if name not in ("uid", "key", "shard"):
            value = _column(source.column(name))
            if value is not None:
                columns[name] = value
    homes: dict[str, str | Path] = {}
    for path in [labels] if isinstance(labels, str | Path) else labels or ():
        joined = _joined(uid, read_arrow(path), path)
        if twice := next((name for name in joined if name in homes), None):
            raise InputError(f"{path}: column {twice!r} is in {homes[twice]} too; leave one of the tables out")
        homes |= dict.fromkeys(joined, path)
        columns |= joined
    return Table(uid, columns)


def empty_table(schemas: Sequence[pa.Schema]) -> Table:
    """A table without rows, of the columns that `read_table` gives of an index and label tables of these schemas."""
    columns: dict[str, Categorical | np.ndarray] = {}
    for schema in schemas:
        for name in schema.names:
            value = None if name in ("uid", "key", "shard") else _column(schema.empty_table().column(name))
            if value is not None:
                columns[name] = value
    return Table(np.zeros(0, np.uint64), columns)


def _uid(table: pa.Table, path: str | Path) -> Hashes:
    """[N] the uids of a table; InputError where there are none, some are missing or one occurs twice."""
    if "uid" not in table.column_names or not pa.types.is_integer(table.schema.field("uid").type):
        raise InputError(f"{path}: needs a column `uid` of whole numbers; it has {', '.join(table.column_names)}")
    if table.column("uid").null_count:
        raise InputError(f"{path}: {table.column('uid').null_count} rows have no uid")
    uid: Hashes = table.column("uid").to_numpy().astype(np.uint64)
    ordered = np.sort(uid)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise InputError(f"{path}: uid {int(twice[0]):#018x} occurs twice; a sample has one row")
    return uid


def _joined(uid: Hashes, other: pa.Table, path: str | Path) -> dict[str, Categorical | np.ndarray]:
    """The other table's columns in the order of uid [N], with missing values where it has no such row.

    Raises InputError where it has no row of the index at all, or not all of them for a column of identities.
    """
    other_uid = _uid(other, path)
    order = np.argsort(other_uid)
    slot = np.minimum(np.searchsorted(other_uid[order], uid), max(len(order) - 1, 0))
    present = other_uid[order][slot] == uid if len(order) else np.zeros(len(uid), bool)
    if not present.any():
        raise InputError(f"{path}: none of its rows belongs to the index; it was made for another corpus")
    row = order[slot]
    columns: dict[str, Categorical | np.ndarray] = {}
    for name in other.column_names:
        value = None if name in ("uid", "key") else _column(other.column(name))
        if isinstance(value, Categorical):
            columns[name] = Categorical(np.where(present, value.codes[row], -1).astype(np.int32), value.names)
        elif value is not None and value.dtype.kind == "f":
            columns[name] = np.where(present, value[row], np.nan)
        elif value is not None:
            if not present.all():  # an identity has no missing value: a row would get another row's
                raise InputError(
                    f"{path}: column {name!r} of identities lacks {int((~present).sum())} rows of the index"
                )
            columns[name] = value[row]
    return columns
