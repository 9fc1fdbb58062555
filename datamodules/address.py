"""Knows where shards may lie: local paths and http(s), s3, gs, hf addresses; nothing that runs a command.

Credentials inside an address (user:password@, signed query strings) never reach a message or a log.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import InputError

SCHEMES = ("http", "https", "s3", "gs", "hf")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")


def scheme_of(address: str) -> str:
    """One of SCHEMES, or "" for a local path; every other scheme, such as `pipe:`, is refused."""
    if "::" in address:
        raise InputError(f"{redacted(address)}: chained addresses are not read; copy the file or use its plain address")
    found = _SCHEME.match(address)
    if not found:
        return ""
    scheme = found[1].lower()
    if scheme not in SCHEMES or not address[len(scheme) :].startswith("://"):
        raise InputError(f"{redacted(address)}: only local paths and {', '.join(SCHEMES)} addresses are read")
    return scheme


def redacted(address: str) -> str:
    """The address without user, password, query and fragment."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@lru_cache(maxsize=4_096)
def joined(root: str, name: str) -> str:
    """The address of a shard that an index names: relative to `root`, and never outside it."""
    if not name or name.startswith("/") or ".." in name.split("/") or ":" in name or "\0" in name:
        raise InputError(f"shard name {name!r} must be relative and stay beside its index; re-index the shards")
    if not scheme_of(root):
        return str(Path(root) / name)
    base, mark, query = root.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def split_address(address: str) -> tuple[str, str]:
    """Folder and name of a shard; a query string stays with the folder."""
    if not scheme_of(address):
        path = Path(address).resolve()
        return str(path.parent), path.name
    base, mark, query = address.partition("?")
    folder, _, name = base.rpartition("/")
    return f"{folder}{mark}{query}", name


def filesystem(scheme: str) -> Any:
    """A fresh fsspec file system: never the shared instance, which must not cross a fork."""
    import fsspec

    try:
        return fsspec.filesystem(scheme, skip_instance_cache=True)
    except ImportError as error:
        raise InputError(
            f"{scheme}:// needs a package that is not installed: pip install 'earwitness[cloud]'"
        ) from error


def list_shards(where: str) -> list[str]:
    """Addresses of the tars: of a folder, of one tar, or of a brace pattern such as shard-{000000..000099}.tar."""
    import braceexpand

    scheme = scheme_of(where)
    if "{" in where:
        try:
            return list(braceexpand.braceexpand(where))
        except ValueError as error:
            raise InputError(f"{redacted(where)}: not a pattern of shards ({error})") from None
    if where.partition("?")[0].endswith(".tar"):
        return [where]
    if scheme:
        fs = filesystem(scheme)
        base, mark, query = where.partition("?")
        try:
            names = [str(name) for name in fs.ls(base, detail=False)]
        except (OSError, ValueError) as error:
            raise InputError(f"{redacted(where)}: cannot be listed ({type(error).__name__}); name the tars") from None
        found = sorted(name for name in names if name.endswith(".tar"))
        found = [(name if "://" in name else f"{scheme}://{name}") + mark + query for name in found]
    else:
        found = [str(path) for path in sorted(Path(where).glob("*.tar"))]
    if not found:
        raise InputError(f"{redacted(where)}: no *.tar to index there")
    return found
