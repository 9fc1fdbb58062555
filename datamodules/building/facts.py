"""Checks of an answer against what is known: onsets and offsets of events, labels of speakers."""

from __future__ import annotations

import re
from typing import Any

from ..sources.speechcraft import LABELS
from .draft import Draft

_TIME = re.compile(
    r"\W*(?:at|about|around|after|for|approximately|roughly|from)?\s*(\d+(?:\.\d+)?)\s*"
    r"(?:s|secs?|seconds?)?(?:\s*(?:[-\u2013]|to|and|until)\s*(\d+(?:\.\d+)?))?\s*(s|secs?|seconds?|times?)?\W*",
    re.IGNORECASE,
)
_LENGTH = re.compile(r"\bhow long\b|\bdurations?\b|\blasts?\b|\blength\b", re.IGNORECASE)
_COUNT = re.compile(r"\bhow (?:many|often)\b|\bnumber of\b", re.IGNORECASE)
_BEGIN = re.compile(r"\b(?:begins?|starts?|onset|first|beginning|starting|appears?)\b", re.IGNORECASE)
_END = re.compile(r"\b(?:ends?|stops?|offset|ending|finish(?:es)?|ceases?|last heard)\b", re.IGNORECASE)
_ASKS = {
    "age": re.compile(r"\bage\b|\bhow old\b|\bage group\b", re.IGNORECASE),
    "gender": re.compile(r"\bgender\b|\bsex\b|\bmale or female\b|\bman or (?:a )?woman\b", re.IGNORECASE),
    "pitch": re.compile(r"\bpitch\b", re.IGNORECASE),
    "volume": re.compile(r"\bvolume\b|\bhow loud\b|\bloudness\b", re.IGNORECASE),
    "speed": re.compile(r"\bspeed\b|\bpace\b|\bhow fast\b|\brate of speech\b|\bspeaking rate\b", re.IGNORECASE),
    "emotion": re.compile(r"\bemotions?\b|\bemotional\b|\bmood\b|\bfeel(?:s|ing)?\b", re.IGNORECASE),
}
_SAME = {"man": "male", "men": "male", "woman": "female", "women": "female", "old": "elderly", "quick": "fast"}
_SAME |= {"loud": "high", "quiet": "low", "soft": "low", "deep": "low", "medium": "normal", "moderate": "normal"}
_SAME |= {"happiness": "happy", "sadness": "sad", "anger": "angry", "fear": "fearful", "surprise": "surprised"}


def wrong_time(draft: Draft) -> bool:
    """Whether a time, length or count in the answer is none of the recording's, or in a wrong option is as right."""
    events = draft.item.facts.get("events")
    if draft.item.types != ("temporal",) or not events or (right := times_in(draft.answer)) is None:
        return False
    named = [event for event in events if event["text"] == draft.item.facts.get("event")] or events
    values = _values(draft.question, events)
    if values and not all(_near(time, values, _tolerance(draft.answer)) for time in right):
        return True
    own = _values(draft.question, named)
    for option in draft.wrong:
        wrong = times_in(option)
        if wrong is None:
            continue
        if len(wrong) == len(right) and all(abs(a - b) < 0.05 for a, b in zip(wrong, right, strict=True)):
            return True
        if len(wrong) == 1 and own and not _COUNT.search(draft.question) and _near(wrong[0], own, 0.05):
            return True
    return False


def times_in(text: str) -> tuple[float, ...] | None:
    """The time of an option that is nothing but one, or its beginning and end; None for another text."""
    found = _TIME.fullmatch(text)
    return tuple(float(time) for time in found.groups()[:2] if time) if found else None


def _tolerance(text: str) -> float:
    """Seconds by which a time may be rounded: half of its last digit's worth, and a little."""
    return 0.06 if re.search(r"\d\.\d", text) else 0.51


def _values(question: str, events: list[dict[str, Any]]) -> list[float]:
    """The numbers that may be right: counts, lengths, onsets or offsets, as the question asks; all where it is open."""
    texts = [event["text"] for event in events]
    if _COUNT.search(question):
        return [float(texts.count(text)) for text in set(texts)] + [float(len(texts)), float(len(set(texts)))]
    onsets, offsets = [event["onset"] for event in events], [event["offset"] for event in events]
    lengths = [event["offset"] - event["onset"] for event in events]
    totals = [sum(e["offset"] - e["onset"] for e in events if e["text"] == text) for text in set(texts)]
    begins, ends = bool(_BEGIN.search(question)), bool(_END.search(question))
    if _LENGTH.search(question):
        return lengths + totals
    if begins != ends:
        return onsets if begins else offsets
    gaps = [abs(a - b) for a in onsets + offsets for b in onsets + offsets] if len(events) < 40 else []
    return onsets + offsets + lengths + totals + gaps


def _near(time: float, values: list[float], tolerance: float) -> bool:
    return any(abs(time - value) <= tolerance for value in values)


def contradicted_label(draft: Draft) -> bool:
    """Whether the answer is another value of the label asked for than the speaker's, or a wrong option is the value."""
    labels = draft.item.facts.get("labels")
    if not labels:
        return False
    asked = [name for name, asks in _ASKS.items() if asks.search(draft.question)]
    if len(asked) != 1:
        return False
    known, true = LABELS[asked[0]], labels.get(asked[0])
    right = _named(draft.answer, known)
    if not right:
        return False
    return true is None or right != _named(true, known) or any(_named(w, known) == right for w in draft.wrong)


def _named(text: str, known: tuple[str, ...]) -> str:
    """The value of a label that a text names, the longest, "" where it names none or several."""
    words = " ".join(_SAME.get(word, word) for word in re.findall(r"[\w-]+", text.casefold()))
    words = words.replace("young adult", "youth adult").replace("middle aged", "middle-aged")
    named = [value for value in known if re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", words)]
    named = [value for value in named if not any(value != other and value in other.split() for other in named)]
    return named[0] if len(named) == 1 else ""
