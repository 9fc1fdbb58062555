"""Canaries: good questions with a fault planted, to see which faults the grader catches.

A threshold on grades says something only where the grader gives bad questions bad grades.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

from ...curriculum.identity import hash64, uniforms
from ..asking.runner import Asker, Want
from .asking import Prompts
from .draft import DIMENSIONS, Draft

KINDS = ("swapped caption", "wrong answer", "two equal options", "tell-tale length")
_LEAST = 20


def canaries(drafts: Iterable[Draft], share: float, count: int) -> Iterator[tuple[str, Draft]]:
    """(kind, draft with that fault) for a share of the drafts, 20 at least where there are as many.

    count: of the drafts. Which, and which fault, is a hash of the identity.
    """
    share = 0.0 if not share else max(share, min(1.0, _LEAST / max(1, count)))
    before: dict[str, Draft] = {}
    for draft in drafts:
        other = before.get(draft.type)
        before[draft.type] = draft
        if uniforms(draft.item.uid, 1, "canary")[0] >= share:
            continue
        kind = KINDS[hash64("canary kind", draft.item.uid) % len(KINDS)]
        if planted := _planted(kind, draft, other):
            yield kind, planted


def _planted(kind: str, draft: Draft, other: Draft | None) -> Draft | None:
    made = deepcopy(draft)
    if kind == "swapped caption":
        if other is None or other.item.texts == draft.item.texts:
            return None
        made.item = replace(draft.item, texts=other.item.texts, facts=other.item.facts)
    elif kind == "wrong answer":
        made.answer, made.wrong[0] = draft.wrong[0], draft.answer
    elif kind == "two equal options":
        made.wrong[1] = f"{draft.answer[:1].swapcase()}{draft.answer[1:]}."
    else:
        made.answer = f"{draft.answer}, which can clearly be heard throughout the whole recording"
    return made


def wants_of(prompts: Prompts, drafts: Iterable[Draft], share: float, count: int) -> Iterator[tuple[str, Want]]:
    """(kind, what the grader is asked) of the canaries."""
    for kind, draft in canaries(drafts, share, count):
        yield kind, prompts.grade(draft, f"canary {kind}: {draft.item.id}")


def caught(asker: Asker, wants: Iterable[tuple[str, Want]], least: int) -> dict[str, Any]:
    """Kind -> how many were graded, how many caught (a grade below `least`), and by which dimension."""
    found: dict[str, Any] = {}
    for kind, want in wants:
        value = asker.state(want).value
        row = found.setdefault(kind, {"asked": 0, "graded": 0, "caught": 0, "by": dict.fromkeys(DIMENSIONS, 0)})
        row["asked"] += 1
        if value is None:
            continue
        row["graded"] += 1
        low = [name for name in DIMENSIONS if value[name] < least]
        row["caught"] += bool(low)
        for name in low:
            row["by"][name] += 1
    return found
