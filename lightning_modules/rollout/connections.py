"""HTTP for the rollout server: a thread per connection, and limits on how long and how much it may ask for.

Every request has a deadline for its headers and one for its body, which a trickle does not put off, and sizes that it
may not exceed. Whoever must send a token is refused before any of its body is read.
"""

from __future__ import annotations

import hmac
import io
import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from torch import Tensor

from ...boundary.words import one_line, say
from ...errors import InputError
from .wire import TOKEN_VARIABLE, Message, pack, unpack

HEADER_BYTES, HEADER_S = 16 << 10, 10.0
BODY_S, BODY_BYTES_PER_S = 30.0, 1 << 20  # a body may take half a minute, and a second for every megabyte
ANSWER_S = 600.0
SMALL, LARGE = 1 << 20, 1 << 30  # bytes of a message without tensors, and with
MOST_CONNECTIONS = 512
ROOM_BYTES = 8 << 30  # of all bodies that are in memory together


class Served(Protocol):
    """What is behind the server."""

    actions: tuple[str, ...]

    def status(self) -> dict[str, Any]:
        """What anybody with the token may know."""

    def most_bytes(self, name: str) -> int:
        """How long the body of a message may be."""

    def act(self, name: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """The answer to a message; InputError where it is refused."""


class RolloutServer(ThreadingHTTPServer):
    """A served engine over HTTP: GET /status; POST /complete, /begin, /part, /commit.

    token: what clients must send as a bearer token; empty for none.
    """

    request_queue_size = 128
    daemon_threads = True
    header_s, body_s = HEADER_S, BODY_S

    def __init__(self, served: Served, address: tuple[str, int], token: str = "") -> None:
        self.served, self.token, self.room = served, token, Room(ROOM_BYTES)
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection; one too many is closed at once."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of connections that broke off, and prints what is the server's own fault."""
        if not isinstance(sys.exc_info()[1], OSError):
            say(traceback.format_exc(), file=sys.stderr)


class Room:
    """Bytes for bodies; whoever finds none left waits for those that are served."""

    def __init__(self, size: int) -> None:
        self._left, self._changed = size, threading.Condition()

    @contextmanager
    def taken(self, size: int, patience_s: float) -> Iterator[bool]:
        """A context that holds so many bytes; false where they were not free in time."""
        with self._changed:
            free = self._changed.wait_for(lambda: self._left >= size, patience_s)
            self._left -= size if free else 0
        try:
            yield free
        finally:
            with self._changed:
                self._left += size if free else 0
                self._changed.notify_all()


class _TooLong(Exception):
    """More bytes came than a request's line and headers may have."""


class _Limited(io.RawIOBase):
    """What a connection sends, until a moment and up to a number of bytes."""

    def __init__(self, connection: socket.socket, left: int, until: float) -> None:
        self.connection, self.left, self.until = connection, left, until

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads what is there; TimeoutError after the deadline."""
        remaining = self.until - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if self.left <= 0:
            raise _TooLong
        self.connection.settimeout(remaining)
        count = self.connection.recv_into(memoryview(buffer)[: self.left])
        self.left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    """One request: refusals are JSON with an `error` that the client shows."""

    server: RolloutServer

    def setup(self) -> None:
        """Limits what is read before anything is."""
        super().setup()
        self.limited = _Limited(self.connection, HEADER_BYTES, time.monotonic() + self.server.header_s)
        self.rfile = io.BufferedReader(self.limited, 4096)

    def handle_one_request(self) -> None:
        """Answers one request; one that is too long or too slow is refused or cut off."""
        try:
            super().handle_one_request()
        except _TooLong:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            self.close_connection = True
            self._refuse(431, f"its headers are longer than {HEADER_BYTES} bytes")

    def do_GET(self) -> None:
        if self.path != "/status":
            return self._refuse(404, f"no {one_line(self.path, 100)} here")
        if self._allowed():
            self._send(200, json.dumps(self.server.served.status()).encode())

    def do_POST(self) -> None:
        name, length = self.path.removeprefix("/"), self.headers.get("Content-Length", "")
        if not self._allowed():
            return None
        if name not in self.server.served.actions or not (length.isascii() and length.isdigit() and len(length) < 16):
            status = 411 if name in self.server.served.actions else 404
            return self._refuse(status, f"no {one_line(self.path, 100)} here, or no Content-Length")
        size, most = int(length), self.server.served.most_bytes(name)
        if size > most:
            return self._refuse(413, f"{name}: {size:,} bytes, at most {most:,} are taken")
        with self.server.room.taken(size, self.server.body_s) as free:
            if not free:
                return self._refuse(503, "too many large requests at once; ask again")
            body = self._body(size)
            if len(body) < size:
                return self._refuse(400, "the message is cut short")
            return self._answer(lambda: pack(*self.server.served.act(name, *unpack(body))))

    def _body(self, size: int) -> bytes:
        """At most so many bytes, fewer where the client leaves or takes too long."""
        self.limited.left = size
        self.limited.until = time.monotonic() + self.server.body_s + size / BODY_BYTES_PER_S
        parts, left = [], size
        try:
            while left and (part := self.rfile.read(min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
        except OSError:
            pass
        return b"".join(parts)

    def _answer(self, act: Callable[[], bytes]) -> None:
        try:
            answer = act()
        except InputError as error:
            return self._refuse(409, str(error))
        except Exception as error:  # vLLM may raise anything; the client is to hear of it, and the server to live on
            say(traceback.format_exc(), file=sys.stderr)
            return self._refuse(500, f"{type(error).__name__}: {error}")
        return self._send(200, answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: what goes wrong is sent to the client, and traced where it is the server's fault."""

    def _allowed(self) -> bool:
        """Whether the client sent the server's token; refuses it otherwise."""
        sent, wanted = self.headers.get("Authorization", ""), f"Bearer {self.server.token}"
        if self.server.token and not hmac.compare_digest(sent.encode(errors="replace"), wanted.encode()):
            self._refuse(401, f"the client's {TOKEN_VARIABLE} is not the server's")
            return False
        return True

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"error": one_line(message, 1000)}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.connection.settimeout(ANSWER_S)  # for all of it
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
