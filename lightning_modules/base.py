"""Knows what all stages share: the policy, one optimizer step per batch, answering questions, exact positions.

One Lightning batch is one optimizer step over all ranks. Micro-batches are split inside the step, so the denominator
is known before the first backward pass and the loss does not depend on how the batch was split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from ..datamodules.batch import Batch
from ..datamodules.batches.conditions import KINDS
from ..datamodules.questions.answers import extract_answer, is_right
from ..errors import InputError
from .callbacks.position import PlanPosition
from .policy.omni import OmniPolicy
from .rollout.engine import Rollout, completion_keys
from .rollout.sampling import sample
from .step.data_metrics import LABELS, batch_metrics
from .step.learning_rate import Schedule


class AccuracyByLabel(Metric):
    """Right answers per condition and contribution label, summed over ranks."""

    right: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "seen"):
            self.add_state(name, torch.zeros(len(KINDS), len(LABELS)), dist_reduce_fx="sum")

    def update(self, condition: str, label: str, right: bool, weight: float = 1.0) -> None:
        """Counts one answer; weight 0 is the padding of a last batch."""
        place = KINDS.index(condition.partition(":")[0]), LABELS.index(label if label in LABELS else "unlabelled")
        self.seen[place] += float(weight > 0)
        self.right[place] += float(right and weight > 0)

    def compute(self) -> dict[str, Tensor]:
        """`audio`, `audio/weak`, ...: shares of the groups that were seen."""
        shares = {}
        for c, condition in enumerate(KINDS):
            if self.seen[c].sum() > 0:
                shares[condition] = self.right[c].sum() / self.seen[c].sum()
            for k, label in enumerate(LABELS):
                if self.seen[c, k] > 0:
                    shares[f"{condition}/{label}"] = self.right[c, k] / self.seen[c, k]
        return shares


class PolicyModule(L.LightningModule):
    """A policy that answers questions: `validate` and `test` log accuracies, `predict` returns answers.

    Args:
        policy: makes the policy; called once, when the trainer has set up its strategy.
        optimizer: takes the trainable parameters.
        schedule: learning-rate factor of every step.
        max_grad_norm: gradients are scaled down to this L2 norm.
        micro_batch_size: prompts per forward and backward pass on each rank; changes memory, not the result.
        max_new_tokens: longest answer, in tokens.
        temperature: of the answers; 0 is greedy. seed: of their draws, where they are sampled.
    """

    def __init__(
        self,
        policy: Callable[[], OmniPolicy],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | None = None,
        max_grad_norm: float = 1.0,
        micro_batch_size: int = 8,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.make_policy, self.make_optimizer = policy, optimizer
        self.schedule = schedule or Schedule()
        self.max_grad_norm, self.micro_batch_size = max_grad_norm, micro_batch_size
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.policy: OmniPolicy | None = None
        self.num_replaced = 0  # bad samples, with what stands in for them, on this rank
        self.val_accuracy, self.test_accuracy = AccuracyByLabel(), AccuracyByLabel()

    def configure_model(self) -> None:
        """Loads the policy; Lightning calls this before every entry point."""
        if self.policy is None:
            self.policy = self.make_policy()

    @property
    def net(self) -> OmniPolicy:
        """The policy, once it is loaded."""
        assert self.policy is not None
        return self.policy

    def configure_callbacks(self) -> list[L.Callback]:
        """Counts trained batches in the data module, so that a resumed run continues exactly."""
        return [PlanPosition()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over the parameters that train."""
        return self.make_optimizer([p for p in self.net.parameters() if p.requires_grad])

    algorithms: tuple[str, ...] = ()
    num_iterations = 1  # optimizer steps per batch
    rollout: Rollout | None = None  # how completions are sampled, where they are
    experiences: Sequence[Any] = ()  # what the step that just ended sampled, for callbacks

    def on_fit_start(self) -> None:
        """Refuses a stage of the curriculum that is meant for another algorithm."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        for member in data.plan.members(data.training.stage):
            algorithm = data.plan.stage_plan(member).stage.algorithm
            if algorithm not in self.algorithms:
                raise InputError(
                    f"stage {member!r} is for the algorithm {algorithm!r}, {type(self).__name__} trains "
                    f"{' and '.join(self.algorithms) or 'nothing'}; name another stage or another model class"
                )

    def total_steps(self) -> int:
        """Batches of this run: the plan's, or fewer where `trainer.max_steps`, in optimizer steps, says so."""
        planned = self.trainer.datamodule.num_steps  # type: ignore[attr-defined]
        most = -(-self.trainer.max_steps // self.num_iterations)
        return planned if self.trainer.max_steps < 0 else min(planned, most)

    def over_ranks(self, *sums: float) -> list[float]:
        """Sums over all ranks, in float64."""
        values = torch.tensor(sums, dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)
        return self.trainer.strategy.reduce(values, reduce_op="sum").tolist()

    def greatest(self, value: float) -> float:
        """The greatest over all ranks."""
        return max(self.gathered(value))

    def gathered(self, value: Any) -> list[Any]:
        """What every rank has, in the order of the ranks; tensors must lie on the CPU."""
        if self._trainer is None or self.trainer.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def descend(self, losses: Iterable[Callable[[], Tensor]], step: int) -> dict[str, float]:
        """One optimizer step on the sum of the micro-batches' losses over all ranks; returns what is worth logging.

        Each loss is already divided by the step's global denominator. Strategies average gradients over ranks, hence
        the factor. A gradient that is not finite stops the run instead of spoiling the weights.
        """
        optimizer = self.optimizers()
        rate = self.schedule.factor(step, self.total_steps())
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * rate
        optimizer.zero_grad()  # type: ignore[union-attr]
        total, pending = 0.0, list(losses)
        for number, loss_of in enumerate(pending):
            with self._gradient_sync(number + 1 == len(pending)):
                loss = loss_of()
                self.manual_backward(loss * self.trainer.world_size)
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.net.parameters() if p.requires_grad], self.max_grad_norm, error_if_nonfinite=True
        )
        optimizer.step()  # type: ignore[union-attr]
        (total,) = self.over_ranks(total)
        return {"train/loss": total, "train/grad_norm": float(norm), "train/lr": group["lr"]}

    def _gradient_sync(self, last: bool) -> Any:
        """Ranks exchange gradients once per step, with the last micro-batch."""
        wrapped = self.trainer.strategy.model
        if not last and isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return nullcontext()

    def micro_batches(self, rows: int) -> list[slice]:
        """The slices of a batch of so many rows."""
        return [slice(i, min(i + self.micro_batch_size, rows)) for i in range(0, rows, self.micro_batch_size)]

    def data_metrics(self, batch: Batch) -> dict[str, float]:
        """What the batch is, over all ranks; see `facts`, and here

        `data/padding`: share of the frames that are computed for nothing; `data/replaced`: bad samples so far.
        """
        real, padded = batch.prompts.frames(self.micro_batches(len(batch)))
        self.num_replaced += len(batch.replaced)
        heard, computed, replaced = self.over_ranks(real, padded, self.num_replaced)
        return {"data/padding": 1 - heard / computed, "data/replaced": replaced} | batch_metrics(self, batch)

    def answer(self, batch: Batch) -> list[dict[str, Any]]:
        """Answers to a batch: one record per question, without the padding of a last batch."""
        uids = [s.question.uid for s in batch.samples]
        keys = completion_keys(uids, 1, self.seed, "answer", batch.samples[0].condition)
        length, temperature = self.max_new_tokens, self.temperature
        done = sample(self.net, batch.prompts, max_new_tokens=length, temperature=temperature, keys=keys)
        texts = self.net.processor.decode(done.ids, done.mask)
        return [
            {
                "uid": s.question.uid,
                "key": s.question.key,
                "condition": s.condition,
                "label": s.label,
                "raw": text,
                "answer": extract_answer(text),
                "correct": is_right(text, s.question.answer),
                "num_tokens": tokens,
                "finished": finished,
            }
            for s, text, tokens, finished in zip(
                batch.samples, texts, done.mask.sum(1).tolist(), done.finished.tolist(), strict=True
            )
            if s.weight > 0
        ]

    def _count(self, metric: AccuracyByLabel, batch: Batch) -> None:
        for record in self.answer(batch):
            metric.update(record["condition"], record["label"], record["correct"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Answers."""
        self._count(self.val_accuracy, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Answers."""
        self._count(self.test_accuracy, batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Answers; the AnswerTable callback writes the records."""
        return self.answer(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/accuracy/...`."""
        self._log_accuracy("val", self.val_accuracy)

    def on_test_epoch_end(self) -> None:
        """Logs `test/accuracy/...`."""
        self._log_accuracy("test", self.test_accuracy)

    def _log_accuracy(self, where: str, metric: AccuracyByLabel) -> None:
        for name, value in metric.compute().items():
            self.log(f"{where}/accuracy/{name}", value, rank_zero_only=False, prog_bar=name == "audio")
        metric.reset()
