"""Knows which rows every batch of every stage holds: a curriculum compiled to an integer matrix over shuffled decks.

The rows of the table fall into cells; a cell's rows lie in a deck ordered by a hash of (seed, uid). A stage deals from
the tops of the decks: `matrix[block, cell]` cards in each block. Nothing is dealt twice, so stages are disjoint by
construction, budgets are exact, and a position is two integers. Ranks, workers and prefetching never enter.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial

import numpy as np

from ..errors import InputError
from .allocation import apportion
from .budget import Budget
from .cells import Cells, partition
from .columns import changed
from .compile import (
    Dealt,
    block_edges,
    deal,
    loss_weights,
    pool_axes,
    pool_of,
    rows_wanted,
    runs,
)
from .decks import build_decks
from .identity import hash64, keyed, splitmix64, unit
from .pricing import priced
from .stages import Curriculum, Interleave, Stage
from .table import Table

_CHUNK = 16_384


class Plan:
    """All stages of a curriculum over one table. `batch` is pure: any step, in any order, from any process.

    used: [N] bool of rows that must not be dealt again, when a curriculum is forked from another's position.
    """

    def __init__(self, curriculum: Curriculum, table: Table, used: np.ndarray | None = None) -> None:
        self.curriculum = curriculum
        self.table = changed(table, curriculum.columns, curriculum.seed) if curriculum.columns else table
        self.cells, self.number, self._deck, starts, self.facts = self._shuffled(used)
        self.turns = {group.name: _turns(group) for group in curriculum.interleaves}
        self.stages: dict[str, Dealt] = {}
        self._recent: dict[tuple[str, int, int], np.ndarray] = {}
        self._compile(starts)
        self.stages = {stage.name: self.stages[stage.name] for stage in curriculum.stages}
        text = curriculum.canonical() + json.dumps(self.facts)
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

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
            made = (cells, number, *build_decks(table.uid, dealable, len(cells), seed), _facts(table.uid, number, used))
            if used is not None:
                return made
            table.kept.clear()  # one at a time: they are as large as the table
            table.kept[key] = made
        return table.kept[key]

    def _compile(self, starts: np.ndarray) -> None:
        """Deals the stages in the order of their claims; what adapts deals last, from what the others leave."""
        adaptive = [stage for stage in self.curriculum.stages if stage.window]
        if len(adaptive) > 1:
            raise InputError(f"only one stage may adapt, got {', '.join(stage.name for stage in adaptive)}")
        deck, tops, ends = self._deck, starts[:-1].copy(), starts[1:].copy()
        earlier: list[str] = []
        for stage in sorted(self.curriculum.stages, key=lambda s: (s.window is not None, s.claim)):
            if earlier and "clip" in self.curriculum.disjoint:
                taken = self.table.identity("clip")[self.stages[earlier[-1]].row_set()]
                deck, tops, ends = self._without_clips(deck, tops, ends, taken)
            dealt = self._deal(stage, deck, tops, ends, f" after {' and '.join(earlier)}" if earlier else "")
            self.stages[stage.name] = dealt
            tops = tops + dealt.dealt()
            earlier.append(stage.name)

    def _deal(self, stage: Stage, deck: np.ndarray, tops: np.ndarray, ends: np.ndarray, before: str) -> Dealt:
        cells = self.cells.at(ends - tops, pool_of(stage, self.cells), {})
        group, progress = self.curriculum.interleave_of(stage.name), _plain
        if group is not None:
            mine = np.flatnonzero(self.turns[group.name] == group.members.index(stage.name))
            if not len(mine):
                raise InputError(f"stage {stage.name!r}: its share of the {group.steps} steps is less than one")
            stage = replace(stage, budget=Budget(steps=len(mine)))
            progress = partial(_turn_of, mine, group.steps)
        if stage.budget.unit in ("hours", "flops"):
            stage = priced(stage, cells, self.curriculum.cost, self.table, self.number, progress, before)
        rows, wanted = rows_wanted(stage, cells, before)
        edges = block_edges(stage, rows)
        if stage.window is not None:
            matrix = np.full((len(edges) - 1, len(cells)), -1, np.int64)
        else:
            matrix = deal(stage, cells, edges, progress)
            edges = np.concatenate([[0], np.cumsum(matrix.sum(1))])
        presented = (wanted if stage.on_short == "repeat" else int(edges[-1])) * (stage.budget.epochs or 1)
        loss = loss_weights(stage, cells, matrix, edges, progress)
        return Dealt(stage, matrix, edges, deck, tops, cells.left, presented, loss)

    def _without_clips(self, deck: np.ndarray, tops: np.ndarray, ends: np.ndarray, taken: np.ndarray) -> tuple:
        """What is left of the decks, less the rows whose recording an earlier stage has."""
        sizes = ends - tops
        rows = deck[runs(tops, sizes)]
        free = ~_among(self.table.identity("clip")[rows], taken)
        cell = np.repeat(np.arange(len(sizes)), sizes)[free]
        starts = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=len(sizes)))])
        return rows[free], starts[:-1], starts[1:]

    def dealt(self, stage: str) -> Dealt:
        """The compiled stage of that name."""
        self.curriculum.stage(stage)
        return self.stages[stage]

    def num_steps(self, name: str) -> int:
        """Optimizer steps of a stage, or of an interleave over all its members."""
        return len(self.turns[name]) if name in self.turns else self.dealt(name).steps

    def members(self, name: str) -> tuple[str, ...]:
        """The stages that take turns in an interleave; a plain stage alone."""
        group = next((g for g in self.curriculum.interleaves if g.name == name), None)
        return group.members if group is not None else (self.dealt(name).stage.name,)

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
        dealt = self.dealt(self.member(stage, step)[0])
        positions = self._positions(stage, step, None)[0]
        return dealt.stage.window is None or int(positions[-1]) < int(dealt.edges[dealt.planned])

    def passes(self, stage: str, step: int, size: int | None = None) -> np.ndarray:
        """[B] how often each row of the batch was presented before."""
        dealt = self.dealt(self.member(stage, step)[0])
        return self._positions(stage, step, size)[0] // dealt.rows

    def _positions(self, stage: str, step: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
        stage, step = self.member(stage, step)
        dealt = self.dealt(stage)
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
        dealt = self.dealt(stage)
        rows = np.empty(len(positions), np.int64)
        epoch, card = np.divmod(positions, max(1, dealt.rows))
        block = np.searchsorted(dealt.edges, card, side="right") - 1
        for e, b in sorted(set(zip(epoch.tolist(), block.tolist(), strict=True))):
            mine = (epoch == e) & (block == b)
            rows[mine] = self._block_rows(stage, b, e)[card[mine] - dealt.edges[b]]
        weights = np.ones(len(rows)) if dealt.loss is None else dealt.loss[block, self.number[rows]]
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
            return cards[_order(hashed)]
        ranked = _order(hashed >> np.uint64(17), np.repeat(np.arange(len(n)), n))
        within = runs(np.zeros_like(n), n)
        place = (within + unit(splitmix64(hashed[ranked]))) / np.repeat(n, n)
        return cards[ranked][_order((place * 2.0**63).astype(np.uint64))]

    def composition(self, stage: str, column: str) -> dict[str, int]:
        """How many of the stage's dealt rows have each value of a text column."""
        dealt = self.dealt(stage)
        rows = self.rows(stage, np.arange(int(dealt.edges[dealt.planned])))
        text = self.table.text(column)
        counts = np.bincount(text.codes[rows] + 1, minlength=len(text.names) + 1)
        names = ("unlabelled", *text.names)
        return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _order(hashed: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """Places in ascending order (by group first), equal ones as they stand; sorts values, which is fast."""
    bits = np.uint64(max(1, (len(hashed) - 1).bit_length()))
    packed = (hashed >> bits) << bits
    if group is not None:  # the hash comes without its lowest 17 bits: the group takes the upper ones
        packed |= group.astype(np.uint64) << np.uint64(47)
    packed |= np.arange(len(hashed), dtype=np.uint64)
    packed.sort()
    return (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _among(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """np.isin for hashes: most are ruled out by their lowest 20 bits, without sorting all of them."""
    low = np.uint64((1 << 20) - 1)
    marked = np.zeros(1 << 20, bool)
    marked[wanted & low] = True
    found = marked[values & low]
    found[found] = np.isin(values[found], wanted)
    return found


def _plain(t: float) -> float:
    return t


def _turns(group: Interleave) -> np.ndarray:
    """[steps] which member has each step; members without a share have the rest in equal parts."""
    t = (np.arange(group.steps) + 0.5) / group.steps
    shares = np.zeros((group.steps, len(group.members)))
    for name, pace in group.shares.items():
        shares[:, group.members.index(name)] = [pace(float(x), {}) for x in t]
    rest = 1 - shares.sum(1)
    others = [k for k, name in enumerate(group.members) if name not in group.shares]
    if (shares < 0).any() or (rest < -1e-9).any() or (not others and (rest > 1e-9).any()):
        raise InputError(f"interleave {group.name!r}: the shares must lie in [0, 1] and add up to 1 at every step")
    for k in others:
        shares[:, k] = np.maximum(rest, 0.0) / len(others)
    return apportion(shares)


def _turn_of(mine: np.ndarray, steps: int, t: float) -> float:
    """Progress of the whole interleave at progress t of a member."""
    return (float(mine[min(len(mine) - 1, int(t * len(mine)))]) + 0.5) / steps


def _facts(uid: np.ndarray, number: np.ndarray, used: np.ndarray | None) -> list[int]:
    """Row count, xor and sum over hashes of (uid, cell, used): any row added, lost or moved to another cell shows.

    Cells are numbered by name; renaming all of them alike deals the same rows, and is the same plan.
    """
    key, odd = np.uint64(hash64("fingerprint")), np.uint64(0x9E3779B97F4A7C15)
    crossed, total = 0, 0
    for start in range(0, len(uid), _CHUNK):
        part = slice(start, start + _CHUNK)
        state = number[part].astype(np.uint64)
        if used is not None:
            state = np.where(used[part], np.uint64(1 << 40), state)
        mixed = splitmix64((uid[part] ^ key) + state * odd)
        crossed ^= int(np.bitwise_xor.reduce(mixed))
        total += int(mixed.sum(dtype=np.uint64))
    return [len(uid), crossed, total & ((1 << 64) - 1)]
