"""Group-relative policy optimisation (GRPO): one rollout of one batch, and one optimizer step or a few on it.

Deviations from the paper's trainer (ms-swift): the loss is divided by the step's number of completions over all ranks
instead of averaging micro-batch means; the placeholder tokens have probability 0 in sampling and in every log-prob;
where sampling is truncated (top_k, top_p), log-probs are renormalised over what was kept, so that ratios are 1 on the
first pass; unscorable completions are left out of their group instead of counting 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from ..datamodules.batch import Batch
from ..errors import InputError
from .base import PolicyModule
from .callbacks.interruption import end_where_told, told_to_end
from .objectives.grpo_config import GRPOConfig
from .objectives.losses import loss_named
from .objectives.rewards import Rewards
from .policy.omni import OmniPolicy
from .policy.sharding import whole
from .rollout.engine import Completions, Engine, Rollout, completion_keys
from .rollout.sampling import PolicyEngine
from .step.advantages import set_advantages
from .step.experience import Experience, MicroBatch, columns_of, micro_batches
from .step.feedback import probe_wanted, report_to_curriculum
from .step.grpo_metrics import filter_metrics, label_metrics, token_metrics
from .step.learning_rate import Schedule
from .step.phases import Phases
from .step.policy_loss import PolicyLoss
from .step.precision import precision_of
from .step.reference import Reference
from .step.refill import refill
from .step.token_meter import TokenMeter
from .step.unscored import refuse_unscored
from .step.work import Lengths, Work, sampled

PAPER_REWARDS = {"accuracy": 2.0, "format": 0.5}


class GRPO(PolicyModule):
    """Samples a group of completions per prompt, rewards them, and follows their advantages.

    Args:
        policy, optimizer, schedule, max_grad_norm: as in PolicyModule.
        micro_batch_size: prompts (each with its group) per forward and backward pass on each rank.
        rollout: sampling. objective: loss, trust region, KL, advantages.
        rewards: name or import path -> weight, or {weight: ..., argument: ...}; the paper's by default.
        num_iterations: optimizer steps on every rollout.
        engine: what samples; the policy itself by default, or vLLM here or elsewhere.
    """

    algorithms: tuple[str, ...] = ("grpo",)
    rollout: Rollout

    def __init__(
        self,
        policy: Callable[[], OmniPolicy],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | None = None,
        max_grad_norm: float = 1.0,
        micro_batch_size: int = 1,
        rollout: Rollout | None = None,
        objective: GRPOConfig | None = None,
        rewards: dict[str, float | dict[str, Any]] | None = None,
        num_iterations: int = 1,
        engine: Engine | None = None,
    ) -> None:
        sampling = rollout or Rollout()
        super().__init__(policy, optimizer, schedule, max_grad_norm, micro_batch_size, sampling.max_new_tokens)
        self.rollout, self.objective = sampling, objective or GRPOConfig()
        self.loss = loss_named(self.objective.loss)
        self.rewards = Rewards(PAPER_REWARDS if rewards is None else rewards)
        if num_iterations < 1:
            raise InputError(f"num_iterations: at least one optimizer step per rollout, got {num_iterations}")
        self.num_iterations = num_iterations
        self.engine: Engine = engine or PolicyEngine()
        self._references: list[Reference] = []  # in a list: neither saved, nor trained, nor sharded
        self.experiences: list[Experience] = []  # of the step that just ended, for callbacks
        self.phases = Phases()
        self._started = False

    def configure_callbacks(self) -> list[L.Callback]:
        """Ends the engine also where the run does not end by itself."""
        return [*super().configure_callbacks(), _Closing()]

    def on_fit_start(self) -> None:
        """With full fine-tuning loads a frozen copy of where training started, also when resuming."""
        super().on_fit_start()
        if self.objective.beta and not self._references:
            dtype = precision_of(self.trainer).compute_dtype(self.net.dtype)
            shard = self.trainer.strategy.shard if self.net.sharded else None  # type: ignore[attr-defined]
            offload = self.objective.offload_reference
            self._references = [Reference(self.net, self.make_policy, dtype, offload, shard)]

    def on_train_start(self) -> None:
        """Starts the engine."""
        self._started, self.engine.unwanted = True, partial(told_to_end, self.trainer)
        self.engine.start(self.net, self.trainer.global_rank, self.trainer.world_size)

    def on_train_end(self) -> None:
        """Ends the engine."""
        self.close()

    def close(self) -> None:
        """Ends the engine where it runs; another `fit` starts it anew."""
        self.experiences = []
        if self._started:
            self._started = False
            self.engine.close()

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Lets go of the rollout; callbacks have seen it."""
        self.experiences = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One rollout, its rewards and advantages, and `num_iterations` optimizer steps on it."""
        self.phases.begin()
        experiences = self.experiences = self._roll_out(batch)
        refuse_unscored(experiences, batch.step, self.ranks)
        set_advantages(experiences, self.objective, self.rewards.weights, self.ranks)
        with self.phases("probe"):  # before the update: audio and silence are heard by one policy
            probe = probe_wanted(self.data, batch)
            silent = None if probe is None else [self.silent_accuracy(e.batch, probe.how) for e in experiences]
        denominator = self._denominator(experiences)
        with self.phases("logprob"):
            work = self._fixed_logprobs(self._micro_batches(experiences))
        metrics: dict[str, float] = {}
        for number in range(self.num_iterations):
            meter = TokenMeter(number == 0, self.objective.measures_entropy(batch.step))
            jobs = [partial(self._loss, micro, denominator, meter) for micro in work]
            with self.phases("update"):
                samples = [micro.samples for micro in work]
                metrics |= self.update_policy(jobs, batch.step, samples, meter.refuse_strangers)
            # The gap to the engine's log-probs is that of the first iteration: later ones have learnt.
            metrics |= token_metrics(meter, self.ranks, self._unused(number, meter))
        metrics |= label_metrics(experiences, self.ranks)
        if self.data.stage_of(batch).on_zero_advantage != "keep":
            metrics |= filter_metrics(experiences, self.ranks)
        metrics |= report_to_curriculum(experiences, silent, self.data, self.ranks)
        self.log_dict(metrics | self.batch_metrics(batch) | self.phases.seconds())
        if "reward/all" in metrics:
            self.log("reward", metrics["reward/all"], prog_bar=True, logger=False)

    def _own_work(self, batch: Batch, lengths: Lengths) -> Work:
        if not self.experiences:
            return super()._own_work(batch, lengths)
        fixed = bool(self._references) + (self.num_iterations > 1)
        return sampled(self.reading_cost, self.experiences, self.micro_batch_size, fixed, self.num_iterations)

    def _unused(self, iteration: int, meter: TokenMeter) -> list[str]:
        """Names of the meter's sums that are not logged."""
        unused = [] if self.objective.beta else ["kl"]
        unused += ["correction", "corrected"] if self.objective.correction is None else []
        unused += [] if meter.entropy else ["entropy"]
        return unused + (["gap"] if iteration else [])

    def _roll_out(self, batch: Batch) -> list[Experience]:
        """The batch's experience, and those of the questions that came for groups that taught nothing."""
        self.engine.sync(self.net)
        first = self.experience(batch, 0)
        more = refill(first, self.data, self.ranks, self.rollout.refill_rounds, self._roll_out_more)
        self.engine.rest()
        return [first, *more]

    def _roll_out_more(self, batch: Batch, number: int) -> Experience:
        self.num_replaced += len(batch.replaced)
        return self.experience(batch.to(self.device), number)

    def experience(self, batch: Batch, number: int) -> Experience:
        """Completions of the batch's prompts and their rewards. number: of the round within the step, from 0."""
        uids = [sample.question.uid for sample in batch.samples]
        batch = self._listened(batch)
        name = ("rollout", batch.step) if number == 0 else ("rollout", batch.step, number)
        keys = completion_keys(uids, self.rollout.group_size, self.rollout.seed, *name)
        with self.phases("rollout"):
            completions = self.engine.complete(batch, self.rollout, keys)
        end_where_told(self.trainer)  # nothing of this step is trained yet
        with self.phases("reward"):
            texts = self.net.processor.decode(completions.ids, completions.mask)
            silence = self.silent_accuracy(batch) if self.rewards.needs_silence else None
            columns = columns_of(batch, completions, texts, self.rollout.max_new_tokens, silence)
            scored = self.rewards(texts, columns, columns["key"])
        return Experience(batch, completions, texts, scored, silence, self.objective.advantages == "gdpo")

    def _listened(self, batch: Batch) -> Batch:
        """The batch with its recordings heard, where that stays true: all that the step does with them shares it."""
        prompts = self.net.counted(batch.prompts)
        if not any(p.requires_grad for p in self.net.tower.parameters()):
            with torch.no_grad(), whole(self.net):
                prompts = prompts.knowing(prompts.sizes, self.net.hear(prompts))
        return replace(batch, prompts=prompts)

    def _denominator(self, experiences: list[Experience]) -> float:
        """What the loss is divided by, over all micro-batches and ranks; at least 1."""
        masks = [experience.mask(not self.objective.mask_truncated) for experience in experiences]
        completions = sum(int(experience.kept.sum()) * experience.group_size for experience in experiences)
        if self.objective.drop_empty:
            completions = sum(int(mask.any(1).sum()) for mask in masks)
        counts = {
            "completions": float(completions),
            "tokens": float(sum(int(mask.sum()) for mask in masks)),
            "budget": float(completions * self.rollout.max_new_tokens),
        }
        (total,) = self.ranks.sums(counts[self.loss.denominator])
        return max(total, 1.0)

    def _micro_batches(self, experiences: list[Experience]) -> list[MicroBatch]:
        """The step's micro-batches, as many on every rank: weights that are sharded wait for all ranks."""
        work = micro_batches(experiences, self.micro_batch_size)
        most = int(self.ranks.greatest(len(work)))
        return work + [replace(work[0], counts=False)] * (most - len(work))

    def _logprobs(self, policy: OmniPolicy, micro: MicroBatch, entropy: bool = False, loss: Any = None) -> Any:
        """Log-probs [n, C] of the completions as they were drawn: at their temperature, over their support.

        loss: of single tokens; the result is then a TokenLoss.
        """
        asked, said = micro.prompts, micro.completions
        given = (asked, said.ids, said.mask, said.prompt_of_row, self.rollout.temperature, entropy, said.support)
        return policy(*given, micro.said, loss)

    @torch.no_grad()
    def _fixed_logprobs(self, work: list[MicroBatch]) -> list[MicroBatch]:
        """Reference log-probs (beta not 0), and old ones where the first pass does not give them anyway."""
        if self._references:
            with self._references[0].at(self.device) as frozen:
                work = [replace(micro, reference=self._logprobs(frozen, micro).logprob) for micro in work]
        if self.num_iterations > 1:
            with whole(self.net):
                work = [replace(micro, old=self._logprobs(self.net, micro).logprob) for micro in work]
        return work

    def _loss(self, micro: MicroBatch, denominator: float, meter: TokenMeter) -> Tensor:
        """One micro-batch's loss; adds what is worth logging to the meter."""
        completions = micro.completions
        mask = micro.mask(completions.ids.shape[1], not self.objective.mask_truncated)
        loss = PolicyLoss(
            self.loss,
            self.objective,
            denominator,
            mask,
            micro.advantages.to(self.device, torch.float32, non_blocking=True),
            micro.weights,
            micro.old,
            micro.reference,
            self._engine_logprob(completions),
        )
        in_one_pass = loss.by_token and completions.support is None and self.net.head.requires_grad
        out = self._logprobs(self.net, micro, meter.entropy, loss.of_tokens() if in_one_pass else None)
        meter.measure(loss, out.logprob.detach(), out.entropy, completions.logprob, micro.labels)
        value: Tensor = out.loss if in_one_pass else loss.of_all(out.logprob)
        return value

    def _engine_logprob(self, completions: Completions) -> Tensor | None:
        """[n, C] log-probs of the engine that sampled, for a correction; None where none is wanted."""
        if self.objective.correction is not None and completions.logprob is None:
            raise InputError(f"objective.correction: {type(self.engine).__name__} gives no log-probs of its own")
        return None if self.objective.correction is None else completions.logprob


class _Closing(L.Callback):
    """After an error or an interruption Lightning does not end training; somebody must end the engine."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Ends the engine."""
        assert isinstance(pl_module, GRPO)
        pl_module.close()
