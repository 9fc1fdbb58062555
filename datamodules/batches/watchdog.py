"""The watchdog: where building a batch takes too long, it names the samples and ends the process.

That happens in minutes, not at a timeout of the other ranks. A decoder that hangs in C, or a dead network mount, cannot
be interrupted otherwise.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...boundary.words import say

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


class Watchdog:
    """A thread per process, started when it is first needed, and a limit in seconds; a watch costs a microsecond."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._pid = -1
        self._watched: tuple[float, Callable[[], str]] | None = None

    def __getstate__(self) -> dict[str, float | int | None]:
        return {"limit_s": self.limit_s, "_pid": -1, "_watched": None}

    @contextmanager
    def over(self, what: Callable[[], str]) -> Iterator[None]:
        """A context that ends the process (exit code 70) if it lasts longer than the limit; `what` names the work."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            threading.Thread(target=self._guard, daemon=True, name="watchdog").start()
        self._watched = (time.monotonic() + self.limit_s, what)
        try:
            yield
        finally:
            self._watched = None

    def _guard(self) -> None:
        while True:
            time.sleep(min(1.0, self.limit_s / 4))
            watched = self._watched
            if watched is not None and time.monotonic() > watched[0]:
                say(f"error: {watched[1]()} took longer than {self.limit_s:g} s", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EXIT_CODE)
