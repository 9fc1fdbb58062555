"""The plan: which rows every batch of every stage holds. A curriculum compiled to integer matrices over shuffled decks.

The rows of the table fall into cells; a cell's rows lie in a deck, ordered by a hash of (seed, uid). Each block of a
stage takes the next `matrix[block, cell]` rows of every deck. No row is taken twice, so stages are disjoint by
construction, budgets are exact, and a position is two integers. Ranks, workers and prefetching never enter.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ..arrays import Bools, Floats, Ints
from ..identity import keyed, splitmix64, unit
from ..schedule.budget import Budget
from ..schedule.cells import Cells, partition
from ..schedule.columns import changed
from ..schedule.stages import Curriculum, Stage
from ..table import Table
from .compile import (
    Progress,
    Shortage,
    StagePlan,
    allocate,
    block_edges,
    loss_weights,
    rows_wanted,
    runs,
)
from .decks import build_decks, order_by_hash
from .fingerprint import fingerprint, table_checksums
from .interleave import fitted_turns, turn_of
from .pools import pool_axes, pool_of, rehearsed
from .pricing import priced
from .seen import Rest, own_rows, sees_again, stages_before, with_seen, without_clips


class _Shuffled(NamedTuple):
    """The cells, the cell of every row [N], the decks [M] with their starts [Q + 1], and the table's checksums."""

    cells: Cells
    cell_of_row: Ints
    deck: Ints
    starts: Ints
    checksums: list[int]


class Plan:
    """All stages of a curriculum over one table. `batch` is pure: any step, in any order, from any process.

    used: [N] bool of rows that no stage may take, because the run that this plan goes on from has used them.
    origin: that run's state, which a plan that goes on from this one needs in turn.
    Raises InputError where the curriculum does not fit the table: columns, values, budgets.
    """

    def __init__(self, curriculum: Curriculum, table: Table, used: Bools | None = None, origin: Any = None) -> None:
        self.curriculum, self.used, self.origin = curriculum, used, origin
        self.table = changed(table, curriculum.columns, curriculum.seed) if curriculum.columns else table
        self.cells, self.cell_of_row, self._deck, starts, self.table_checksums = self._shuffled(used)
        self.turns: dict[str, Ints] = {}
        self.stages: dict[str, StagePlan] = {}
        self._recent: dict[tuple[str, int, int], Ints] = {}
        self._compile(starts)
        self.stages = {stage.name: self.stages[stage.name] for stage in curriculum.stages}
        self.fingerprint = fingerprint(
            curriculum.canonical(), self.table_checksums, self.table.uid, self.cells, self.stages
        )

    def copy(self) -> Plan:
        """A plan whose adaptive windows may be planned without touching this one's."""
        other = copy(self)
        other.stages = {name: replace(one, matrix=one.matrix.copy()) for name, one in self.stages.items()}
        other._recent = {}
        return other

    def _shuffled(self, used: Bools | None) -> _Shuffled:
        """The table divided and shuffled; kept with the table, because arms with the same cells and seed share it."""
        table, seed = self.table, self.curriculum.seed
        axes, bounds = pool_axes(self.curriculum, table)
        key = (axes, tuple(sorted((k, tuple(low), tuple(high)) for k, (low, high) in bounds.items())), seed)
        if used is not None or key not in table.kept:
            cells, number = partition(table, axes, bounds)
            free = number if used is None else np.where(used, -1, number)
            if used is not None:  # a fraction of a pool is one of what may still be taken
                cells.size = np.bincount(free[free >= 0], minlength=len(cells))
            decks = build_decks(table.uid, free, len(cells), seed)
            shuffled = _Shuffled(cells, number, *decks, table_checksums(table.uid, number, used))
            if used is not None:
                return shuffled
            table.kept.clear()  # one at a time: they are as large as the table
            table.kept[key] = shuffled
        kept: _Shuffled = table.kept[key]
        return kept

    def _compile(self, starts: Ints) -> None:
        """Compiles the stages in the order of their claims; one that adapts comes last, over what the others leave."""
        rest = Rest(self._deck, starts[:-1].copy(), starts[1:].copy())
        earlier: list[str] = []
        again: list[
            tuple[Stage, Rest, str]
        ] = []  # stages whose claim comes before the rows that they rehearse are known
        if self.used is not None and "clip" in self.curriculum.disjoint:
            rest = without_clips(rest, self.table.identity("clip"), np.flatnonzero(self.used))
            self.cells.size = rest.ends - rest.tops
        for stage in sorted(self.curriculum.stages, key=lambda s: (s.window is not None, s.claim)):
            before = f" after {' and '.join(earlier)}" if earlier else ""
            if earlier and "clip" in self.curriculum.disjoint:
                rest = without_clips(rest, self.table.identity("clip"), self._own(earlier[-1])[0])
                before += ", whose recordings are left out"
            if sees_again(stage) and not set(stages_before(self.curriculum, stage)) <= set(earlier):
                again.append((stage, rest, before))
            self.stages[stage.name] = self._compiled(stage, rest, before)
            rest = rest._replace(tops=rest.tops + self._own(stage.name)[1])
            earlier.append(stage.name)
        for stage, kept, before in again:
            self.stages[stage.name] = self._compiled(stage, kept, before)

    def _own(self, name: str) -> tuple[Ints, Ints]:
        """The rows that a compiled stage has for itself, and how many of each cell [Q]."""
        stage = self.stages[name].stage
        return own_rows(self.stages[name], rehearsed(stage, self.cells) & sees_again(stage))

    def _rehearsing(self, stage: Stage, rest: Rest) -> Rest:
        """The rest with the rows that the stage sees again; all of their cells while those before are not compiled."""
        cells, before = rehearsed(stage, self.cells), stages_before(self.curriculum, stage)
        seen = np.arange(len(self.table))
        if set(before) <= set(self.stages):
            had = [np.empty(0, np.int64)] if self.used is None else [np.flatnonzero(self.used)]
            seen = np.concatenate([*had, *(self.stages[name].row_set().astype(np.int64) for name in before)])
        return with_seen(rest, cells, seen, self.table.uid, self.cell_of_row, self.curriculum.seed)

    def _compiled(self, stage: Stage, rest: Rest, before: str) -> StagePlan:
        """One stage over the rest of the decks. before: who took rows, for messages."""
        deck, tops, ends = self._rehearsing(stage, rest) if sees_again(stage) else rest
        cells = self.cells.at(ends - tops, pool_of(stage, self.cells), {})
        group = self.curriculum.interleave_of(stage.name)
        progress: Progress = _plain
        if group is not None:
            if group.name not in self.turns:  # as many as fit what is left when the first of them is compiled
                members = [self.curriculum.stage(name) for name in group.members]
                pool = np.any([pool_of(member, self.cells) for member in members], axis=0)
                sizes = [member.batch_size for member in members]
                self.turns[group.name] = fitted_turns(group, sizes, int((ends - tops)[pool].sum()))
            turns = self.turns[group.name]
            own_steps = np.flatnonzero(turns == group.members.index(stage.name))
            if not len(own_steps):
                raise InputError(f"stage {stage.name!r}: its share of the {len(turns)} steps is less than one")
            stage = replace(stage, budget=Budget(steps=len(own_steps)))
            progress = partial(turn_of, own_steps, len(turns))
        if stage.budget.unit in ("hours", "flops"):
            stage = priced(stage, cells, self.curriculum.cost, self.table, self.cell_of_row, progress, before)
        rows, wanted = rows_wanted(stage, cells, before)
        edges = block_edges(stage, rows)
        if stage.window is not None:
            matrix: Ints = np.full((len(edges) - 1, len(cells)), -1, np.int64)
        else:
            matrix = allocate(stage, cells, edges, progress)
            edges = np.concatenate([[0], np.cumsum(matrix.sum(1))])
        presented = (wanted if stage.on_short == "repeat" else int(edges[-1])) * (stage.budget.epochs or 1)
        if group is not None and presented < wanted:
            raise Shortage(
                f"stage {stage.name!r} has {presented:,} rows for the {wanted:,} of its turns{before}; give the "
                "interleave at_most, or the stage on_short: repeat"
            )
        loss = loss_weights(stage, cells, matrix, edges, progress)
        return StagePlan(stage, matrix, edges, deck, tops, cells.left, presented, loss, wanted)

    def stage_plan(self, stage: str) -> StagePlan:
        """The compiled stage of that name; an InputError lists the names there are."""
        self.curriculum.stage(stage)
        return self.stages[stage]

    def num_steps(self, name: str) -> int:
        """How many optimizer steps a stage has, or an interleave over all its members."""
        return len(self.turns[name]) if name in self.turns else self.stage_plan(name).steps

    def members(self, name: str) -> tuple[str, ...]:
        """The stages that take turns in an interleave; a plain stage alone."""
        group = next((g for g in self.curriculum.interleaves if g.name == name), None)
        return group.members if group is not None else (self.stage_plan(name).stage.name,)

    def member(self, name: str, step: int) -> tuple[str, int]:
        """The stage whose turn a step is, and the step's number within it; a plain stage is its own member.

        Raises IndexError for a step beyond the interleave.
        """
        if name not in self.turns:
            return name, step
        turn = self.turns[name]
        if not 0 <= step < len(turn):
            raise IndexError(f"interleave {name!r} has {len(turn)} steps, asked for step {step}")
        return self.members(name)[turn[step]], int((turn[:step] == turn[step]).sum())

    def batch(self, stage: str, step: int, size: int | None = None) -> tuple[Ints, Floats]:
        """Rows of the table [B] and loss weights [B] of one optimizer step over all ranks.

        size: B, the stage's batch size by default. The padding of a last batch has weight 0.
        Raises IndexError for a step beyond the stage, LookupError for one that an adaptive stage has not planned.
        """
        positions, real = self._positions(stage, step, size)
        rows, weights, _ = self._look_up(self.member(stage, step)[0], positions)
        return rows, np.where(real, weights, 0.0).astype(np.float32)

    def ready(self, stage: str, step: int) -> bool:
        """Whether the step's rows are known yet: always, but for an adaptive stage."""
        stage_plan = self.stage_plan(self.member(stage, step)[0])
        positions = self._positions(stage, step, None)[0]
        return stage_plan.stage.window is None or int(positions[-1]) < int(stage_plan.edges[stage_plan.planned])

    def passes(self, stage: str, step: int, size: int | None = None) -> Ints:
        """[B] how often the stage has presented each row of the batch before."""
        stage_plan = self.stage_plan(self.member(stage, step)[0])
        return self._positions(stage, step, size)[0] // stage_plan.rows

    def _positions(self, stage: str, step: int, size: int | None) -> tuple[Ints, Bools]:
        """Positions [B] of a step in its stage, and which of them [B] are real: the last one fills up a last batch."""
        stage, step = self.member(stage, step)
        stage_plan = self.stage_plan(stage)
        size = size or stage_plan.stage.batch_size
        steps = -(-stage_plan.presented // size)
        if not 0 <= step < steps:
            raise IndexError(f"stage {stage!r} has {steps} steps, asked for step {step}")
        positions = np.arange(step * size, (step + 1) * size)
        return np.minimum(positions, stage_plan.presented - 1), positions < stage_plan.presented

    def rows(self, stage: str, positions: Ints) -> Ints:
        """[B] table rows at these positions [B] of the stage. Each pass over its rows has an order of its own."""
        return self._look_up(stage, positions)[0]

    def _look_up(self, stage: str, positions: Ints) -> tuple[Ints, Floats, Ints]:
        """Rows, loss weights and block numbers, all [B], at positions [B] of the stage."""
        stage_plan = self.stage_plan(stage)
        rows = np.empty(len(positions), np.int64)
        epoch, place = np.divmod(positions, max(1, stage_plan.rows))
        block = np.searchsorted(stage_plan.edges, place, side="right") - 1
        for e, b in sorted(set(zip(epoch.tolist(), block.tolist(), strict=True))):
            chosen = (epoch == e) & (block == b)
            rows[chosen] = self._block_rows(stage, b, e)[place[chosen] - stage_plan.edges[b]]
        loss = stage_plan.loss
        weights = np.ones(len(rows)) if loss is None else loss[block, self.cell_of_row[rows]]
        return rows, weights, block

    def _block_rows(self, stage: str, block: int, epoch: int) -> Ints:
        """The rows of one block in the order of one pass, kept for the next batches."""
        key = (stage, block, epoch)
        if key not in self._recent:
            if len(self._recent) >= 8:
                self._recent.pop(next(iter(self._recent)))
            self._recent[key] = self._ordered_block(*key)
        return self._recent[key]

    def _ordered_block(self, stage: str, block: int, epoch: int) -> Ints:
        """The rows of one block in the order of one pass.

        Spread: row i of the n of a cell stands at (i + u) / n, u random in [0, 1), so every slice of the block has its
        mix. Shuffle: by hash alone.
        """
        stage_plan = self.stages[stage]
        counts = stage_plan.matrix[block]
        if len(counts) and counts[0] < 0:
            raise LookupError(
                f"window {block} of stage {stage!r} is not planned yet; train the windows before it first"
            )
        used = np.flatnonzero(counts)
        n = counts[used]
        begin = (stage_plan.first + stage_plan.matrix[:block].sum(axis=0))[used]
        rows = stage_plan.deck[runs(begin, n)]
        hashed = keyed(self.table.uid[rows], self.curriculum.seed, stage, epoch)
        if stage_plan.stage.mix == "shuffle":
            return rows[order_by_hash(hashed)]
        ranked = order_by_hash(hashed >> np.uint64(17), np.repeat(np.arange(len(n)), n))
        within = runs(np.zeros_like(n), n)
        place = (within + unit(splitmix64(hashed[ranked]))) / np.repeat(n, n)
        return rows[ranked][order_by_hash((place * 2.0**63).astype(np.uint64))]

    def composition(self, stage: str, column: str) -> dict[str, int]:
        """How many of the stage's rows, as far as they are planned, have each value of a text column."""
        stage_plan = self.stage_plan(stage)
        rows = self.rows(stage, np.arange(int(stage_plan.edges[stage_plan.planned])))
        text = self.table.text(column)
        counts = np.bincount(text.codes[rows] + 1, minlength=len(text.names) + 1)
        names = ("unlabelled", *text.names)
        return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _plain(t: float) -> float:
    """The progress of a stage that takes no turns: its own."""
    return t
