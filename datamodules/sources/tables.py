"""CSV and TSV files of publishers, read strictly in the encoding they are published in."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import InputError

Row = dict[str, str]


def rows_of(path: Path, columns: Sequence[str], encoding: str = "utf-8-sig") -> Iterator[tuple[str, Row]]:
    """(place, row) of a CSV file with a header; the place, `file:line`, is for messages.

    columns: those that must be there; a text with | names alternatives, of which the row then has the first. Raises
    InputError that names the file, and the line, for another encoding, a missing column, an unclosed quote and a row
    with too few or too many fields.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise InputError(f"{path}: is empty")
            taken = _header(header, columns, path)
            for fields in reader:
                where = f"{path}:{reader.line_num}"
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise InputError(f"{where}: has {len(fields)} fields, the header has {len(header)}")
                yield where, dict(zip(taken, fields, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: not CSV: {error}") from None
        except UnicodeError as error:
            raise InputError(f"{path}: not {encoding} ({error}); download it again, it is published so") from None


def _header(header: Sequence[str], columns: Sequence[str], path: Path) -> list[str]:
    """The names of the columns, alternatives under the first of their names."""
    names = [name.strip() for name in header]
    for wanted in columns:
        first, *others = wanted.split("|")
        if first in names:
            continue
        other = next((name for name in others if name in names), None)
        if other is None:
            raise InputError(f"{path}: has no column {' or '.join([first, *others])}; it has {', '.join(names)}")
        names[names.index(other)] = first
    return names


def number_of(text: str, where: str, name: str) -> float:
    """A finite number in a column; InputError that names place and column otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise InputError(f"{where}: {name} must be a number, got {text!r:.60}")
    return value


def one_of(folder: Path, names: Sequence[str]) -> Path:
    """The first of the files that is in the folder or below it; InputError that lists the names."""
    for name in names:
        found = sorted(folder.rglob(name))
        if found:
            return found[0]
    raise InputError(f"{folder}: holds none of {', '.join(names)}")
