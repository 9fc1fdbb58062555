"""Knows how a question is put to a model: the paper's words, or those another model was trained on.

paper      the options as Python prints a list, the answer between <answer> tags (AudioMCQ, R1-AQA)
letters    one option per line as "A. text", a letter wanted
inline     "Question? (A) text. (B) text.", as Audio Flamingo 2 shows them
lines      the options one per line without letters, their text wanted (MMAR)
think      as paper, with the thinking between <think> tags before the answer (R1-AQA's variant)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_uppercase

from ...errors import InputError


def question_text(question: str, choices: Sequence[str]) -> str:
    """The user's words of the paper; the options are printed as Python prints a list."""
    return f"{_listed(question, choices)} Output the final answer in <answer> </answer>."


def _think(question: str, choices: Sequence[str]) -> str:
    thought = "Output the thinking process in <think> </think> and final answer in <answer> </answer>."
    return f"{_listed(question, choices)} {thought}"


def _listed(question: str, choices: Sequence[str]) -> str:
    return f"{question} Please choose the answer from the following options: {list(choices)!s}."


def _letters(question: str, choices: Sequence[str]) -> str:
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))
    shown = ascii_uppercase[: len(choices)]
    named = f"{', '.join(shown[:-1])} or {shown[-1]}"
    return f"{question}\n{options}\nAnswer with the letter of the right option, {named}, and nothing else."


def _inline(question: str, choices: Sequence[str]) -> str:
    options = " ".join(
        f"({letter}) {choice}{'' if choice.endswith('.') else '.'}"
        for letter, choice in zip(ascii_uppercase, choices, strict=False)
    )
    return f"{question} {options}"


def _lines(question: str, choices: Sequence[str]) -> str:
    return "\n".join([question, "Select one option from the provided choices:", *choices])


STYLES: dict[str, Callable[[str, Sequence[str]], str]] = {
    "paper": question_text,
    "letters": _letters,
    "inline": _inline,
    "lines": _lines,
    "think": _think,
}
LETTERED = ("letters", "inline")


def prompt_text(style: str, question: str, choices: Sequence[str]) -> str:
    """The user's words in a style."""
    if style not in STYLES:
        raise InputError(f"prompt style {style!r}: the styles are {', '.join(STYLES)}")
    return STYLES[style](question, choices)
