"""What files hold, as hashes that are kept: what has not changed on the disk is not read again.

A file is hashed whole, and again only when its path, size, inode, or the time that its content or the file itself
changed, are others. A folder is the names and hashes of everything in it, links followed. Three things are known by
less than their bytes:

- a folder of packed shards (`index.arrow` beside `*.tar`): the index, which holds a checksum of every recording and
  every question, and the names and sizes of the tars;
- tars outside such a folder, recordings, and whatever a packing reads, where they have more than `most` bytes together:
  names, sizes and times of change;
- addresses (s3://...) and hub ids: their text alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ...boundary.files import PARTIAL, open_regular, read_json, write_text
from ...errors import InputError

MOST = 2 << 30
_SETTLED_NS = 2_000_000_000  # a file that changed so shortly before it was read may change again within one tick
_PASSING = (PARTIAL, ".lock", ".pyc")


class Hashes:
    """Hashes by content, remembered in JSON of {path: [size, mtime_ns, inode, ctime_ns, hash]}; `read` counts bytes.

    file: where they are kept; what it cannot be read from, or does not hold, is hashed anew.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.read, self._changed = file, 0, False
        self._known: dict[str, list[int | str]] = {}
        with suppress(InputError):
            known = read_json(file) if file.is_file() else {}
            self._known = known if isinstance(known, dict) else {}

    def of(self, path: str, most: int | None = None) -> str:
        """The hash of a file or folder, "" where there is none.

        most: bytes up to which contents are read; beyond them sizes and times of change stand for it. None: always.
        """
        if "://" in path:
            return path
        return self.of_all([path], most)

    def of_all(self, paths: Sequence[str], most: int | None = None) -> str:
        """One hash of several files and folders, "" where none of them is there; see `of`."""
        found = [(name, file, state) for path in paths for name, file, state in _files(os.path.abspath(path))]
        if not found:
            return "empty" if any(os.path.exists(path) for path in paths) else ""
        by_stamp = most is not None and sum(state.st_size for *_, state in found) > most
        digest = hashlib.blake2b(digest_size=12)
        for name, file, state in found:
            if by_stamp:
                content = f"{state.st_size} {state.st_mtime_ns}"
            elif file.endswith(".tar") and _packed(os.path.dirname(file)):
                content = str(state.st_size)
            else:
                content = self._content(file, state)
            digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _content(self, file: str, state: os.stat_result) -> str:
        mark: list[int | str] = [state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns]
        known = self._known.get(file)
        if isinstance(known, list) and known[:-1] == mark:
            return str(known[-1])
        if not stat.S_ISREG(state.st_mode):  # a pipe would be read for ever
            return "special"
        with open_regular(file) as content:
            digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=12)).hexdigest()  # type: ignore[arg-type]
        self.read += state.st_size
        if time.time_ns() - state.st_mtime_ns > _SETTLED_NS:
            self._known[file], self._changed = [*mark, digest], True
        return digest

    def save(self) -> None:
        """Writes what was learnt, if anything was; files that are gone are forgotten."""
        if self._changed:
            self._known = {file: mark for file, mark in self._known.items() if os.path.exists(file)}
            write_text(self.file, json.dumps(self._known, separators=(",", ":")), private=True)
            self._changed = False


def _is_link(top: str, name: str) -> bool:
    return os.path.islink(os.path.join(top, name))


def _packed(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "index.arrow"))


def _files(path: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """(name below the path, whole path, state) of a file, or of all in a folder in the order of their names.

    Of a folder of packed shards only the index and the tars.
    """
    with suppress(OSError):
        state = os.stat(path)
        if not stat.S_ISDIR(state.st_mode):
            yield "", path, state
            return
    packed = _packed(path) and any(name.endswith(".tar") for name in os.listdir(path))
    above = {os.path.realpath(path)}
    for top, folders, names in os.walk(path, followlinks=True):
        links = {name: os.path.realpath(os.path.join(top, name)) for name in folders if _is_link(top, name)}
        folders[:] = sorted(name for name in folders if links.get(name) not in above)
        above |= set(links.values())
        for name in sorted(names):
            file = os.path.join(top, name)
            if name.endswith(_PASSING) or (packed and not (name == "index.arrow" or name.endswith(".tar"))):
                continue
            with suppress(OSError):  # a link that leads nowhere
                yield os.path.relpath(file, path), file, os.stat(file)
