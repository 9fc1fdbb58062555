"""Knows what is worth logging of a batch before anything is learnt from it: which labels it has, and what is new in it.

Every number is over all ranks and without the padding of a last batch, whose weight is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...curriculum.online.curriculum_metrics import curriculum_metrics, shares
from ...datamodules.batch import Batch, Sample

if TYPE_CHECKING:
    from ..base import PolicyModule

LABELS = ("weak", "strong", "unlabelled")


def label_of(sample: Sample) -> str:
    """The sample's label as it is logged: what is neither weak nor strong is unlabelled."""
    return sample.label if sample.label in LABELS else LABELS[-1]


def batch_metrics(module: PolicyModule, batch: Batch) -> dict[str, float]:
    """What the step's batch holds, for the log; a collective operation, which all ranks enter with their share of it.

    `seen/unique`, `seen/repeat`: samples presented for the first time in their stage, and those presented before; the
    two sum to the samples of the step. What stands in for a sample that cannot be read counts as that sample would.
    `data/share/{label}`: share of each label of LABELS in [0, 1]; what has another label or none is "unlabelled".
    """
    real = [sample.weight > 0 for sample in batch.samples]
    labels = [label_of(s) for s, r in zip(batch.samples, real, strict=True) if r]
    passes = batch.passes or (0,) * len(batch)
    repeats = sum(r and number > 0 for r, number in zip(real, passes, strict=True))
    *counts, repeated = module.over_ranks(*(float(labels.count(label)) for label in LABELS), float(repeats))
    total = sum(counts)
    found = {f"data/share/{label}": count / max(total, 1.0) for label, count in zip(LABELS, counts, strict=True)}
    return found | {"seen/unique": total - repeated, "seen/repeat": repeated} | _of_the_plan(module, batch)


def _of_the_plan(module: PolicyModule, batch: Batch) -> dict[str, float]:
    """Where the curriculum is (see `curriculum.moment`), and the mix of the batch over its axes beside the planned."""
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    rows = [sample.row for sample in batch.samples if sample.weight > 0]
    counts = np.bincount(data.cells_of(rows) if rows else np.empty(0, np.int64), minlength=len(data.plan.cells))
    seen = np.array(module.over_ranks(*counts.astype(float)))
    stage = data.training.stage
    return curriculum_metrics(data.plan, stage, batch.step, data.cursor) | shares(data.plan, seen, "data/share")
