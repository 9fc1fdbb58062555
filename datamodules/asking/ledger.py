"""The ledger of requests: a line of JSON per answer, found by what was asked, kept through any interruption.

A request is identified by a hash of all that its answer depends on: model, messages, schema, settings, attempt. So a
changed prompt asks only what it changes, and another order or number of items asks nothing anew. A line that a kill cut
off is dropped and asked again. Lines are read one by one; in memory are 20 bytes for each.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...boundary.files import made_folder
from ...errors import InputError

_LINE = re.compile(rb'\{"key": "([0-9a-f]{32})", "in": (\d+), "out": (\d+), ')
_SYNC_S = 0.5  # a power cut loses no more; a kill loses nothing
_NEW = 100_000  # answers that are looked up in a dictionary before they are sorted in
_BLOCK = 8 << 20


def key_of(body: Mapping[str, Any], attempt: int = 0) -> str:
    """The identity of a request, 32 hexadecimal digits: everything in its body, and which attempt it is."""
    text = json.dumps([body, attempt], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


class Tokens(NamedTuple):
    """Answers and the tokens they took, of all runs together."""

    answers: int = 0
    prompt: int = 0
    completion: int = 0


class Ledger:
    """The answers in `folder/answers.jsonl`; one process writes at a time.

    Raises InputError where another process writes, and for a line that is none of a ledger.
    """

    def __init__(self, folder: str | Path, write: bool = True) -> None:
        self.path = Path(folder) / "answers.jsonl"
        self.lock: int | None = None
        self._new: dict[int, int] = {}
        self._keys = np.zeros(0, np.uint64)
        self._places = np.zeros(0, np.int64)
        self._file: int | None = None
        self._end, self._synced = 0, time.monotonic()
        self.tokens = Tokens()
        if write:
            self._open(Path(folder))
        if self.path.is_file():
            self._scan()
        if write:
            assert self._file is not None
            os.ftruncate(self._file, self._end)  # what was cut off

    def _open(self, folder: Path) -> None:
        made_folder(folder)
        self.lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.lock)
            raise InputError(f"{folder}: another process writes there; wait for its end") from None
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)

    def _scan(self) -> None:
        """Reads where every whole line begins, and what it asked."""
        keys, places, prompt, completion, number = array("Q"), array("q"), 0, 0, 0
        with self.path.open("rb", buffering=0) as file:
            rest = b""
            while block := file.read(_BLOCK):
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    number += 1
                    found = _LINE.match(line)
                    if found is None:
                        raise InputError(f"{self.path}:{number}: no line of a ledger; remove it to ask again")
                    key, asked, said = found.groups()
                    keys.append(int(key[:16], 16))
                    places.append(self._end)
                    prompt += int(asked)
                    completion += int(said)
                    self._end += len(line) + 1
        self._keys, self._places = np.frombuffer(keys, np.uint64), np.frombuffer(places, np.int64)
        self._sort()
        self.tokens = Tokens(number, prompt, completion)

    def _sort(self) -> None:
        """Sorts by key; of two answers to one request the first comes first."""
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._places = self._keys[order], self._places[order]

    def _place(self, key: str) -> int | None:
        number = int(key[:16], 16)
        if (place := self._new.get(number)) is not None:
            return place
        at = int(np.searchsorted(self._keys, np.uint64(number)))
        return int(self._places[at]) if at < len(self._keys) and int(self._keys[at]) == number else None

    def __contains__(self, key: str) -> bool:
        return self._place(key) is not None

    def __len__(self) -> int:
        return len(self._keys) + len(self._new)

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored answer to a request, None where there is none."""
        place = self._place(key)
        if place is None:
            return None
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        data, at = b"", place
        while b"\n" not in data:
            part = os.pread(self._file, 1 << 13, at)
            if not part:
                break
            data, at = data + part, at + len(part)
        line = data.partition(b"\n")[0]
        try:
            return dict(json.loads(line))
        except ValueError:
            raise InputError(f"{self.path}: the answer at byte {place} is damaged; remove its line") from None

    def add(self, key: str, prompt_tokens: int, completion_tokens: int, answer: Mapping[str, Any]) -> bool:
        """Appends an answer, at once where a kill cannot lose it; false where the request has one already.

        answer: texts and numbers, as JSON. Half a surrogate pair, which no file can hold, becomes "?".
        """
        if key in self:
            return False
        assert self._file is not None and self.lock is not None
        asked, said = max(0, prompt_tokens), max(0, completion_tokens)
        counts = {"key": key, "in": asked, "out": said}
        line = (json.dumps(counts | dict(answer), ensure_ascii=False) + "\n").encode("utf-8", "replace")
        done = 0
        try:
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); the same command continues") from None
        self._new[int(key[:16], 16)] = self._end
        self._end += len(line)
        count, prompt, completion = self.tokens
        self.tokens = Tokens(count + 1, prompt + asked, completion + said)
        if time.monotonic() - self._synced > _SYNC_S:
            self.sync()
        if len(self._new) >= _NEW:
            self._keys = np.concatenate([self._keys, np.fromiter(self._new, np.uint64, len(self._new))])
            self._places = np.concatenate([self._places, np.fromiter(self._new.values(), np.int64, len(self._new))])
            self._new.clear()
            self._sort()
        return True

    def sync(self) -> None:
        """Makes what was appended safe from a power cut."""
        if self._file is not None:
            os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Syncs, and lets others write."""
        if self._file is not None:
            if self.lock is not None:
                self.sync()
            os.close(self._file)
        if self.lock is not None:
            os.close(self.lock)
        self._file = self.lock = None
