"""The cache: whole local copies of remote shards, named by a hash of the full address and the entity tag.

Two processes never write one copy; a copy appears whole or not at all; where the disk is full, shards are read by byte
range instead.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

from ...boundary.files import locked, open_regular
from ...boundary.words import say
from ...curriculum.identity import hash64
from ...errors import InputError
from .ranges import Shard

_ABANDONED_S = 24 * 3600


class ShardCache:
    """Copies in one folder, at most `limit_gb` gigabytes of them; several processes and hosts may share it.

    Raises InputError where the folder cannot be written.
    """

    def __init__(self, folder: str, limit_gb: float) -> None:
        self.folder, self.limit, self.full = Path(folder), limit_gb * 1e9, False
        self._forgotten: set[Path] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked("room"):
                pass
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise InputError(f"{folder}: cannot hold copies of shards ({why}); give another reading.cache") from None

    def path(self, address: str, shard: Shard) -> Path:
        """Where the copy of this address, with this size and entity tag, is or would be."""
        return self.folder / f"{hash64('copy', address, shard.etag, shard.size):016x}.tar"

    def copy(self, address: str, shard: Shard, download: Callable[[str], None]) -> str | None:
        """The path of a whole copy, made by `download(path)` if there is none; None where there is no room for it."""
        path = self.path(address, shard)
        if self._whole(path, shard):
            return str(path)
        if self.full:
            return None
        try:
            with self._locked(path.stem):
                if self._whole(path, shard):
                    return str(path)
                return self._downloaded(path, shard, download)
        except OSError as error:  # full above all, but also a disk that dies or is taken away must not end a training
            known, self.full = self.full, True
            if not known:
                why = error.strerror or type(error).__name__
                say(f"{self.folder}: takes no more shards ({why}); they are read by byte range", file=sys.stderr)
            return None

    def _downloaded(self, path: Path, shard: Shard, download: Callable[[str], None]) -> str | None:
        scratch = path.with_suffix(f".{uuid.uuid4().hex}.{max(shard.size, 0)}.partial")
        try:
            with self._locked("room"):
                if not self._make_room(shard.size):
                    return None
                scratch.touch(exist_ok=False)  # counts with its whole size from now on
            download(str(scratch))
            with open_regular(scratch, follow=False) as file:
                os.fsync(file.fileno())
            with self._locked("room"):  # or who counts meanwhile may see it under neither name
                scratch.replace(path)
            return str(path)
        finally:
            scratch.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """A context that one process at a time may be in."""
        with locked(self.folder / f"{name}.lock"):  # where the file system has no locks, a shard may come twice
            yield

    def _whole(self, path: Path, shard: Shard) -> bool:
        """Whether the copy is there and as long as the shard; it then counts as used just now."""
        try:
            state = path.lstat()
            size = state.st_size
        except OSError:
            return False
        if not S_ISREG(state.st_mode) or 0 <= shard.size != size:  # a link, or cut off: never served
            path.unlink(missing_ok=True)
            return False
        try:
            os.utime(path, follow_symlinks=False)
        except OSError:
            return path.exists()
        return True

    def _make_room(self, size: int) -> bool:
        """Makes room for `size` bytes; False where they exceed the limit even in an empty cache.

        Removes abandoned scratch files, then the copies used longest ago. A process that reads a copy keeps it open;
        what others download now counts as if it were there.
        """
        copies, coming = [], 0
        for path in self.folder.iterdir():
            try:
                state = path.lstat()
            except OSError:
                continue  # another process removed it
            if path.suffix == ".partial" and time.time() - state.st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)
            elif path.suffix == ".partial":
                planned = path.name.split(".")[-2]
                coming += max(state.st_size, int(planned) if planned.isdigit() else 0)
            elif path.suffix == ".tar":
                copies.append((state.st_mtime, state.st_size, path))
        free = self.limit - coming - max(size, 0)
        if free < 0:
            return False
        free -= sum(held for _, held, _ in copies)
        for _, freed, path in sorted(copies):
            if free >= 0:
                break
            path.unlink(missing_ok=True)
            free += freed
        return True

    def forget(self, address: str, shard: Shard) -> None:
        """Removes a copy whose content turned out to be wrong; only once, as the next one is what the server has."""
        path = self.path(address, shard)
        if path not in self._forgotten:
            self._forgotten.add(path)
            path.unlink(missing_ok=True)
