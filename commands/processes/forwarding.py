"""A command in a process of its own, which gets the signals that this one gets."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence


def forwarded(words: Sequence[str]) -> int:
    """The exit code of a command that runs in a process of its own, 128 + n where signal n ended it.

    SIGTERM and SIGUSR1 are passed on to it, and its end is waited for: it saves what it has.
    """
    listened = (signal.SIGTERM, signal.SIGUSR1)
    child = subprocess.Popen(words)
    before = {number: signal.signal(number, lambda got, _: child.send_signal(got)) for number in listened}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
