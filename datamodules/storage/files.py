"""Reading byte ranges of shards: from local files, or from a server with many requests in flight and bounded retries.

A range comes whole, or as an InputError that names its shard; its content is checked by the caller.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ...boundary.files import open_regular, regular
from ...errors import InputError
from .address import call, filesystem, joined, patiently, redacted, scheme_of
from .cache import ShardCache
from .ranges import Range, Shard, coalesced

_LARGEST_SHARD = 1 << 37  # bytes of a shard whose server does not say its size
_MOST_OPEN = 256  # files of one reader; 1,024 is a common limit for the whole process
_CONNECTED: weakref.WeakSet[RemoteFiles] = weakref.WeakSet()
_INHERITED: list[Any] = []


def _keep_inherited() -> None:
    """Keeps the parent's connections open in a forked child.

    Closing them would take them off the event loop of the parent, which would then wait in vain for their answers.
    """
    _INHERITED.extend((files._fs, files._pool) for files in _CONNECTED)


os.register_at_fork(after_in_child=_keep_inherited)


@dataclass
class Reading:
    """How shards are read, and how many bad samples a run accepts.

    Args:
        shards: folder or address the shards lie in; default beside the index, or where they were indexed.
        cache: local folder for whole copies of remote shards; default none, samples are read by byte range.
        cache_gb: size of that folder, beyond which the copies used longest ago are removed.
        in_flight: requests at a time, per loader process.
        retries: of a request that failed in a way that may pass (5xx, timeouts, short answers), with growing pauses.
        timeout_s: seconds for one request.
        lookahead: batches whose ranges are fetched together while the batches before them are prepared.
        max_gap: neighbouring ranges with at most so many bytes between them are one request.
        max_bad: distinct bad samples that a loader process, and each rank of a run, accepts; one more stops it.
        quarantine: folder for `quarantine-rank*.jsonl`, a line for each bad sample with the question in its place.
        stall_s: seconds after which a batch that is still being read (whole shards for the cache included) or built
            stops the run.

    Raises InputError for numbers out of range.
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


class _Opened:
    """An open file, closed with its last user; not in a forked child, where its number may mean another file by now."""

    def __init__(self, path: str) -> None:
        self.descriptor, self.pid = regular(path), os.getpid()

    def __del__(self, close: Callable[[int], None] = os.close, getpid: Callable[[], int] = os.getpid) -> None:
        # Arguments, as `os` may be gone when the interpreter ends.
        if getattr(self, "pid", -1) == getpid():
            close(self.descriptor)


class LocalFiles:
    """Ranges of local shards. Cheap to pickle: files open on first use, some hundred at most, in every process anew."""

    remote = False

    def __init__(self, root: str, shards: Mapping[str, Shard]) -> None:
        self.root, self.shards = root, shards
        self._files: dict[str, _Opened] = {}
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def fetch(self, wanted: Sequence[Range]) -> list[bytes | InputError]:
        """The bytes of each range in the order asked, or the InputError that says why it cannot be read."""
        return [self._read(part) for part in wanted]

    def _read(self, wanted: Range) -> bytes | InputError:
        try:
            file = self._open(wanted.shard)
            data = os.pread(file.descriptor, wanted.size, wanted.offset)
        except InputError as error:
            return error
        except OSError as error:
            return InputError(f"{joined(self.root, wanted.shard)}@{wanted.offset}: cannot be read ({error.strerror})")
        if len(data) != wanted.size:
            where = f"{joined(self.root, wanted.shard)}@{wanted.offset}"
            return InputError(f"{where}: {len(data)} of {wanted.size} bytes there; the shard was cut off")
        return data

    def _open(self, shard: str) -> _Opened:
        if self._pid != os.getpid():
            self._files, self._pid = {}, os.getpid()
        opened = self._files.get(shard)
        if opened is not None:
            return opened
        path = joined(self.root, shard)
        try:
            opened = _Opened(path)
        except FileNotFoundError as error:
            raise InputError(f"{path}: the shard is missing ({error.strerror}); the index names it") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror}); the index names it") from None
        size, known = os.fstat(opened.descriptor).st_size, self.shards.get(shard)
        if known is not None and size != known.size:
            raise InputError(f"{path}: has {size} bytes, {known.size} when it was indexed; re-index the shard")
        if len(self._files) >= _MOST_OPEN:
            self._files = dict(list(self._files.items())[_MOST_OPEN // 2 :])
        self._files[shard] = opened
        return opened

    def check(self) -> None:
        """Opens every shard; raises InputError where one is missing or has another size, before training begins."""
        for shard in self.shards:
            self._open(shard)

    def close(self) -> None:
        """Closes the shard files this process opened."""
        self._files = {}


class RemoteFiles:
    """Ranges of shards behind an address, `reading.in_flight` requests at a time.

    Neighbouring ranges are one request. With a cache, a shard is copied whole on first use and read from the copy;
    where there is no room for it, its ranges are read instead.
    """

    remote = True

    def __init__(self, root: str, shards: Mapping[str, Shard], reading: Reading) -> None:
        self.root, self.shards, self.reading = root, shards, reading
        self._leave()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pid": -1, "_pool": None, "_fs": None, "_copies": None}

    def _leave(self) -> None:
        """Forgets the connections, which are another process's or closed."""
        self._pid = -1
        self._pool: ThreadPoolExecutor | None = None
        self._fs: Any = None
        self._copies: ShardCache | None = None

    def _start(self) -> ThreadPoolExecutor:
        """The threads of this process, started with its connections: a forked loader needs its own."""
        if self._pid != os.getpid():
            reading = self.reading
            self._copies = ShardCache(reading.cache, reading.cache_gb) if reading.cache else None
            self._fs, self._pool = filesystem(scheme_of(self.root)), ThreadPoolExecutor(reading.in_flight, "ranges")
            self._pid = os.getpid()
            _CONNECTED.add(self)
        assert self._pool is not None
        return self._pool

    def fetch(self, wanted: Sequence[Range]) -> list[bytes | InputError]:
        """The bytes of each range in the order asked, or the InputError that says why it cannot be read."""
        spans = coalesced(wanted, self.reading.max_gap)
        read = list(self._start().map(self._span, spans))
        contents: dict[Range, bytes | InputError] = {}
        for span, data in zip(spans, read, strict=True):
            for part in spans[span]:
                start = part.offset - span.offset
                contents[part] = data if isinstance(data, InputError) else data[start : start + part.size]
        return [contents[part] for part in wanted]

    def _span(self, span: Range) -> bytes | InputError:
        try:
            address = joined(self.root, span.shard)
            data = self._from_copy(address, span)
            if data is not None:
                return data
            where = f"{redacted(address)}@{span.offset}"
            return patiently(lambda: self._request(address, span), where, self.reading.retries, self.reading.timeout_s)
        except InputError as error:
            return error

    def _request(self, address: str, span: Range) -> bytes:
        if not span.size:
            return b""  # no header can ask for it
        options: dict[str, Any] = {"start": span.offset, "end": span.offset + span.size}
        if not getattr(self._fs, "async_impl", False):
            options["cache_type"] = "none"  # a file that is opened for one range would read megabytes ahead
        data: bytes = self._call("cat_file", address, **options)
        if len(data) != span.size:
            raise ConnectionError(f"{len(data)} of {span.size} bytes came")
        return data

    @property
    def _bounded(self) -> bool:
        """Whether a download stops at a size: only a web server is somebody else's."""
        return scheme_of(self.root).startswith("http")

    def _call(self, name: str, *args: Any, limit_s: float | None = None, **options: Any) -> Any:
        return call(self._fs, name, *args, limit_s=limit_s or self.reading.timeout_s, **options)

    def _from_copy(self, address: str, span: Range) -> bytes | None:
        """The range out of a whole local copy; None where there is no room for one, or it went away just now."""
        if self._copies is None:
            return None
        known = self.shards.get(span.shard, Shard(-1))
        copy = self._copies.copy(address, known, lambda path: self._download(address, known, path))
        if copy is None:
            return None
        try:
            with open_regular(copy, follow=False) as file:
                data = os.pread(file.fileno(), span.size, span.offset)
        except (OSError, InputError):
            return None
        return data if len(data) == span.size else None

    def _download(self, address: str, known: Shard, path: str) -> None:
        """Copies the whole shard to a path; a full disk is an OSError."""
        size = known.size if known.size >= 0 else 1 << 32
        limit = {"most": known.size if known.size >= 0 else _LARGEST_SHARD} if self._bounded else {}
        limit_s = self.reading.timeout_s * (1 + size // (64 << 20))  # 64 MiB per timeout

        def act() -> None:
            self._call("get_file", address, path, limit_s=limit_s, **limit)
            if known.size >= 0 and os.path.getsize(path) != known.size:
                raise ConnectionError(f"{os.path.getsize(path)} of {known.size} bytes came")

        patiently(act, redacted(address), self.reading.retries, self.reading.timeout_s)

    def check(self) -> None:
        """Asks for every shard's size and entity tag; raises InputError where one is missing or changed."""
        for shard, now in zip(self.shards, self._start().map(self._info, self.shards), strict=True):
            known, address = self.shards[shard], redacted(joined(self.root, shard))
            if now.size not in (-1, known.size):
                size = f"{now.size} bytes, {known.size} when it was indexed"
                raise InputError(f"{address}: has {size}; re-index the shard")
            if self.reading.shards is None and known.etag and now.etag not in ("", known.etag):
                raise InputError(
                    f"{address}: was written again since it was indexed (entity tag {now.etag}, not {known.etag}); "
                    "re-index the shard, or give its folder as reading.shards to go by size and checksums alone"
                )

    def _info(self, shard: str) -> Shard:
        """The shard as the server describes it now: size (-1 where it does not say) and entity tag."""
        address = joined(self.root, shard)
        info = patiently(
            lambda: self._call("info", address), redacted(address), self.reading.retries, self.reading.timeout_s
        )
        tag = next((str(info[name]) for name in ("ETag", "etag", "md5Hash", "oid") if info.get(name)), "")
        return Shard(int(info["size"]) if info.get("size") is not None else -1, tag.removeprefix("W/"))

    def copy_shard(self, shard: str, path: str) -> str:
        """Copies a whole shard to a path; returns the server's entity tag. InputError where the disk is full."""
        self._start()
        address, now = joined(self.root, shard), self._info(shard)
        try:
            self._download(address, now, path)
        except OSError as error:
            raise InputError(
                f"{redacted(address)}: no room for a copy in {os.path.dirname(path)} ({error.strerror}); set TMPDIR"
            ) from None
        return now.etag

    def forget(self, shard: str) -> None:
        """Removes the local copy of a shard whose content turned out to be wrong; the next read downloads it again."""
        if self._copies is not None:
            self._copies.forget(joined(self.root, shard), self.shards.get(shard, Shard(-1)))

    def close(self) -> None:
        """Ends the connections and threads of this process."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(cancel_futures=True)
            self._leave()
