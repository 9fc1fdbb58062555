"""Chat templates of checkpoints: programs that somebody else wrote, rendered in a process that may be ended."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...boundary.words import one_line
from ...errors import InputError

_PROGRAM = Path(__file__).with_name("template_process.py")
_MOST_TEMPLATE, _MOST_ANSWER = 256 << 10, 32 << 20
LIMIT_S = 10.0  # for one text


def rendered(owner: Any, messages: Sequence[dict[str, Any]], add_generation_prompt: bool) -> str:
    """The text that a tokenizer's or processor's chat template makes of a conversation.

    It is that of transformers' `apply_chat_template`. InputError where there is no template, it refuses the
    conversation, or takes more than LIMIT_S seconds, a gigabyte, or more text than a prompt has.
    """
    template = template_of(owner)
    tokenizer = getattr(owner, "tokenizer", owner)
    variables = {name: _plain(value) for name, value in tokenizer.special_tokens_map.items()}
    variables |= {"messages": list(messages), "tools": None, "documents": None}
    line = json.dumps({"template": template, "variables": variables | {"add_generation_prompt": add_generation_prompt}})
    return _rendered(line)


def template_of(owner: Any) -> str:
    """The chat template of a tokenizer or processor; InputError where it has none, or one that is too long."""
    found = getattr(owner, "chat_template", None) or getattr(getattr(owner, "tokenizer", None), "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, str):
        raise InputError("the checkpoint has no chat template")
    if len(found) > _MOST_TEMPLATE:
        raise InputError(f"the checkpoint's chat template has {len(found):,} letters, at most {_MOST_TEMPLATE:,}")
    return found


def _plain(value: Any) -> Any:
    return [str(each) for each in value] if isinstance(value, list | tuple) else str(value)


@lru_cache(maxsize=256)
def _rendered(line: str) -> str:
    answer = _PROCESS.ask(line)
    if "text" not in answer:
        raise InputError(f"the checkpoint's chat template cannot be used ({one_line(answer.get('error'))})")
    return str(answer["text"])


class _Process:
    """The running program, one for this process; it is started again after it was ended, and in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._end)

    def ask(self, line: str) -> dict[str, Any]:
        """The answer to a line; {"error"} where there is none in time."""
        with self._lock:
            child = self._started()
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(line.encode() + b"\n")
                child.stdin.flush()
                data = self._line(child.stdout.fileno(), time.monotonic() + LIMIT_S)
                answer: dict[str, Any] = json.loads(data)
                return answer
            except (OSError, ValueError):
                self._end()
                return {"error": f"it takes more than {LIMIT_S:g} s, or too much memory"}

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            pipe, words = subprocess.PIPE, [sys.executable, "-I", str(_PROGRAM)]
            self._child = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        return self._child

    def _line(self, descriptor: int, until: float) -> bytes:
        """What the child writes up to the end of a line; TimeoutError or EOFError where it does not come."""
        parts: list[bytes] = []
        while not parts or not parts[-1].endswith(b"\n"):
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(descriptor, 1 << 20)
            if not part or sum(map(len, parts)) > _MOST_ANSWER:
                raise OSError("it ended")
            parts.append(part)
        return b"".join(parts)

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _forget(self) -> None:
        """In a forked child: the program is its parent's."""
        self._child, self._lock = None, threading.Lock()


_PROCESS = _Process()
