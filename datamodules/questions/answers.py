"""How an answer is written, found in a completion, and judged right or wrong by one of several rules.

The paper does not say by which rule voters were judged; raw completions are therefore kept wherever they are judged.

    exact      the text in <answer> tags, or all of it, equals the answer in lower case (reward plugin of AudioMCQ)
    mmau       string match of the MMAU scorer: every word of the answer, no word that only wrong options have
    letter     the letter of an option, as A, (A), "A." or "the answer is A"; an option's own text counts as its letter
    contains   names the answer and no other option, as whole words

A rule of your own is a function named by its import path (`rule: my_lab.rules.ours`):

    def ours(completion: str, answer: str, choices: Sequence[str]) -> bool: ...

`completion` is all that the model said, `answer` the right option's text, `choices` the options in the order shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from string import ascii_uppercase
from typing import Any

from ...errors import InputError
from .plugins import plugin_named

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"\b\w+\b")
# A letter that stands for an option: nothing, a line's end or punctuation follows, so "A man" and "I'm" name none; nor
# do "A, B" and "(A) or (B)". The dash has spaces around it, as "B-flat" is a note.
_LONE_LETTER = re.compile(
    r"[\W_]*([A-Za-z])(?!\W*(?:,|\band\b|\bor\b)\W*[A-Z]\s*(?:$|[,.)]|and\b|or\b))"
    r"(?:[\W_]*$|\s*[.):,;\]}]|[ \t]*\n|[\"'`*_]+(?!\w)|\s+[-\u2013\u2014]\s|\s+(?:because|since|as)\b)"
)
_LEAD = re.compile(
    r"\b(answer|choice|option|letter)\b(?: to (?:the|this) question)?(?:\W*\b(?:is|would be|must be|should be)\b)?",
    re.IGNORECASE,
)
_MARKED_LETTER = re.compile(r"\(([A-Za-z])\)|\b(?i:option|choice|letter)\W{1,3}([A-Z])\b")
_LETTER_OR_DIGIT = "0-9a-z\u00df-\u052f"  # of alphabets that put spaces between words


def target_text(answer: str) -> str:
    """What the model learns to say: the answer between its tags."""
    return f"<answer>{answer}</answer>"


def reasoned_text(reasoning: str, answer: str) -> str:
    """What the model learns to say where it is asked to think first (style "think"), in the two pairs of tags.

    Each tag stands on a line's edge, so that it and the answer are the same tokens whatever the reasoning, which may
    hold tags of its own, begins or ends with; its surrounding white space is dropped.
    """
    return f"<think>\n{reasoning.strip()}\n</think>\n{target_text(answer)}"


def extract_answer(completion: str) -> str:
    """The tagged text, or the whole completion where there is no tag pair; white space stripped.

    Thinking that ends with `</think>` is no part of the answer: a tag that it quotes does not count.
    """
    completion = completion.rpartition("</think>")[2]
    found = _TAGGED.search(completion)
    return (found[1] if found else completion).strip()


def is_right(completion: str, answer: str) -> bool:
    """Rule `exact`: the extracted text equals the answer, in lower case."""
    return extract_answer(completion).lower() == extract_answer(answer).lower()


def is_well_formed(completion: str) -> bool:
    """Whether one case-sensitive pair of answer tags, and no more of them, encloses the whole, stripped completion."""
    text = completion.strip()
    return (
        text.startswith("<answer>")
        and text.endswith("</answer>")
        and text.count("<answer>") == 1
        and text.count("</answer>") == 1
    )


def is_well_thought(completion: str) -> bool:
    """Whether the completion is one pair of think tags around some text, then one pair of answer tags, and no more."""
    text = completion.strip()
    thought, end, said = text.removeprefix("<think>").partition("</think>")
    return (
        text.startswith("<think>")
        and bool(end and thought.strip())
        and text.count("<think>") == text.count("</think>") == 1
        and "<answer>" not in thought
        and is_well_formed(said)
    )


def matches_words(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """The string match of MMAU and MMAR: sets of lower-case words, so their order does not matter.

    Right when the prediction has words, all of the answer's among them, and none that occurs in wrong options alone. An
    option with the same words as the answer is not wrong.
    """
    words, wanted = _words(prediction), _words(answer)
    wrong = [_words(choice) for choice in choices if _words(choice) != wanted]
    only_wrong = {word for option in wrong for word in option - wanted}
    return bool(words) and wanted <= words and not words & only_wrong


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def letter_of(completion: str, choices: Sequence[str]) -> str:
    """The letter a completion chooses, "" where it names none, an impossible one, or several without deciding.

    In this order: the whole text is an option's; the last "the answer is ..."; a letter at the beginning; the only
    letter that is marked, as in "option A" or "(A)".
    """
    text = extract_answer(completion)
    if (place := _own_text(text, choices)) is not None:
        return ascii_uppercase[place]
    said = [(lead[1].lower(), _named(text[lead.end() :], choices)) for lead in _LEAD.finditer(text)]
    answers = [letter for word, letter in said if word == "answer" and letter]
    if answers or (first := _lone_letter(text, choices)):
        return answers[-1] if answers else first
    marked = {letter for _, letter in said} | {(a or b).upper() for a, b in _MARKED_LETTER.findall(text)}
    possible = marked & set(ascii_uppercase[: len(choices)])
    return possible.pop() if len(possible) == 1 else ""


def _named(text: str, choices: Sequence[str]) -> str:
    """The letter of the option that a text equals, or the letter that it begins with; "" for neither."""
    place = _own_text(text, choices)
    return _lone_letter(text, choices) if place is None else ascii_uppercase[place]


def _own_text(text: str, choices: Sequence[str]) -> int | None:
    """Place of the option that a text equals: to the letter, else in lower case, else without quotes and full stops."""
    for plain in (str.strip, _lowered, lambda said: said.lower().strip(" \t\n.:\"'`*_")):
        equal = [place for place, choice in enumerate(choices) if plain(choice) == plain(text) != ""]
        if equal:
            return equal[0]
    return None


def _lowered(text: str) -> str:
    return text.strip().lower()


def _lone_letter(text: str, choices: Sequence[str]) -> str:
    found = _LONE_LETTER.match(text)
    return found[1].upper() if found and found[1].upper() in ascii_uppercase[: len(choices)] else ""


def _exact(completion: str, answer: str, choices: Sequence[str]) -> bool:
    return is_right(completion, answer)


def _mmau(completion: str, answer: str, choices: Sequence[str]) -> bool:
    return matches_words(extract_answer(completion), answer, choices)


def _letter(completion: str, answer: str, choices: Sequence[str]) -> bool:
    letter = letter_of(completion, choices)
    return bool(letter) and choices[ascii_uppercase.index(letter)] == answer


def _contains(completion: str, answer: str, choices: Sequence[str]) -> bool:
    text, options = extract_answer(completion).lower(), {_lowered(choice) for choice in choices}
    spots = [(*found.span(), option) for option in options for found in _mentions(option, text)]
    # An option within a longer one, as "dog" within "hot dog", is not named there.
    named = {
        option
        for start, end, option in spots
        if not any(first <= start and end <= last and last - first > end - start for first, last, _ in spots)
    }
    return named == {_lowered(answer)}


def _mentions(option: str, text: str) -> Iterator[re.Match[str]]:
    """Where a text holds an option as whole words: "man" is not in "woman"."""
    return re.finditer(f"(?<![{_LETTER_OR_DIGIT}]){re.escape(option)}(?![{_LETTER_OR_DIGIT}])", text)


RULES: dict[str, Callable[[str, str, Sequence[str]], bool]] = {
    "exact": _exact,
    "mmau": _mmau,
    "letter": _letter,
    "contains": _contains,
}


@cache
def rule_named(rule: str) -> Callable[..., Any]:
    """The function of a rule in RULES, or a user's by its import path; InputError where there is none."""
    return plugin_named(rule, RULES, "rule", "completion, answer, choices")


def judge(rule: str, completion: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether a completion is right under a rule; `choices` in the order they were shown.

    Raises InputError where there is no such rule, and where it returns anything but true or false.
    """
    right = rule_named(rule)(completion, answer, choices)
    if right not in (True, False):
        raise InputError(f"rule: {rule!r} must return True or False, got {right!r:.80}")
    return bool(right)
