"""Balanced questions: as often right in every place, and seldom the longest option, so that neither gives it away."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ...curriculum.identity import hash64, permutation
from .draft import Draft
from .stages import Kept


def is_longest(draft: Draft) -> bool:
    """Whether the answer alone is longest, in characters."""
    return len(draft.answer) > max(len(option) for option in draft.wrong)


def balanced(drafts: list[tuple[float, int]], count: int, most: float) -> set[int]:
    """The uids that have to go so that at most that share of the rest has its answer as the longest option.

    drafts: (how much longer than the next, uid) of those whose answer is; the most telling go. count: of all drafts.
    """
    surplus = math.ceil((len(drafts) - most * count) / (1 - most)) if most < 1 else 0
    return {uid for _, uid in sorted(drafts, reverse=True)[: max(0, surplus)]}


def by_length(drafts: Iterable[Draft]) -> tuple[list[tuple[float, int]], int]:
    """(how much longer than the next, uid) of drafts whose answer is longest, and the count of all."""
    telling, count = [], 0
    for draft in drafts:
        count += 1
        if is_longest(draft):
            telling.append((len(draft.answer) / max(map(len, draft.wrong)), draft.item.uid))
    return telling, count


def without_surplus(drafts: Iterable[Draft], gone: set[int]) -> Kept:
    """The drafts without those that have to go."""
    for draft in drafts:
        yield draft, "answers are too often longest" if draft.item.uid in gone else ""


class Placed(NamedTuple):
    """A draft with its options in the order in which they are written."""

    draft: Draft
    choices: list[str]


def placed(path: Path, drafts: Iterable[Draft], seed: int) -> Iterator[Placed]:
    """The drafts of a stage's file in an order by hash, answers in every place equally often within source and type.

    drafts: the same, read once, for their identities; the file is then read at the places of its lines.
    """
    lines: list[tuple[int, int]] = []
    offset = 0
    with path.open("rb") as file:
        for draft, line in zip(drafts, file, strict=True):
            lines.append((hash64("order", seed, draft.item.uid), offset))
            offset += len(line)
    lines.sort()
    counts: Counter[tuple[str, str]] = Counter()
    blocks: dict[tuple[str, str], list[int]] = defaultdict(list)
    with path.open("rb") as file:
        for _, offset in lines:
            file.seek(offset)
            draft = Draft.of(json.loads(file.readline()))
            group = (draft.item.source, draft.type)
            number = counts[group]
            counts[group] += 1
            if number % 4 == 0:
                blocks[group] = permutation(4, hash64("places", seed, *group, number // 4))
            order = permutation(3, draft.item.uid, "wrong options", seed)
            choices = [draft.wrong[place] for place in order]
            choices.insert(blocks[group][number % 4], draft.answer)
            yield Placed(draft, choices)
