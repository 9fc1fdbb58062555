"""A strict reader of the tar format: where every member lies, and whether the archive is whole.

tarfile and webdataset end quietly at the first damaged header, which silently loses samples; this walk raises. Only
plain files are accepted; nothing is ever extracted. Of extended headers a long name is taken, nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...boundary.files import open_regular
from ...errors import InputError

BLOCK = 512
_STRIDE = 1 << 16
_MAX_NAME = 1_024
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNUSED = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))  # mode, owners, time, device
_NUMBER = re.compile(rb" *[0-7]* *(\0.*)?|[\x80\xff].*", re.DOTALL)  # octal, or binary as GNU tar writes what is large
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
# What macOS adds: attributes and times that say nothing of the content.
_HARMLESS_PREFIXES = ("LIBARCHIVE.xattr.com.apple.", "SCHILY.xattr.com.apple.", "LIBARCHIVE.creationtime")
_HARMLESS_PAX = {"mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"}


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar: its name, and the byte range of its content."""

    name: str
    offset: int
    size: int

    @property
    def is_junk(self) -> bool:
        """Whether macOS or Windows left it there: `._x` beside every x, .DS_Store, Thumbs.db, __MACOSX."""
        folders, base = self.name.split("/")[:-1], self.name.rpartition("/")[2]
        return base.startswith("._") or base in (".DS_Store", "Thumbs.db", "desktop.ini") or "__MACOSX" in folders

    @property
    def key(self) -> str:
        """The name up to the first dot of its last part, webdataset's sample key."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def extension(self) -> str:
        """The name after that dot, in lower case."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


def walk_tar(path: str | Path) -> Iterator[Member]:
    """Every member of an uncompressed tar in file order; raises InputError that names the file where it is damaged."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such shard")
    size = path.stat().st_size
    with open_regular(path) as file:
        start = file.read(6)
    if packed := next((name for mark, name in _PACKED.items() if start.startswith(mark)), None):
        raise InputError(f"{path}: is compressed ({packed}); parts of a shard are read by place: unpack it to .tar")
    if size < 2 * BLOCK or size % BLOCK:
        raise InputError(f"{path}: {size} bytes is not a whole tar; it is empty or cut off")
    # Not memory-mapped: a file that shrinks meanwhile would kill the process.
    with open_regular(path) as file:
        position, long_name = 0, None
        while True:
            if position + 2 * BLOCK > size:
                raise InputError(f"{path}: ends at byte {size} without the end-of-archive mark; it was cut off")
            header = os.pread(file.fileno(), BLOCK, position)
            if len(header) != BLOCK:
                raise InputError(f"{path}: became shorter while it was read")
            if not any(header):
                # Two archives in one file: the second would be lost without a word.
                if any(any(os.pread(file.fileno(), _STRIDE, start)) for start in range(position, size, _STRIDE)):
                    raise InputError(f"{path}: data follows the end-of-archive mark at byte {position}")
                return
            name, length, kind = _parse(header, path, position)
            content = position + BLOCK
            if content + length > size:
                raise InputError(f"{path}: member {name!r} needs {length} bytes at {content}, the file has {size}")
            if kind in (b"x", b"L"):
                if length > 4 * BLOCK:
                    raise InputError(f"{path}: the extended header {name!r} has {length} bytes; repack the shard")
                record = os.pread(file.fileno(), length, content)
                long_name = (_gnu_name if kind == b"L" else _pax_name)(record, path, name) or long_name
            elif kind in (b"0", b"\0"):
                name, long_name = _checked_name(long_name or name, path), None
                yield Member(name, content, length)
            elif kind == b"5" and not length:
                long_name = None
            else:
                raise InputError(f"{path}: member {name!r} is no plain file (tar type {kind!r})")
            position = content + -(-length // BLOCK) * BLOCK


def _parse(header: bytes, path: Path, position: int) -> tuple[str, int, bytes]:
    """Name, content length in bytes and type of a header; raises InputError where its checksum or a field is wrong."""
    try:
        stored, length = _octal(header[148:156]), _octal(header[124:136])
        name = header[:100].partition(b"\0")[0].decode("utf-8")
        prefix = header[345:500].partition(b"\0")[0].decode("utf-8") if header[257:263] == b"ustar\0" else ""
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{path}: byte {position} is not a tar header; the file is damaged or compressed") from None
    if stored != sum(header[:148]) + sum(header[156:]) + 8 * 32:
        raise InputError(f"{path}: the header at byte {position} fails its checksum; the file is damaged")
    # Nothing here needs these, but other readers end quietly where one is no number.
    if not all(_NUMBER.fullmatch(header, start, end) for start, end in _UNUSED):
        raise InputError(f"{path}: the header at byte {position} has a field that is no number; repack the shard")
    return (f"{prefix}/{name}" if prefix else name), length, header[156:157]


def _octal(field: bytes) -> int:
    """The number in an octal field; ValueError for anything but digits (int() also reads signs and underscores)."""
    digits = field.strip(b" \0")
    if not digits.isdigit():
        raise ValueError(field)
    return int(digits, 8)


def _checked_name(name: str, path: Path) -> str:
    """The member's name; raises InputError where it leaves the archive, is empty, too long, or not one line."""
    name = name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"{path}: member name {name!r:.100} leaves the archive")
    if not name or len(name) > _MAX_NAME or _CONTROL.search(name):
        raise InputError(
            f"{path}: member name {name!r:.100} is empty, longer than {_MAX_NAME} or holds a NUL or control character"
        )
    return name


def _gnu_name(record: bytes, path: Path, name: str) -> str:
    try:
        return record.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: the long name behind {name!r} is not UTF-8") from None


def _pax_name(records: bytes, path: Path, name: str) -> str | None:
    """The member's name where the records give one; InputError for records that redefine anything else of it."""
    member_name = None
    while records:
        length, _, rest = records.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(records):
            raise InputError(f"{path}: malformed extended header before {name!r}")
        field, _, value = rest[: int(length) - len(length) - 1].rstrip(b"\n").partition(b"=")
        key = field.decode("utf-8", "replace")
        if key == "path":
            member_name = _gnu_name(value, path, name)
        elif key not in _HARMLESS_PAX and not key.startswith(_HARMLESS_PREFIXES):
            raise InputError(f"{path}: extended header {key!r} of {name!r} is not supported; repack with short names")
        records = records[int(length) :]
    return member_name
