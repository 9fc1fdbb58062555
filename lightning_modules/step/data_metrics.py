"""Metrics of a batch before anything is learnt from it: which labels it has, what is new in it, how it is padded.

Every number is over all ranks and without the padding of a last batch, whose weight is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...curriculum.online.curriculum_metrics import curriculum_metrics, shares
from ...datamodules.batch import Batch, Sample
from ...datamodules.training import TrainingData
from ..ranks import Ranks

LABELS = ("weak", "strong", "unlabelled")


def label_of(sample: Sample) -> str:
    """The sample's label as it is logged: what is neither weak nor strong is unlabelled."""
    return sample.label if sample.label in LABELS else LABELS[-1]


def label_places(samples: Sequence[Sample]) -> Tensor:
    """[B] places in LABELS of the samples' labels, on the CPU."""
    return torch.tensor([LABELS.index(label_of(sample)) for sample in samples])


def mean_by_label(values: Tensor, samples: Sequence[Sample], ranks: Ranks) -> dict[str, float]:
    """`all` and every label that occurs -> mean of values [B] over its samples on all ranks, without padding."""
    sums: list[Tensor] = []
    for label in ("all", *LABELS):
        chosen = torch.tensor([s.weight > 0 and label in ("all", label_of(s)) for s in samples])
        sums += [values[chosen].sum().double(), chosen.sum().double()]
    totals = ranks.sums(*torch.stack(sums).tolist())
    pairs = zip(("all", *LABELS), totals[::2], totals[1::2], strict=True)
    return {label: total / count for label, total, count in pairs if count}


def batch_metrics(batch: Batch, data: TrainingData, ranks: Ranks) -> dict[str, float]:
    """What the step's batch holds, for the log; a collective operation, which all ranks enter with their share of it.

    `seen/unique`, `seen/repeat`: samples presented for the first time in their stage, and those presented before; the
    two sum to the samples of the step. What stands in for a sample that cannot be read counts as that sample would.
    `data/share/{label}`: share of each label of LABELS in [0, 1]; what has another label or none is "unlabelled".
    Beside them where the curriculum is (see `curriculum_metrics`) and the mix of the batch over its axes.
    """
    real = [sample for sample in batch.samples if sample.weight > 0]
    labels = [label_of(sample) for sample in real]
    passes = batch.passes or (0,) * len(batch)
    repeats = sum(s.weight > 0 and number > 0 for s, number in zip(batch.samples, passes, strict=True))
    *counts, repeated = ranks.sums(*(float(labels.count(label)) for label in LABELS), float(repeats))
    total = sum(counts)
    metrics = {f"data/share/{label}": count / max(total, 1.0) for label, count in zip(LABELS, counts, strict=True)}
    metrics |= {"seen/unique": total - repeated, "seen/repeat": repeated}
    seen = np.array(ranks.sums(*data.cell_counts([sample.row for sample in real]).astype(float)))
    metrics |= curriculum_metrics(data.plan, data.spec.stage, batch.step, data.cursor)
    return metrics | shares(data.plan, seen, "data/share")
