"""The draft of a question on its way through the stages, what is told of its recording, and its chains of thought."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..sources.item import Item

CHAIN = ("question_reading", "listening", "conclusion")
DIMENSIONS = ("answer_consistency", "options_quality", "language", "reasoning", "simple_reasoning")


@dataclass
class Draft:
    """A question about an item, as far as it is made.

    wrong: the three wrong options. chain: the texts of CHAIN. analysis: the simple chain of thought. grades: DIMENSIONS
    to 1..5, and the grader's reason. repaired, rewritten: whether its texts, its wrong options were written anew.
    unheard: share of the orders in which it is answered without the audio, None where that was not tried.
    """

    item: Item
    question: str = ""
    answer: str = ""
    wrong: list[str] = field(default_factory=list)
    type: str = ""
    chain: dict[str, str] = field(default_factory=dict)
    analysis: str = ""
    grades: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    attempts: int = 0
    repaired: bool = False
    rewritten: bool = False
    unheard: float | None = None

    @property
    def options(self) -> list[str]:
        """The right one, then the wrong ones."""
        return [self.answer, *self.wrong]

    @property
    def kind(self) -> str:
        """The question type, before there is a question that of the item where it has but one."""
        return self.type or (self.item.types[0] if len(self.item.types) == 1 else "undecided")

    def texts(self) -> list[str]:
        """All that a reader will see."""
        return [self.question, *self.options, *self.chain.values(), *([self.analysis] if self.analysis else [])]

    def record(self) -> dict[str, Any]:
        """The draft as JSON."""
        return {**{name: value for name, value in asdict(self).items() if name != "item"}, "item": self.item.record()}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Draft:
        """The draft of a `record`."""
        return cls(**{**record, "item": Item.of(record["item"])})


def told(item: Item) -> str:
    """What the source says about the recording, a line each, without what only its publisher needs."""
    facts = item.facts
    lines = [f"- {text}" for text in item.texts]
    if scene := facts.get("scene"):
        lines.append(f"- {scene}")
    for name, what in (("aspects", "aspects"), ("tags", "tags")):
        if facts.get(name):
            lines.append(f"- {what}: {', '.join(facts[name])}")
    for name, value in facts.get("labels", {}).items():
        lines.append(f"- {name}: {value}")
    for name in ("transcript", "emphasis", "topic"):
        if facts.get(name):
            lines.append(f"- {name}: {facts[name]}")
    for event in sorted(facts.get("events", ()), key=lambda event: event["onset"]):
        lines.append(f"- {event['onset']:.1f}s to {event['offset']:.1f}s: {event['text']}")
    return "\n".join(lines)


def listed(options: Iterable[str]) -> str:
    """Options as lines."""
    return "\n".join(f"- {option}" for option in options)


def structured(draft: Draft, closed: bool = False) -> str:
    """The chain of three stages in the paper's form, whose tags are pairs of opening ones; closed: as XML has them.

    What people wrote about the recording stands in the second stage as it is.
    """
    end = "/" if closed else ""
    reading, listening, conclusion = (draft.chain[name].rstrip(". ") for name in CHAIN)
    heard = " ".join(draft.item.texts) or told(draft.item).replace("\n- ", ", ").removeprefix("- ")
    stages = (
        f"According to the question text, {_lower(reading)}, so the question type is {draft.type}.",
        f"I need to firstly analyze the audio content: {listening}. {heard}",
        f'According to the audio content, {_lower(conclusion)}, so the correct answer is "{draft.answer}".',
    )
    return "".join(f"<stage{n}>{text}<{end}stage{n}>" for n, text in enumerate(stages, 1))


def unstructured(draft: Draft) -> str:
    """The simple chain of thought between its tags."""
    return f"<simple analysis> {draft.analysis} </simple analysis>"


def _lower(text: str) -> str:
    """A sentence as a clause: its first letter small, where its first word is no name or abbreviation."""
    first = text.split(" ", maxsplit=1)[0]
    return text[:1].lower() + text[1:] if first[1:].islower() or (first in ("A", "I") and first == "A") else text


def read_drafts(path: Path) -> Iterator[Draft]:
    """The drafts of a stage, one by one; InputError where its file is damaged."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield Draft.of(json.loads(line))
            except (ValueError, TypeError, KeyError):
                raise InputError(
                    f"{path}:{number}: not a draft; remove the folder {path.parent} to make it again"
                ) from None
