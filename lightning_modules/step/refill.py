"""Dynamic sampling: what happens to questions whose completions are all worth the same, and so teach nothing."""

from __future__ import annotations

from collections.abc import Callable

from ...datamodules.batch import Batch
from ...datamodules.training import TrainingData
from ..ranks import Ranks
from .experience import Experience


def refill(
    first: Experience, data: TrainingData, ranks: Ranks, rounds: int, roll_out: Callable[[Batch, int], Experience]
) -> list[Experience]:
    """Does as the stage says with prompts without an advantage; returns the experiences of what came in their place.

    keep: they stay in the denominator and under the KL. drop: they do not train. refill_same_cell: another question of
    the cell is tried for each, `rounds` times at most; what finds no successor is dropped.
    roll_out: samples and rewards a further batch; its number counts from 1.
    """
    action = data.stage_of(first.batch).on_zero_advantage
    if action == "keep":
        return []
    first.kept = first.real & ~first.constant
    refills: list[Experience] = []
    last = first
    for number in range(1, rounds + 1 if action == "refill_same_cell" else 1):
        samples, flat = last.batch.samples, (last.real & last.constant).tolist()
        lacking = data.cell_counts([sample.row for sample, bad in zip(samples, flat, strict=True) if bad])
        batch = data.refill(first.batch, ranks.gathered(lacking), ranks.rank)
        if batch is None:
            break
        last = roll_out(batch, number)
        last.kept = last.real & ~last.constant
        refills.append(last)
    return refills
