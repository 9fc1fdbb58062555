"""A chat server in a thread that speaks POST /v1/chat/completions, and goes wrong in the ways asked for."""

from __future__ import annotations

import base64
import io
import json
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import soundfile

BODIES = {
    "garbage": b"<html>it works!</html>",
    "empty": b"",
    "a list": b"[1, 2]",
    "no choices": b'{"error": {"message": "out of memory"}}',
    "a number for content": b'{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}',
    "no message": b'{"choices": [{"text": "A", "finish_reason": "stop"}]}',
    "a text for a choice": b'{"choices": ["A"]}',
    "a text for usage": b'{"choices": [{"message": {"content": "A"}}], "usage": "much"}',
    "infinite usage": b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": Infinity}}',
    "a list of log-probs": b'{"choices": [{"message": {"content": "A"}, "logprobs": [1]}]}',
    "null log-prob": b'{"choices": [{"message": {"content": "A"}, "logprobs": {"content": '
    b'[{"top_logprobs": [{"token": "A", "logprob": null}]}]}}]}',
    "not utf-8": b'{"choices": "\xff\xfe"}',
    "deep": b"[" * 100_000,
}


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        return self.body["model"]

    @property
    def text(self) -> str:
        """The user's words."""
        return self.body["messages"][-1]["content"][-1]["text"]

    @property
    def wave(self) -> np.ndarray | None:
        """What is heard, decoded."""
        for part in self.body["messages"][-1]["content"]:
            if part["type"] == "input_audio":
                assert part["input_audio"]["format"] == "wav"
                wave, rate = soundfile.read(io.BytesIO(base64.b64decode(part["input_audio"]["data"], validate=True)))
                assert rate == 16_000 and wave.ndim == 1
                return wave
        return None

    @property
    def number(self) -> int:
        """That of "Question 7?"."""
        found = re.search(r"Question (\d+)", self.text)
        assert found
        return int(found[1])


@dataclass
class Fault:
    """What goes wrong with the next `times` requests it is meant for."""

    kind: str
    times: float
    meant: Callable[[Asked], bool]


class ChatServer(ThreadingHTTPServer):
    """Answers with what `say` returns: a text, or the `choices[0]` of the answer.

    Kinds of fault: a status such as "503"; "drop" ends the connection without an answer; "hang" never answers; "cut"
    promises the whole length and sends half of it; a key of BODIES sends that with 200.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.say: Callable[[Asked], str | dict[str, Any]] = lambda asked: "A"
        self.usage: dict[str, Any] | None = {"prompt_tokens": 10, "completion_tokens": 2}
        self.told = "no"  # the body that comes with a status
        self.headers: dict[str, str] = {}  # that come with a status
        self.kind = "application/json"  # of answers
        self.seen: list[Asked] = []
        self.faults: list[Fault] = []
        self.most_open = self.open = self.answered = 0
        # So many requests have to be open before they are answered; the first is asked alone.
        self.meeting: threading.Barrier | None = None
        self.closing, self._lock = threading.Event(), threading.Lock()

    @property
    def url(self) -> str:
        """The base address an endpoint is given."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fail(self, kind: str, times: float = 1, meant: Callable[[Asked], bool] = lambda asked: True) -> None:
        """The next `times` requests that are meant go wrong so."""
        self.faults.append(Fault(kind, times, meant))

    def enter(self, asked: Asked) -> str:
        """Counts a request; returns the fault it meets, or ""."""
        with self._lock:
            self.seen.append(asked)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            for fault in self.faults:
                if fault.times > 0 and fault.meant(asked):
                    fault.times -= 1
                    return fault.kind
        return ""

    def leave(self) -> None:
        """A request is over."""
        with self._lock:
            self.open -= 1

    def handle_error(self, request, client_address) -> None:
        """Clients that give up are expected here."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ChatServer

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, dict(self.headers), body)
        fault = self.server.enter(asked)
        try:
            if self.server.meeting is not None and len(self.server.seen) > 1:
                self.server.meeting.wait()
            self._answer(asked, fault)
        finally:
            self.server.leave()

    def _answer(self, asked: Asked, fault: str) -> None:
        if fault == "hang":
            self._wait()
        if fault in ("hang", "drop"):
            self.close_connection = True
        elif fault.isdigit():
            self._send(int(fault), self.server.told.encode())
        elif fault in BODIES:
            self._send(200, BODIES[fault])
        else:
            said = self.server.say(asked)
            choice = {"message": {"content": said}, "finish_reason": "stop"} if isinstance(said, str) else said
            made = {"choices": [choice]} | ({} if self.server.usage is None else {"usage": self.server.usage})
            self._send(200, json.dumps(made).encode(), cut=fault == "cut")
            self.server.answered += 1

    def _wait(self) -> None:
        """Until the client is gone, or the server."""
        while not self.server.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.02)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _send(self, status: int, body: bytes, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if status != 200 else self.server.kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.server.headers.items() if status != 200 else ():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut


@contextmanager
def serving(port: int = 0) -> Iterator[ChatServer]:
    """A server that is gone afterwards, with everyone who still waits for it."""
    server = ChatServer(port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        if server.meeting is not None:
            server.meeting.abort()
        server.shutdown()
        server.server_close()
        thread.join()


def until(true: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Waits for something that must happen."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)
