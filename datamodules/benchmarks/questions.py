"""The questions of a benchmark's file, every one of them, with the recordings that could be packed.

A question whose recording is missing or cannot be read is still there: it can be asked without it, and counts as
missing where it must be heard. A record that is no question that can be asked is listed with its fault, and counts too.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...boundary.files import locked, made_folder, open_regular, read_text
from ...curriculum.identity import hash64
from ...curriculum.table import Categorical, read_table
from ...errors import InputError
from ..questions.annotations import Annotation, annotated
from ..questions.datasets import Source
from ..questions.fields import Fields
from ..questions.question import Question
from ..shards.packing import shard
from ..shards.reader import Fetched, ShardReader
from ..storage.files import LocalFiles
from .benchmark import Benchmark

_WITHOUT = "without a recording"  # their split: nobody is given their recordings in place of another


class FileReader(ShardReader):
    """The questions of a file by row, in its order; recordings come from shards, where they could be packed.

    packed: the shards, None for none. lacking: key -> why its recording is not there.
    """

    def __init__(
        self, path: Path, questions: Sequence[Question], packed: ShardReader | None, lacking: Mapping[str, str]
    ) -> None:
        self.path, self.root, self.packed = path, str(path.parent), packed
        self.questions, self.lacking = list(questions), dict(lacking)
        places = {int(uid): row for row, uid in enumerate(packed.numbers["uid"].tolist())} if packed else {}
        self.row_in_shards = [places.get(question.uid, -1) for question in questions]
        held = np.array(self.row_in_shards, np.int64)
        count = len(questions)
        clip = np.array([hash64("no recording", question.uid) for question in questions], np.uint64)
        samples = np.zeros(count, np.int64)
        if packed is not None:
            clip = np.where(held >= 0, packed.numbers["clip"][held], clip)
            samples = np.where(held >= 0, packed.numbers["num_samples"][held], samples)
        self.numbers = {
            "uid": np.array([question.uid for question in questions], np.uint64),
            "question": np.array([question.content for question in questions], np.uint64),
            "num_choices": np.array([len(question.choices) for question in questions], np.int64),
            "clip": clip,
            "num_samples": samples,
        }
        texts = {
            "split": [q.split if row >= 0 else _WITHOUT for q, row in zip(questions, held, strict=True)],
            "source": [question.source for question in questions],
            "question_type": [question.question_type for question in questions],
        }
        self._names = {name: sorted(set(values)) for name, values in texts.items()}
        self._codes = {
            name: np.array([self._names[name].index(value) for value in values], np.int64)
            for name, values in texts.items()
        }
        self._keys = pa.array([question.key for question in questions], pa.string())
        self.unanswered = np.array([not question.answer for question in questions], bool)
        self.files = packed.files if packed is not None else LocalFiles(self.root, {})

    def question(self, row: int, fetched: Fetched | None = None) -> Question:
        """The row's question."""
        return self.questions[row]

    def where(self, row: int) -> str:
        """The file and the question's key, for messages."""
        return f"{self.path}: {self.key(row)}"

    def fetch(self, rows: Iterable[int], sounds: Iterable[int]) -> Fetched:
        """Nothing: questions are in memory, recordings are read one by one."""
        return {}

    def wave(self, row: int, fetched: Fetched | None = None) -> np.ndarray:
        """The row's recording, [n] mono float32 at 16 kHz; InputError, with the reason, where there is none."""
        self._check_heard(row)
        assert self.packed is not None
        return self.packed.wave(self.row_in_shards[row])

    def sound(self, row: int, fetched: Fetched | None = None) -> bytes:
        """The bytes of the row's recording; InputError, with the reason, where there is none."""
        self._check_heard(row)
        assert self.packed is not None
        return self.packed.sound(self.row_in_shards[row])

    def num_samples(self, row: int) -> int:
        """Length of the row's recording in samples at 16 kHz; InputError, with the reason, where there is none."""
        self._check_heard(row)
        return int(self.numbers["num_samples"][row])

    def _check_heard(self, row: int) -> None:
        if self.row_in_shards[row] < 0:
            raise InputError(self.lacking.get(self.key(row)) or f"{self.where(row)}: its recording was not packed")


@dataclass(frozen=True)
class OpenBenchmark:
    """A benchmark whose file is open.

    Args:
        name: on pages and of files, unique in a result. benchmark: what it is. path: of its file.
        reader: its questions by row. records: [N] the records as the file has them, {} of an index.
        unusable: (place, reason) of records that cannot be asked, which count as missing; their `faulty` records.
        facets: grouping -> [N] values, "" where there is none. lists: grouping -> how many values were lists.
        question_hash: SHA-256 of the file, 16 hex digits. left_out: records left out by the benchmark's own rule.
    """

    name: str
    benchmark: Benchmark
    path: str
    reader: ShardReader
    records: Sequence[Mapping[str, Any]]
    facets: Mapping[str, Sequence[str]]
    question_hash: str
    unusable: Sequence[tuple[str, str]] = ()
    faulty: Sequence[Mapping[str, Any]] = ()
    lists: Mapping[str, int] = field(default_factory=dict)
    left_out: int = 0

    @property
    def audio_hash(self) -> str:
        """Hash, 16 hex digits, of which recording each question has; of none, where nothing was packed."""
        order = np.argsort(self.reader.numbers["uid"])
        parts = [self.reader.numbers[name][order].astype("<u8").tobytes() for name in ("uid", "clip")]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def open_benchmark(
    name: str,
    benchmark: Benchmark,
    path: str,
    audio_root: str | None,
    cache: Path,
    heard: bool,
    workers: int = 1,
    split: str | None = None,
) -> OpenBenchmark:
    """Opens a benchmark's file, or an index; packs its recordings into `cache` where that was not done before.

    heard: whether recordings are needed at all. split: of an index, asks only its questions. Raises InputError where
    the file cannot be read or holds no question.
    """
    if path.endswith(".arrow"):
        return _open_index(name, benchmark, path, split)
    if split is not None:
        raise InputError(f"{path}: split is for an index.arrow; the whole file of a benchmark is asked")
    fields = Fields(layout=benchmark.layout)
    pairs = list(annotated(path, fields))
    taken = [(record, found) for record, found in pairs if isinstance(found, Annotation)]
    faults = [(record, found) for record, found in pairs if isinstance(found, InputError)]
    if not taken:
        raise InputError(
            f"{path}: holds no question in the layout {benchmark.layout}"
            + (f"; the first fault: {faults[0][1]}" if faults else "")
        )
    digest = _file_hash(path)
    packed, lacking = None, dict[str, str]()
    if heard:
        folder = cache / f"{name}-{hash64(digest, benchmark.layout, str(audio_root), str(Path(path).resolve())):016x}"
        packed, lacking = _packed(path, folder, audio_root, fields, workers)
    facets, lists = _facets(benchmark, [record for record, _ in taken])
    return OpenBenchmark(
        name,
        benchmark,
        path,
        FileReader(Path(path), [found.question for _, found in taken], packed, lacking),
        [record for record, _ in taken],
        facets,
        digest,
        [(str(fault).partition(": ")[0], str(fault)) for _, fault in faults],
        [record if isinstance(record, Mapping) else {} for record, _ in faults],
        lists,
        len(pairs) - len(taken) - len(faults),
    )


def _packed(
    path: str, folder: Path, audio_root: str | None, fields: Fields, workers: int
) -> tuple[ShardReader | None, dict[str, str]]:
    """The packed recordings, None where there are none, and the key -> reason of what could not be packed."""
    made_folder(folder)
    reason = ""
    with locked(folder / "waiting.lock"):  # two evaluations may want the same
        try:
            with redirect_stderr(io.StringIO()):  # which columns nobody packs is not of interest here
                shard(path, str(folder), audio_root, fields=fields, on_bad="quarantine", workers=workers)
        except InputError as error:
            reason = str(error)
    left_out = folder / "packing.quarantine.jsonl"
    entries = [json.loads(line) for line in read_text(left_out).splitlines()] if left_out.is_file() else []
    lacking = {entry["question"]: entry["reason"] for entry in entries if entry["question"]}
    if reason and not lacking:
        raise InputError(reason)
    return (None if reason else ShardReader(folder / "index.arrow")), lacking


def _file_hash(path: str) -> str:
    """SHA-256 of a file, or of the files of a folder with their names; 16 hex digits."""
    whole = hashlib.sha256()
    for file, _ in Source(path).stamps():
        if Path(path).is_dir():
            whole.update(str(Path(file).relative_to(path)).encode())
        with open_regular(file) as content:
            while part := content.read(1 << 22):
                whole.update(part)
    return whole.hexdigest()[:16]


def _facets(benchmark: Benchmark, records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Grouping -> its value of each record, a list as its parts, and how many were lists; without those all lack."""
    facets: dict[str, list[str]] = {}
    lists: dict[str, int] = {}
    seen = Counter(name for record in records for name in record)
    for name, columns in benchmark.facets.items():
        column = next((column for column in columns if column in seen), None)
        if column is None:
            continue
        values = [record.get(column) for record in records]
        texts = [", ".join(map(str, v)) if isinstance(v, list | tuple) else "" if v is None else str(v) for v in values]
        if 1 < len(set(texts)) <= 200:
            facets[name] = texts
        if count := sum(isinstance(value, list | tuple) for value in values):
            lists[name] = count
    return facets, lists


def _open_index(name: str, benchmark: Benchmark, path: str, split: str | None) -> OpenBenchmark:
    reader, table = ShardReader(path), read_table(path)
    rows = np.arange(len(reader))
    if split is not None:
        names = reader.names("split")
        rows = np.flatnonzero(reader.codes("split") == (names.index(split) if split in names else -1))
        if not len(rows):
            there = sorted({names[code] for code in set(reader.codes("split").tolist())})
            raise InputError(f"{path}: no question is of the split {split!r}; there are {', '.join(there)}")
        reader = reader.only(rows)
    columns = {c for names in benchmark.facets.values() for c in names} | {"question_type"}
    facets = {}
    for column in sorted(columns & set(table.columns)):
        held = table.columns[column]
        if isinstance(held, Categorical) and 1 < len(set(held.codes[rows].tolist())) <= 200:
            facets[column] = [held.names[code] if code >= 0 else "" for code in held.codes[rows].tolist()]
    return OpenBenchmark(name, benchmark, path, reader, [{}] * len(reader), facets, reader.content())
