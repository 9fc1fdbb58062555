"""A web server in a thread that gives byte ranges, and goes wrong in the ways asked for."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    query: str
    range: str
    headers: dict[str, str]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests it is meant for."""

    kind: str
    times: int
    meant: Callable[[Seen], bool]


class FaultServer(ThreadingHTTPServer):
    """Serves `files`, path -> bytes, that may change at any time.

    Kinds of fault: a status such as "503"; "drop" ends the connection without an answer; "hang" never answers; "cut"
    promises the whole length and sends half of it; "short" promises and sends half; "elsewhere" sends and says it sends
    the bytes behind the range; "silently elsewhere" says they are the right ones; "whole" sends all of the file with
    200; "tag" has another entity tag; "size" (of HEAD) another length; "garbage" is no HTTP.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.most_open = self._open = 0
        self.meeting: threading.Barrier | None = None  # so many requests have to be open before they are answered
        self.slow_s = 0.0  # pause before a whole file is sent
        self.closing, self._lock = threading.Event(), threading.Lock()

    @property
    def url(self) -> str:
        """Address of the root, without a slash behind it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, folder: str | Path, under: str = "shards") -> str:
        """Serves the tars of a folder; returns the folder's address."""
        for path in Path(folder).glob("*.tar"):
            self.files[f"/{under}/{path.name}"] = path.read_bytes()
        return f"{self.url}/{under}"

    def fail(self, kind: str, times: int = 1, path: str = "", method: str = "GET") -> None:
        """The next `times` requests of this method whose path ends so go wrong."""
        self.faults.append(Fault(kind, times, lambda seen: seen.method == method and seen.path.endswith(path)))

    def ranges(self, path: str = "") -> list[str]:
        """The ranges asked of files whose path ends so."""
        return [seen.range for seen in self.seen if seen.method == "GET" and seen.range and seen.path.endswith(path)]

    def whole(self, path: str = "") -> int:
        """How often such files were asked for without a range."""
        return sum(s.method == "GET" and not s.range and s.path.endswith(path or ".tar") for s in self.seen)

    def enter(self, seen: Seen) -> str:
        """Counts a request; returns the fault it meets, or ""."""
        with self._lock:
            self.seen.append(seen)
            self._open += 1
            self.most_open = max(self.most_open, self._open)
            for fault in self.faults:
                if fault.times > 0 and fault.meant(seen):
                    fault.times -= 1
                    return fault.kind
        return ""

    def leave(self) -> None:
        """A request is answered."""
        with self._lock:
            self._open -= 1

    def handle_error(self, request, client_address) -> None:
        """Clients that give up are expected here."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms
    server: FaultServer

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self._do()

    def do_GET(self) -> None:
        self._do()

    def _do(self) -> None:
        path, _, query = self.path.partition("?")
        seen = Seen(self.command, path, query, self.headers.get("Range", ""), dict(self.headers))
        fault = self.server.enter(seen)
        try:
            if self.server.meeting is not None:
                self.server.meeting.wait()
            self._answer(seen, fault)
        finally:
            self.server.leave()

    def _answer(self, seen: Seen, fault: str) -> None:
        if fault == "hang":
            self.server.closing.wait()
        if fault in ("hang", "drop", "garbage"):
            if fault == "garbage":
                self.wfile.write(b"what?\r\n\r\n")
            self.close_connection = True
            return
        if fault.isdigit():
            return self._send(int(fault), b"no", {})
        if seen.path not in self.server.files:
            names = [name for name in self.server.files if name.rpartition("/")[0] == seen.path.rstrip("/")]
            page = "".join(f'<a href="{name.rpartition("/")[2]}">{name}</a>\n' for name in names)
            return self._send(200 if names else 404, page.encode(), {"Content-Type": "text/html"})
        data = self.server.files[seen.path]
        tag = hashlib.md5(data + fault.encode() * (fault == "tag")).hexdigest()
        headers = {"ETag": f'"{tag}"', "Accept-Ranges": "bytes", "Content-Type": "text/html"}
        if seen.path.endswith(".tar"):
            headers["Content-Type"] = "application/x-tar"
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.range)
        if found is None or fault == "whole":
            time.sleep(self.server.slow_s if self.command == "GET" else 0)
            return self._send(200, data, headers, fault)
        start, stop = int(found[1]), int(found[2]) + 1
        if start >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        stop = min(stop, len(data))
        shift = 7 if fault.endswith("elsewhere") else 0
        told = 0 if fault.startswith("silently") else shift
        headers["Content-Range"] = f"bytes {start + told}-{stop + told - 1}/{len(data)}"
        return self._send(206, data[start + shift : stop + shift], headers, fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: str = "") -> None:
        half = body[: len(body) // 2]
        body = half if fault == "short" else body
        length = len(body) + (512 if fault == "size" else 0)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):
                self.wfile.write(half if fault == "cut" else body)
        self.close_connection = fault in ("cut", "size")


@contextmanager
def serving() -> Iterator[FaultServer]:
    """A server that is gone afterwards, with everyone who still waits for it."""
    server = FaultServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
