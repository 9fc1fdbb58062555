"""What a page's explorer shows: questions, their facts and recordings, and what was answered under which condition.

`write_page` of `pages.py` takes them; whoever has results of another kind makes these of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

OUTCOMES = ("right", "wrong", "unfinished", "unreadable", "missing")


@dataclass(frozen=True)
class Reply:
    """One answer to one question.

    Args:
        voter: the model. condition: what it heard, like "audio", "silence", "mismatched".
        text: what it said, "" where that was not kept. pick: the option that was read from it, None where none was.
        outcome: one of OUTCOMES. rotation: by how many places the options were turned.
    """

    voter: str
    condition: str
    text: str = ""
    pick: str | None = None
    outcome: str = "wrong"
    rotation: int = 0


@dataclass(frozen=True)
class Clip:
    """Where a recording, or a part of one, can be read.

    Args:
        id: equal for questions that share it; it is embedded once. path: its file, None where it lies in a shard.
        start: seconds into the file. seconds: how long it is; None is to the file's end.
        load: gives the wave, [n] mono float32 at 16 kHz; without it the file at `path` is decoded.
    """

    id: str
    path: str | None = None
    start: float = 0.0
    seconds: float | None = None
    load: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Item:
    """One question of a page.

    Args:
        id: readable and unique on its page; a link ends in it. answer: one of the choices, None where it is not known.
        facts: name -> text to filter by, like label, type, source, category, set. numbers: name -> value to sort by.
        audio: None where the question has no recording. replies: all answers to it.
    """

    id: str
    question: str
    choices: Sequence[str]
    answer: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    audio: Clip | None = None
    replies: Sequence[Reply] = ()


@dataclass(frozen=True)
class Verdict:
    """A short answer at the top of a page.

    Args:
        asks: the question, like "Did it learn?". says: the number, like "+33.3 points [25.3, 41.3]".
        because: a sentence on what it was measured. tone: good, bad, unclear or plain; it colours the edge.
    """

    asks: str
    says: str
    because: str = ""
    tone: str = "plain"


@dataclass(frozen=True)
class Section:
    """A part of the overview: its heading, and HTML whose texts are escaped already."""

    title: str
    html: str


@dataclass(frozen=True)
class Overview:
    """What stands above the explorer.

    Args:
        title: of the page. lead: one or two sentences, plain text. verdicts: three or so. warnings: plain sentences.
        sections: tables and figures. about: what the page was made from (files, hashes, versions), shown at its end.
    """

    title: str
    lead: str = ""
    verdicts: Sequence[Verdict] = ()
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    about: Mapping[str, object] = field(default_factory=dict)
