"""Checks of a draft that need no model, each with a name under which the funnel counts what it drops."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ...curriculum.identity import hash64
from .draft import Draft
from .facts import contradicted_label, wrong_time

CAPTION_TALK = "speaks of a caption"
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_SIGN = re.compile(r"[^\w.:#/+%-]+|(?<!\d)[.:-]|[.:-](?!\d)")
_LEFT_OVER = re.compile(
    r"\b(?:modified|revised|rewritten|new|final|updated) (?:question|answer|options?|version)\s*:"
    r"|^\s*(?:question|answer|options?|wrong|type|q|a)\s*\d*\s*:|\bhere (?:is|are) (?:the|a|an|my|your)\b.*:"
    r"|\bas an ai\b|\blanguage model\b|\bmultiple[- ]choice\b|\bcorrect (?:answer|option) is\b|\bjson\b|^\s*sure[,!]"
    r"|\[(?:insert|your|question|answer|option)\b[^\]]*\]|\\n|\\u[\da-f]{4}",
    re.IGNORECASE,
)
_LETTERED = re.compile(r"^\s*(?:\(?[A-Da-d][).:]\s|option [a-d1-4]\b|[1-4][).]\s)")
_FORM = re.compile(
    r"(?:question|question type|answers?|wrong|options?|choices?|type|string|text|null|none|n/?a|undefined|placeholder"
    r"|(?:right|correct|wrong|incorrect|false) (?:answer|option)s?)(?: ?[a-d1-4])?"
)
_UNDETERMINED = re.compile(
    r"\b(?:can ?not|can't|could not|impossible to|unable to|not possible to) "
    r"(?:be )?(?:determine|tell|say|know|identif)\w*"
    r"|\bnot (?:enough|sufficient) (?:information|detail)|\binsufficient (?:information|detail)"
    r"|\bnot (?:specified|mentioned|stated|given|indicated|provided)\b"
    r"|\b(?:none|all|any|both|neither) of (?:the (?:above|options|other options|choices)|these|them)\W*$"
    r"|\bboth [a-d] and [a-d]\b|^(?:it is )?(?:unknown|unclear|uncertain|undetermined|unspecified)\.?$",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,60}>|<\||\|>|\[/?INST\]|```|[{}]|\*\*|[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]")
_TALK = re.compile(
    r"\b(?:captions?|captioned|descriptions?|described|describes|mentioned|mentions|annotat\w+|metadata|transcripts?)\b"
    r"|\b(?:the|this|given) (?:text|labels?|tags?) (?:says?|states?|indicates?|shows?|tells?|reads?)\b"
    r"|\baccording to the (?:text|labels?|tags?|information)\b|\b(?:labell?ed|tagged) as\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")
_HOW = re.compile(r"\bhow \w+", re.IGNORECASE)  # "How fast?" does not say: fast
_COMMON_WORDS = """
the and are was were what which who whom how when where why does did has have had this that these those there their with
from into over for not can could would will should you your its being been than then they them one some any most more
best following likely main primary type kind question answer option sound sounds audio hear heard recording clip piece
listen listening describe describes present happening during identify
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def normal(text: str) -> str:
    """An option without case, articles and signs, for comparison."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_ARTICLE.sub(" ", _SIGN.sub(" ", text)).split())


def stems(text: str) -> set[str]:
    """The beginnings of the words that say something, and numbers."""
    words = (word.casefold() for word in _WORD.findall(text))
    return {word[:4] for word in words if word.isdigit() or (len(word) > 2 and word not in _COMMON)}


def _options_alike(draft: Draft) -> bool:
    return len({normal(option) for option in draft.options}) < 4 or not all(map(normal, draft.options))


def _words_of_the_form(draft: Draft) -> bool:
    return any(_FORM.fullmatch(normal(option).replace("_", " ")) for option in draft.options)


def _left_over(draft: Draft) -> bool:
    if any(_LETTERED.search(option) for option in draft.options):
        return True
    return any(_LEFT_OVER.search(text) for text in draft.texts())


def _undetermined(draft: Draft) -> bool:
    return any(_UNDETERMINED.search(option) for option in draft.options)


def _tags(draft: Draft) -> bool:
    return any(_TAG.search(text) for text in draft.texts())


def _no_question(draft: Draft) -> bool:
    return len(_WORD.findall(draft.question)) < 3


def _given_away(draft: Draft) -> bool:
    """The question holds all that the answer says and none of a wrong option's own words."""
    said, asked = stems(draft.answer), stems(_HOW.sub("", draft.question))
    if not said or not said <= asked:
        return False
    return not any((own := stems(option) - said) and own <= asked for option in draft.wrong)


def _telling_length(draft: Draft) -> bool:
    right, lengths = len(draft.answer), [len(option) for option in draft.wrong]
    longest, shortest = max(lengths), min(lengths)
    return (right > 1.8 * longest and right - longest > 15) or (2.5 * right < shortest and shortest - right > 15)


def _another_kind(draft: Draft) -> bool:
    """The answer alone is a number, or all but the answer are."""
    right, others = _is_number(draft.answer), [_is_number(option) for option in draft.wrong]
    return right not in others and len(set(others)) == 1


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\W*\d[\d.,:]*\s*\w{0,8}\W*", text))


def _unrelated(draft: Draft) -> bool:
    """Neither question nor answer has a word or a number in common with what is told of the recording."""
    item = draft.item
    return not (stems(draft.question) | stems(draft.answer)) & stems(f"{' '.join(item.texts)} {item.facts}")


CHECKS: dict[str, Callable[[Draft], bool]] = {
    "no question": _no_question,
    "words of the form as options": _words_of_the_form,
    "options mean the same": _options_alike,
    "left over from writing": _left_over,
    "tags or signs in a text": _tags,
    "cannot be determined": _undetermined,
    "question gives the answer away": _given_away,
    "length gives the answer away": _telling_length,
    "kind gives the answer away": _another_kind,
    "time is wrong": wrong_time,
    "label is contradicted": contradicted_label,
    "unrelated to the recording": _unrelated,
}


def fault_of(draft: Draft) -> str:
    """The first check that a draft fails, "" where it passes all."""
    for name, fails in CHECKS.items():
        if fails(draft):
            return name
    return ""


def talks_of_captions(draft: Draft) -> bool:
    """Whether a text speaks of a caption or the like; such a draft is written anew once."""
    return any(_TALK.search(text) for text in draft.texts())


@dataclass
class Repeats:
    """Questions asked about one recording more than once: by the same answer, or by another one.

    All that conflict are dropped; of equal ones the first stays.
    """

    answers: dict[int, int] = field(default_factory=dict)
    conflicting: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, drafts: Iterable[Draft]) -> Repeats:
        """Reads all drafts once; 16 bytes a draft are kept, and what a dictionary needs."""
        found = cls()
        for draft in drafts:
            asked, answer = _asked(draft), hash64(normal(draft.answer))
            if found.answers.setdefault(asked, answer) != answer:
                found.conflicting.add(asked)
        found.answers.clear()
        return found

    def fault(self, draft: Draft) -> str:
        """What is wrong with the next draft, in the same order as they were read; "" where nothing is."""
        asked = _asked(draft)
        if asked in self.conflicting:
            return "answers to one question differ"
        if asked in self.answers:
            return "question is asked twice"
        self.answers[asked] = 1
        return ""


def _asked(draft: Draft) -> int:
    return hash64(draft.item.audio or draft.item.origin or draft.item.id, str(draft.item.at), normal(draft.question))
