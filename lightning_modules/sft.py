"""Supervised fine-tuning: the loss is on what is to be said alone, averaged over the step's tokens of that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..datamodules.batch import Batch
from .base import PolicyModule
from .objectives.losses import nll_loss
from .policy.omni import OmniPolicy
from .ranks import Ranks
from .step.data_metrics import mean_by_label


class SFT(PolicyModule):
    """Maximises the log-prob of `<answer>...</answer>`, or of the reasoning and the answer after it.

    A sample's weight scales its tokens in the sum; the denominator counts the tokens of all real samples, so that
    weights of mean 1 over a stage keep the gradient's scale, and a batch of light samples moves less.
    """

    algorithms: tuple[str, ...] = ("sft",)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step on the targets of one global batch."""
        loss = TargetLoss(self.net, batch, self.ranks)
        parts = self.micro_batches(len(batch))
        jobs, samples = [partial(loss, rows) for rows in parts], [batch.samples[rows] for rows in parts]
        if self.net.sharded:  # the ranks' shares may differ by a row, and gathering weights needs all ranks
            idle = int(self.ranks.greatest(len(parts))) - len(parts)
            jobs += [partial(loss, parts[0], counts=False)] * idle
            samples += [()] * idle
        metrics = self.update_policy(jobs, batch.step, samples)
        self.log_dict(metrics | loss.by_label() | self.batch_metrics(batch), prog_bar=False)
        self.log("loss", metrics["train/loss"], prog_bar=True, logger=False)


@dataclass
class TargetLoss:
    """The loss of a batch's targets, micro-batch by micro-batch, and what it was for each label.

    per_sample: [B] float64 mean negative log-prob per token, in nats, of the samples whose loss was computed.
    """

    policy: OmniPolicy
    batch: Batch
    ranks: Ranks

    def __post_init__(self) -> None:
        real = (self.batch.weights > 0)[:, None]
        self.denominator = max(self.ranks.sums(float((real * self.batch.target_mask).sum()))[0], 1.0)
        self.per_sample = torch.zeros(len(self.batch), dtype=torch.float64)

    def __call__(self, rows: slice, counts: bool = True) -> Tensor:
        """The loss of these rows, divided by the tokens of the step's batch over all ranks; counts: False makes it 0."""
        batch = self.batch
        width = int(batch.target_mask[rows].sum(1).max())
        ids, mask = batch.target_ids[rows, :width], batch.target_mask[rows, :width]
        with self.policy.dropout():
            logprob = self.policy(batch.prompts.select(rows), ids, mask).logprob
        self.per_sample[rows] = -(logprob.detach() * mask).sum(1).double().cpu() / mask.sum(1).clamp(min=1).cpu()
        return nll_loss(logprob, mask, batch.weights[rows] * counts, denominator=self.denominator)

    def by_label(self) -> dict[str, float]:
        """`loss/{label}`: mean loss per token of the labels in the batch, over all ranks."""
        means = mean_by_label(self.per_sample, self.batch.samples, self.ranks)
        return {f"loss/{label}": mean for label, mean in means.items() if label != "all"}
