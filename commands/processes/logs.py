"""What a step prints, kept in a file as well."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ...boundary.environment import hidden
from ...boundary.files import made_folder, open_to_append
from ...boundary.words import plain
from ...errors import InputError


class Log:
    """A file that a step's output is added to, readable by its owner alone; values of the environment are hidden."""

    def __init__(self, path: Path) -> None:
        made_folder(path.parent)
        try:
            self.file: BinaryIO = open_to_append(path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ELOOP):
                raise
            raise InputError(f"{path}: what a step prints is kept here, and this is a link or no file") from None
        path.chmod(0o600)
        self.add(f"== {time.strftime('%Y-%m-%d %H:%M:%S')}\n")

    def add(self, text: str) -> None:
        """Adds a text, but not what draws on a terminal."""
        if "\x1b" not in text and "\r" not in text:
            self.file.write(plain(hidden(text)).encode("utf-8", "backslashreplace"))
            self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


class _Copied:
    """A stream whose texts also go to a log."""

    def __init__(self, stream: Any, log: Log) -> None:
        self.stream, self.log = stream, log

    def write(self, text: str) -> Any:
        """Writes to both."""
        self.log.add(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """A context in which what this process prints is also added to a file."""
    log, before = Log(path), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (_Copied(stream, log) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        log.close()
