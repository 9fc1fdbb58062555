"""The process that the steps of a run side by side are forked from; it ends with the run, and ends them with it.

Modules that take seconds to import are imported once. It reads one JSON object a line: {"start": NAME, ...} or
{"signal": NUMBER}, and writes {"line": [NAME, TEXT]} for what a step prints and {"ended": [NAME, CODE]}. When its input
ends, because the run is over or was killed, every process below it is killed, also those that have left their groups.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

from ...boundary.environment import variable
from ...boundary.files import locked, read_text, write_text
from ...errors import InputError
from ..processes.ending import guarded
from .steps import Step

_KILL_WITH_PARENT, _ADOPT_ORPHANS = 1, 36  # of Linux's prctl
RESULT = "result"
SERVED = "children.lock"  # held while steps run side by side, until the last of them has ended


def main(lock: str, heavy: bool) -> None:
    """Serves until the input ends. lock: file that is locked until then. heavy: whether a trainer's step may come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(_ADOPT_ORPHANS, 1)
    _prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    if heavy:
        _import_trainer()
    _prctl(_KILL_WITH_PARENT, 0)  # from now on the end of the input tells it
    with locked(lock):
        server, own = _Server(), os.getpid()
        try:
            server.serve()
        finally:
            if os.getpid() == own:  # and not a step that ends
                server.kill_all()


def _import_trainer() -> None:
    """Imports what the shipped trainers need; none of it starts a thread, which a fork would lose."""
    from ..training.trainer import quiet

    quiet()
    ours = ["commands.training.lightning_cli", "datamodules.module", "lightning_modules.sft", "lightning_modules.grpo"]
    ours += ["lightning_modules.policy.export", "lightning_modules.policy.tiny"]
    for name in (*(f"earwitness.{name}" for name in ours), "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni"):
        import_module(name)
    with suppress(ImportError):  # transformers looks for it with the first model
        import_module("peft")


class _Server:
    """The children that run, by process, and the pipes that they print to."""

    def __init__(self) -> None:
        self.told = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what libraries print here is no message
        self.names: dict[int, str] = {}
        self.pipes: dict[str, BinaryIO] = {}
        self.partial: dict[str, bytes] = {}
        self.ready = selectors.DefaultSelector()
        self.wake, writes = os.pipe()
        for end in (self.wake, writes):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.ready.register(0, selectors.EVENT_READ)
        self.ready.register(self.wake, selectors.EVENT_READ)

    def serve(self) -> None:
        """Takes what comes, until the input ends."""
        requests = b""
        while True:
            for key, _ in self.ready.select():
                if key.fd == 0:
                    part = os.read(0, 1 << 20)
                    if not part:
                        return
                    *whole, requests = (requests + part).split(b"\n")
                    for line in whole:
                        self.take(json.loads(line))
                elif key.fd == self.wake:
                    with suppress(BlockingIOError):
                        os.read(self.wake, 4096)
                else:
                    self.pass_on(key.data)
            self.reap()

    def take(self, request: dict[str, Any]) -> None:
        """Starts a step, or passes a signal on to those that run."""
        if "signal" in request:
            for pid in self.names:
                with suppress(ProcessLookupError):
                    os.kill(pid, request["signal"])
            return
        reads, writes = os.pipe()
        server = os.getpid()
        pid = os.fork()
        if not pid:
            self.told.close()
            _become(request, writes, server)
        os.close(writes)
        name = request["start"]
        self.names[pid], self.pipes[name], self.partial[name] = name, os.fdopen(reads, "rb", 0), b""
        self.ready.register(reads, selectors.EVENT_READ, name)

    def pass_on(self, name: str) -> bool:
        """Passes on the lines that a step has printed; False at their end."""
        part = self.pipes[name].read(1 << 16) or b""
        *lines, self.partial[name] = (self.partial[name] + part).split(b"\n")
        if not part and self.partial[name]:
            lines, self.partial[name] = [self.partial[name]], b""
        for line in lines:
            self.tell(line=[name, line.decode("utf-8", "replace")])
        if not part:
            self.ready.unregister(self.pipes[name])
            self.pipes.pop(name).close()
        return bool(part)

    def reap(self) -> None:
        """Tells of the steps that have ended, once all that they printed is passed on and nothing of them is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid not in self.names:  # an orphan that a step left
                continue
            name = self.names.pop(pid)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            if not self.names:  # what is left now has left its group, and its parent is gone
                _kill(_children())
            if name in self.pipes:
                os.set_blocking(self.pipes[name].fileno(), False)
                while name in self.pipes and self.pass_on(name):
                    pass
            code = os.waitstatus_to_exitcode(status)
            self.tell(ended=[name, code if code >= 0 else 128 - code])

    def kill_all(self) -> None:
        """Kills all processes below this one: whoever's parent is killed becomes a child of this one."""
        for pid in self.names:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        while True:
            _kill(_children())
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def tell(self, **message: Any) -> None:
        """Writes one message."""
        self.told.write(json.dumps(message) + "\n")  # where nobody reads it any more, that ends the server


def _become(request: dict[str, Any], output: int, server: int) -> NoReturn:
    """In a new process: runs the step and ends with its code; its result goes to a file."""
    os.setsid()
    _prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(here, there)
    os.environ.update(request["environment"])
    sys.path[:] = request["path"]
    for name in request["hidden"]:
        variable(name)

    def act() -> None:
        step = Step(request["start"], yaml.safe_load(request["step"]), Path(request["out"]), request["origin"])
        result = step.act()
        write_text(request[RESULT], json.dumps(result, default=str), private=True)

    guarded(act)
    sys.exit(0)


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # of Linux alone
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _children() -> list[int]:
    """The processes whose parent is this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(InputError, ValueError, IndexError):  # it has just ended
            if int(read_text(path).rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "heavy")
