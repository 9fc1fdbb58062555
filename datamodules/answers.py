"""Knows how an answer is written, found in a completion, and judged right or wrong, by one of several rules.

The paper does not say by which rule voters were judged; raw completions are therefore kept wherever they are judged.

    exact      the text in <answer> tags, or all of it, equals the answer in lower case (reward plugin of AudioMCQ)
    mmau       string match of the MMAU scorer: every word of the answer, no word that only wrong options have
    letter     the letter of an option, as A, (A), "A." or "the answer is A"; an option's own text counts as its letter
    contains   names the answer and no other option
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

from ..errors import InputError

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"\b\w+\b")
_LONE_LETTER = re.compile(r"^\W*([A-Za-z])\s*(?:[.):,\]].*)?$", re.DOTALL)  # "A man" names no letter
_SAID_LETTER = re.compile(
    r"\b(?:answer|option|choice)\b\W*(?:(?:is|would be|must be)\b\W*)?\(?([A-Z])\b", re.IGNORECASE
)
_MARKED_LETTER = re.compile(r"\(([A-Za-z])\)")


def target_text(answer: str) -> str:
    """What the model learns to say."""
    return f"<answer>{answer}</answer>"


def extract_answer(completion: str) -> str:
    """The tagged text, or the whole completion where there is no tag pair; white space stripped."""
    found = _TAGGED.search(completion)
    return (found[1] if found else completion).strip()


def is_right(completion: str, answer: str) -> bool:
    """Rule `exact`: the extracted text equals the answer, in lower case."""
    return extract_answer(completion).lower() == extract_answer(answer).lower()


def is_well_formed(completion: str) -> bool:
    """One case-sensitive pair of tags around the whole, stripped completion."""
    text = completion.strip()
    return (
        text.startswith("<answer>")
        and text.endswith("</answer>")
        and text.count("<answer>") == 1
        and text.count("</answer>") == 1
    )


def matches_words(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """The string match of MMAU and MMAR: sets of lower-case words, so their order does not matter.

    Right when the prediction has words, all of the answer's among them, and none that occurs in wrong options alone. An
    option with the same words as the answer is not wrong.
    """
    words, wanted = _words(prediction), _words(answer)
    wrong = [_words(choice) for choice in choices if _words(choice) != wanted]
    only_wrong = {word for each in wrong for word in each - wanted}
    return bool(words) and wanted <= words and not words & only_wrong


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def letter_of(completion: str, choices: Sequence[str]) -> str:
    """The letter a completion chooses, "" where it names none or an impossible one."""
    text = extract_answer(completion)
    lowered = [choice.lower() for choice in choices]
    if text.lower() in lowered:
        return ascii_uppercase[lowered.index(text.lower())]
    marked = {found.upper() for found in _MARKED_LETTER.findall(text)}
    for found in (_LONE_LETTER.match(text), _SAID_LETTER.search(text)):
        if found:
            letter = found[1].upper()
            break
    else:
        if len(marked) != 1:
            return ""
        letter = marked.pop()
    return letter if letter in ascii_uppercase[: len(choices)] else ""


def _exact(completion: str, answer: str, choices: Sequence[str]) -> bool:
    return is_right(completion, answer)


def _mmau(completion: str, answer: str, choices: Sequence[str]) -> bool:
    return matches_words(extract_answer(completion), answer, choices)


def _letter(completion: str, answer: str, choices: Sequence[str]) -> bool:
    letter = letter_of(completion, choices)
    return bool(letter) and choices[ascii_uppercase.index(letter)] == answer


def _contains(completion: str, answer: str, choices: Sequence[str]) -> bool:
    text = extract_answer(completion).lower()
    others = [choice.lower() for choice in choices if choice.lower() != answer.lower()]
    # An option that is part of the answer's own text is named by it, and says nothing.
    return answer.lower() in text and not any(other in text.replace(answer.lower(), " ") for other in others)


RULES: dict[str, Callable[[str, str, Sequence[str]], bool]] = {
    "exact": _exact,
    "mmau": _mmau,
    "letter": _letter,
    "contains": _contains,
}


def judge(rule: str, completion: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether a completion is right under a rule; `choices` in the order they were shown."""
    if rule not in RULES:
        raise InputError(f"answer rule {rule!r}: the rules are {', '.join(RULES)}")
    return RULES[rule](completion, answer, choices)
