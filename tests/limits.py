"""A function in a process of its own, which may neither grow nor run beyond a limit."""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

GB = 1 << 30


def limited(act: Callable[[], Any], grows: int = GB, seconds: float = 60) -> Any:
    """What `act` returns in a forked child; AssertionError where it dies, raises, or is not done in time.

    grows: bytes of address space that the child may take beyond what it begins with.
    """
    reads, writes = os.pipe()
    process = os.fork()
    if not process:
        faulthandler.disable()
        there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (there + grows, resource.getrlimit(resource.RLIMIT_AS)[1]))
        try:
            said = pickle.dumps((True, act()))
        except BaseException:
            said = pickle.dumps((False, traceback.format_exc()[-3_000:]))
        os.write(writes, said)
        os._exit(0)
    os.close(writes)
    os.set_blocking(reads, False)
    until, data, status = time.monotonic() + seconds, b"", None
    while status is None:
        with suppress(BlockingIOError):
            data += os.read(reads, 1 << 20)
        ended, code = os.waitpid(process, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(code)
        elif time.monotonic() > until:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise AssertionError(f"not done after {seconds} s")
        time.sleep(0.005)
    with suppress(BlockingIOError):
        while part := os.read(reads, 1 << 20):
            data += part
    os.close(reads)
    assert status == 0 and data, f"the process ended with {status}"
    right, result = pickle.loads(data)
    assert right, result
    return result
