"""Prompts in files: fixed instructions, a line `---`, then what differs from request to request.

What is the same in all requests comes first, so that servers compute it once. `{name}` stands for a value. The shipped
ones lie in `configs/prompts/`; a job names files of its own in their place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..boundary.files import read_text
from ..errors import InputError
from .plugins import nearest

SHIPPED = Path(__file__).parent / "prompts"
_VALUE = re.compile(r"\{([a-z_\d]+)\}")


class Prompt(NamedTuple):
    """A prompt: its name, the fixed instructions, what differs, and a hash of both."""

    name: str
    fixed: str
    varied: str
    hash: str

    def messages(self, values: Mapping[str, str], more: str = "") -> list[dict[str, str]]:
        """The system and the user message. values: of the names in it; more: fixed text behind the instructions."""
        text = _VALUE.sub(lambda found: values[found[1]], self.varied)
        return [{"role": "system", "content": self.fixed + more}, {"role": "user", "content": text}]


def read_prompt(name: str, files: Mapping[str, str] | None = None) -> Prompt:
    """The shipped prompt of that name, or the file given in its place.

    InputError where there is none, where it has no line `---`, and where it names another value than the shipped one,
    which would have no text.
    """
    path = Path((files or {}).get(name, SHIPPED / f"{name}.txt"))
    if not path.is_file():
        raise InputError(f"{path}: no such prompt file")
    text, shipped = read_text(path), read_text(SHIPPED / f"{name}.txt")
    fixed, line, varied = text.partition("\n---\n")
    if not line and "\n---\n" in shipped:
        raise InputError(f"{path}: needs a line --- between the instructions and what differs from item to item")
    known = set(_VALUE.findall(shipped))
    if unknown := sorted(set(_VALUE.findall(varied)) - known):
        raise InputError(f"{path}: has no value {unknown[0]!r}; {nearest(unknown[0], sorted(known), 'there are')}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Prompt(name, fixed.strip("\n") if line else text, varied.strip("\n"), digest)


def check_names(files: Mapping[str, str]) -> None:
    """Raises InputError for a name that no shipped prompt has."""
    known = sorted(path.stem for path in SHIPPED.glob("*.txt"))
    for name in files:
        if name not in known:
            raise InputError(f"prompts: no prompt {name!r}; {nearest(name, known, 'there are')}")
