"""Words that somebody else may have written, on their way to a terminal, a page or the name of a file."""

from __future__ import annotations

import re
import sys
from html import escape
from typing import Any, TextIO

from .environment import hidden

# Controls (a terminal obeys them), marks that turn the direction of writing, other line ends, half letters.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_NAME = re.compile(r"[^\w.-]")
_RESERVED = re.compile(r"\.*")


def plain(text: object) -> str:
    """The text with a replacement mark for whatever a terminal would obey; line ends and tabs stay."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


def one_line(text: object, most: int = 300) -> str:
    """The text as one line of at most `most` letters, without what a terminal would obey."""
    line = " ".join(plain(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def say(*words: object, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Prints words as `print` does, as `plain` text and without values that came from the environment.

    What the stream cannot show is escaped.
    """
    stream = sys.stdout if file is None else file
    text = plain(hidden(" ".join(map(str, words)) + end))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding, "replace"), file=stream, end="", flush=flush)


def html(value: Any) -> str:
    """Any value as text between tags or within a quoted attribute of a page: nothing in it is markup."""
    return escape(plain("" if value is None else value), quote=True)


def file_name(text: str, most: int = 60) -> str:
    """The text as the name of a file: letters, digits, - _ and . alone, never empty, `.`, `..` or a path."""
    name = _NAME.sub("-", text)[:most]
    return f"-{name}" if _RESERVED.fullmatch(name) else name


def is_name(text: object, most: int = 100) -> bool:
    """Whether a text may be the name of a file or folder as it is: letters, digits, - _ and ., no dots alone."""
    return isinstance(text, str) and 0 < len(text) <= most and not _NAME.search(text) and not _RESERVED.fullmatch(text)
