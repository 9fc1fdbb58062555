"""Knows how byte ranges are read: from local files, or from a server with many requests in flight and bounded retries.

A range is delivered whole or as an InputError that names its shard; what lies in it is checked by whoever asked.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ..curriculum.identity import hash64
from ..errors import InputError
from .address import filesystem, joined, redacted, scheme_of
from .ranges import Range, coalesced

Result = TypeVar("Result")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRANSIENT_STATUS = (408, 425, 429)


@dataclass(frozen=True)
class Shard:
    """What the index remembers of a shard: its size in bytes, and the server's entity tag where there was one."""

    size: int
    etag: str = ""


@dataclass
class Reading:
    """How shards are read, and how much is put up with.

    Args:
        shards: folder or address the shards lie in; default beside the index, or where they were indexed.
        cache: local folder for whole copies of remote shards; default none, samples are read by byte range.
        cache_gb: the oldest copies are removed beyond this size.
        in_flight: requests at a time, per loader process.
        retries: of a request that failed in a way that may pass (5xx, timeouts, short answers), with growing pauses.
        timeout_s: of one request.
        lookahead: batches whose ranges are fetched together while the batches before them are prepared.
        max_gap: neighbouring ranges with at most so many bytes between them are one request.
        max_bad: bad samples a loader process, and a run on each rank, puts up with; the next one stops it.
        quarantine: folder for `quarantine-rank*.jsonl`, which tells each bad sample and what was served instead.
        stall_s: a batch that takes longer to prepare stops the run and names its samples.
    """

    shards: str | None = None
    cache: str | None = None
    cache_gb: float = 200.0
    in_flight: int = 32
    retries: int = 5
    timeout_s: float = 60.0
    lookahead: int = 2
    max_gap: int = 256 << 10
    max_bad: int = 50
    quarantine: str | None = None
    stall_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("in_flight", "lookahead", "timeout_s", "stall_s", "cache_gb"):
            if getattr(self, name) <= 0:
                raise InputError(f"reading.{name} must be positive, got {getattr(self, name)}")
        for name in ("retries", "max_gap", "max_bad"):
            if getattr(self, name) < 0:
                raise InputError(f"reading.{name} must not be negative, got {getattr(self, name)}")


class LocalFiles:
    """Ranges of local shards. Cheap to pickle: files open on first use, in every process anew."""

    def __init__(self, root: str, shards: Mapping[str, Shard]) -> None:
        self.root, self.shards = root, shards
        self._files: dict[str, int] = {}
        self._pid = os.getpid()

    remote = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def fetch(self, wanted: Sequence[Range]) -> list[bytes | InputError]:
        """The bytes of each range, or what is wrong with it."""
        return [self._read(each) for each in wanted]

    def _read(self, wanted: Range) -> bytes | InputError:
        try:
            data = os.pread(self._open(wanted.shard), wanted.size, wanted.offset)
        except InputError as error:
            return error
        except OSError as error:
            return InputError(f"{joined(self.root, wanted.shard)}@{wanted.offset}: cannot be read ({error.strerror})")
        if len(data) != wanted.size:
            where = f"{joined(self.root, wanted.shard)}@{wanted.offset}"
            return InputError(f"{where}: {len(data)} of {wanted.size} bytes there; the shard was cut off")
        return data

    def _open(self, shard: str) -> int:
        if self._pid != os.getpid():  # descriptors survive a fork, but their numbers may be reused by the child
            self._files, self._pid = {}, os.getpid()
        if shard not in self._files:
            path = joined(self.root, shard)
            try:
                opened = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: the shard is missing ({error.strerror}); the index names it") from None
            size, known = os.fstat(opened).st_size, self.shards.get(shard)
            if known is not None and size != known.size:
                os.close(opened)
                raise InputError(f"{path}: has {size} bytes, {known.size} when it was indexed; re-index the shard")
            self._files[shard] = opened
        return self._files[shard]

    def check(self) -> None:
        """Opens every shard, so that one that is missing or has another size is known before training begins."""
        for shard in self.shards:
            self._open(shard)

    def close(self) -> None:
        """Closes the shard files this process opened."""
        if self._pid == os.getpid():
            for descriptor in self._files.values():
                os.close(descriptor)
        self._files = {}


class RemoteFiles:
    """Ranges of shards behind an address, `reading.in_flight` requests at a time.

    Neighbouring ranges are one request. With a cache, a shard is copied whole on first use and read from the copy;
    where the disk is full, its ranges are read instead.
    """

    def __init__(self, root: str, shards: Mapping[str, Shard], reading: Reading) -> None:
        self.root, self.shards, self.reading = root, shards, reading
        self._pid = -1
        self._pool: ThreadPoolExecutor | None = None
        self._fs: Any = None
        self._copies: Any = None

    remote = True

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pid": -1, "_pool": None, "_fs": None, "_copies": None}

    def _start(self) -> None:
        """Connections and threads belong to one process: a forked loader makes its own."""
        if self._pid != os.getpid():
            from .cache import ShardCache

            self._fs = filesystem(scheme_of(self.root))
            self._pool = ThreadPoolExecutor(self.reading.in_flight, "ranges")
            self._copies = ShardCache(self.reading.cache, self.reading.cache_gb) if self.reading.cache else None
            self._pid = os.getpid()

    def fetch(self, wanted: Sequence[Range]) -> list[bytes | InputError]:
        """The bytes of each range in the order asked, or what is wrong with it."""
        self._start()
        assert self._pool is not None
        spans = coalesced(wanted, self.reading.max_gap)
        read = list(self._pool.map(self._span, spans))
        found: dict[Range, bytes | InputError] = {}
        for span, data in zip(spans, read, strict=True):
            for each in spans[span]:
                start = each.offset - span.offset
                found[each] = data if isinstance(data, InputError) else data[start : start + each.size]
        return [found[each] for each in wanted]

    def _span(self, span: Range) -> bytes | InputError:
        address = joined(self.root, span.shard)
        try:
            data = self._from_copy(address, span) if self._copies is not None else None
            if data is not None:
                return data
            return self._patient(lambda: self._request(address, span), f"{redacted(address)}@{span.offset}")
        except InputError as error:
            return error

    def _request(self, address: str, span: Range) -> bytes:
        stop = span.offset + span.size
        data = self._call("cat_file", address, start=span.offset, end=stop)
        if len(data) == span.size:
            return data
        if len(data) == self.shards.get(span.shard, Shard(-1)).size:
            raise InputError(
                f"{redacted(address)}: the server sends whole files instead of byte ranges; set reading.cache"
            )
        raise ConnectionError(f"{len(data)} of {span.size} bytes came")

    def _call(self, name: str, *args: Any, limit_s: float | None = None, **options: Any) -> Any:
        """One operation of the file system under the timeout, where the file system can be interrupted."""
        assert self._fs is not None
        if getattr(self._fs, "async_impl", False):
            from fsspec.asyn import sync

            act = getattr(self._fs, f"_{name}")
            return sync(self._fs.loop, act, *args, timeout=limit_s or self.reading.timeout_s, **options)
        return getattr(self._fs, name)(*args, **options)

    def _patient(self, act: Callable[[], Result], where: str) -> Result:
        """Repeats what may pass; the pauses double from half a second to 30 s, shifted so that ranks do not march."""
        for attempt in range(self.reading.retries + 1):
            try:
                return act()
            except InputError:
                raise
            except Exception as error:  # every file system has its own kinds
                if getattr(error, "errno", None) in FULL:
                    raise
                last = error
                if not transient(error):
                    break
            if attempt < self.reading.retries:
                share = hash64(os.getpid(), where, attempt) / 2**64
                time.sleep(min(30.0, 0.5 * 2**attempt) * (0.5 + share) * min(1.0, self.reading.timeout_s / 10))
        raise InputError(f"{where}: cannot be read ({_words(last)}), tried {attempt + 1} times") from None

    def _from_copy(self, address: str, span: Range) -> bytes | None:
        """The range out of a whole local copy; None where there is no room for one, or it went away just now."""
        known = self.shards.get(span.shard, Shard(-1))
        copy = self._copies.copy(address, known, lambda path: self._download(address, known, path))
        try:
            with open(copy, "rb") as file:
                data = os.pread(file.fileno(), span.size, span.offset)
        except (OSError, TypeError):
            return None
        return data if len(data) == span.size else None

    def _download(self, address: str, known: Shard, path: str) -> None:
        """Copies the whole shard to a path."""
        limit = self.reading.timeout_s * (1 + max(known.size, 1 << 32) // (64 << 20))  # 64 MiB per timeout

        def act() -> None:
            self._call("get_file", address, path, limit_s=limit)
            if known.size >= 0 and os.path.getsize(path) != known.size:
                raise ConnectionError(f"{os.path.getsize(path)} of {known.size} bytes came")

        self._patient(act, redacted(address))

    def check(self) -> None:
        """Asks for every shard's size, so that one that is missing or changed is known before training begins."""
        self._start()
        assert self._pool is not None
        for shard, info in zip(self.shards, self._pool.map(self._info, self.shards), strict=True):
            size, known = info.get("size"), self.shards[shard]
            if size is not None and int(size) != known.size:
                address = redacted(joined(self.root, shard))
                raise InputError(f"{address}: has {size} bytes, {known.size} when it was indexed; re-index the shard")

    def _info(self, shard: str) -> dict[str, Any]:
        address = joined(self.root, shard)
        return self._patient(lambda: self._call("info", address), redacted(address))

    def copy_shard(self, shard: str, path: str) -> str:
        """Copies a whole shard to a path; returns the server's entity tag."""
        self._start()
        address = joined(self.root, shard)
        info = self._info(shard)
        size = info.get("size")
        tag = next((str(info[name]) for name in ("ETag", "etag", "md5Hash", "oid") if info.get(name)), "")
        self._download(address, Shard(int(size) if size is not None else -1, tag), path)
        return tag

    def forget(self, shard: str) -> None:
        """Drops the local copy of a shard whose content turned out to be wrong."""
        if self._copies is not None:
            self._copies.drop(self._copies.path(joined(self.root, shard), self.shards.get(shard, Shard(-1))))

    def close(self) -> None:
        """Ends the threads of this process."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(cancel_futures=True)
        self._pid, self._pool, self._fs = -1, None, None


def transient(error: BaseException) -> bool:
    """Whether trying again may help: not where the server says that the thing is not there or not allowed."""
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)):
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _TRANSIENT_STATUS
    return isinstance(error, (OSError, TimeoutError, EOFError)) or type(error).__module__.startswith("aiohttp")


def _words(error: BaseException) -> str:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server answered {status}"
    if isinstance(error, FileNotFoundError):
        return "not found"
    text = str(error)
    return type(error).__name__ if not text or "://" in text else f"{type(error).__name__}: {text:.200}"
