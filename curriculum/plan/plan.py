"""Knows which rows every batch of every stage holds: a curriculum compiled to an integer matrix over shuffled decks.

The rows of the table fall into cells; a cell's rows lie in a deck ordered by a hash of (seed, uid). A stage deals from
the tops of the decks: `matrix[block, cell]` cards in each block. Nothing is dealt twice, so stages are disjoint by
construction, budgets are exact, and a position is two integers. Ranks, workers and prefetching never enter.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...errors import InputError
from ..identity import keyed, splitmix64, unit
from ..schedule.budget import Budget
from ..schedule.cells import Cells, partition
from ..schedule.columns import changed
from ..schedule.stages import Curriculum, Stage
from ..table import Table
from .compile import (
    StagePlan,
    block_edges,
    deal,
    loss_weights,
    pool_axes,
    pool_of,
    rows_wanted,
    runs,
)
from .decks import among, build_decks, order_by_hash
from .fingerprint import fingerprint, table_checksums
from .interleave import turn_of, turns_of
from .pricing import priced


class Plan:
    """All stages of a curriculum over one table. `batch` is pure: any step, in any order, from any process.

    used: [N] bool of rows that must not be dealt again, when a curriculum is forked from another's position, and
    origin: the state there, which a fork of this plan needs.
    """

    def __init__(
        self, curriculum: Curriculum, table: Table, used: np.ndarray | None = None, origin: Any = None
    ) -> None:
        self.curriculum, self.used, self.origin = curriculum, used, origin
        self.table = changed(table, curriculum.columns, curriculum.seed) if curriculum.columns else table
        self.cells, self.cell_of_row, self._deck, starts, self.table_checksums = self._shuffled(used)
        self.turns = {group.name: turns_of(group) for group in curriculum.interleaves}
        self.stages: dict[str, StagePlan] = {}
        self._recent: dict[tuple[str, int, int], np.ndarray] = {}
        self._compile(starts)
        self.stages = {stage.name: self.stages[stage.name] for stage in curriculum.stages}
        self.fingerprint = fingerprint(self)

    def copy(self) -> Plan:
        """A plan whose adaptive windows may be planned without touching this one's."""
        other = copy(self)
        other.stages = {name: replace(dealt, matrix=dealt.matrix.copy()) for name, dealt in self.stages.items()}
        other._recent = {}
        return other

    def _shuffled(self, used: np.ndarray | None) -> tuple[Cells, np.ndarray, np.ndarray, np.ndarray, list[int]]:
        """Cells, cell numbers, decks and their starts, and the table's facts; arms over one table share them."""
        table, seed = self.table, self.curriculum.seed
        axes, bounds = pool_axes(self.curriculum, table)
        key = (axes, tuple(sorted((k, tuple(low), tuple(high)) for k, (low, high) in bounds.items())), seed)
        if used is not None or key not in table.kept:
            cells, number = partition(table, axes, bounds)
            dealable = number if used is None else np.where(used, -1, number)
            if used is not None:  # a fraction of a pool is one of what a fork may still deal
                cells.size = np.bincount(dealable[dealable >= 0], minlength=len(cells))
            made = (
                cells,
                number,
                *build_decks(table.uid, dealable, len(cells), seed),
                table_checksums(table.uid, number, used),
            )
            if used is not None:
                return made
            table.kept.clear()  # one at a time: they are as large as the table
            table.kept[key] = made
        return table.kept[key]

    def _compile(self, starts: np.ndarray) -> None:
        """Deals the stages in the order of their claims; what adapts deals last, from what the others leave."""
        deck, tops, ends = self._deck, starts[:-1].copy(), starts[1:].copy()
        earlier: list[str] = []
        if self.used is not None and "clip" in self.curriculum.disjoint:
            taken = self.table.identity("clip")[self.used]
            deck, tops, ends = self._without_clips(deck, tops, ends, taken)
            self.cells.size = ends - tops
        for stage in sorted(self.curriculum.stages, key=lambda s: (s.window is not None, s.claim)):
            if earlier and "clip" in self.curriculum.disjoint:
                taken = self.table.identity("clip")[self.stages[earlier[-1]].row_set()]
                deck, tops, ends = self._without_clips(deck, tops, ends, taken)
            dealt = self._deal(stage, deck, tops, ends, f" after {' and '.join(earlier)}" if earlier else "")
            self.stages[stage.name] = dealt
            tops = tops + dealt.cards_per_cell()
            earlier.append(stage.name)

    def _deal(self, stage: Stage, deck: np.ndarray, tops: np.ndarray, ends: np.ndarray, before: str) -> StagePlan:
        cells = self.cells.at(ends - tops, pool_of(stage, self.cells), {})
        group, progress = self.curriculum.interleave_of(stage.name), _plain
        if group is not None:
            mine = np.flatnonzero(self.turns[group.name] == group.members.index(stage.name))
            if not len(mine):
                raise InputError(f"stage {stage.name!r}: its share of the {group.steps} steps is less than one")
            stage = replace(stage, budget=Budget(steps=len(mine)))
            progress = partial(turn_of, mine, group.steps)
        if stage.budget.unit in ("hours", "flops"):
            stage = priced(stage, cells, self.curriculum.cost, self.table, self.cell_of_row, progress, before)
        rows, wanted = rows_wanted(stage, cells, before)
        edges = block_edges(stage, rows)
        if stage.window is not None:
            matrix = np.full((len(edges) - 1, len(cells)), -1, np.int64)
        else:
            matrix = deal(stage, cells, edges, progress)
            edges = np.concatenate([[0], np.cumsum(matrix.sum(1))])
        presented = (wanted if stage.on_short == "repeat" else int(edges[-1])) * (stage.budget.epochs or 1)
        loss = loss_weights(stage, cells, matrix, edges, progress)
        return StagePlan(stage, matrix, edges, deck, tops, cells.left, presented, loss)

    def _without_clips(self, deck: np.ndarray, tops: np.ndarray, ends: np.ndarray, taken: np.ndarray) -> tuple:
        """What is left of the decks, less the rows whose recording an earlier stage has."""
        sizes = ends - tops
        rows = deck[runs(tops, sizes)]
        free = ~among(self.table.identity("clip")[rows], taken)
        cell = np.repeat(np.arange(len(sizes)), sizes)[free]
        starts = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=len(sizes)))])
        return rows[free], starts[:-1], starts[1:]

    def stage_plan(self, stage: str) -> StagePlan:
        """The compiled stage of that name."""
        self.curriculum.stage(stage)
        return self.stages[stage]

    def num_steps(self, name: str) -> int:
        """Optimizer steps of a stage, or of an interleave over all its members."""
        return len(self.turns[name]) if name in self.turns else self.stage_plan(name).steps

    def members(self, name: str) -> tuple[str, ...]:
        """The stages that take turns in an interleave; a plain stage alone."""
        group = next((g for g in self.curriculum.interleaves if g.name == name), None)
        return group.members if group is not None else (self.stage_plan(name).stage.name,)

    def member(self, name: str, step: int) -> tuple[str, int]:
        """The stage whose turn a step is and the step's number within it; a plain stage is its own member."""
        if name not in self.turns:
            return name, step
        turn = self.turns[name]
        if not 0 <= step < len(turn):
            raise IndexError(f"interleave {name!r} has {len(turn)} steps, asked for step {step}")
        return self.members(name)[turn[step]], int((turn[:step] == turn[step]).sum())

    def batch(self, stage: str, step: int, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows [B] and loss weights [B] of one optimizer step over all ranks; the padding of a last batch weighs 0.

        size: rows per step, the stage's own by default.
        """
        positions, real = self._positions(stage, step, size)
        rows, weights, _ = self._look_up(self.member(stage, step)[0], positions)
        return rows, np.where(real, weights, 0.0).astype(np.float32)

    def ready(self, stage: str, step: int) -> bool:
        """Whether the step's rows are known yet: always, but for an adaptive stage."""
        dealt = self.stage_plan(self.member(stage, step)[0])
        positions = self._positions(stage, step, None)[0]
        return dealt.stage.window is None or int(positions[-1]) < int(dealt.edges[dealt.planned])

    def passes(self, stage: str, step: int, size: int | None = None) -> np.ndarray:
        """[B] how often each row of the batch was presented before."""
        dealt = self.stage_plan(self.member(stage, step)[0])
        return self._positions(stage, step, size)[0] // dealt.rows

    def _positions(self, stage: str, step: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
        stage, step = self.member(stage, step)
        dealt = self.stage_plan(stage)
        size = size or dealt.stage.batch_size
        steps = -(-dealt.presented // size)
        if not 0 <= step < steps:
            raise IndexError(f"stage {stage!r} has {steps} steps, asked for step {step}")
        positions = np.arange(step * size, (step + 1) * size)
        return np.minimum(positions, dealt.presented - 1), positions < dealt.presented

    def rows(self, stage: str, positions: np.ndarray) -> np.ndarray:
        """Table rows at these positions of the stage; position p of pass e is card p - e x dealt, reordered by e."""
        return self._look_up(stage, positions)[0]

    def _look_up(self, stage: str, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dealt = self.stage_plan(stage)
        rows = np.empty(len(positions), np.int64)
        epoch, card = np.divmod(positions, max(1, dealt.rows))
        block = np.searchsorted(dealt.edges, card, side="right") - 1
        for e, b in sorted(set(zip(epoch.tolist(), block.tolist(), strict=True))):
            mine = (epoch == e) & (block == b)
            rows[mine] = self._block_rows(stage, b, e)[card[mine] - dealt.edges[b]]
        weights = np.ones(len(rows)) if dealt.loss is None else dealt.loss[block, self.cell_of_row[rows]]
        return rows, weights, block

    def _block_rows(self, stage: str, block: int, epoch: int) -> np.ndarray:
        """One block's rows, kept for the next batches."""
        key = (stage, block, epoch)
        if key not in self._recent:
            if len(self._recent) >= 8:
                self._recent.pop(next(iter(self._recent)))
            self._recent[key] = self._ordered_block(*key)
        return self._recent[key]

    def _ordered_block(self, stage: str, block: int, epoch: int) -> np.ndarray:
        """One block's rows in order.

        Spread: card i of n of a cell stands at (i + u) / n, so every slice has the block's mix. Shuffle: by hash alone.
        """
        dealt = self.stages[stage]
        counts = dealt.matrix[block]
        if len(counts) and counts[0] < 0:
            raise LookupError(f"window {block} of stage {stage!r} is not planned yet; close the windows before it")
        used = np.flatnonzero(counts)
        n = counts[used]
        begin = (dealt.first + dealt.matrix[:block].sum(axis=0))[used]
        cards = dealt.deck[runs(begin, n)]
        hashed = keyed(self.table.uid[cards], self.curriculum.seed, stage, epoch)
        if dealt.stage.mix == "shuffle":
            return cards[order_by_hash(hashed)]
        ranked = order_by_hash(hashed >> np.uint64(17), np.repeat(np.arange(len(n)), n))
        within = runs(np.zeros_like(n), n)
        place = (within + unit(splitmix64(hashed[ranked]))) / np.repeat(n, n)
        return cards[ranked][order_by_hash((place * 2.0**63).astype(np.uint64))]

    def composition(self, stage: str, column: str) -> dict[str, int]:
        """How many of the stage's dealt rows have each value of a text column."""
        dealt = self.stage_plan(stage)
        rows = self.rows(stage, np.arange(int(dealt.edges[dealt.planned])))
        text = self.table.text(column)
        counts = np.bincount(text.codes[rows] + 1, minlength=len(text.names) + 1)
        names = ("unlabelled", *text.names)
        return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _plain(t: float) -> float:
    return t
