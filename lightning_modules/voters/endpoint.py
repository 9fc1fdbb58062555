"""Voters behind an OpenAI-compatible server that hears audio: many requests at a time, bounded retries.

Any audio language model that `vllm serve` or a provider offers can vote so. Answers are handed on as they come; a
question whose request keeps failing gets a reply with an error, which counts as missing and not as wrong.
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ...curriculum.identity import hash64
from ...datamodules.audio.waves import wav_bytes
from ...datamodules.storage.address import joined, redacted
from ...datamodules.voting.tasks import Ask, Reply, Task
from ...errors import InputError

_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)
_REFUSED = (400, 413, 422)
# What reading a malformed answer may raise: whatever a server sends, it must not end the job.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


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
        give_up: so many failures in a row, from the start or later, stop the job; once there are answers, a refusal of
            one question (400, 413, 422) is none of them.
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
    body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not _host(self.url):
            raise InputError(f"endpoint url {redacted(self.url)!r} must begin with http:// or https:// and a host")
        for name in ("concurrency", "max_tokens", "give_up", "timeout_s"):
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
        return os.environ.get(self.key_env, "").strip() if self.key_env else ""

    def ask_all(self, asks: Iterable[Ask], take: Callable[[Ask, Reply], None], answered_before: bool = False) -> None:
        """Asks everything and hands each reply to `take` as it comes, in any order.

        answered_before: the server has answered such questions in an earlier run, so that a question it refuses counts
        as that question's fault. InputError after `give_up` failures in a row; replies until then have been taken.
        """
        asyncio.run(self._ask_all(asks, take, answered_before))

    async def _ask_all(self, asks: Iterable[Ask], take: Callable[[Ask, Reply], None], answered: bool) -> None:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=self.timeout_s)
        pool = aiohttp.TCPConnector(limit=self.concurrency)  # 100 by default, and waiting for one counts as time
        headers = {"Authorization": f"Bearer {self._key()}"} if self.key_env else {}
        failures, stop = 0, ""
        async with (
            aiohttp.ClientSession(timeout=limit, headers=headers, connector=pool) as session,
            aclosing(_bounded((self._ask(session, ask) for ask in asks), self.concurrency)) as done,
        ):
            async for replies in done:
                for ask, reply in replies:  # all that came together is kept, also where one of them ends the job
                    take(ask, reply)
                    answered = answered or not reply.error
                    failures = failures + (not (answered and reply.refused)) if reply.error else 0
                    if failures >= self.give_up:
                        stop = stop or f"{failures} requests in a row failed, the last with: {reply.error}"
                if stop:
                    raise InputError(
                        f"{redacted(self.url)}: {stop}; answers so far are kept, the same command continues"
                    )

    async def _ask(self, session: Any, ask: Ask) -> tuple[Ask, Reply]:
        """An ask and its reply, which has an error where all attempts failed or the server refused it."""
        import aiohttp

        request, error = self.request(ask), ""
        for attempt in range(self.retries + 1):
            try:
                async with session.post(joined(self.url, "chat/completions"), json=request) as answer:
                    if answer.status == 200:
                        return ask, _parse(ask.task, await answer.json(content_type=None), self.letter_logprobs)
                    error = f"{answer.status}: {(await answer.text(errors='replace'))[:300]}"
                    if answer.status not in _TRANSIENT:
                        return ask, Reply(ask.task, error=self._one_line(error), refused=answer.status in _REFUSED)
            except (aiohttp.ClientError, TimeoutError, OSError) as failure:
                error = f"{type(failure).__name__}: {failure}"
            except _MALFORMED as failure:
                error = f"not an answer of chat completions ({type(failure).__name__}: {failure})"
            if attempt < self.retries:
                await asyncio.sleep(self._pause(attempt, ask))
        return ask, Reply(ask.task, error=self._one_line(error))

    def _one_line(self, error: str) -> str:
        """An error as one line, without the secrets that a server or an address may repeat in it."""
        text, address = " ".join(error.split()), urlsplit(self.url)
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


def _parse(task: Task, body: Mapping[str, Any], letters: bool = False) -> Reply:
    """The reply in the body of an answer. One of _MALFORMED where it has another form, or lacks wanted log-probs."""
    choice = body["choices"][0]
    text, usage = choice["message"]["content"], body.get("usage") or {}
    if not isinstance(text, str):
        raise ValueError("the message has no text")
    if letters and not choice.get("logprobs"):
        raise ValueError("it has no log-probs; does the server give them?")
    return Reply(
        task,
        text,
        letters=_letters(choice.get("logprobs")),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        finished=choice.get("finish_reason") == "stop",
    )


def _letters(logprobs: Mapping[str, Any] | None) -> dict[str, float]:
    """Letter -> log-prob of A, B, ... as the first token; the probabilities of spellings (" A", "A") are added up."""
    total: dict[str, float] = {}
    for entry in (((logprobs or {}).get("content") or [{}])[0]).get("top_logprobs") or ():
        letter = str(entry["token"]).strip().strip("(").upper()
        if len(letter) == 1 and letter in ascii_uppercase:
            total[letter] = float(np.logaddexp(total.get(letter, -math.inf), float(entry["logprob"])))
    return total


async def _bounded(jobs: Iterable[Any], limit: int) -> AsyncGenerator[list[Any], None]:
    """Lists of results as they come, with at most `limit` jobs begun; `jobs` is advanced no further than that."""
    waiting: set[asyncio.Task[Any]] = set()
    source = iter(jobs)
    try:
        while True:
            while len(waiting) < limit and (job := next(source, None)) is not None:
                waiting.add(asyncio.ensure_future(job))
            if not waiting:
                return
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done]
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
