"""Datasets as records: Parquet files, folders as they lie on the Hugging Face hub, and datasets saved on disk.

They may hold their recordings in a column `audio`; its bytes are not read with the records, but by row when packing.
Numbers of a ClassLabel column are read as the names that the dataset gives them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ...boundary.tables import open_parquet, unpacked_bytes
from ...errors import InputError
from .formats import Record, TextFile, split_of_name, text_files, visible

_TEXT = ("string", "large_string")
_MOST_OF_BATCH = 256 << 20
_LOCAL = 40  # bits of a record's number that count within its file


class Part(Protocol):
    """One file or split of a source."""

    split: str
    holds_recordings: bool

    def where(self, number: int) -> str:
        """The place of a record, for messages."""

    def __iter__(self) -> Iterator[tuple[int, Any]]: ...


class ParquetFile:
    """The records of one Parquet file, without the column `audio` where that holds recordings."""

    def __init__(self, path: Path, split: str = "") -> None:
        self.path, self.split = path, split
        self.file = open_parquet(path, shared=True)
        schema = self.file.schema_arrow
        self.holds_recordings = "audio" in schema.names and not _is_text(schema.field("audio").type)
        self.columns = [name for name in schema.names if not (name == "audio" and self.holds_recordings)]
        self.labels = _class_labels(schema)

    def where(self, number: int) -> str:
        """The file and the row."""
        return f"{self.path}[{number}]"

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        number = 0
        try:
            for batch in self.file.iter_batches(256, columns=self.columns):
                if sum(map(unpacked_bytes, batch.columns)) > _MOST_OF_BATCH:
                    raise InputError(f"{self.path}[{number}]: 256 records of more than {_MOST_OF_BATCH:,} bytes")
                for record in batch.to_pylist():
                    yield number, _named(record, self.labels)
                    number += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path}[{number}]: the file is damaged ({error!s:.120})") from None

    def recordings(self) -> Iterator[pa.RecordBatch]:
        """The column `audio` alone, in parts of few rows."""
        yield from self.file.iter_batches(16, columns=["audio"])


class SavedPart:
    """The records of one split of a dataset saved on disk; numbers run on from split to split."""

    def __init__(self, path: Path, split: str, part: Any, first: int) -> None:
        self.path, self.split, self.part, self.first = path, split, part, first
        # A text column `audio` is the path of a file, not the file.
        dtype = getattr(part.features.get("audio"), "dtype", "")
        self.holds_recordings = "audio" in part.column_names and dtype not in _TEXT

    def where(self, number: int) -> str:
        """The folder and the row, counted over all splits."""
        return f"{self.path}[{self.first + number}]"

    def __len__(self) -> int:
        return len(self.part)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        texts = self.part.remove_columns("audio") if self.holds_recordings else self.part
        labels = {name: f.names for name, f in texts.features.items() if hasattr(f, "names")}
        number = 0
        try:
            for number, record in enumerate(texts):
                yield number, _named(record, labels)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.where(number)}: the saved dataset is damaged ({error!s:.120})") from None


class Source:
    """All records of an annotation file or folder, in order; can be read several times.

    Raises InputError where there is nothing to read, or a folder holds several datasets.
    """

    def __init__(self, path: str | Path, encoding: str = "") -> None:
        self.path, self.encoding = Path(path), encoding

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The files or splits that the records come from."""
        path = self.path
        if not path.is_dir():
            return [ParquetFile(path)] if path.suffix.lower() == ".parquet" else [TextFile(path, self.encoding)]
        if is_saved(path):
            parts: list[SavedPart] = []
            for name, part in load_saved_dataset(path):
                parts.append(SavedPart(path, name, part, sum(map(len, parts))))
            return parts
        tables = [file for file in visible(path) if file.suffix.lower() == ".parquet"]
        if not tables:
            if any(file.suffix == ".arrow" for file in visible(path)):
                load_saved_dataset(path)  # says why it cannot be read
            return text_files(path, self.encoding)
        _check_one_dataset(path, tables)
        return [ParquetFile(file, split_of_name(file, path)) for file in tables]

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files, which may hold the recordings beside them."""
        return self.path.is_dir() and not is_saved(self.path)

    def stamps(self, *kinds: str) -> list[tuple[str, tuple[int, int]]]:
        """Every file with its size and time of change; kinds: of these endings alone."""
        files = [self.path] if not self.path.is_dir() else sorted(self.path.rglob("*"))
        files = [file for file in files if file.is_file() and (not kinds or file.suffix in kinds)]
        return [(str(file), (file.stat().st_size, file.stat().st_mtime_ns)) for file in files]

    @property
    def holds_recordings(self) -> bool:
        """Whether any of its rows holds the bytes of its recording."""
        return any(part.holds_recordings for part in self.parts)

    def where(self, number: int) -> str:
        """The place of a record by its number, for messages."""
        return self.parts[number >> _LOCAL].where(number & ((1 << _LOCAL) - 1))

    def __iter__(self) -> Iterator[Record]:
        row = 0
        for place, part in enumerate(self.parts):
            for number, value in part:
                yield Record((place << _LOCAL) + number, value, row if part.holds_recordings else -1, part.split)
                row += 1


def _check_one_dataset(folder: Path, tables: Sequence[Path]) -> None:
    """Raises InputError where a hub folder holds several configurations, each with files of its own."""
    groups: dict[str, str] = {}
    for file in tables:
        split = split_of_name(file, folder)
        configuration = str(file.parent.relative_to(folder))
        if split and file.parent.name.lower() == split:  # data/train/x.parquet
            configuration = str(file.parent.parent.relative_to(folder))
        groups.setdefault(configuration, file.name)
    if len(groups) > 1:
        raise InputError(f"{folder}: holds several datasets ({', '.join(groups)}); give the folder of one of them")


def is_saved(path: Path) -> bool:
    """Whether a folder is a dataset as `save_to_disk` of Hugging Face datasets writes it."""
    return any((path / name).exists() for name in ("dataset_dict.json", "state.json", "dataset_info.json"))


def load_saved_dataset(path: Path) -> list[tuple[str, Any]]:
    """(name of the split or "", dataset) pairs of a dataset saved on disk; recordings stay undecoded bytes.

    Raises InputError without the package `datasets`, and where the folder holds no saved dataset.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{path}: a saved dataset needs a package: pip install 'earwitness[hf]'") from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{path}: not a dataset saved by Hugging Face datasets ({error!s:.120})") from None
    pairs = []
    for name, part in (loaded if isinstance(loaded, datasets.DatasetDict) else {"": loaded}).items():
        for column, feature in part.features.items():
            if isinstance(feature, datasets.Audio):
                part = part.cast_column(column, datasets.Audio(decode=False))
            elif not _holds_values(feature):  # pictures and films may be addresses, which would be fetched
                part = part.remove_columns(column)
        pairs.append((str(name), part.with_format(None)))
    return pairs


def _holds_values(feature: Any) -> bool:
    """Whether a column of a saved dataset holds texts, numbers, or lists and mappings of them alone."""
    if isinstance(feature, Mapping):
        return all(map(_holds_values, feature.values()))
    if isinstance(feature, list | tuple):
        return all(map(_holds_values, feature))
    inner = getattr(feature, "feature", None)
    kind = type(feature).__name__
    return _holds_values(inner) if inner is not None else kind in ("Value", "ClassLabel", "Translation")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> names of its numbers, as Hugging Face datasets writes them into a Parquet file's metadata."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        features = about["info"]["features"]
        return {name: list(f["names"]) for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (LookupError, TypeError, ValueError, AttributeError):
        return {}


def _named(record: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The record without missing values, the numbers of ClassLabel columns by their names (-1 means missing)."""
    named = {name: value for name, value in record.items() if value is not None}
    for name, names in labels.items():
        if isinstance(number := named.get(name), int):
            if not -1 <= number < len(names):
                raise InputError(f"column {name!r} holds {number}, and has {len(names)} names")
            named[name] = names[number]
            if number == -1:
                del named[name]
    return named
