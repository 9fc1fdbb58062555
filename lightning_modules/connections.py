"""Connections to other hosts that go silent: TCP alone waits a quarter of an hour for them, or for ever."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress

_LOST = re.compile(r"gloo/transport|NCCL error|remote process exited|recvValue|failed to recv|sendBytes")
_ADDRESS = re.compile(r"\[?((?:\d+\.){3}\d+|[0-9a-f]*:[0-9a-f:]+)\]?:\d+")


def end_when_silent(seconds: float) -> int:
    """Has every TCP connection of this process fail once the host at its other end has been silent for so long.

    A busy process is not a silent host: its system answers, while there is room for what is sent to it. Returns how
    many connections there are; without Linux nothing is done.
    """
    found = 0
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with suppress(OSError):  # closed in the meantime, or not connected
            path = f"/proc/self/fd/{name}"
            if not os.readlink(path).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    connection.getpeername()
                    _probe(connection, seconds)
                    found += 1
    return found


def _probe(connection: socket.socket, seconds: float) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds / 3)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(seconds / 6)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))  # also for what was sent


def lost(error: BaseException) -> str | None:
    """A sentence for an error that says no more than that another process, or its host, is gone; None for others."""
    text = str(error)
    if not _LOST.search(text):
        return None
    line = next(line for line in text.splitlines() if _LOST.search(line))
    address = _ADDRESS.search(line)
    where = f" at {address[1]}" if address else ""
    why = re.sub(r"^\[.*?(?:cc|cpp|h):\d+\]\s*|\.? This (?:is|may).*$", "", line).strip()
    limit, done = (int(os.environ.get(f"TORCHELASTIC_{name}") or 0) for name in ("MAX_RESTARTS", "RESTART_COUNT"))
    then = "the same command continues from the last checkpoint"
    if done < limit:
        then = "all processes go on from the last checkpoint once every node is there again, within 10 minutes"
    return f"the connection to a process{where} is lost ({why}): it ended, or its host is silent; {then}"
