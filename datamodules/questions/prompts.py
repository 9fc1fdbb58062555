"""Prompt styles: the words in which a question is put to a model, the paper's or those another model was trained on.

paper      the options as Python prints a list, the answer between <answer> tags (AudioMCQ, R1-AQA)
letters    one option per line as "A. text", a letter wanted
inline     "Question? (A) text. (B) text.", as Audio Flamingo 2 shows them
lines      the options one per line without letters, their text wanted (MMAR)
think      as paper, with the thinking between <think> tags before the answer (R1-AQA's variant)

A style of your own is a function named by its import path (`style: my_lab.prompts.ours`):

    def ours(question: str, choices: Sequence[str]) -> str: ...

It returns the whole text of the user's turn, with the options in the order given. Where it shows them with letters,
say so with an attribute (`ours.lettered = True`), so that answers can be scored by letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from string import ascii_uppercase
from typing import Any

from ...errors import InputError
from .plugins import plugin_named


def question_text(question: str, choices: Sequence[str]) -> str:
    """The paper's words (style "paper"); the options are printed as Python prints a list."""
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


@cache
def style_named(style: str) -> Callable[..., Any]:
    """The function of a style in STYLES, or a user's by its import path; InputError where there is none."""
    return plugin_named(style, STYLES, "style", "question, choices")


def shows_letters(style: str) -> bool:
    """Whether a style shows the options with letters; InputError where there is no such style."""
    return style in LETTERED or bool(getattr(style_named(style), "lettered", False))


def prompt_text(style: str, question: str, choices: Sequence[str]) -> str:
    """The text of the user's turn. Raises InputError where there is no such style, or it returns no text."""
    text = style_named(style)(question, choices)
    if not isinstance(text, str):
        raise InputError(f"style: {style!r} must return the text of a prompt, got {text!r:.80}")
    return text
