"""Voters behind an OpenAI-compatible server that hears audio: many requests at a time, bounded retries.

Any audio language model that `vllm serve` or a provider offers can vote so. Answers are handed on as they come; a
question whose request keeps failing gets a reply with an error, which counts as missing and not as wrong.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ...boundary.environment import variable
from ...curriculum.identity import hash64
from ...datamodules.audio.waves import wav_bytes
from ...datamodules.storage.address import joined, redacted
from ...datamodules.voting.tasks import Ask, Reply
from ...errors import InputError
from .chat import MALFORMED, NoLogprobs, parse_reply, read_body, what_to_change
from .patience import Patience, now, told_seconds

_TRANSIENT = (200, 408, 409, 425, 500, 502, 504)  # 200: an answer that is none
_WAIT = (429, 503, 529)  # too many requests; loading or overloaded: no attempt of the request's own
_REFUSED = (400, 413, 422)
_FIRST = 3  # questions asked one by one, as long as none was answered


@dataclass
class Endpoint:
    """Where a voter is asked and how.

    Args:
        url: base address, e.g. http://localhost:8000/v1.
        model: its name on the server.
        key_env: environment variable that holds the API key; the key itself is in no file.
        system: system turn; null for none.
        temperature: 0 is greedy. max_tokens: of the longest answer.
        letter_logprobs: also ask for the log-probs of the first token's letters.
        concurrency: requests at a time. retries: of one that failed in a way that may pass. timeout_s: seconds for one.
        patience_s: seconds that a request waits for a server that is busy (429), loading (503) or not there, which is
            no retry; so long without any answer stops the job.
        give_up: so many failures in a row stop the job; once there are answers, a refusal of one question (400, 413,
            422) is none of them. Until there is one, questions are asked one by one and three failures stop it.
        body: more fields of the request, in the server's own format.

    InputError for a value that cannot be, or a key_env that is not set.
    """

    url: str
    model: str
    key_env: str | None = None
    system: str | None = None
    temperature: float = 0.0
    max_tokens: int = 64
    letter_logprobs: bool = False
    concurrency: int = 16
    retries: int = 5
    timeout_s: float = 120.0
    give_up: int = 20
    patience_s: float = 600.0
    body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not _host(self.url):
            raise InputError(f"endpoint url {redacted(self.url)!r} must begin with http:// or https:// and a host")
        for name in ("concurrency", "max_tokens", "give_up", "timeout_s", "patience_s"):
            if getattr(self, name) <= 0:
                raise InputError(f"endpoint {name} must be positive, got {getattr(self, name)}")
        for name in ("retries", "temperature"):
            if getattr(self, name) < 0:
                raise InputError(f"endpoint {name} must not be negative, got {getattr(self, name)}")
        if self.key_env and not self._key():
            raise InputError(f"endpoint {self.model}: the environment variable {self.key_env} with its key is not set")
        if self.key_env and urlsplit(self.url).username is not None:
            raise InputError(f"endpoint url {redacted(self.url)!r}: give either a key_env or a user in the url")

    def _key(self) -> str:
        """The API key, "" without one."""
        return variable(self.key_env) if self.key_env else ""

    def ask_all(self, asks: Iterable[Ask], take: Callable[[Ask, Reply], None], answered_before: bool = False) -> None:
        """Asks everything and hands each reply to `take` as it comes, in any order.

        The first question with a recording, and the first without, is asked alone, so that a wrong key, address, model
        or setting is told after one request. answered_before: the server has answered such questions in an earlier run,
        so that a question it refuses counts as that question's fault. InputError where it cannot go on; replies until
        then have been taken.
        """
        asyncio.run(self._ask_all(asks, take, answered_before))

    async def _ask_all(self, asks: Iterable[Ask], take: Callable[[Ask, Reply], None], answered: bool) -> None:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=self.timeout_s)
        pool = aiohttp.TCPConnector(limit=self.concurrency)  # 100 by default, and waiting for one counts as time
        headers = {"Accept-Encoding": "identity"}  # a few packed bytes can be gigabytes
        headers |= {"Authorization": f"Bearer {self._key()}"} if self.key_env else {}
        state = _State(self.give_up, answered)
        patience = Patience(redacted(self.url), self.concurrency, self.patience_s)
        async with (
            aiohttp.ClientSession(timeout=limit, headers=headers, connector=pool) as session,
            aclosing(
                _bounded(asks, lambda ask: self._ask(session, ask, patience, state), state, self.concurrency)
            ) as d,
        ):
            async for replies in d:
                for ask, reply in replies:  # all that came together is kept, also where one of them ends the job
                    take(ask, reply)
                    state.count(ask, reply)
                if stop := state.stop or patience.stop:
                    raise InputError(
                        f"{redacted(self.url)}: {stop}; answers so far are kept, the same command continues"
                    )

    async def _ask(self, session: Any, ask: Ask, patience: Patience, state: _State) -> tuple[Ask, Reply]:
        """An ask and its reply, which has an error where all attempts failed or the server refused it."""
        request, attempt, since = self.request(ask), 0, None
        failed = Reply(ask.task, error="not asked, as the job ended")
        while await patience.enter():
            begun = now()
            try:
                reply, status, told_s = await self._once(session, ask, request)
            finally:
                patience.leave()
            if not reply.error:
                patience.answered()
                return ask, reply
            failed = replace(reply, error=self._one_line(reply.error))
            last = status not in _TRANSIENT or attempt == self.retries
            if not state.knows(ask) and (last or status != 200) and (why := self._why(status, failed.error, ask)):
                state.stop = f"{why} ({failed.error})"
                return ask, failed
            if status in _WAIT:
                resume = patience.refused(begun, self._pause(patience.refusals, ask), failed.error, told_s)
                since = now() if since is None else since
                if patience.stop or resume - since > self.patience_s:
                    break
                continue
            patience.reached()
            if last:
                break
            await asyncio.sleep(self._pause(attempt, ask))
            attempt += 1
        return ask, failed

    async def _once(self, session: Any, ask: Ask, request: Any) -> tuple[Reply, int, float | None]:
        """The reply to one request, its status, and the seconds that the server asks to wait.

        Where there is no status it is that of the same meaning: 503 for a server that is not there, 526 for one that
        does not prove who it is, 500 for an answer that broke off, 422 for one without the log-probs that are needed.
        """
        import aiohttp

        task, data = ask.task, b""
        try:
            address = joined(self.url, "chat/completions")
            async with session.post(address, json=request, allow_redirects=False) as answer:
                data, status = await read_body(answer), answer.status
                if status == 200:
                    return parse_reply(task, data, self.letter_logprobs), status, None
                error = f"{status}: {data[:300].decode(errors='replace')}"
                if 300 <= status < 400:
                    error = f"{status}: redirects to {redacted(answer.headers.get('Location', ''))}"
                told_s = told_seconds(answer.headers.get("Retry-After"))
                return Reply(task, error=error, refused=status in _REFUSED), status, told_s
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            kinds = ((aiohttp.ClientSSLError, 526), (aiohttp.ClientConnectorError, 503), (Exception, 500))
            status = next(number for kind, number in kinds if isinstance(failure, kind))
            return Reply(task, error=f"{type(failure).__name__}: {failure}"), status, None
        except NoLogprobs as failure:
            return Reply(task, error=str(failure), refused=True), 422, None
        except MALFORMED as failure:
            said = f"{type(failure).__name__}: {failure}; {data[:100].decode(errors='replace')}"
            return Reply(task, error=f"not an answer of chat completions ({said})"), 200, None

    def _why(self, status: int, error: str, ask: Ask) -> str:
        """What to change where no question can be answered, "" where another may be."""
        return what_to_change(status, error, self.model, self.key_env, ask.wave is not None, self.letter_logprobs)

    def _one_line(self, error: str) -> str:
        """An error as one line, without the secrets that a server or an address may repeat in it."""
        text = "".join(letter if letter.isprintable() else " " for letter in error)
        text, address = " ".join(text.split()), urlsplit(self.url)
        for secret in (self._key(), address.password, address.query):
            text = text.replace(secret, "***") if secret else text
        return text

    def _pause(self, attempt: int, ask: Ask) -> float:
        """Seconds before another attempt: 0.5 doubling up to 30, shifted so that requests do not come all at once."""
        share = hash64(str(ask.task), attempt) / 2**64
        return min(30.0, 0.5 * 2.0**attempt) * (0.5 + share) * min(1.0, self.timeout_s / 10)

    def request(self, ask: Ask) -> dict[str, Any]:
        """The body of the request for chat completions, as JSON takes it."""
        content: list[dict[str, Any]] = [{"type": "text", "text": ask.text}]
        if ask.wave is not None:
            sound = {"data": base64.b64encode(wav_bytes(ask.wave)).decode(), "format": "wav"}
            content.insert(0, {"type": "input_audio", "input_audio": sound})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        body: dict[str, Any] = {"model": self.model, "messages": messages, "temperature": self.temperature}
        body["max_tokens"] = self.max_tokens
        if self.letter_logprobs:
            body |= {"logprobs": True, "top_logprobs": 20}
        return body | self.body


def _host(url: str) -> str:
    """The host of an address, "" where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class _State:
    """What one run of `ask_all` has learnt: kinds of questions that are answered, failures in a row, why it ends.

    A kind is whether a question has a recording. trying: a question of a kind that was never answered is out.
    """

    def __init__(self, give_up: int, answered_before: bool) -> None:
        self.give_up, self.answered_before = give_up, answered_before
        self.proven: set[bool] = set()
        self.failures, self.stop, self.trying = 0, "", False

    def knows(self, ask: Ask) -> bool:
        """Whether a question of the same kind was answered."""
        return (ask.wave is not None) in self.proven

    def begin(self, ask: Ask) -> None:
        """A question goes out."""
        self.trying = not self.knows(ask)

    def count(self, ask: Ask, reply: Reply) -> None:
        """A reply came; sets `stop` where there were too many failures in a row."""
        known = self.knows(ask)
        own_fault = reply.refused and (known or self.answered_before)
        if not reply.error or own_fault:
            self.proven.add(ask.wave is not None)
        self.failures = (self.failures + (not own_fault)) if reply.error else 0
        self.trying = self.trying and known
        if self.failures >= (self.give_up if known else min(_FIRST, self.give_up)) and not self.stop:
            self.stop = f"{self.failures} requests in a row failed, the last with: {reply.error}"


async def _bounded(
    asks: Iterable[Ask], begin: Callable[[Ask], Any], state: _State, limit: int
) -> AsyncGenerator[list[tuple[Ask, Reply]], None]:
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
