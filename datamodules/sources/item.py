"""The item: what a source says about one recording, of which one question is made; and what reading it found."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ...curriculum.identity import uid_of
from ...errors import InputError

TYPES = ("sound", "music", "speech", "temporal")


@dataclass(frozen=True)
class Item:
    """What one question is made of.

    Args:
        source, id: its identity; the uid of the question is made of them.
        split: train, val or test.
        names: file names under which downloaders store the recording, the best first; a folder may stand before one.
        texts: captions, or an answer that the source gives, in the words of people.
        facts: what else is known, as JSON: events with onsets and offsets, labels, aspects, an instruction.
        types: question types that can be asked.
        license: of the recording or the texts, in lower case; "unstated" where none is given.
        origin: the recording it was cut from, "youtube:ID" or "freesound:ID"; "" where it cannot be known.
        at: seconds of the origin that it begins at and ends at; None where they are not told.
        audio: path below the audio root, "" while it is not found.
        cut: whether the file is the whole origin, so that `at` is cut out of it when it is packed.
    """

    source: str
    id: str
    split: str
    names: tuple[str, ...]
    texts: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    types: tuple[str, ...] = ("sound",)
    license: str = "unstated"
    origin: str = ""
    at: tuple[float, float] | None = None
    audio: str = ""
    cut: bool = False

    @property
    def uid(self) -> int:
        """64-bit identity, that of the question to be made."""
        return uid_of(self.source, self.id)

    def record(self) -> dict[str, Any]:
        """The item as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Item:
        """The item of a `record`."""
        lists = {name: tuple(record[name]) for name in ("names", "texts", "types")}
        return cls(**{**record, **lists, "at": tuple(record["at"]) if record["at"] else None})


@dataclass
class Found:
    """What a reader tells beside its items.

    counts: what its publisher counts, like rows, clips and captions. faults: records that were left out, and why; where
    it is None, the first is raised. notes: what was read otherwise than it stands there.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def fault(self, message: str) -> None:
        """Lists a fault, or raises it as an InputError."""
        if self.faults is None:
            raise InputError(message)
        self.faults.append(message)


def license_tags(name: str) -> set[str]:
    """The words of a licence, for rules such as "no nc": cc-by-nc-3.0 is cc, by, nc, 3 and 0."""
    return set(re.findall(r"[a-z]+\+?|\d+", name.lower()))


def license_of(link: str) -> str:
    """The name of a Creative Commons licence from its address, cc-by-nc-3.0; another text in lower case."""
    found = re.search(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/([\d.]+)", link.lower())
    if not found:
        return " ".join(link.lower().split()) or "unstated"
    return "cc0-1.0" if found[1] == "zero" else f"{'' if '+' in found[1] else 'cc-'}{found[1]}-{found[2]}"
