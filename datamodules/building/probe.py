"""The text-only probe: how many questions a language model answers from the text alone, before anything is labelled.

It is asked as a voter is under the condition "none": question and options with letters, in several orders of the
options, judged by the rule `letter`, or by the log-probs of the letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from string import ascii_uppercase
from typing import Any, NamedTuple

from ...curriculum.identity import permutation
from ..asking.runner import Asker, Want
from ..questions.answers import verdict
from ..questions.prompts import prompt_text
from .draft import Draft

STYLE = "letters"


class Asked(NamedTuple):
    """A want of the probe, and the options as they are shown in it."""

    want: Want
    shown: tuple[str, ...]


def asked_of(draft: Draft, orders: int, max_tokens: int = 16) -> list[Asked]:
    """The wants about one draft: its options in an order of their own, turned by a place each time."""
    places = permutation(4, draft.item.uid, "probe")
    options = [draft.options[place] for place in places]
    found = []
    for turn in range(orders):
        shown = tuple(options[turn:] + options[:turn])
        text = prompt_text(STYLE, draft.question, shown)
        want = Want(f"{draft.item.id} order {turn}", [{"role": "user", "content": text}], {}, max_tokens, "letter")
        found.append(Asked(want, shown))
    return found


def wants_of(drafts: Iterable[Draft], orders: int) -> Iterator[Want]:
    """All wants about the drafts."""
    for draft in drafts:
        yield from (asked.want for asked in asked_of(draft, orders))


def share_right(asker: Asker, draft: Draft, orders: int) -> float | None:
    """The share of the orders in which the right option is chosen; None where no order has a readable answer.

    An answer that names no option is not right.
    """
    right, answered = 0, 0
    for want, shown in asked_of(draft, orders):
        value = asker.state(want).value
        if value is None:
            continue
        answered += 1
        right += chosen(value, draft.answer, shown)
    return right / answered if answered else None


def chosen(value: dict[str, Any], answer: str, shown: tuple[str, ...]) -> bool:
    """Whether the right option is chosen, by log-probs of letters where there are any."""
    if letters := {k: v for k, v in value["letters"].items() if k in ascii_uppercase[: len(shown)]}:
        best = max(sorted(letters), key=lambda letter: letters[letter])
        return shown[ascii_uppercase.index(best)] == answer
    return verdict("letter", value["text"], answer, shown, value["finished"], lettered=True) == "right"


def summary(drafts: Iterable[Draft], falls_at: float) -> dict[str, Any]:
    """How many drafts were probed and how many fall, overall and by source and type; chance is a quarter.

    A draft falls where it is answered in that share of the orders or more.
    """
    total: dict[str, dict[str, float]] = {}
    for draft in drafts:
        if draft.unheard is None:
            continue
        for name in ("all", draft.item.source, draft.type):
            row = total.setdefault(name, {"probed": 0, "fell": 0, "right": 0.0})
            row["probed"] += 1
            row["fell"] += draft.unheard >= falls_at
            row["right"] += draft.unheard
    return {
        name: {"probed": row["probed"], "fell": row["fell"], "accuracy": row["right"] / row["probed"]}
        for name, row in total.items()
    }
