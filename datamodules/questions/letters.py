"""Which option a reply names by its letter: outright, in a final phrase, or as the one left among several.

A letter is looked for in this order; the first place that has one decides:

    1  the reply is a letter and nothing else ("b", "(B)"), or an option's own text, or both ("B. Dog", "B Dog")
    2  the last final phrase: "the answer is B", "I'd say B", "B is correct", or a box of LaTeX
    3  a line that is a letter and nothing else
    4  the beginning: "B. ...", "(B) ...", "B because ..."
    5  a final phrase with an option's own text: "the answer is a dog"
    6  the last "so B", "it is B", "but B", or a B at the very end
    7  the only letter that is marked, as in "(B)" or "option B", and not ruled out

A letter that is denied ("not B", "B is wrong") or asked about ("B?") does not count, and several together ("A and B",
"A or B") name none. What is a letter and what an article or a tone says `mentions.py`.
Where the prompt showed letters, a letter goes before an option's own text, which may itself be a letter (chords or
notes); where it showed none, the text goes first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple

from .mentions import mentions, unwrapped


class Choice(NamedTuple):
    """A letter that a reply names, "" for none; sure: whatever might follow in a longer reply, it is the answer."""

    letter: str
    sure: bool = True


_LONGEST = 8_000
_NONE = Choice("", False)
# Full-width forms, as Chinese and Japanese keyboards write them, typographic quotes, brackets, dashes and arrows.
_WIDE = str.maketrans(
    "".join(map(chr, range(0xFF01, 0xFF5F)))
    + "\u2018\u2019\u201c\u201d\u3010\u3011\u300c\u300d\u3001\u3002\u2013\u2014\u2192\u21d2\u00a0\u3000",
    "".join(map(chr, range(0x21, 0x7F))) + "''\"\"[](),.-->>  ",
)
_ALONE = re.compile(r"[\W_]*([A-Za-z])(?:[^\w#+\u266d\u266f]|_)*")
_SAID_OUTRIGHT = re.compile(
    r"(?:[Tt]he )?(?:[Cc]orrect |[Ff]inal )?[Aa]nswer(?:: ?| is:? ?)[*(\[\"]*([A-Z])[*)\]\".]*", re.ASCII
)
_BEFORE_TEXT = re.compile(r"[\W_]*([A-Za-z])(?:\s*[.):,>-]+\s*|[)\]*_`'\"]+\s*|\s+)(?=\S)")
_TONAL = re.compile(r"(?:major|minor|sharp|flat|maj|min|natural)\b", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LEAD = re.compile(
    r"\b(?:answer|choice|option)\b(?: to (?:the|this) question)?(?:\W*\b(?:is|would be|must be|should be)\b)?"
    r"|\u7b54\u6848(?:\u662f|\u4e3a)?",
    re.IGNORECASE,
)


def choice_of(text: str, choices: Sequence[str], lettered: bool = False) -> Choice:
    """The letter that a text names; `choices` in the order shown, lettered: whether the prompt showed letters."""
    if not text:
        return _NONE
    letters = ascii_uppercase[: len(choices)]
    original, text = text, text if text.isascii() else text.translate(_WIDE)
    alone = _ALONE.fullmatch(text)
    letter = alone[1].upper() if alone and alone[1].upper() in letters else ""
    if letter and lettered:
        return Choice(letter)
    if (place := own_text(original, choices)) is not None:
        return Choice(ascii_uppercase[place])
    if letter:
        return Choice(letter)
    if named := _with_text(text, choices):
        return Choice(named)
    said = _SAID_OUTRIGHT.fullmatch(text)
    if said and said[1] in letters and (lettered or min(map(len, choices)) > 1):  # most replies that are longer
        return Choice(said[1])
    return _in_words(text, choices, letters, lettered)


def own_text(text: str, choices: Sequence[str]) -> int | None:
    """Place of the option that a text equals: to the letter, else in lower case, else without quotes and full stops."""
    for plain in (str.strip, _lowered, _bare):
        said = plain(text)
        if said:
            for place, choice in enumerate(choices):
                if plain(choice) == said:
                    return place
    return None


def _lowered(text: str) -> str:
    return text.strip().lower()


def _bare(text: str) -> str:
    return text.lower().strip(" \t\n.:\"'`*_")


def _with_text(text: str, choices: Sequence[str]) -> str:
    """The letter of a text like "B. Dog" or "B Dog", whose option is that, or "B Cat", as no article is called B."""
    begun = _BEFORE_TEXT.match(text)
    if begun is None or (place := ascii_uppercase.index(begun[1].upper())) >= len(choices):
        return ""
    said = text[begun.end() :]
    if _bare(said) == _bare(choices[place]):
        return ascii_uppercase[place]
    other = begun[1] not in "AIai" and not _TONAL.match(said) and own_text(said, choices) is not None
    return ascii_uppercase[place] if other else ""


def _in_words(text: str, choices: Sequence[str], letters: str, lettered: bool) -> Choice:
    """The letter that a longer text names, by the order in the module's docstring."""
    if len(text) > _LONGEST:  # it begins or ends with what it chooses
        text = f"{text[: _LONGEST // 2]}\n...\n{text[-_LONGEST // 2 :]}"
    boxes = _BOX.findall(text)
    if boxes and (found := choice_of(unwrapped(boxes[-1]), choices, lettered)).letter:
        return found
    named = mentions(text, choices, letters)
    led, rest, words = _led_text(text, choices)
    if led and (words > 1 or not lettered) and not any(each.final for each in mentions(rest, choices, letters)):
        return Choice(led)
    if final := [each for each in named if each.final]:
        return Choice(final[-1].only)
    if alone := _lone_lines(text, letters):
        return Choice(alone.pop()) if len(alone) == 1 else _NONE
    if named and named[0].begins and not _lists_options(text, choices):
        return Choice(named[0].only)
    if led:
        return Choice(led)
    if weak := [each for each in named if each.weak]:
        return Choice(weak[-1].only, False)
    left = {letter for each in named if each.marked and not each.denied for letter in each.letters}
    return Choice(left.pop(), False) if len(left) == 1 else _NONE


def _lone_lines(text: str, letters: str) -> set[str]:
    """The letters that stand alone on lines of a text of several."""
    if "\n" not in text:
        return set()
    return {found[1].upper() for line in text.splitlines() if (found := _ALONE.fullmatch(line))} & set(letters)


def _lists_options(text: str, choices: Sequence[str]) -> bool:
    """Whether a text begins to repeat all options: the first with its letter, then the second with its own."""
    said, place = text.lower(), 0
    for letter, choice in zip("ab", choices, strict=False):
        place = said.find(choice.strip().lower(), place)
        if place < 0 or said[:place].rstrip(" \t.):(-*_")[-1:] != letter:
            return False
    return True


def _led_text(text: str, choices: Sequence[str]) -> tuple[str, str, int]:
    """The option whose own text the last "the answer is ..." gives: its letter, what follows, and the text's length.

    The letter is "" without one.
    """
    for lead in reversed(list(_LEAD.finditer(text))):
        rest = text[lead.end() :].lstrip(" \t\n:=>-*_\"'")
        for said in (rest, rest.partition("\n")[0], re.split(r"[.,;(!]\s", rest, maxsplit=1)[0]):
            if (place := own_text(said.rstrip(" *_\"'"), choices)) is not None:
                return ascii_uppercase[place], rest[len(said) :], len(_bare(said))
        line = rest.partition("\n")[0]
        if letter := _with_text(line, choices):
            return letter, rest[len(line) :], len(line)
    return "", "", 0
