"""What is left for a stage: rows that no other took, and those that it sees again, which stages before it had."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays import Bools, Hashes, Ints
from ..schedule.stages import Curriculum, Stage
from .compile import StagePlan, runs
from .decks import among, build_decks


class Rest(NamedTuple):
    """What a stage may take: of cell q the rows `deck[tops[q]:ends[q]]`, in this order."""

    deck: Ints
    tops: Ints
    ends: Ints


def sees_again(stage: Stage) -> bool:
    """Whether the stage takes rows that others had."""
    return stage.rehearse is not None and stage.rehearse.seen


def stages_before(curriculum: Curriculum, stage: Stage) -> list[str]:
    """The stages that have run when this one begins; those that take turns with it have not."""
    group = curriculum.interleave_of(stage.name)
    first = stage.name if group is None else group.members[0]
    names = [one.name for one in curriculum.stages]
    return names[: names.index(first)]


def with_seen(rest: Rest, cells: Bools, seen: Ints, uid: Hashes, cell_of_row: Ints, seed: int) -> Rest:
    """The rest, in which certain cells [Q] hold the rows that were seen, in the order of the decks.

    seen: rows of the table, any of them more than once. uid, cell_of_row: [N] of the table. seed: of the decks.
    """
    seen = np.unique(seen)
    seen = seen[(cell_of_row[seen] >= 0) & cells[cell_of_row[seen]]]
    order, starts = build_decks(uid[seen], cell_of_row[seen], len(cells), seed)
    begin = len(rest.deck) + starts
    deck = np.concatenate([rest.deck, seen[order].astype(rest.deck.dtype)])
    return Rest(deck, np.where(cells, begin[:-1], rest.tops), np.where(cells, begin[1:], rest.ends))


def without_clips(rest: Rest, clip: Hashes, taken: Ints) -> Rest:
    """The rest without the rows whose recording, of `clip` [N], is that of one of the rows taken."""
    sizes = rest.ends - rest.tops
    rows = rest.deck[runs(rest.tops, sizes)]
    free = ~among(clip[rows], clip[taken])
    cell = np.repeat(np.arange(len(sizes)), sizes)[free]
    starts = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=len(sizes)))])
    return Rest(rows[free], starts[:-1], starts[1:])


def own_rows(stage_plan: StagePlan, cells: Bools) -> tuple[Ints, Ints]:
    """Rows that a stage has for itself, and [Q] how many of each cell: all but those of `cells` [Q], seen again."""
    counts = np.where(cells, 0, stage_plan.rows_per_cell())
    return stage_plan.deck[runs(stage_plan.first, counts)], counts
