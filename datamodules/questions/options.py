"""Options and answers as files write them: lists, objects, texts of lists; letters, numbers, or the option's own text.

How a file writes its answers is called a reading:

    text     the text of an option
    letter   the letter of an option: "B", "(B)", "B." or "B. Water"; for objects the name they give it
    index    its place, from 0 on
    index1   its place, from 1 on
    none     there are no answers; the questions can be asked, not judged
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from ...errors import InputError
from .question import parse_json

READINGS = ("text", "letter", "index", "index1", "none")
_LETTER = re.compile(r"\(?([A-Za-z0-9]{1,2})\)?[.:)]?", re.ASCII)
_CARRIED = re.compile(r"(\(?)([A-Z])([).:]|\)[.:])\s+(?=\S)")
_MAX_LITERAL = 100_000


class Options(NamedTuple):
    """The options of one question.

    texts: as they are asked. places: of each in the file, where empty ones count. names: the letter of each, by which
    an answer may call it; () where letters in the options contradict their order. written: with those letters.
    """

    texts: list[Any]
    places: tuple[int, ...]
    names: tuple[str, ...]
    written: tuple[Any, ...]


def options_of(value: Any, where: str, carried: bool = True) -> Options | None:
    """The options in a file's value; None where it is nothing that could hold them.

    where: for messages. carried: take letters off where all options carry theirs ("A. Water"). Raises InputError for a
    text that is no list.
    """
    if isinstance(value, str):
        value = _parsed(value, where)
    names: Sequence[str] | None = None
    if isinstance(value, Mapping):
        if set(value) == {"text", "label"} and all(isinstance(v, list | tuple) for v in value.values()):
            names, value = [str(name) for name in value["label"]], list(value["text"])
            if len(names) != len(value):
                raise InputError(f"{where}: {len(value)} texts have {len(names)} labels")
        elif value and set(value) <= set(ascii_uppercase):
            names = sorted(value)
            value = [value[name] for name in names]
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, list):
        return None
    return _options(value, range(len(value)), names, carried)


def options_of_columns(values: Sequence[Any], carried: bool = True) -> Options:
    """The options in several columns, of which empty ones are none; letters and places are those of the columns."""
    filled = [place for place, value in enumerate(values) if value not in (None, "")]
    names = [ascii_uppercase[place] for place in filled] if len(values) <= len(ascii_uppercase) else None
    return _options([values[place] for place in filled], filled, names, carried)


def _options(values: list[Any], places: Sequence[int], names: Sequence[str] | None, carried: bool) -> Options:
    if values and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        texts: list[Any] = [number_text(value) for value in values]
    else:
        texts = values
    written = tuple(texts)
    if names is None:
        names = ascii_uppercase[: len(texts)] if len(texts) <= 26 else ()
    found = [_CARRIED.match(text) if isinstance(text, str) else None for text in texts] if carried else []
    if any(found):
        letters = [match[2] for match in found if match]
        if len(letters) == len(texts) and len({(m[1], m[3]) for m in found if m}) == 1 and _is_order(letters):
            texts, names = [_CARRIED.sub("", text, count=1) for text in texts], letters
        elif any(match and match[2] != name for match, name in zip(found, names, strict=False)):
            names = ()
    return Options(texts, tuple(places), tuple(names), written)


def _is_order(letters: Sequence[str]) -> bool:
    """Whether the letters are the first of the alphabet, each once, in any order."""
    return sorted(letters) == list(ascii_uppercase[: len(letters)])


def _parsed(text: str, where: str) -> Any:
    """The value of a JSON text or of one as Python prints it; InputError where it is neither."""
    try:
        return parse_json(text, where)
    except InputError as error:
        fault = error
    try:
        if len(text) <= _MAX_LITERAL and text.lstrip()[:1] in ("[", "(", "{"):
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    raise InputError(f"{fault}, nor a list as Python prints it") from None


def number_text(value: float) -> str:
    """A number as text; one without a fraction has no point, as tables make 3.0 of 3."""
    return str(int(value)) if float(value).is_integer() else repr(value)


def place_of(answer: Any, options: Options, reading: str) -> int | None:
    """Which option, from 0 on, an answer names under a reading; None where it names none."""
    if reading == "text":
        return _by_text(answer, options)
    if reading == "letter":
        return _by_letter(answer, options)
    number = _whole(answer)
    if number is None:
        return None
    place = number - (reading == "index1")
    return options.places.index(place) if place in options.places else None


def _by_text(answer: Any, options: Options) -> int | None:
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = number_text(answer)
    for texts in (options.texts, options.written):
        if answer in texts:
            return list(texts).index(answer)
    return None


def _by_letter(answer: Any, options: Options) -> int | None:
    if not isinstance(answer, str):
        answer = str(answer) if isinstance(answer, int) and not isinstance(answer, bool) else ""
        if answer not in options.names or answer in ascii_uppercase:
            return None
    answer = answer.strip()
    numbered = any(name.isdigit() for name in options.names)
    if (whole := _LETTER.fullmatch(answer)) and (numbered or whole[1].isalpha()):
        name = whole[1].upper()
        return options.names.index(name) if name in options.names else None
    if carried := _CARRIED.match(answer):
        name, rest = carried[2], answer[carried.end() :]
        if name in options.names and rest in (options.texts[place := options.names.index(name)], ""):
            return place
    return None


def _whole(answer: Any) -> int | None:
    """The whole number that an answer is, also as text or as 2.0; None for anything else."""
    if isinstance(answer, bool):
        return None
    if isinstance(answer, int):
        return answer
    if isinstance(answer, float) and answer.is_integer():
        return int(answer)
    text = answer.strip() if isinstance(answer, str) else ""
    return int(text.removesuffix(".0")) if re.fullmatch(r"\d{1,3}(\.0)?", text, re.ASCII) else None


class Evidence:
    """By which readings the answers seen so far can be read, and where two of them would say different things."""

    def __init__(self, unanswered: bool) -> None:
        self.possible: dict[str, str] = {}
        self.known = READINGS if unanswered else READINGS[:-1]
        self.left: set[str] | None = None
        self.differ: dict[frozenset[str], str] = {}
        self.count = 0

    def add(self, answer: Any, options: Options, where: str) -> None:
        """Counts one record; one that no reading fits says nothing. Raises InputError where no reading is left."""
        places = {reading: place_of(answer, options, reading) for reading in self.known if reading != "none"}
        fits = {reading: place for reading, place in places.items() if place is not None}
        if "none" in self.known and answer in (None, ""):
            fits["none"] = -1
        if not fits:
            return
        self.count += 1
        left = set(fits) if self.left is None else self.left & set(fits)
        if not left:
            reading = min(self.left or (), key=READINGS.index)
            raise InputError(
                f"the answers are written in several ways: by {reading} at {self.possible[reading]}, "
                f"by {min(fits, key=READINGS.index)} at {where}; give --answer text, letter, index or index1"
            )
        for reading in left:
            self.possible.setdefault(reading, where)
        for first in left:
            for second in left:
                if fits[first] != fits[second]:
                    self.differ.setdefault(frozenset((first, second)), where)
        self.left = left

    def decided(self) -> bool:
        """Whether all readings that are left say the same of every answer."""
        return not any(pair <= (self.left or set()) for pair in self.differ)

    def reading(self) -> str:
        """The reading by which all can be read; InputError where two are left that say different things."""
        for first, second in map(sorted, filter(lambda pair: pair <= (self.left or set()), self.differ)):
            where = self.differ[frozenset((first, second))]
            raise InputError(
                f"{where}: the answers can be read as {first} and as {second}, which differ; "
                f"give --answer {first} or {second}"
            )
        return next((reading for reading in READINGS if reading in (self.left or {"text"})), "text")
