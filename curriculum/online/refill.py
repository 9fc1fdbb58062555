"""Knows which cards take the places of groups that taught nothing: more of their cells, from the bottoms of the decks.

Dropping constant groups and refilling from the stream would change the mix of labels; a refill from the cell of what
was dropped keeps it. A card is taken once: the counts are part of a run's position.
"""

from __future__ import annotations

import numpy as np

from ..identity import splitmix64
from ..plan.compile import StagePlan
from ..plan.decks import among
from ..plan.plan import Plan
from ..plan.stand_ins import claimed


def spare(plan: Plan, stage: str, cell: int) -> np.ndarray:
    """Rows of the cell that the stage neither deals nor shares with another stage, the bottom of the deck first.

    Of an adaptive stage, what is not planned yet; its later windows are planned without the cards taken here. Where
    several stages refill, each has its own part of the cards, since their runs do not know of each other. With
    `disjoint: [clip]` no row whose recording another stage has.
    """
    dealt = plan.stage_plan(stage)
    first, left = int(dealt.first[cell]), int(dealt.left[cell])
    cards = dealt.deck[first + int(dealt.cards_per_cell()[cell]) : first + left][::-1].astype(np.int64)
    refilling = [name for name, one in plan.stages.items() if one.stage.on_zero_advantage == "refill_same_cell"]
    if len(refilling) > 1 and stage in refilling:
        cards = cards[splitmix64(plan.table.uid[cards]) % len(refilling) == refilling.index(stage)]
    others = [claimed(plan, one) for name, one in plan.stages.items() if name != stage]
    if not others:
        return cards
    rows = np.concatenate(others)
    usable = ~np.isin(cards, rows)
    if "clip" in plan.curriculum.disjoint:
        clips = plan.table.identity("clip")
        usable &= ~among(clips[cards], clips[rows])
    return cards[usable]


class Refill:
    """The cards taken so far of one stage. taken: [Q] how many from each cell."""

    def __init__(self, plan: Plan, stage: str) -> None:
        self.plan, self.stage = plan, stage
        self.taken = np.zeros(len(plan.cells), np.int64)
        self._spare: dict[int, np.ndarray] = {}

    def take(self, wanted: np.ndarray, scarce: np.ndarray | None = None, room: int = 0) -> dict[int, np.ndarray]:
        """Cell -> its next rows, `wanted` [Q] of each or what is left; of `scarce` [Q] cells `room` cards at most."""
        found = {}
        for cell in np.flatnonzero(wanted).tolist():
            bounded = scarce is not None and bool(scarce[cell])
            most = min(int(wanted[cell]), max(room, 0)) if bounded else int(wanted[cell])
            cards = self._cards(cell)[self.taken[cell] : self.taken[cell] + most]
            self.taken[cell] += len(cards)
            room -= len(cards) * bounded
            if len(cards):
                found[cell] = cards
        return found

    def rows(self) -> np.ndarray:
        """All rows taken so far."""
        cells = np.flatnonzero(self.taken).tolist()
        return np.concatenate([np.empty(0, np.int64), *(self._cards(cell)[: self.taken[cell]] for cell in cells)])

    def _cards(self, cell: int) -> np.ndarray:
        """An adaptive stage deals on from the top, so its pool shrinks; what was taken lies at the bottom and stays."""
        dealt: StagePlan = self.plan.stage_plan(self.stage)
        if dealt.stage.window is not None:
            return spare(self.plan, self.stage, cell)
        if cell not in self._spare:
            self._spare[cell] = spare(self.plan, self.stage, cell)
        return self._spare[cell]
