"""Addresses of shards, local paths and http(s), s3, gs and hf, and requests to what holds them.

Nothing that runs a command is an address. Credentials inside one (user:password@, signed query strings) never reach a
message or a log. A server is asked under a time limit, and again where that may help.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from ...curriculum.identity import hash64
from ...errors import InputError

Result = TypeVar("Result")
SCHEMES = ("http", "https", "s3", "gs", "hf")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
# Up to the last @ before the path; where what stands before the path has a colon but no port, a password holds a slash.
_USER = re.compile(r"(:/+)(?:[^/?#\s]*@|[^/?#\s@\[\]]*:(?!\d*(?:[/?#]|$))[^?\s]*@)")
_BRACKETED_HOST = re.compile(r"//([^/?#\s]*@)?\[[0-9A-Fa-f:.]*\]")
_TRANSIENT_STATUS = (408, 425, 429)
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_NETWORK = ("aiohttp", "botocore", "httpx", "httpx2", "httpcore", "requests", "urllib3", "gcsfs")


def scheme_of(address: str) -> str:
    """One of SCHEMES, or "" for a local path; raises InputError for any other scheme, such as `pipe:`."""
    if "::" in _BRACKETED_HOST.sub("//", address):
        last = redacted(address.rpartition("::")[2])
        raise InputError(f"...::{last}: chained addresses are not read; copy the file or use its plain address")
    found = _SCHEME.match(address)
    if not found:
        return ""
    scheme = found[1].lower()
    if scheme not in SCHEMES or not address[len(scheme) :].startswith("://"):
        shown = redacted(address) if scheme in SCHEMES else f"{found[0]}..."  # a command may hold anything
        raise InputError(f"{shown}: only local paths and {', '.join(SCHEMES)} addresses (scheme://...) are read")
    return scheme


def redacted(address: str) -> str:
    """The address for messages: without user, password, query and fragment."""
    hidden = _USER.sub(r"\1", address)
    return re.split(r"[?#]", hidden, maxsplit=1)[0] if ":/" in hidden else hidden


def joined(root: str, name: str) -> str:
    """The address of a shard that an index names, relative to `root`; raises InputError where it leads outside."""
    parts = unquote(name).replace("\\", "/").split("/")  # a server undoes %2e before it looks for the file
    if not parts[0] or ".." in parts or ":" in name or "\0" in unquote(name):
        raise InputError(f"shard name {name!r} must be relative and stay beside its index; re-index the shards")
    scheme = scheme_of(root)
    if not scheme:
        return str(Path(root) / name)
    if scheme.startswith("http"):
        name = name.replace("?", "%3F").replace("#", "%23")
    base, mark, query = root.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def split_address(address: str) -> tuple[str, str]:
    """Folder and name of a shard; a query string stays with the folder, and a symbolic link is not followed."""
    if not scheme_of(address):
        path = Path(address)
        return str(path.parent.resolve()), path.name
    base, mark, query = address.partition("?")
    folder, _, name = base.rpartition("/")
    return f"{folder}{mark}{query}", name


def list_shards(where: str) -> list[str]:
    """Addresses of the tars: of a folder, of one tar, or of a brace pattern such as shard-{000000..000099}.tar.

    Raises InputError where there are none, or a server does not list its folder.
    """
    import braceexpand

    scheme = scheme_of(where)
    if "{" in where:
        try:
            addresses = list(braceexpand.braceexpand(where))
        except ValueError:
            raise InputError(f"{redacted(where)}: not a pattern of shards; its braces do not match") from None
        for address in addresses:
            scheme_of(address)  # refuses what is none
        return addresses
    plain = where.partition("?")[0] if scheme else where
    if plain.endswith(".tar"):
        return [where]
    packed = [plain] if plain.endswith(_PACKED) else []
    if scheme:
        addresses = [] if packed else _listed(where, scheme)
    else:  # macOS leaves `._x.tar` beside what it copies
        paths = [path for path in sorted(Path(where).glob("*")) if not path.name.startswith("._")]
        addresses = [str(path) for path in paths if path.suffix == ".tar"]
        packed = packed or [str(path) for path in paths if path.name.endswith(_PACKED)]
    if packed and not addresses:
        raise InputError(f"{redacted(packed[0])}: is compressed; parts of a shard are read by place: unpack it to .tar")
    if not addresses:
        raise InputError(f"{redacted(where)}: no *.tar to index there")
    return addresses


def _listed(where: str, scheme: str) -> list[str]:
    """The tars that a server lists directly in the folder, with the folder's query string."""
    base, mark, query = where.partition("?")
    http = scheme.startswith("http")
    files = filesystem(scheme, **({"params": dict(parse_qsl(query))} if http and query else {}))
    try:
        names = patiently(lambda: call(files, "ls", base, limit_s=60.0, detail=False), redacted(where))
    except InputError as error:
        raise InputError(f"{error}; name the tars instead, as in .../shard-{{000000..000099}}.tar") from None
    found = [str(name) if "://" in str(name) else f"{scheme}://{name}" for name in names]
    inside = [name for name in found if not http or name.rpartition("/")[0] == base.rstrip("/")]
    return sorted(name + mark + query for name in inside if name.endswith(".tar"))


def filesystem(scheme: str, **options: Any) -> Any:
    """A new fsspec file system, as the shared instance must not cross a fork; InputError where a package is missing."""
    import fsspec

    if scheme in ("http", "https"):
        return _http()(skip_instance_cache=True, **options)
    try:
        return fsspec.filesystem(scheme, skip_instance_cache=True, **options)
    except ImportError as error:
        raise InputError(
            f"{scheme}:// needs a package that is not installed: pip install 'earwitness[cloud]'"
        ) from error


@cache
def _http() -> Any:
    """fsspec's HTTP file system, but what an answer claims to hold is compared with the range before it is read."""
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem

    from .answers import BoundedAnswer, same_host_only

    async def client(**options: Any) -> aiohttp.ClientSession:
        # By default a download may take five minutes in all, and 100 requests are open at most: whoever asks decides.
        options.setdefault("timeout", aiohttp.ClientTimeout(total=None, sock_connect=30))
        options.setdefault("connector", aiohttp.TCPConnector(limit=0))
        # Compressed on the way, ranges would be of other bytes, and a few of them could be gigabytes.
        options |= {"auto_decompress": False, "response_class": BoundedAnswer, "trace_configs": [same_host_only()]}
        options["headers"] = {"Accept-Encoding": "identity"} | dict(options.get("headers") or {})
        return aiohttp.ClientSession(**options)

    class CheckedHTTP(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no types
        def __init__(self, **options: Any) -> None:
            super().__init__(**({"get_client": client} | options))

        async def _cat_file(self, url: str, start: int, end: int, **_: Any) -> bytes:
            session = await self.set_session()
            headers = {"Range": f"bytes={start}-{end - 1}"}
            headers = self.kwargs.get("headers", {}) | headers
            async with session.get(self.encode_url(url), **(self.kwargs | {"headers": headers})) as answer:
                self._raise_not_found_for_status(answer, url)
                whole = start == 0 and answer.content_length == end - start
                if answer.status != 206 and not whole:
                    raise InputError(
                        f"{redacted(url)}: the server sends whole files instead of byte ranges; set reading.cache"
                    )
                place, _, total = answer.headers.get("Content-Range", "").partition("/")
                if total.isdigit() and int(total) < end:
                    raise InputError(
                        f"{redacted(url)}: has {total} bytes, at least {end} when it was indexed; re-index the shard"
                    )
                if place and place != f"bytes {start}-{end - 1}":
                    raise ConnectionError(f"{place} came instead of {start}-{end - 1}")
                answer.most = end - start
                data: bytes = await answer.read()
                return data

        async def _get_file(self, url: str, path: str, most: int = 1 << 40, **_: Any) -> None:
            session = await self.set_session()
            async with session.get(self.encode_url(url), **self.kwargs) as answer:
                self._raise_not_found_for_status(answer, url)
                with open(path, "wb") as file:
                    async for part in answer.content.iter_chunked(1 << 20):
                        if file.tell() + len(part) > most:
                            raise InputError(f"{redacted(url)}: sends more than the {most:,} bytes it has; re-index it")
                        file.write(part)

    return CheckedHTTP


def call(files: Any, name: str, *args: Any, limit_s: float, **options: Any) -> Any:
    """The result of a file system's method `name`, within limit_s seconds where the file system can be interrupted."""
    if getattr(files, "async_impl", False):
        from fsspec.asyn import sync

        return sync(files.loop, getattr(files, f"_{name}"), *args, timeout=limit_s, **options)
    return getattr(files, name)(*args, **options)


def patiently(act: Callable[[], Result], where: str, retries: int = 5, timeout_s: float = 60.0) -> Result:
    """The result of `act`, tried again up to `retries` times after errors that may pass.

    The pauses double from half a second to 30 s, by a random share so that ranks do not ask in step; a timeout_s below
    10 s shortens them. Raises InputError that begins with `where` for an error that stays, OSError for a full disk.
    """
    for attempt in range(retries + 1):
        try:
            return act()
        except InputError:
            raise
        except Exception as error:  # every file system has its own kinds
            if getattr(error, "errno", None) in FULL:
                raise
            last = _cause(error)
            if isinstance(last, InputError):
                raise last from None
            if not transient(last):
                break
        if attempt < retries:
            share = hash64(os.getpid(), where, attempt) / 2**64
            time.sleep(min(30.0, 0.5 * 2**attempt) * (0.5 + share) * min(1.0, timeout_s / 10))
    raise InputError(f"{where}: cannot be read ({_words(last)}), tried {attempt + 1} times") from None


def _cause(error: BaseException) -> BaseException:
    """What kept fsspec from asking for a file: it raises FileNotFoundError for that too."""
    cause = error.__cause__
    return cause if isinstance(error, FileNotFoundError) and cause is not None and _status(cause) != 404 else error


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of any of the file systems' libraries; None where there is none."""
    answer = getattr(error, "response", None)
    for status in (getattr(error, "status", None), getattr(answer, "status_code", None)):
        if isinstance(status, int):
            return status
    code = getattr(error, "code", None)
    return code if isinstance(code, int) and type(error).__module__.startswith("gcsfs") else None


def transient(error: BaseException) -> bool:
    """Whether trying again may help: not where the server says that the thing is not there or not allowed."""
    if isinstance(error, _PERMANENT):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _TRANSIENT_STATUS
    if isinstance(error, ValueError):  # an address that is none
        return False
    return isinstance(error, (OSError, EOFError)) or type(error).__module__.partition(".")[0] in _NETWORK


def _words(error: BaseException) -> str:
    """The error in a few words, without an address that may hold credentials."""
    status, text = _status(error), str(error)
    if status is not None:
        return f"the server answered {status}"
    if isinstance(error, FileNotFoundError):
        return "not found"
    if isinstance(error, TimeoutError) and not text:
        return "no answer in time"
    return type(error).__name__ if not text or "://" in text else f"{type(error).__name__}: {text:.200}"
