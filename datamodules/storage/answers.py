"""Answers of web servers: no longer than was asked for, and from no other host than was asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp

from ...boundary.words import one_line
from ...errors import InputError

_LISTING = 64 << 20  # bytes of an answer that is no range: a page that lists a folder


class BoundedAnswer(aiohttp.ClientResponse):
    """An answer of which at most `most` bytes are read; InputError for more."""

    most = _LISTING

    async def read(self) -> bytes:
        """The whole body."""
        if self._body is None:
            parts, size = [], 0
            async for part in self.content.iter_chunked(1 << 16):
                parts.append(part)
                size += len(part)
                if size > self.most:
                    self.close()
                    raise InputError(f"{host_of(self.url)}: sent more than the {self.most:,} bytes that were asked for")
            self._body = b"".join(parts)
        return self._body


def host_of(url: Any) -> str:
    """Scheme, host and port of a yarl URL, for messages."""
    return one_line(f"{url.scheme}://{url.host}" + ("" if url.is_default_port() else f":{url.port}"), 200)


def same_host_only() -> aiohttp.TraceConfig:
    """What refuses a redirect to another host or port; from http to https of the same host it may lead."""

    async def check(session: Any, context: SimpleNamespace, about: aiohttp.TraceRequestRedirectParams) -> None:
        place = about.response.headers.get("Location") or about.response.headers.get("URI") or ""
        try:
            target = about.url.join(type(about.url)(place))
        except ValueError:
            raise InputError(f"{host_of(about.url)}: redirects to no address") from None
        upgraded = (about.url.scheme, target.scheme) == ("http", "https")
        ports = about.url.port == target.port or (upgraded and about.url.is_default_port() and target.is_default_port())
        if target.host != about.url.host or not ports or (target.scheme != about.url.scheme and not upgraded):
            raise InputError(
                f"{host_of(about.url)}: redirects to another host, {host_of(target)}; name the address there, or hf:// "
                "for files of the Hugging Face hub"
            )

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    return trace
