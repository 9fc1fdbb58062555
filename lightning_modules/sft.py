"""Knows supervised fine-tuning: the loss is on what is to be said alone, averaged over the step's tokens of that."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..datamodules.batch import Batch
from .base import LABELS, PolicyModule
from .objectives.losses import nll_loss
from .step.data_metrics import label_of


class SFT(PolicyModule):
    """Maximises the log-prob of `<answer>...</answer>`, or of the reasoning and the answer after it.

    A sample's weight scales its tokens in the sum; the denominator counts the tokens of all real samples, so that
    weights of mean 1 over a stage keep the gradient's scale, and a batch of light samples moves less.
    """

    algorithms = ("sft",)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step on one global batch."""
        sft_step(self, batch)


def sft_step(module: PolicyModule, batch: Batch) -> None:
    """One optimizer step of any module's policy on the batch's targets."""
    local = float(((batch.weights > 0)[:, None] * batch.target_mask).sum())
    denominator = max(module.over_ranks(local)[0], 1.0)
    losses = torch.zeros(len(batch), dtype=torch.float64)
    rows = module.micro_batches(len(batch))
    log = module.descend([partial(_loss, module, batch, part, denominator, losses) for part in rows], batch.step)
    module.log_dict(log | _by_label(module, batch, losses) | module.data_metrics(batch), prog_bar=False)
    module.log("loss", log["train/loss"], prog_bar=True, logger=False)


def _loss(module: PolicyModule, batch: Batch, rows: slice, denominator: float, losses: Tensor) -> Tensor:
    """One micro-batch's loss; puts the mean loss per token of its samples into `losses`."""
    width = int(batch.target_mask[rows].sum(1).max())
    ids, mask = batch.target_ids[rows, :width], batch.target_mask[rows, :width]
    with module.net.dropout():
        logprob = module.net(batch.prompts.select(rows), ids, mask).logprob
    losses[rows] = -(logprob.detach() * mask).sum(1).double().cpu() / mask.sum(1).clamp(min=1).cpu()
    return nll_loss(logprob, mask, batch.weights[rows], denominator=denominator)


def _by_label(module: PolicyModule, batch: Batch, losses: Tensor) -> dict[str, float]:
    """`loss/{label}`: mean answer loss per token of the labels in the batch, over all ranks."""
    real = [s.weight > 0 for s in batch.samples]
    sums = []
    for label in LABELS:
        mine = torch.tensor([r and label_of(s) == label for r, s in zip(real, batch.samples, strict=True)])
        sums += [float(losses[mine].sum()), float(mine.sum())]
    reduced = module.over_ranks(*sums)
    pairs = zip(LABELS, reduced[::2], reduced[1::2], strict=True)
    return {f"loss/{label}": total / count for label, total, count in pairs if count}
