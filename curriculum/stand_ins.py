"""Knows which row takes the place of one that cannot be read: the next card of the same deck that nobody deals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .decks import among
from .identity import hash64
from .plan import Plan


def stand_ins(plan: Plan, stage: str, row: int) -> Iterator[int]:
    """Rows of the row's cell, in an order that depends on the row's identity alone, each with another recording.

    Cards that no stage deals, and with `disjoint: [clip]` none whose recording another stage has; where there are
    none, the stage's own cards of the cell again. An adaptive stage has not dealt yet what it will: there any card left
    of the cell may stand in, and may come a second time.
    """
    dealt, cell = plan.dealt(stage), int(plan.number[row])
    begin = int(dealt.first[cell])
    cards = dealt.deck[begin : begin + int(dealt.left[cell])].astype(np.int64)
    others = [other.row_set() for name, other in plan.stages.items() if name != stage and other.stage.window is None]
    free = np.ones(len(cards), bool)
    if dealt.stage.window is None:
        free[: int(dealt.dealt()[cell])] = False
    for rows in others:
        free &= ~np.isin(cards, rows)
        if "clip" in plan.curriculum.disjoint:
            clips = plan.table.identity("clip")
            free &= ~among(clips[cards], clips[rows])
    mine = plan.table.columns.get("clip")
    own = cards[:0] if dealt.stage.window is not None else cards[: int(dealt.dealt()[cell])]
    for pool in (cards[free], own):
        start = hash64(plan.curriculum.seed, "stand-in", stage, int(plan.table.uid[row])) % max(1, len(pool))
        for card in np.roll(pool, -start).tolist():
            if card != row and not (isinstance(mine, np.ndarray) and mine[card] == mine[row]):
                yield card
