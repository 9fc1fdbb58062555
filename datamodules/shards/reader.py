"""Random access to the questions and recordings of an index by row: byte ranges are read, checked and decoded.

What comes is compared with what the index says of it, so that a changed shard is an error and not another question.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from copy import copy
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...boundary.words import say
from ...errors import InputError
from ..audio.waves import decode
from ..questions.question import Question
from ..storage.address import joined, redacted, scheme_of
from ..storage.files import LocalFiles, Reading, RemoteFiles
from ..storage.ranges import Range
from .index import fields_of, read_index
from .sample import parse_questions, question_at, question_reader
from .scan import UNANSWERED, clip_of

Fetched = Mapping[Range, "bytes | InputError"]
_NUMBERS = (
    *("uid", "clip", "question", "num_samples", "num_choices"),
    *("json_offset", "json_size", "question_no", "audio_offset", "audio_size"),
)
_TEXTS = ("shard", "audio_ext", "split", "source", "question_type")


class ShardReader:
    """Questions and recordings of one index by row. Cheap to pickle: files open on first use.

    numbers: [N] columns of the index by name. unanswered: [N] bool, questions whose answer is not known.
    Raises InputError where the index is missing, damaged or changed.
    """

    def __init__(self, index: str | Path, reading: Reading | None = None) -> None:
        self.path, reading = Path(index), reading or Reading()
        table, root, shards = read_index(index)
        self.root = reading.shards or root or str(self.path.parent)
        self.numbers: dict[str, np.ndarray] = {name: table.column(name).to_numpy() for name in _NUMBERS}
        texts = {name: table.column(name).combine_chunks() for name in _TEXTS}
        self._codes: dict[str, np.ndarray] = {
            name: column.indices.to_numpy(zero_copy_only=False) for name, column in texts.items()
        }
        self._names: dict[str, list[str]] = {name: column.dictionary.to_pylist() for name, column in texts.items()}
        self._keys: pa.ChunkedArray = table.column("key")
        self._questions = question_reader(fields_of(table))
        held = UNANSWERED in table.column_names
        self.unanswered: np.ndarray = table.column(UNANSWERED).to_numpy() if held else np.zeros(len(table), bool)
        if scheme_of(self.root) and not reading.shards:
            _say_host(str(self.path), redacted(self.root))
        self.files: LocalFiles | RemoteFiles = (
            RemoteFiles(self.root, shards, reading) if scheme_of(self.root) else LocalFiles(self.root, shards)
        )

    def __len__(self) -> int:
        return len(self.numbers["uid"])

    def only(self, rows: np.ndarray) -> ShardReader:
        """A reader of these rows [n] of this one, in that order."""
        part = copy(self)
        part.numbers = {name: values[rows] for name, values in self.numbers.items()}
        part._codes = {name: codes[rows] for name, codes in self._codes.items()}
        part._keys, part.unanswered = self._keys.take(pa.array(rows)), self.unanswered[rows]
        part.__dict__.pop("_content", None)
        return part

    def uid(self, row: int) -> int:
        """64-bit identity of the row's question."""
        return int(self.numbers["uid"][row])

    def key(self, row: int) -> str:
        """Readable identity of the row's question, `source/id`."""
        key: str = self._keys[row].as_py()
        return key

    def row_of(self, key: str) -> int:
        """The row of a readable identity; raises InputError, with some that are like it, where there is none."""
        keys: list[str] = self._keys.to_pylist()
        if key not in keys:
            from difflib import get_close_matches

            near = get_close_matches(key, keys, 3) or keys[:3]
            raise InputError(f"{self.path}: no sample {key!r}; there are {', '.join(near)}, ...")
        return keys.index(key)

    def check_answered(self, rows: np.ndarray, what: str) -> None:
        """Raises InputError where rows [n] hold questions without an answer; what: is wanted of them, for its words."""
        lacking = rows[self.unanswered[rows]]
        if len(lacking):
            raise InputError(
                f"{self.path}: {len(lacking):,} of {len(rows):,} questions have no answer, {self.key(int(lacking[0]))} "
                f"the first: they can be asked, not {what}; give a pool of questions that have one"
            )

    @property
    def place(self) -> str:
        """Where the shards lie, without credentials."""
        return redacted(self.root)

    def clip(self, row: int) -> int:
        """Identity of the row's recording; rows with equal numbers share it."""
        return int(self.numbers["clip"][row])

    def num_samples(self, row: int) -> int:
        """Length of the row's recording, in samples at 16 kHz."""
        return int(self.numbers["num_samples"][row])

    def codes(self, column: str) -> np.ndarray:
        """[N] numbers that are equal where a text column is; column: split, source, question_type, shard, audio_ext."""
        return self._codes[column]

    def names(self, column: str) -> list[str]:
        """The values of a text column (see `codes`) by their numbers."""
        return self._names[column]

    def text(self, column: str, row: int) -> str:
        """The value of a text column (see `codes`) at a row."""
        value: str = self._names[column][self._codes[column][row]]
        return value

    def where(self, row: int) -> str:
        """The row's place for messages: address of the shard without credentials, and offset of the recording."""
        return f"{redacted(joined(self.root, self.text('shard', row)))}@{int(self.numbers['audio_offset'][row])}"

    def range(self, row: int, part: str) -> Range:
        """Byte range of the row's text or recording; part: "json" or "audio"."""
        offset, size = self.numbers[f"{part}_offset"][row], self.numbers[f"{part}_size"][row]
        return Range(self.text("shard", row), int(offset), int(size))

    def content(self) -> str:
        """Hash, 16 hex digits, of all questions and recordings by identity; not of where they lie: shards may move.

        Computed once: what a reader reads never changes.
        """
        return self._content

    @cached_property
    def _content(self) -> str:
        order = np.argsort(self.numbers["uid"])
        parts = [self.numbers[name][order].astype("<u8").tobytes() for name in ("uid", "clip", "question")]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def fetch(self, rows: Iterable[int], sounds: Iterable[int]) -> Fetched:
        """Texts of `rows` and recordings of `sounds`, read together: by range, the bytes or an InputError."""
        wanted = list({self.range(row, "json") for row in rows} | {self.range(row, "audio") for row in sounds})
        return dict(zip(wanted, self.files.fetch(wanted), strict=True)) if wanted else {}

    def question(self, row: int, fetched: Fetched | None = None) -> Question:
        """The row's question; fetched: what `fetch` returned, else it is read now.

        Raises InputError where it cannot be read, or is not the question that the index has there.
        """
        data = self._bytes(row, "json", fetched)
        try:
            return self._question(row, data)
        except InputError:
            if not isinstance(self.files, RemoteFiles):
                raise
        self.files.forget(self.text("shard", row))  # the local copy or the answer may be damaged: ask once more
        return self._question(row, self._bytes(row, "json", None))

    def _question(self, row: int, data: bytes) -> Question:
        where = self.where(row)
        question = question_at(data, int(self.numbers["question_no"][row]), where, self._questions)
        if question is None or question.uid != self.uid(row) or question.key != self.key(row):
            held = ", ".join(question.key for question in parse_questions(data, where, self._questions))
            raise InputError(f"{where}: holds {held}; the index expects {self.key(row)}; re-index the shard")
        if question.content != self.numbers["question"][row]:
            raise InputError(f"{where}: the text of {self.key(row)} changed since it was indexed; re-index the shard")
        return question

    def wave(self, row: int, fetched: Fetched | None = None) -> np.ndarray:
        """The row's recording, [n] mono float32 at 16 kHz; raises InputError as `sound` does, or as it is decoded."""
        return decode(self.sound(row, fetched), self.where(row), self.num_samples(row))

    def sound(self, row: int, fetched: Fetched | None = None) -> bytes:
        """The bytes of the row's recording; raises InputError where they are not those that were indexed."""
        data = self._bytes(row, "audio", fetched)
        if clip_of(data) != self.clip(row) and isinstance(self.files, RemoteFiles):
            self.files.forget(self.text("shard", row))  # the local copy or the answer may be damaged: ask once more
            data = self._bytes(row, "audio", None)
        if clip_of(data) != self.clip(row):
            raise InputError(
                f"{self.where(row)}: the recording changed since it was indexed (checksum); re-index the shard"
            )
        return data

    def _bytes(self, row: int, part: str, fetched: Fetched | None) -> bytes:
        wanted = self.range(row, part)
        data = fetched.get(wanted) if fetched is not None else None
        if data is None:
            (data,) = self.files.fetch([wanted])
        if isinstance(data, InputError):
            raise data
        return data

    def close(self) -> None:
        """Closes what this process opened."""
        self.files.close()


@cache
def _say_host(index: str, place: str) -> None:
    """Says once on stderr where an index leads, as somebody else may have written it."""
    say(f"{index}: its recordings are read from {place}", file=sys.stderr)


def share(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """One rank's part of a global batch: every world-th element from its rank on."""
    return rows[rank::world]
