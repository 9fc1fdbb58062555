"""How an answer is written, found in a completion, and judged by one of several rules.

The paper does not say by which rule voters were judged; raw completions are therefore kept wherever they are judged.

    exact      the text in <answer> tags, or all of it, equals the answer in lower case (reward plugin of AudioMCQ)
    mmau       string match of the MMAU scorer: every word of the answer, no word that only wrong options have
    letter     the letter of an option in many spellings, see `letters.py`; an option's own text counts as its letter
    contains   names the answer and no other option, as whole words
    mmsu       the scorer of MMSU: the first sign, else the last but one, where that is A, B, C or D; it drops what it
               cannot read from its denominator, so that its share is that of right among right and wrong

A reply is right, wrong, unfinished or unreadable (`verdict`). Wrong is another option that the rule finds: for exact
one whose text it equals, for mmau one that the same string match accepts, for letter the one whose letter it gives, for
contains the only one it names. A finished reply in which the rule finds no option, or several, is unreadable: empty, or
nothing but reasoning, or other words. One that was cut off at its greatest length is unfinished, unless its answer tags
are closed, or it is an option's own text and no beginning of a longer one, or it names a letter outright.

A rule of your own is a function named by its import path (`rule: my_lab.rules.ours`):

    def ours(completion: str, answer: str, choices: Sequence[str]) -> bool | None: ...

`completion` is all that the model said, `answer` the right option's text, `choices` the options in the order shown.
None says that no answer can be found. Of a reply that was cut off its True counts, its False only behind closed tags.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from string import ascii_uppercase
from typing import Any

from ...curriculum.contribution.verdicts import Verdict
from ...errors import InputError
from .letters import Choice, choice_of, own_text
from .plugins import plugin_named

_READING = 2  # raised whenever a rule comes to read stored replies otherwise
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"\b\w+\b")
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
    return bool(words) and words & set().union(wanted, *map(_words, choices)) == wanted


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def letter_of(completion: str, choices: Sequence[str], lettered: bool = False) -> str:
    """The letter a completion chooses, "" where it names none, an impossible one, or several without deciding.

    lettered: whether the prompt showed letters; a letter then goes before an option's own text.
    """
    return _choice(completion, choices, lettered).letter


def _choice(completion: str, choices: Sequence[str], lettered: bool) -> Choice:
    return choice_of(_spoken(completion), choices, lettered)


def _spoken(completion: str) -> str:
    """The answer in a completion, see `extract_answer`; "" where it never ends thinking."""
    text = extract_answer(completion)
    return "" if text.startswith("<think>") and "</think>" not in completion else text


def _exact(completion: str, answer: str, choices: Sequence[str]) -> bool | None:
    text = extract_answer(completion).lower()
    if text == answer.lower() or text == extract_answer(answer).lower():
        return True
    if text:
        for choice in choices:
            if choice.lower() == text or choice.strip().lower() == text:
                return False
    return None


def _mmau(completion: str, answer: str, choices: Sequence[str]) -> bool | None:
    words, wanted, options = _words(_spoken(completion)), _words(answer), [_words(choice) for choice in choices]
    named = words & set().union(wanted, *options)
    if named == wanted:
        return True if words else None
    return False if named in options and named else None


def _letter(completion: str, answer: str, choices: Sequence[str], lettered: bool = False) -> bool | None:
    letter = letter_of(completion, choices, lettered)
    return choices[ascii_uppercase.index(letter)] == answer if letter else None


def _contains(completion: str, answer: str, choices: Sequence[str]) -> bool | None:
    text, options = _spoken(completion).lower(), {choice.strip().lower() for choice in choices}
    spots = [(*found.span(), option) for option in options for found in _mentions(option, text)]
    # An option within a longer one, as "dog" within "hot dog", is not named there.
    named = {
        option
        for start, end, option in spots
        if not any(first <= start and end <= last and last - first > end - start for first, last, _ in spots)
    }
    return named == {answer.strip().lower()} if len(named) == 1 else None


def _mmsu(completion: str, answer: str, choices: Sequence[str]) -> bool | None:
    text = extract_answer(completion).replace("\n", "")
    letter = next((sign for sign in (text[:1], text[-2:-1]) if sign and sign in "ABCD"[: len(choices)]), "")
    return choices[ascii_uppercase.index(letter)] == answer if letter else None


def _mentions(option: str, text: str) -> Iterator[re.Match[str]]:
    """Where a text holds an option as whole words: "man" is not in "woman"."""
    return re.finditer(f"(?<![{_LETTER_OR_DIGIT}]){re.escape(option)}(?![{_LETTER_OR_DIGIT}])", text)


RULES: dict[str, Callable[[str, str, Sequence[str]], bool | None]] = {
    "exact": _exact,
    "mmau": _mmau,
    "letter": _letter,
    "contains": _contains,
    "mmsu": _mmsu,
}


@cache
def rule_named(rule: str) -> Callable[..., Any]:
    """The function of a rule in RULES, or a user's by its import path; InputError where there is none."""
    return plugin_named(rule, RULES, "rule", "completion, answer, choices")


def judge(rule: str, completion: str, answer: str, choices: Sequence[str], lettered: bool = False) -> bool:
    """Whether a completion is right under a rule; `choices` in the order they were shown, lettered: with letters.

    Raises InputError where there is no such rule, and where it returns anything but true, false or None.
    """
    return bool(_judged(rule, completion, answer, choices, lettered))


def verdict(
    rule: str, completion: str, answer: str, choices: Sequence[str], finished: bool = True, lettered: bool = False
) -> Verdict:
    """What a completion is under a rule; the arguments and the InputError as of `judge`.

    finished: the model ended it, and did not run into its greatest length.
    """
    right = _judged(rule, completion, answer, choices, lettered)
    if not finished and not _is_whole(rule, completion, choices, lettered, right):
        return "unfinished"
    if right is None:
        return "unreadable" if finished else "unfinished"
    return "right" if right else "wrong"


def _judged(rule: str, completion: str, answer: str, choices: Sequence[str], lettered: bool) -> bool | None:
    if rule == "letter":
        return _letter(completion, answer, choices, lettered)
    right = rule_named(rule)(completion, answer, choices)
    if right is True or right is False or right is None:
        return right
    if right not in (True, False):  # those of numpy
        raise InputError(f"rule: {rule!r} must return True, False or None, got {right!r:.80}")
    return bool(right)


def _is_whole(rule: str, completion: str, choices: Sequence[str], lettered: bool, right: bool | None) -> bool:
    """Whether a completion that was cut off holds its whole answer already; right: what the rule finds in it."""
    if _TAGGED.search(completion.rpartition("</think>")[2]):
        return True
    if rule == "letter" and (found := _choice(completion, choices, lettered)).letter:
        place = own_text(_spoken(completion), choices)
        return found.sure and (place is None or not _begins_another(completion, place, choices))
    if rule == "mmsu":  # which knows no end
        return right is not None
    if rule not in RULES:
        return bool(right)
    place = own_text(_spoken(completion), choices)
    return place is not None and not _begins_another(completion, place, choices)


def _begins_another(completion: str, place: int, choices: Sequence[str]) -> bool:
    """Whether an option's own text is the beginning of another option, as "dog" of "dog and cat"."""
    text = _spoken(completion).lower()
    return any(choice.strip().lower().startswith(text) for other, choice in enumerate(choices) if other != place)


def reading_of(rule: str) -> dict[str, Any]:
    """What verdicts on the same replies depend on: the rule, and a mark of how it reads them.

    The mark of a user's rule is a hash of its source, "" where there is none to read.
    """
    if rule in RULES:
        return {"rule": rule, "reading": _READING}
    try:
        source = inspect.getsource(rule_named(rule))
    except (OSError, TypeError):
        source = ""
    return {"rule": rule, "reading": hashlib.sha256(source.encode()).hexdigest()[:16] if source else ""}
