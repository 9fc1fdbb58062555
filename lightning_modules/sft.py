"""Supervised fine-tuning: the loss is on what is to be said alone, averaged over the step's tokens of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..datamodules.batch import Batch
from .base import PolicyModule
from .objectives.losses import nll_loss
from .policy.omni import OmniPolicy
from .policy.said import Said
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

    Where the head trains, loss and gradient are made in one pass over it.
    """

    policy: OmniPolicy
    batch: Batch
    ranks: Ranks

    def __post_init__(self) -> None:
        batch, lengths = self.batch, self.batch.target_lengths
        self.policy.check_targets(batch.target_ids, batch.target_mask)
        batch = self.batch = replace(batch, prompts=self.policy.counted(batch.prompts))
        real = zip(lengths, batch.weights.tolist(), strict=True)
        self.denominator = max(self.ranks.sums(float(sum(count for count, weight in real if weight > 0)))[0], 1.0)
        self._sums = batch.weights.new_zeros(len(batch), dtype=torch.float32)

    def __call__(self, rows: slice, counts: bool = True) -> Tensor:
        """The loss of these rows, divided by the tokens of the step over all ranks; 0 where nothing `counts`."""
        batch, lengths = self.batch, self.batch.target_lengths[rows]
        ids, mask = (part[rows, : max(lengths)] for part in (batch.target_ids, batch.target_mask))
        weights, more = batch.weights[rows] * counts, {}
        if self.policy.head.requires_grad:

            def of_tokens(logprob: Tensor, places: Tensor) -> Tensor:
                at, each = mask.reshape(-1)[places], weights[places // mask.shape[1]]
                return nll_loss(logprob[:, None], at[:, None], each, denominator=self.denominator)

            more["loss"] = of_tokens
        with self.policy.dropout():
            out = self.policy(batch.prompts.select(rows), ids, mask, said=Said(lengths), **more)
        self._sums[rows] = -(out.logprob.detach() * mask).sum(1).float()
        if more:
            loss: Tensor = out.loss
            return loss
        return nll_loss(out.logprob, mask, weights, denominator=self.denominator)

    @property
    def per_sample(self) -> Tensor:
        """[B] float64 mean negative log-prob per token, in nats, of the samples whose loss was computed."""
        return self._sums.cpu().double() / torch.tensor(self.batch.target_lengths).clamp(min=1)

    def by_label(self) -> dict[str, float]:
        """`loss/{label}`: mean loss per token of the labels in the batch, over all ranks."""
        means = mean_by_label(self.per_sample, self.batch.samples, self.ranks)
        return {f"loss/{label}": mean for label, mean in means.items() if label != "all"}
