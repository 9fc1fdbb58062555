"""Voters behind an OpenAI-compatible server that hears audio.

Any audio language model that `vllm serve` or a provider offers can vote so. Answers are handed on as they come; a
question whose request keeps failing gets a reply with an error, which counts as missing and not as wrong.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from ...datamodules.asking.chat import Completion
from ...datamodules.asking.endpoint import ChatEndpoint
from ...datamodules.audio.waves import wav_bytes
from ...datamodules.voting.tasks import Ask, Reply


@dataclass
class Endpoint(ChatEndpoint):
    """Where a voter is asked and how: a chat endpoint whose questions come with their recordings."""

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

    def name(self, ask: Ask) -> str:
        """The task of an ask, as text."""
        return str(ask.task)

    def hears(self, ask: Ask) -> bool:
        """Whether the ask has a recording."""
        return ask.wave is not None

    def taken(self, ask: Ask, completion: Completion) -> Reply:
        """The completion as a reply to the ask's task."""
        return Reply(
            ask.task,
            completion.text,
            completion.error,
            completion.refused,
            letters=completion.letters,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            finished=completion.finished,
        )
