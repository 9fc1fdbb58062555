"""Steps side by side: which may start, on which GPUs, and what happens where one of them fails or a signal comes."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import IO, Any

import yaml

from ...boundary.environment import names
from ...boundary.files import read_json
from ...boundary.words import say
from ...errors import InputError
from ..processes.logs import Log
from .decisions import Decisions
from .step_server import RESULT, SERVED

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_POLL_S = 0.2


def run_side_by_side(graph: Decisions, jobs: int) -> None:
    """Runs the steps of a graph that are not done, at most `jobs` at a time, each in a process of its own.

    Where there are GPUs, a step has those that it says for itself; where there are none, the processor's cores are
    divided. Raises InputError where a step fails, once those that run beside it have ended, and ends with 128 + n
    after signal n, which the steps get too.
    """
    with _Signals() as signals, _Crew(graph, jobs) as crew:
        _Run(graph, jobs, crew, signals).run()


class _Run:
    """What has ended, what runs, and which GPUs are free."""

    def __init__(self, graph: Decisions, jobs: int, crew: _Crew, signals: _Signals) -> None:
        self.graph, self.jobs, self.crew, self.signals = graph, jobs, crew, signals
        self.ended: set[str] = set()
        self.waiting: dict[str, str] = {}  # step -> why it runs, once there are devices for it
        self.begun: dict[str, float] = {}
        self.taken: dict[str, list[str]] = {}
        self.failed: list[str] = []
        self.passed = 0

    def run(self) -> None:
        """Until nothing runs any more and nothing may start."""
        while True:
            if not self.failed and not self.signals.told:
                self._start_what_may()
            if not self.begun:
                break
            for message in self.crew.messages():
                self._take(message)
            self._pass_signals()
        if self.signals.told:
            number = self.signals.told
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        if self.failed:
            raise InputError(self.failed[0])

    def _start_what_may(self) -> None:
        found = True
        while found:  # a step that is done may be what others wait for
            found = False
            for name in self.graph.steps:
                if name in self.ended or name in self.begun or not self._may_be_decided(name):
                    continue
                if name not in self.waiting:
                    why = self.graph.why(name)
                    if why is None:
                        self.graph.take(name)
                        self.ended.add(name)
                        say(self.graph.done_line(name), flush=True)
                        found = True
                        continue
                    self.waiting[name] = why
                if len(self.begun) < self.jobs and (devices := self._devices(name)) is not None:
                    self._start(name, self.waiting.pop(name), devices)

    def _may_be_decided(self, name: str) -> bool:
        return self.ended.issuperset(self.graph.edges.before[name])

    def _devices(self, name: str) -> list[str] | None:
        """The GPUs for a step, None where it must wait for some."""
        wanted, all_of_them = self.graph.steps[name].devices, self.crew.devices
        used = {device for taken in self.taken.values() for device in taken}
        free = [device for device in all_of_them if device not in used]
        count = len(all_of_them) if wanted < 0 else min(wanted, len(all_of_them))
        return free[:count] if count <= len(free) else None

    def _start(self, name: str, why: str, devices: list[str]) -> None:
        on = f" on GPU {','.join(devices)}" if devices else ""
        say(f"{self.graph.start_line(name, why)}{on}", flush=True)
        self.graph.begin(name)
        self.begun[name], self.taken[name] = time.monotonic(), devices
        self.crew.start(name, devices)

    def _take(self, message: dict[str, Any]) -> None:
        if "line" in message:
            name, text = message["line"]
            self.crew.logs[name].add(f"{text}\n")
            if "\r" not in text and "\x1b" not in text:
                say(f"{name} | {text}", flush=True)
            return
        name, code = message["ended"]
        seconds = time.monotonic() - self.begun.pop(name)
        self.taken.pop(name)
        result = self.crew.result(name)
        if code:
            where = self.graph.steps[name].where
            self._fail(name, f"{where}ended with code {code}; its messages are in {self.graph.log(name)}")
            return
        try:
            self.graph.finish(name, seconds, result)
        except InputError as error:
            self._fail(name, str(error))
            return
        self.ended.add(name)
        say(self.graph.end_line(name), flush=True)

    def _fail(self, name: str, sentence: str) -> None:
        self.failed.append(sentence)
        others = f", waiting for {', '.join(self.begun)}" if self.begun else ""
        say(f"{name} failed: no step is started any more{others}", flush=True)

    def _pass_signals(self) -> None:
        if self.signals.count > self.passed:
            if self.passed:
                raise SystemExit(128 + self.signals.told)  # a second one: not waited for
            self.passed = self.signals.count
            self.crew.signal(self.signals.told)


class _Signals:
    """Notes the signals that come, instead of what they do otherwise."""

    def __init__(self) -> None:
        self.told, self.count = 0, 0
        self.before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told, self.count = self.told or number, self.count + 1

    def __enter__(self) -> _Signals:
        with suppress(ValueError):  # not in the main thread
            self.before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class _Crew:
    """The steps' processes, forked from one of their own, which is started with the first step; see `step_server`."""

    def __init__(self, graph: Decisions, jobs: int) -> None:
        self.graph, self.jobs = graph, jobs
        self.logs: dict[str, Log] = {}
        self.devices = _gpus()
        self.server: subprocess.Popen[bytes] | None = None
        self.rest = b""
        self.requests: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what still runs, and waits for it."""
        for log in self.logs.values():
            log.close()
        if self.server is not None:
            assert self.server.stdout
            self.requests.put(None)
            while self.server.stdout.read(1 << 16):  # it may be writing
                pass
            self.server.wait()
            self.server.stdout.close()

    def start(self, name: str, devices: list[str]) -> None:
        """Starts a step on the GPUs."""
        step = self.graph.steps[name]
        if self.server is None:
            self.server = self._server()
            Thread(target=_write, args=[self.server.stdin, self.requests], daemon=True).start()
        self.logs[name] = Log(self.graph.log(name))
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if self.devices else {}
        result = self.graph.folder / f"{name}.{RESULT}"
        result.unlink(missing_ok=True)
        request = {"start": name, "step": yaml.safe_dump(step.text), "origin": self.graph.origin}
        request |= {"out": str(self.graph.out), RESULT: str(result)}
        self.requests.put(request | {"environment": environment, "hidden": names(), "path": sys.path})

    def signal(self, number: int) -> None:
        """Passes a signal on to the steps that run."""
        self.requests.put({"signal": int(number)})

    def result(self, name: str) -> Any:
        """What a step returned, None where it returned nothing or failed."""
        self.logs.pop(name).close()
        path = self.graph.folder / f"{name}.{RESULT}"
        found = read_json(path) if path.is_file() else None
        path.unlink(missing_ok=True)
        return found

    def messages(self) -> Iterator[dict[str, Any]]:
        """What has come, after some tenths of a second at the latest; InputError where the server is gone."""
        assert self.server is not None and self.server.stdout
        ready = selectors.DefaultSelector()
        ready.register(self.server.stdout, selectors.EVENT_READ)
        if not ready.select(_POLL_S):
            return
        part = os.read(self.server.stdout.fileno(), 1 << 16)
        if not part:
            raise InputError("the process that runs the steps was ended; the same command continues")
        *lines, self.rest = (self.rest + part).split(b"\n")
        yield from map(json.loads, lines)

    def _server(self) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.jobs)))
        heavy = any(step.trains for step in self.graph.steps.values())
        module = f"{__package__}.step_server"
        words = [sys.executable, "-m", module, str(self.graph.folder / SERVED), "heavy" if heavy else "light"]
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )


def _write(stdin: IO[bytes], requests: SimpleQueue[dict[str, Any] | None]) -> None:
    """Writes what is put into the queue, and closes at None: the server may be writing itself, and is waited for."""
    with suppress(BrokenPipeError), stdin:  # that it is gone is seen where it is read
        while (request := requests.get()) is not None:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()


def _gpus() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
