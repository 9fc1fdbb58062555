"""How a command ends: bad input, a full disk, a reader that has left and Ctrl-C are one line and an exit code."""

from __future__ import annotations

import errno
import os
import select
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from ...boundary.words import say
from ...errors import InputError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full, over the quota, over the largest size of a file


def guarded(act: Callable[[], None]) -> None:
    """Runs something as a command: what ends it is one line on stderr and an exit code, as `main` says."""
    sys.excepthook = _trace
    try:
        act()
        sys.stdout.flush()
    except InputError as error:
        if os.environ.get("EARWITNESS_TRACEBACK"):
            raise
        say(f"error: {error}", file=sys.stderr)
        _end(getattr(error, "exit_code", 1))
    except BrokenPipeError:
        if not _nobody_reads():  # another pipe, to a process or a server
            raise
        _end(141)  # as programs end that SIGPIPE ends
    except OSError as error:
        if error.errno not in _DISK or os.environ.get("EARWITNESS_TRACEBACK"):
            raise
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror}; make room, and start the same command again", file=sys.stderr)
        _end(1)
    except SystemExit as end:  # argparse prints its help and leaves
        _end(end.code)
    except KeyboardInterrupt:
        say("interrupted; the same command continues", file=sys.stderr)
        _end(130)


def _trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints the traceback of a fault; what stands in it may be anybody's words."""
    say("".join(traceback.format_exception(kind, error, trace)), file=sys.stderr, end="")


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader, such as `head`, had enough and is gone."""
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        return bool(watched.poll(0))
    except (OSError, ValueError):  # no file at all
        return False


def _end(code: int | str | None) -> NoReturn:
    """Leaves, quietly also where nobody reads what is still to be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 141
    sys.exit(code)
