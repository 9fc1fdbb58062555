"""Knows whole local copies of remote shards: under the hash of the full address and the entity tag, never the name.

Two processes never write one copy; a copy appears whole or not at all; a full disk is no error.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ..curriculum.identity import hash64
from .storage import FULL, Shard

_ABANDONED_S = 24 * 3600


class ShardCache:
    """Copies in one folder, at most `limit_gb` of them; several processes and hosts may share it."""

    def __init__(self, folder: str, limit_gb: float) -> None:
        self.folder, self.limit, self.full = Path(folder), limit_gb * 1e9, False
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, address: str, shard: Shard) -> Path:
        """Where the copy of this version of this address is, or would be."""
        return self.folder / f"{hash64('copy', address, shard.etag, shard.size):016x}.tar"

    def copy(self, address: str, shard: Shard, download: Callable[[str], None]) -> str | None:
        """The path of a whole copy, downloaded now if there is none; None where the disk has no room."""
        path = self.path(address, shard)
        if self._whole(path, shard):
            return str(path)
        if self.full:
            return None
        with open(path.with_suffix(".lock"), "w") as lock:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._whole(path, shard):
                return str(path)
            scratch = path.with_suffix(f".{uuid.uuid4().hex}.partial")
            try:
                self._make_room(shard.size)
                download(str(scratch))
                with open(scratch, "rb") as file:
                    os.fsync(file.fileno())
                scratch.replace(path)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                print(f"{self.folder}: no room for more shards; they are read by byte range", file=sys.stderr)
                self.full = True
                return None
            finally:
                scratch.unlink(missing_ok=True)
        return str(path)

    def _whole(self, path: Path, shard: Shard) -> bool:
        try:
            found = path.stat().st_size
        except OSError:
            return False
        if shard.size >= 0 and found != shard.size:  # cut off by whatever: never served, never kept
            self.drop(path)
            return False
        try:
            os.utime(path)
        except OSError:
            return path.exists()
        return True

    def _make_room(self, size: int) -> None:
        """Removes abandoned scratch files, and the copies used longest ago; who reads one keeps it open."""
        copies = []
        for path in self.folder.iterdir():
            try:
                found = path.stat()
            except OSError:
                continue  # another process removed it
            if path.suffix == ".partial" and time.time() - found.st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)
            elif path.suffix == ".tar":
                copies.append((found.st_mtime, found.st_size, path))
        held = sum(each[1] for each in copies)
        for _, freed, path in sorted(copies):
            if held + max(size, 0) <= self.limit:
                break
            path.unlink(missing_ok=True)
            held -= freed

    def drop(self, path: Path | str) -> None:
        """Removes a copy that is not what it should be."""
        Path(path).unlink(missing_ok=True)
