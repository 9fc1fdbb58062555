"""What all algorithms share: the policy, one optimizer step per batch, answering questions, exact positions.

One Lightning batch is one optimizer step over all ranks. Micro-batches are split inside the step, so the denominator
is known before the first backward pass and the loss does not depend on how the batch was split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from ..datamodules.batch import Batch, Sample
from ..datamodules.module import AudioQuestions
from ..datamodules.training import TrainingData
from ..errors import InputError
from .callbacks.position import PlanPosition
from .callbacks.retention import Retention
from .callbacks.throughput import measured
from .policy.flops import ReadingCost
from .policy.omni import OmniPolicy
from .policy.precision import compute_in, forget_copies
from .policy.sharding import clip_gradients
from .ranks import Ranks
from .rollout.engine import Rollout
from .step.accuracy import AccuracyByLabel
from .step.answering import answers
from .step.data_metrics import batch_metrics
from .step.freed_memory import keep_freed_memory
from .step.fused import fused
from .step.learning_rate import Schedule, set_rate
from .step.moved import Moved
from .step.not_finite import refuse_step
from .step.precision import precision_of
from .step.probing import silent_accuracy
from .step.trainer_options import prepare
from .step.work import Lengths, Work, summed, supervised
from .strategies.synchronised import check_strategy


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

    def setup(self, stage: str) -> None:
        """Has `trainer.precision` mean what it means here, before anything is loaded under it."""
        precision_of(self.trainer)
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()

    def configure_model(self) -> None:
        """Loads the policy; Lightning calls this before every entry point, after the data were set up.

        The data are tokenised by the policy's own processor from then on; an InputError where they were to be prepared
        for another vocabulary, or where the trainer's strategy would not exchange gradients.
        """
        if self._trainer is not None:
            check_strategy(self.trainer.strategy)
        if self.policy is None:
            self.policy = self.make_policy()
        if self._trainer is not None:
            dtype = precision_of(self.trainer).compute_dtype(self.policy.dtype)
            divides = hasattr(self.trainer.strategy, "shard")  # and converts what it divides, part by part
            compute_in(self.policy, dtype, self.trainer.state.fn == "fit", convert=not divides)
        data = None if self._trainer is None else self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, AudioQuestions):
            data.use_processor(self.policy.processor, self.policy.checkpoint)

    @property
    def net(self) -> OmniPolicy:
        """The policy, once it is loaded."""
        assert self.policy is not None
        return self.policy

    @property
    def ranks(self) -> Ranks:
        """This process among those of the run; alone where no trainer is attached."""
        if self._trainer is None:
            return Ranks()
        return Ranks(self.trainer.global_rank, self.trainer.world_size, self.device)

    @property
    def data(self) -> TrainingData:
        """The training questions, their plan and how far training is; during `fit` alone."""
        data: AudioQuestions = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.training_data

    def configure_callbacks(self) -> list[L.Callback]:
        """Counts trained batches in the data module, so that a resumed run continues exactly.

        Lightning calls this first: an InputError for a trainer whose arguments `fit` cannot follow.
        """
        if self.trainer.state.fn == "fit":
            prepare(self.trainer)
        return [PlanPosition(), Retention(), *measured(self._trainer)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over the parameters that train; Adam in one pass over them where nothing else was asked for."""
        return fused(self.make_optimizer([p for p in self.net.parameters() if p.requires_grad]))

    algorithms: tuple[str, ...] = ()
    num_iterations = 1  # optimizer steps per batch
    rollout: Rollout | None = None  # how completions are sampled, where they are
    experiences: Sequence[Any] = ()  # what the step that just ended sampled, for callbacks
    work: Work | None = None  # of the step that just ended, over all ranks, for callbacks

    def on_fit_start(self) -> None:
        """Refuses a stage of the curriculum that is meant for another algorithm."""
        for stage in self.data.members():
            algorithm = stage.algorithm
            if algorithm not in self.algorithms:
                raise InputError(
                    f"stage {stage.name!r} is for the algorithm {algorithm!r}, {type(self).__name__} trains "
                    f"{' and '.join(self.algorithms) or 'nothing'}; name another stage or another model class"
                )

    def total_steps(self) -> int:
        """Batches of this run: the plan's, or fewer where `trainer.max_steps`, in optimizer steps, says so."""
        planned = self.data.num_steps
        most = -(-self.trainer.max_steps // self.num_iterations)
        return planned if self.trainer.max_steps < 0 else min(planned, most)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lets the weights that do not train be missing from a checkpoint: sharded ones leave them out."""
        here, saved = self.state_dict(), checkpoint["state_dict"]
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                saved.setdefault(name, here[name])

    def update_policy(
        self,
        losses: Iterable[Callable[[], Tensor]],
        step: int,
        samples: Sequence[Sequence[Sample]] = (),
        check: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """One optimizer step on the sum of the micro-batches' losses over all ranks; returns metrics to log.

        losses: one function per micro-batch, already divided by the step's global denominator. step: of the stage, for
        the learning rate. samples: of every micro-batch, for messages. check: raises where the weights must not follow
        what the losses found. Raises InputError for a gradient that is not finite, instead of spoiling the weights.
        """
        optimizer: Any = self.optimizers()
        rate = set_rate(optimizer, self.schedule.factor(step, self.total_steps()))
        trained = [p for p in self.net.parameters() if p.requires_grad]
        precision, pending = precision_of(self.trainer), list(losses)
        while True:
            optimizer.zero_grad()
            found = self._backward(pending, precision.loss_scale)
            norm = float(clip_gradients(trained, self.max_grad_norm))
            if check is not None:
                check()
            if math.isfinite(norm):
                break
            if not precision.smaller_scale():
                folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
                raise refuse_step(step, norm, found, samples, self.ranks, folder)
        moved = Moved(trained)
        optimizer.step()
        forget_copies(self.net)
        precision.stepped()
        total, changed, looked_at = self.ranks.sums(sum(found), *moved.counts())
        metrics = {"train/loss": total, "train/grad_norm": norm, "train/lr": rate}
        return metrics | {"train/moved_share": changed / max(looked_at, 1.0)}

    def _backward(self, losses: Sequence[Callable[[], Tensor]], scale: float) -> list[float]:
        """The gradient of the losses' sum over all ranks; returns the losses of this rank.

        Strategies average gradients over ranks, hence the factor. scale: by which losses are multiplied on the way.
        """
        found: list[Tensor] = []
        with self.trainer.strategy.update(self.net) if self.net.sharded else nullcontext():  # type: ignore[attr-defined]
            for number, loss_of in enumerate(losses):
                with self._gradient_sync(number + 1 == len(losses)):
                    loss = loss_of()
                    self.manual_backward(loss * (self.trainer.world_size * scale))
                found.append(loss.detach())
        for p in self.net.parameters() if scale != 1 else ():
            if p.grad is not None:
                p.grad.div_(scale)
        return list(torch.stack(found).tolist()) if found else []

    def _gradient_sync(self, last: bool) -> Any:
        """Under DDP ranks exchange gradients once per step, with the last micro-batch."""
        wrapped = self.trainer.strategy.model
        if not last and isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return nullcontext()

    def micro_batches(self, rows: int) -> list[slice]:
        """Slices of at most `micro_batch_size` rows that cover a batch of so many."""
        return [slice(i, min(i + self.micro_batch_size, rows)) for i in range(0, rows, self.micro_batch_size)]

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Logs as Lightning does; numbers stay on the CPU, for a logger would wait for the device to read each back."""
        if isinstance(value, int | float):
            value = torch.tensor(float(value), dtype=torch.float32, device="cpu")
        super().log(name, value, *args, **kwargs)

    def batch_metrics(self, batch: Batch) -> dict[str, float]:
        """What the batch is, over all ranks: labels, repeats, the curriculum's mix, padding, bad samples so far."""
        self.num_replaced += len(batch.replaced)
        lengths = Lengths.of(batch)
        padding = lengths.computed(self.micro_batches(len(batch)))
        self.work, metrics = summed(self._own_work(batch, lengths), padding, self.num_replaced, self.ranks)
        return metrics | batch_metrics(batch, self.data, self.ranks)

    def _own_work(self, batch: Batch, lengths: Lengths) -> Work:
        return supervised(self.reading_cost, batch, lengths, self.micro_batches(len(batch)))

    @cached_property
    def reading_cost(self) -> ReadingCost:
        """What reading costs the policy, in floating-point operations."""
        return ReadingCost(self.net)

    def silent_accuracy(self, batch: Batch, how: str = "option_logprob") -> Tensor:
        """[B] float64 in [0, 1], on the CPU: how well the present policy answers the batch without the audio.

        how: "option_logprob" scores the options, "rollout" samples a group as in training; see `step/probing.py`.
        """
        rows = self.micro_batches(len(batch))
        return silent_accuracy(self.net, batch, rows, how, self.rollout)

    def answer(self, batch: Batch) -> list[dict[str, Any]]:
        """Answers to a batch: one record per question, without the padding of a last batch.

        `verdict` is by rule `exact`, `correct` whether it is "right"; both are None where the answer is not known.
        """
        return answers(self.net, batch, self.max_new_tokens, self.temperature, self.seed)

    def _count(self, metric: AccuracyByLabel, batch: Batch) -> list[dict[str, Any]]:
        records = self.answer(batch)
        for record in records:
            if record["verdict"] is None:
                raise InputError(f"{record['key']} has no answer to judge by; `predict` writes down what is said to it")
            metric.update(record["condition"], record["label"], record["verdict"])
        return records

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        """Answers the batch's questions, counts them by condition, label and verdict; returns a record of each."""
        return self._count(self.val_accuracy, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Answers the batch's questions and counts them by condition, label and verdict."""
        self._count(self.test_accuracy, batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """One record per question, see `answer`; the AnswerTable callback writes them."""
        return self.answer(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/accuracy/...` and `val/answers/...` over all ranks and starts counting anew."""
        self._log_accuracy("val", self.val_accuracy)

    def on_test_epoch_end(self) -> None:
        """Logs `test/accuracy/...` and `test/answers/...` over all ranks and starts counting anew."""
        self._log_accuracy("test", self.test_accuracy)

    def _log_accuracy(self, where: str, metric: AccuracyByLabel) -> None:
        for name, value in metric.compute().items():
            self.log(f"{where}/{name}", value, rank_zero_only=False, prog_bar=name == "accuracy/audio")
        metric.reset()
