"""Accuracy of answers by condition, contribution label and verdict."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ...curriculum.contribution.verdicts import VERDICTS, Verdict
from ...datamodules.batches.conditions import KINDS
from .data_metrics import LABELS


class AccuracyByLabel(Metric):
    """Answers per condition, contribution label and verdict, summed over ranks."""

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        counts = torch.zeros(len(KINDS), len(LABELS), len(VERDICTS), dtype=torch.int64)  # no cast of a module rounds it
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, condition: str, label: str, found: Verdict, weight: float = 1.0) -> None:
        """Counts one answer; weight 0 is the padding of a last batch."""
        place = KINDS.index(condition.partition(":")[0]), LABELS.index(label if label in LABELS else "unlabelled")
        self.counts[(*place, VERDICTS.index(found))] += int(weight > 0)

    def compute(self) -> dict[str, Tensor]:
        """Shares and counts of every group that was asked, by name.

        `accuracy/audio`, `accuracy/audio/weak`, ...: right answers of all, in [0, 1]; what is unfinished or unreadable
        is not right. `answers/audio/right`, ...: how many have each of VERDICTS.
        """
        found, counts = {}, self.counts.double()
        for c, condition in enumerate(KINDS):
            of_condition = counts[c].sum(0)
            if of_condition.sum() > 0:
                found[f"accuracy/{condition}"] = of_condition[0] / of_condition.sum()
                found |= {f"answers/{condition}/{name}": of_condition[v] for v, name in enumerate(VERDICTS)}
            for k, label in enumerate(LABELS):
                if counts[c, k].sum() > 0:
                    found[f"accuracy/{condition}/{label}"] = counts[c, k, 0] / counts[c, k].sum()
        return found
