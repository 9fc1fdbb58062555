"""Where a language model is asked and how: any number of OpenAI-compatible servers of one model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...boundary.environment import variable
from ...curriculum.identity import hash64
from ...errors import InputError
from ..storage.address import redacted
from .chat import Completion
from .client import ask_all


@dataclass
class ChatEndpoint:
    """Where a model is asked and how.

    Args:
        url: base address, e.g. http://localhost:8000/v1, or a list of them.
        model: its name on the server.
        key_env: environment variable that holds the API key; the key itself is in no file.
        system: system turn; null for none.
        temperature: 0 is greedy. max_tokens: of the longest answer.
        letter_logprobs: also ask for the log-probs of the first token's letters.
        concurrency: requests at a time, at each address. retries: of one that failed in a way that may pass. timeout_s:
            seconds for one.
        patience_s: seconds that a request waits for a server that is busy (429), loading (503) or not there, which is
            no retry; so long without any answer stops the job.
        give_up: so many failures in a row stop the job; once there are answers, a refusal of one question (400, 413,
            422) is none of them. Until there is one, questions are asked one by one and three failures stop it.
        body: more fields of the request, in the server's own format.

    A subclass says what is asked: `request`, `name`, `hears`, `taken`. InputError for a value that cannot be, or a
    key_env that is not set.
    """

    url: str | list[str]
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
        for url in self.urls or [""]:
            if not url.startswith(("http://", "https://")) or not _host(url):
                raise InputError(f"endpoint url {redacted(url)!r} must begin with http:// or https:// and a host")
        if len(set(self.urls)) < len(self.urls):
            raise InputError("endpoint url: one address is named twice")
        for name in ("concurrency", "max_tokens", "give_up", "timeout_s", "patience_s"):
            if getattr(self, name) <= 0:
                raise InputError(f"endpoint {name} must be positive, got {getattr(self, name)}")
        for name in ("retries", "temperature"):
            if getattr(self, name) < 0:
                raise InputError(f"endpoint {name} must not be negative, got {getattr(self, name)}")
        if self.key_env and not self.key():
            raise InputError(f"endpoint {self.model}: the environment variable {self.key_env} with its key is not set")
        for url in self.urls:
            if self.key_env and urlsplit(url).username is not None:
                raise InputError(f"endpoint url {redacted(url)!r}: give either a key_env or a user in the url")

    @property
    def urls(self) -> list[str]:
        """The addresses as a list."""
        return [self.url] if isinstance(self.url, str) else list(self.url)

    def key(self) -> str:
        """The API key, "" without one."""
        return variable(self.key_env) if self.key_env else ""

    def request(self, ask: Any) -> dict[str, Any]:
        """The body of the request for chat completions, as JSON takes it."""
        raise NotImplementedError("a subclass says what is asked")

    def name(self, ask: Any) -> str:
        """What tells an ask from others; pauses are shifted by it."""
        return str(ask)

    def hears(self, ask: Any) -> bool:
        """Whether a recording is in it: a server may answer the one kind and not the other."""
        return False

    def taken(self, ask: Any, completion: Completion) -> Any:
        """What `take` is handed for a completion."""
        return completion

    def ask_all(self, asks: Iterable[Any], take: Callable[[Any, Any], None], answered_before: bool = False) -> None:
        """Asks everything and hands each reply to `take` as it comes, in any order.

        The first question with a recording, and the first without, is asked alone, so that a wrong key, address, model
        or setting is told after one request. answered_before: the server has answered such questions in an earlier run,
        so that a question it refuses counts as that question's fault. InputError where it cannot go on; replies until
        then have been taken.
        """
        asyncio.run(ask_all(self, asks, take, answered_before))

    def _pause(self, attempt: int, ask: Any) -> float:
        """Seconds before another attempt: 0.5 doubling up to 30, shifted so that requests do not come all at once."""
        share = hash64(self.name(ask), attempt) / 2**64
        return min(30.0, 0.5 * 2.0**attempt) * (0.5 + share) * min(1.0, self.timeout_s / 10)

    def pause(self, attempt: int, ask: Any) -> float:
        """Seconds before another attempt of an ask; attempts count from 0."""
        return self._pause(attempt, ask)


def _host(url: str) -> str:
    """The host of an address, "" where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
