"""Knows group-relative policy optimisation (GRPO): one rollout of one batch, and one optimizer step or a few on it.

Deviations from the paper's trainer (ms-swift): the loss is divided by the step's number of completions over all ranks
instead of averaging micro-batch means; the placeholder tokens have probability 0 in sampling and in every log-prob;
where sampling is truncated (top_k, top_p), log-probs are renormalised over what was kept, so that ratios are 1 on the
first pass; unscorable completions are left out of their group instead of counting 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from ..datamodules.batch import Batch
from ..errors import InputError
from .base import PolicyModule
from .objectives.correction import importance
from .objectives.differences import difference
from .objectives.grpo_config import GRPOConfig, advantages_over_ranks
from .objectives.kl import kl
from .objectives.losses import clip_metrics, loss_named, ratio
from .objectives.rewards import Rewards
from .policy.omni import OmniPolicy
from .rollout.engine import Engine, Rollout, completion_keys
from .rollout.sampling import PolicyEngine
from .step.experience import Experience, Part, columns_of, micro_batches
from .step.grpo_metrics import Meter, by_label, label_places, mean_metrics
from .step.learning_rate import Schedule
from .step.observing import probe, refill, report_to_curriculum, silent_accuracy
from .step.phases import Phases
from .step.reference import Reference

PAPER_REWARDS = {"accuracy": 2.0, "format": 0.5}
_MOST_DIFFERENCE = 1.0  # nats per token; rounding and other kernels give hundredths


class Micro(NamedTuple):
    """One micro-batch of a step: prompts [b] of an experience; `counts` is False where it only keeps a rank busy.

    reference, old: [n, C] fixed log-probs, None where they are not needed.
    """

    experience: Experience
    prompts: Tensor
    counts: bool
    reference: Tensor | None = None
    old: Tensor | None = None


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
        rewards: dict[str, float | dict] | None = None,
        num_iterations: int = 1,
        engine: Engine | None = None,
    ) -> None:
        how = rollout or Rollout()
        super().__init__(policy, optimizer, schedule, max_grad_norm, micro_batch_size, how.max_new_tokens)
        self.rollout, self.objective = how, objective or GRPOConfig()
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
            self._references = [Reference(self.net, self.make_policy, self.objective.offload_reference)]

    def on_train_start(self) -> None:
        """Starts the engine."""
        self.engine.start(self.net, self.trainer.global_rank, self.trainer.world_size)
        self._started = True

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
        found = self.experiences = self._roll_out(batch)
        advantages_over_ranks(self, found)
        with self.phases("probe"):
            probed = probe(self, found)
        denominator = self._denominator(found)
        with self.phases("logprob"):
            work = self._fixed(self._work(found))
        log: dict[str, float] = {}
        for number in range(self.num_iterations):
            meter = Meter()
            jobs = [partial(self._loss, micro, denominator, meter, number == 0) for micro in work]
            with self.phases("update"):
                log |= self.descend(jobs, batch.step)
            means = mean_metrics(self, meter)
            log |= {name: value for name, value in means.items() if number == 0 or "logprob_gap" not in name}
        log |= by_label(self, found) | report_to_curriculum(self, found, probed)
        self.log_dict(log | self.data_metrics(batch) | self.phases.seconds())
        if "reward/all" in log:
            self.log("reward", log["reward/all"], prog_bar=True, logger=False)

    def _roll_out(self, batch: Batch) -> list[Experience]:
        """The batch's experience, and those of what came for groups that taught nothing."""
        self.engine.sync(self.net)
        found = [self.experience(batch, 0)]
        found += refill(self, found[0])
        self.engine.rest()
        return found

    def experience(self, batch: Batch, number: int) -> Experience:
        """Completions of the batch's prompts and their rewards. number: of the round within the step."""
        uids = [s.question.uid for s in batch.samples]
        name = ("rollout", batch.step) if number == 0 else ("rollout", batch.step, number)
        keys = completion_keys(uids, self.rollout.group_size, self.rollout.seed, *name)
        with self.phases("rollout"):
            done = self.engine.complete(batch, self.rollout, keys)
        with self.phases("reward"):
            texts = self.net.processor.decode(done.ids, done.mask)
            silence = silent_accuracy(self, batch) if self.rewards.needs_silence else None
            columns = columns_of(batch, done, self.rollout.max_new_tokens, silence)
            scored = self.rewards(texts, columns, columns["key"])
        return Experience(batch, done, texts, scored, silence, self.objective.advantages == "gdpo")

    def _denominator(self, found: list[Experience]) -> float:
        """What the loss is divided by, over all micro-batches and ranks; at least 1."""
        masks = [each.mask(not self.objective.mask_truncated) for each in found]
        completions = sum(int(each.kept.sum()) * each.group_size for each in found)
        if self.objective.drop_empty:
            completions = sum(int(mask.any(1).sum()) for mask in masks)
        counts = {
            "completions": float(completions),
            "tokens": float(sum(int(mask.sum()) for mask in masks)),
            "budget": float(completions * self.rollout.max_new_tokens),
        }
        (total,) = self.over_ranks(counts[self.loss.denominator])
        return max(total, 1.0)

    def _work(self, found: list[Experience]) -> list[Micro]:
        """The step's micro-batches, as many on every rank: weights that are sharded wait for all ranks."""
        work = [Micro(each, prompts, True) for each, prompts in micro_batches(found, self.micro_batch_size)]
        most = int(self.greatest(len(work)))
        return work + [work[0]._replace(counts=False)] * (most - len(work))

    def _logprobs(self, policy: OmniPolicy, micro: Micro, entropy: bool = False):
        part = micro.experience.part(micro.prompts)
        done = part.done
        return policy(
            part.prompts, done.ids, done.mask, done.prompt_of_row, self.rollout.temperature, entropy, done.support
        )

    @torch.no_grad()
    def _fixed(self, work: list[Micro]) -> list[Micro]:
        """Reference log-probs (beta not 0), and old ones where the first pass does not give them anyway."""
        if self._references:
            with self._references[0].at(self.device) as frozen:
                work = [micro._replace(reference=self._logprobs(frozen, micro).logprob) for micro in work]
        if self.num_iterations > 1:
            work = [micro._replace(old=self._logprobs(self.net, micro).logprob) for micro in work]
        return work

    def _loss(self, micro: Micro, denominator: float, meter: Meter, first: bool) -> Tensor:
        """One micro-batch's loss; adds what is worth logging to the meter."""
        how, each = self.objective, micro.experience
        part = each.part(micro.prompts)
        out = self._logprobs(self.net, micro, entropy=True)
        mask = each.mask(not how.mask_truncated)[part.rows, : part.done.ids.shape[1]] * micro.counts
        labels = label_places(each, part.rows)
        old = out.logprob.detach() if micro.old is None else micro.old
        advantages = each.advantages[part.rows.cpu()].to(self.device, out.logprob.dtype)
        rho = ratio(out.logprob, old, mask)
        penalty = None
        if micro.reference is not None:
            divergence = kl(
                out.logprob, micro.reference, mask, estimator=how.kl, ratio=rho if how.kl_correction else None
            )
            penalty = how.beta * divergence
            meter.add("kl", kl(out.logprob.detach(), micro.reference, mask), labels)
        correction = self._correction(part, old, mask, meter, labels)
        if first:
            self._compare(part, out.logprob.detach(), mask, meter, labels)
        level, bounds = how.shown
        shown = rho.detach() if level == "token" else ratio(out.logprob.detach(), old, mask, level).expand_as(mask)
        for name, values in clip_metrics(shown, advantages, mask, bounds).items():
            meter.add(name, values, labels)
        meter.add("entropy", out.entropy * mask, labels)
        weights = each.batch.weights[each.done.prompt_of_row[part.rows]]
        return self.loss.function(
            out.logprob,
            old,
            advantages,
            mask,
            denominator=denominator,
            clip=how.clip,
            penalty=penalty,
            correction=correction,
            weights=weights,
        )

    def _correction(self, part: Part, old: Tensor, mask: Tensor, meter: Meter, labels: Tensor) -> Tensor | None:
        """The importance weight from the engine's distribution to the policy's, where one is wanted."""
        how = self.objective.correction
        if how is None:
            return None
        if part.done.logprob is None:
            raise InputError(f"objective.correction: {type(self.engine).__name__} gives no log-probs of its own")
        weight, raw = importance(
            old.detach(), part.done.logprob, mask, level=how.level, how=how.how, cap=how.cap, floor=how.floor
        )
        meter.add("correction", weight.expand_as(mask) * mask, labels)
        meter.add("corrected", (raw != weight).expand_as(mask) * mask, labels)
        return weight

    def _compare(self, part: Part, logprob: Tensor, mask: Tensor, meter: Meter, labels: Tensor) -> None:
        """How far the engine's log-probs are from the policy's; far off, something else was sampled from."""
        if part.done.logprob is None:
            return
        gaps = difference(logprob, part.done.logprob, mask)[0].abs()
        meter.add("gap", gaps, labels)
        gap, tokens = float(gaps.sum()), float(mask.sum())
        if gap > _MOST_DIFFERENCE * max(tokens, 8.0):
            raise InputError(
                f"the completions were not sampled from this policy: its log-probs differ from the engine's by "
                f"{gap / tokens:.2f} nats per token; other weights, another temperature, or audio that belongs to "
                "other prompts"
            )


class _Closing(L.Callback):
    """After an error or an interruption Lightning does not end training; somebody must end the engine."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Whatever it was."""
        assert isinstance(pl_module, GRPO)
        pl_module.close()
