"""Files that somebody else may have made or may be writing: bounded reading, whole writing, locks.

Reading takes regular files alone: a pipe or a device would be read for ever. Writing never follows a symbolic link:
a file is written under a name that nobody can guess and then renamed, so that a link in its place is replaced and what
it leads to is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, AnyStr, BinaryIO

from ..errors import InputError

_NO_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG)
TEXT_BYTES = 16 << 20  # of a YAML file, a record or anything else that a person could have written
JSON_BYTES = 256 << 20  # of what a program wrote: results, plans
PARTIAL = ".partial"


def open_regular(path: str | Path, follow: bool = True) -> BinaryIO:
    """A regular file, open for reading; InputError for a pipe, a device, a folder, or where it cannot be opened.

    follow: whether a symbolic link at the end of the path leads on; links that lead to no file are refused either way.
    """
    try:
        return os.fdopen(regular(path, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW)), "rb")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be opened ({why})") from None


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file; not for a name that no file system takes."""
    return os.path.isfile(path)


def regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """The descriptor of a regular file, which waits for nobody; OSError for anything else. flags: as of `os.open`."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file; pipes, devices and folders are not read")
    return descriptor


def read_bytes(path: str | Path, most: int, follow: bool = True) -> bytes:
    """The content of a regular file of at most `most` bytes; InputError where it is longer or cannot be read."""
    with open_regular(path, follow) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise InputError(f"{path}: has {os.fstat(file.fileno()).st_size:,} bytes, at most {most:,} are read")
        return bounded(file, most, str(path))


def bounded(stream: Any, most: int, where: str) -> bytes:
    """All that a stream gives, which must be at most `most` bytes; no more than one byte beyond them is read.

    stream: anything with `read(size)`. InputError that begins with `where` for more, or where reading fails.
    """
    parts: list[bytes] = []
    left = most + 1
    while left > 0:
        try:
            part = stream.read(min(left, 1 << 20))
        except (OSError, EOFError) as error:
            raise InputError(f"{where}: cannot be read ({error!s:.200})") from None
        if not part:
            return b"".join(parts)
        parts.append(part)
        left -= len(part)
    raise InputError(f"{where}: more than {most:,} bytes came")


def bounded_lines(stream: IO[AnyStr], most: int, where: str) -> Iterator[AnyStr]:
    """The lines of a stream, of bytes or of text; InputError, with the line's number, for one longer than `most`."""
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) > most:
            raise InputError(f"{where}:{number}: a line of more than {most:,} letters")
        yield line


def read_text(path: str | Path, most: int = TEXT_BYTES) -> str:
    """The text of a UTF-8 file; InputError where it is longer than `most` bytes, or is no text."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


def read_json(path: str | Path, most: int = JSON_BYTES) -> Any:
    """What a JSON file holds; InputError where it is longer than `most` bytes, nests too deeply, or is no JSON."""
    try:
        return json.loads(read_text(path, most))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({error!s:.100})") from None


@contextmanager
def replacing(path: str | Path, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once the block ends well; otherwise nothing is left of it.

    private: readable by its owner alone. InputError where its folder cannot be made, OSError where it cannot be
    written.
    """
    path = Path(path)
    made_folder(path.parent)
    scratch = scratch_name(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(scratch, flags, 0o600 if private else 0o666), "w+b") as file:
            yield file
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def scratch_name(path: Path) -> Path:
    """A name beside `path` that nobody can guess and that ends in `.partial`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def write_bytes(path: str | Path, data: bytes, private: bool = False) -> None:
    """Writes a file whole or not at all; what it replaces may be a link, which is then one no longer."""
    with replacing(path, private) as file:
        file.write(data)


def write_text(path: str | Path, text: str, private: bool = False) -> None:
    """As `write_bytes`, in UTF-8; half a letter of a file's name becomes its escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), private)


def open_to_append(path: str | Path) -> BinaryIO:
    """A regular file, made where there is none, open for reading and appending; OSError for a link or a pipe."""
    return os.fdopen(regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW), "a+b")


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """A context that one process at a time is in, by a lock file that is never a link; OSError where it cannot be made.

    Where the file system has no locks, several may be in it.
    """
    with open_to_append(path) as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def alone_in(folder: str | Path, what: str) -> Iterator[None]:
    """A context in which no other process does `what` in the folder; InputError at once where one does.

    what: a word like "packing". Where the file system has no locks, nothing is known of others.
    """
    folder = Path(folder)
    path = folder / f".{what}.lock"
    made_folder(folder)
    try:
        lock = _locked_now(path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            why = f"another process is {what} there; wait for it, or name another folder"
            raise InputError(f"{folder}: {why}") from None
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def _locked_now(path: Path) -> BinaryIO:
    """The open lock file, held by this process alone, children not included; OSError where another one holds it."""
    while True:
        lock = open_to_append(path)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                lock.close()
                raise
        with suppress(OSError):  # whoever held it may have removed it meanwhile: then another one is the lock now
            if os.path.samestat(os.stat(path), os.fstat(lock.fileno())):
                return lock
        lock.close()


def open_new(path: str | Path) -> BinaryIO:
    """An empty file in the place of whatever is there, open for writing; a link is removed and not followed."""
    Path(path).unlink(missing_ok=True)
    return os.fdopen(regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW), "w+b")


def made_folder(path: str | Path) -> Path:
    """The folder, made with those above it where it is not there.

    Raises InputError where a file, or a link that leads nowhere, is in the way, or where nothing may be made; OSError
    for a disk that is full.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        there = next((one for one in (path, *path.parents) if os.path.lexists(one) and not one.is_dir()), path)
        what = "a link that leads nowhere" if there.is_symlink() and not there.exists() else "no folder"
        raise InputError(
            f"{path}: the folder cannot be made, {there} is {what}; move that away, or name another one"
        ) from None
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        raise InputError(f"{path}: the folder cannot be made ({error.strerror}); name another one") from None
    return path


def empty_folder(path: str | Path) -> Path:
    """A new folder in the place of whatever is there; a link is removed, not followed. OSError where it cannot be."""
    path = Path(path)
    if path.is_symlink() or path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
