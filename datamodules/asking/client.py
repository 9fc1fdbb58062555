"""The one chat client: many requests at a time, bounded retries, several addresses, patience where one is busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import urlsplit

from ...errors import InputError
from ..storage.address import joined, redacted
from .addresses import Addresses
from .chat import MALFORMED, Completion, NoLogprobs, parse_completion, read_body, what_to_change
from .patience import now, told_seconds

_TRANSIENT = (200, 408, 409, 425, 500, 502, 504)  # 200: an answer that is none
_WAIT = (429, 503, 529)  # too many requests; loading or overloaded: no attempt of the request's own
_REFUSED = (400, 413, 422)
_FIRST = 3  # questions asked one by one, as long as none was answered


class Asking(Protocol):
    """What the client needs of an endpoint, see `ChatEndpoint`."""

    model: str
    key_env: str | None
    letter_logprobs: bool
    concurrency: int
    retries: int
    timeout_s: float
    give_up: int
    patience_s: float

    @property
    def urls(self) -> list[str]:
        """The addresses as a list."""

    def key(self) -> str:
        """The API key, or an empty text."""

    def request(self, ask: Any) -> dict[str, Any]:
        """The body of a request."""

    def hears(self, ask: Any) -> bool:
        """Whether a recording is in it."""

    def taken(self, ask: Any, completion: Completion) -> Any:
        """What is handed on for a completion."""

    def pause(self, attempt: int, ask: Any) -> float:
        """Seconds before another attempt."""


async def ask_all(
    endpoint: Asking, asks: Iterable[Any], take: Callable[[Any, Any], None], answered_before: bool
) -> None:
    """Asks everything, see `ChatEndpoint.ask_all`."""
    import aiohttp

    limit = aiohttp.ClientTimeout(total=endpoint.timeout_s)
    most = endpoint.concurrency * len(endpoint.urls)
    pool = aiohttp.TCPConnector(limit=most)  # 100 by default, and waiting for one counts as time
    headers = {"Accept-Encoding": "identity"}  # a few packed bytes can be gigabytes
    headers |= {"Authorization": f"Bearer {endpoint.key()}"} if endpoint.key_env else {}
    state = _State(endpoint, answered_before)
    addresses = Addresses(endpoint.urls, endpoint.concurrency, endpoint.patience_s)
    async with aiohttp.ClientSession(timeout=limit, headers=headers, connector=pool) as session:
        client = _Client(endpoint, session, addresses, state)
        async with aclosing(_bounded(asks, client.ask, state, most)) as all_replies:
            async for replies in all_replies:
                for ask, completion in replies:  # all that came together is kept, also where one of them ends the job
                    take(ask, endpoint.taken(ask, completion))
                    state.count(ask, completion)
                if stop := state.stop or addresses.stop:
                    where = "" if not state.stop and len(endpoint.urls) > 1 else f"{state.where}: "
                    stop = stop if state.stop or len(endpoint.urls) > 1 else stop.removeprefix(where)
                    raise InputError(f"{where}{stop}; answers so far are kept, the same command continues")


class _Client:
    """One run of `ask_all` over an open session."""

    def __init__(self, endpoint: Asking, session: Any, addresses: Addresses, state: _State) -> None:
        self.endpoint, self.session, self.addresses, self.state = endpoint, session, addresses, state

    async def ask(self, ask: Any) -> tuple[Any, Completion]:
        """An ask and its completion, which has an error where all attempts failed or the server refused it."""
        endpoint, state = self.endpoint, self.state
        request, attempt, since = endpoint.request(ask), 0, None
        failed = Completion(error="not asked, as the job ended")
        while url := await self.addresses.enter():
            patience, begun = self.addresses.patience[url], now()
            try:
                completion, status, told_s = await self._once(url, request)
            finally:
                patience.leave()
            if not completion.error:
                patience.answered()
                return ask, completion
            failed = replace(completion, error=_one_line(completion.error, url, endpoint.key()))
            last = status not in _TRANSIENT or attempt == endpoint.retries
            if not state.knows(ask) and (last or status != 200) and (why := self._why(status, failed.error, ask)):
                state.stop, state.where = f"{why} ({failed.error})", redacted(url)
                return ask, failed
            if status in _WAIT:
                resume = patience.refused(begun, endpoint.pause(patience.refusals, ask), failed.error, told_s)
                since = now() if since is None else since
                resume = resume if len(self.addresses.patience) == 1 else self.addresses.resume()
                if self.addresses.stop or resume - since > endpoint.patience_s:
                    break
                continue
            patience.reached()
            if last:
                break
            await asyncio.sleep(endpoint.pause(attempt, ask))
            attempt += 1
        return ask, failed

    async def _once(self, url: str, request: Any) -> tuple[Completion, int, float | None]:
        """The completion of one request, its status, and the seconds that the server asks to wait.

        Where there is no status it is that of the same meaning: 503 for a server that is not there, 526 for one that
        does not prove who it is, 500 for an answer that broke off, 422 for one without the log-probs that are needed.
        """
        import aiohttp

        data = b""
        try:
            address = joined(url, "chat/completions")
            async with self.session.post(address, json=request, allow_redirects=False) as answer:
                data, status = await read_body(answer), answer.status
                if status == 200:
                    return parse_completion(data, self.endpoint.letter_logprobs), status, None
                error = f"{status}: {data[:300].decode(errors='replace')}"
                if 300 <= status < 400:
                    error = f"{status}: redirects to {redacted(answer.headers.get('Location', ''))}"
                told_s = told_seconds(answer.headers.get("Retry-After"))
                return Completion(error=error, refused=status in _REFUSED), status, told_s
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            kinds = ((aiohttp.ClientSSLError, 526), (aiohttp.ClientConnectorError, 503), (Exception, 500))
            status = next(number for kind, number in kinds if isinstance(failure, kind))
            return Completion(error=f"{type(failure).__name__}: {failure}"), status, None
        except NoLogprobs as failure:
            return Completion(error=str(failure), refused=True), 422, None
        except MALFORMED as failure:
            said = f"{type(failure).__name__}: {failure}; {data[:100].decode(errors='replace')}"
            return Completion(error=f"not an answer of chat completions ({said})"), 200, None

    def _why(self, status: int, error: str, ask: Any) -> str:
        """What to change where no question can be answered, "" where another may be."""
        endpoint = self.endpoint
        heard = endpoint.hears(ask)
        return what_to_change(status, error, endpoint.model, endpoint.key_env, heard, endpoint.letter_logprobs)


def _one_line(error: str, url: str, key: str) -> str:
    """An error as one line, without the secrets that a server or an address may repeat in it."""
    text = "".join(letter if letter.isprintable() else " " for letter in error)
    text, address = " ".join(text.split()), urlsplit(url)
    for secret in (key, address.password, address.query):
        text = text.replace(secret, "***") if secret else text
    return text


class _State:
    """What one run of `ask_all` has learnt: kinds of questions that are answered, failures in a row, why it ends.

    A kind is whether a question has a recording. trying: a question of a kind that was never answered is out. where:
    the address that `stop` is about.
    """

    def __init__(self, endpoint: Asking, answered_before: bool) -> None:
        self.endpoint, self.give_up, self.answered_before = endpoint, endpoint.give_up, answered_before
        self.proven: set[bool] = set()
        self.failures, self.stop, self.trying = 0, "", False
        self.where = ", ".join(map(redacted, endpoint.urls))

    def knows(self, ask: Any) -> bool:
        """Whether a question of the same kind was answered."""
        return self.endpoint.hears(ask) in self.proven

    def begin(self, ask: Any) -> None:
        """A question goes out."""
        self.trying = not self.knows(ask)

    def count(self, ask: Any, completion: Completion) -> None:
        """A completion came; sets `stop` where there were too many failures in a row."""
        known = self.knows(ask)
        own_fault = completion.refused and (known or self.answered_before)
        if not completion.error or own_fault:
            self.proven.add(self.endpoint.hears(ask))
        self.failures = (self.failures + (not own_fault)) if completion.error else 0
        self.trying = self.trying and known
        if self.failures >= (self.give_up if known else min(_FIRST, self.give_up)) and not self.stop:
            self.stop = f"{self.failures} requests in a row failed, the last with: {completion.error}"


async def _bounded(
    asks: Iterable[Any], begin: Callable[[Any], Any], state: _State, limit: int
) -> AsyncGenerator[list[tuple[Any, Completion]], None]:
    """Lists of replies as they come, at most `limit` asks begun; `asks` is advanced no further than that.

    While `state.trying`, none is begun.
    """
    waiting: set[asyncio.Task[Any]] = set()
    source = iter(asks)
    try:
        while True:
            while len(waiting) < limit and not state.trying and (ask := next(source, None)) is not None:
                state.begin(ask)
                waiting.add(asyncio.ensure_future(begin(ask)))
            if not waiting:
                return
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done]
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
