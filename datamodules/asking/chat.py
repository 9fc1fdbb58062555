"""Answers of a chat-completions server: read within a limit, parsed in the forms servers give them, explained."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

import numpy as np

MOST_BYTES = 8 << 20  # of one answer; 64 tokens with 20 log-probs each are 0.2 MB
# What reading a malformed answer may raise: whatever a server sends, it must not end the job.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_CUT = {"length", "max_tokens", "model_length", "content_filter", "abort", "error"}
# "Audio is too short" is about one question; these are about all of them.
_NOT = (
    r"not support|unsupported|not available|not enabled|not allowed|"
    r"at most 0|not a\b|must be|no endpoints|invalid content"
)
_SOUND = r"audio|modal|mmproj"
_NO_AUDIO = re.compile(f"(?:{_SOUND}).{{0,200}}(?:{_NOT})|(?:{_NOT}).{{0,200}}(?:{_SOUND})|mmproj", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"(?:invalid|unknown|no such) model|model\b.{0,120}\b(?:not (?:exist|found|available)|n't exist|unknown)",
    re.IGNORECASE,
)
_NO_SETTING = re.compile(
    r"(?:unsupported|unrecognized|unknown|unexpected|extra|additional)\W{1,3}(?:request )?"
    r"(?:parameter|field|input|argument|propert)|max_completion_tokens",
    re.IGNORECASE,
)
_NO_LOGPROBS = "it has no log-probs; does the server give them?"


class NoLogprobs(ValueError):
    """An answer without the log-probs that were asked for: asking again does not help."""


@dataclass
class Completion:
    """What a server made of a request: a text, or an error.

    refused: the error is about this request alone; others may well be answered. reason: why the server says that it
    ended, like "stop" or "length"; finished: whether the model ended it. reasoning: what it thought, where the server
    sends that apart. letters: log-probs of letters as the first token.
    """

    text: str = ""
    error: str = ""
    refused: bool = False
    finished: bool = True
    reason: str = ""
    reasoning: str = ""
    letters: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def read_body(answer: Any) -> bytes:
    """The bytes of an aiohttp response, at most MOST_BYTES of them; ValueError where there are more."""
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MB")
        parts.append(part)
    return b"".join(parts)


def parse_completion(data: bytes, letters: bool = False) -> Completion:
    """The completion in the body of an answer; an empty text where the model only thought, refused, or was cut off.

    letters: log-probs are wanted. Raises one of MALFORMED where the body has another form, or lacks them.
    """
    return completion_of(json.loads(data), letters)


def completion_of(body: Any, letters: bool = False) -> Completion:
    """The completion in the body of an answer, as `parse_completion`."""
    choice = body["choices"][0]
    message, usage = choice["message"], body.get("usage") or {}
    if letters and not choice.get("logprobs"):
        raise NoLogprobs(_NO_LOGPROBS)
    thought = message.get("reasoning") or message.get("reasoning_content")
    return Completion(
        _text(message.get("content")),
        letters=_letters(choice.get("logprobs")),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        finished=choice.get("finish_reason") not in _CUT,
        reason=str(choice.get("finish_reason") or ""),
        reasoning=thought if isinstance(thought, str) else "",
    )


def _text(content: Any) -> str:
    """The text of a message: one, or the text parts of a list, without what was thought; "" where there is none."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"content is a {type(content).__name__}")
    return "".join(str(part["text"] or "") for part in content if part.get("type", "text") in ("text", "output_text"))


def _letters(logprobs: Mapping[str, Any] | None) -> dict[str, float]:
    """Letter -> log-prob of A, B, ... as the first token; the probabilities of spellings (" A", "A") are added up."""
    total: dict[str, float] = {}
    for entry in (((logprobs or {}).get("content") or [{}])[0]).get("top_logprobs") or ():
        letter = str(entry["token"]).strip().strip("(").upper()
        if len(letter) == 1 and letter in ascii_uppercase:
            total[letter] = float(np.logaddexp(total.get(letter, -math.inf), float(entry["logprob"])))
    return total


def what_to_change(status: int, said: str, model: str, key_env: str | None, heard: bool, letters: bool) -> str:
    """Why a server answers no request at all, and which setting to change; "" where another one may be answered.

    status: of HTTP; 200 for an answer that is none. said: its words. heard: the request had a recording. letters: it
    wanted log-probs.
    """
    if status in (401, 403):
        held = f"the key in {key_env} is not accepted" if key_env else "it wants a key"
        return f"{held}; key_env must name the environment variable that holds the right one"
    if status == 402 or "insufficient_quota" in said:
        return "the account behind the key has no credit left"
    if heard and status != 200 and _NO_AUDIO.search(said):
        return f"{model} takes no audio there; serve a model that hears, or ask under the condition none"
    if letters and (said == _NO_LOGPROBS or "logprob" in said.lower()):
        return "it gives no log-probs; use scoring: generate, or let it give 20 of the first token"
    if (status in (400, 422) and _NO_MODEL.search(said)) or (status == 404 and "model" in said.lower()):
        return f"it has no model {model!r}; `model` must be one of those it lists under /models"
    if status in (404, 405, 301, 302, 303, 307, 308) or status == 200:
        return "it has no chat completions there; `url` must be what stands before /chat/completions, mostly .../v1"
    if status in (400, 422) and _NO_SETTING.search(said):
        return "it does not take a field of the request; `body` overrides fields, with null too"
    if said.startswith("ClientConnectorDNSError"):
        return "there is no host of that name; `url` must name the server"
    if status == 526:
        return "its certificate is not trusted; `url` must name the host that the certificate is for"
    return ""
