"""Commands in forks of this process, which has imported everything: ranks of one host, and how they end."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def forked(act: Callable[[], None], log: Path, environment: dict[str, str], most_bytes: int | None = None) -> int:
    """The number of a process, in a group of its own, that does `act` and exits as a command would.

    most_bytes: the largest file that it may write.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.update(environment)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = open(1, "w", closefd=False)  # noqa: SIM115
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        act()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def meeting(ranks: int) -> list[dict[str, str]]:
    """The variables by which torchrun would have so many processes of one host meet."""
    common = _place() | {"WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(ranks)}
    common |= {"TORCHELASTIC_RUN_ID": "kills"}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def slurm_meeting(ranks: int, commands: Path) -> list[dict[str, str]]:
    """The variables of so many tasks of a SLURM job on one host, with a `scontrol` in the folder `commands`."""
    common = _place() | {"SLURM_NTASKS": str(ranks), "SLURM_NTASKS_PER_NODE": str(ranks), "SLURM_NNODES": "1"}
    common |= {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    common |= {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    return [common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(ranks)]


def _place() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}


def fake_scontrol(commands: Path) -> Path:
    """Puts a `scontrol` into a folder; returns the file to which it adds what it is told, a line each time."""
    commands.mkdir(parents=True, exist_ok=True)
    told, file = commands / "told", commands / "scontrol"
    file.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    file.chmod(0o755)
    told.touch()
    return told


def ended(pid: int, seconds: float = 180) -> int:
    """The exit code of a process, -n after signal n; one that runs longer is killed."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} still ran after {seconds} s")


def running(pid: int) -> bool:
    """Whether a process has not ended; it is still there to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
