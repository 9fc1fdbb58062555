"""Knows which row takes the place of one that cannot be read: the next card of the same deck that nobody deals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..identity import hash64
from .compile import StagePlan, pool_of, runs
from .decks import among
from .plan import Plan


def stand_ins(plan: Plan, stage: str, row: int) -> Iterator[int]:
    """Rows of the row's cell, in an order that depends on the row's identity alone, each with another recording.

    First the cards that no stage deals, then the stage's own of that cell, which then come once more. Never another
    stage's, and with `disjoint: [clip]` none whose recording another stage has. An adaptive stage counts as dealing
    whatever it may still deal: the top of each deck, as many cards as its budget.
    """
    dealt, cell = plan.stage_plan(stage), int(plan.cell_of_row[row])
    begin = int(dealt.first[cell])
    cards = dealt.deck[begin : begin + int(dealt.left[cell])].astype(np.int64)
    rows = np.concatenate([cards[:0], *(claimed(plan, one) for name, one in plan.stages.items() if name != stage)])
    usable = ~np.isin(cards, rows)
    if "clip" in plan.curriculum.disjoint:
        clips = plan.table.identity("clip")
        usable &= ~among(clips[cards], clips[rows])
    own = np.isin(cards, claimed(plan, dealt))
    mine = plan.table.columns.get("clip")
    for pool in (cards[usable & ~own], cards[usable & own]):
        start = hash64(plan.curriculum.seed, "stand-in", stage, int(plan.table.uid[row])) % max(1, len(pool))
        for card in np.roll(pool, -start).tolist():
            if card != row and not (isinstance(mine, np.ndarray) and mine[card] == mine[row]):
                yield card


def claimed(plan: Plan, dealt: StagePlan) -> np.ndarray:
    """The rows a stage deals; those an adaptive one may deal: the top of each deck, as many as its budget."""
    if dealt.stage.window is None:
        return dealt.row_set().astype(np.int64)
    most = np.where(pool_of(dealt.stage, plan.cells), np.minimum(dealt.left, dealt.rows), 0)
    return dealt.deck[runs(dealt.first, most)].astype(np.int64)
