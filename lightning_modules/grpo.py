"""Knows group-relative policy optimisation (GRPO) as the paper runs it: one rollout of one batch is one step.

Deviations from the paper's trainer (ms-swift): the loss is divided by the step's number of completions over all ranks
instead of averaging micro-batch means; the placeholder tokens have probability 0 in sampling and in every log-prob;
sampling is not truncated to the top k, so that the ratio is the true one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from ..curriculum.feedback import SUMS, Observations
from ..datamodules.answers import is_right
from ..datamodules.batch import Batch
from ..errors import InputError
from .base import LABELS, PolicyModule
from .objectives.advantages import group_advantages
from .objectives.losses import grpo_loss, k3
from .objectives.rewards import reward_function, weighted_rewards
from .policy.omni import OmniPolicy
from .probing import due, option_accuracy, rollout_accuracy, silent_prompts
from .rollout.engine import Completions, Rollout, completion_keys
from .rollout.sampling import sample
from .schedule import Schedule

PAPER_REWARDS = {"accuracy": 2.0, "format": 0.5}


@dataclass
class Clip:
    """The trust region: ratios are clipped to [1 - low, 1 + high]; `beta` weighs the KL to the reference."""

    low: float = 0.2
    high: float = 0.2
    beta: float = 0.001


class GRPO(PolicyModule):
    """Samples a group of completions per prompt, rewards them, and follows their advantages.

    Args:
        policy, optimizer, schedule, max_grad_norm: as in PolicyModule.
        micro_batch_size: prompts (each with its group) per forward and backward pass on each rank.
        rollout: sampling. clip: trust region. rewards: import path -> weight; the paper's by default.
        num_iterations: optimizer steps on every rollout.
    """

    objectives: tuple[str, ...] = ("grpo",)

    def __init__(
        self,
        policy: Callable[[], OmniPolicy],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | None = None,
        max_grad_norm: float = 1.0,
        micro_batch_size: int = 1,
        rollout: Rollout | None = None,
        clip: Clip | None = None,
        rewards: dict[str, float] | None = None,
        num_iterations: int = 1,
    ) -> None:
        self_rollout = rollout or Rollout()
        super().__init__(policy, optimizer, schedule, max_grad_norm, micro_batch_size, self_rollout.max_new_tokens)
        self.rollout, self.clip = self_rollout, clip or Clip()
        self.rewards = {path: (reward_function(path), weight) for path, weight in (rewards or PAPER_REWARDS).items()}
        self.num_iterations = num_iterations
        self._frozen: list[OmniPolicy] = []  # in a list: neither saved, nor trained, nor sharded

    def configure_model(self) -> None:
        """Loads the policy, and with full fine-tuning a frozen copy of where it started, also when resuming."""
        super().configure_model()
        if self.clip.beta and not self.net.adapted and not self._frozen:
            self._frozen = [self.make_policy().requires_grad_(False)]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One rollout, its rewards and advantages, and `num_iterations` optimizer steps on it."""
        uids = [s.question.uid for s in batch.samples]
        done = sample(
            self.net,
            batch.prompts,
            max_new_tokens=self.rollout.max_new_tokens,
            group_size=self.rollout.group_size,
            temperature=self.rollout.temperature,
            keys=completion_keys(uids, self.rollout.group_size, self.rollout.seed, "rollout", batch.step),
        )
        texts = self.net.processor.decode(done.ids, done.mask)
        rewards, parts = weighted_rewards(self.rewards, texts, self._columns(batch))
        advantages = group_advantages(rewards, done.prompt_of_row.cpu()).float().to(self.device)
        advantages = advantages * (batch.weights > 0)[done.prompt_of_row]
        (count,) = self.over_ranks(float((batch.weights > 0).sum()) * self.rollout.group_size)
        references, olds = self._fixed_logprobs(batch, done)
        log: dict[str, float] = {}
        for _ in range(self.num_iterations):
            sums = torch.zeros(2, dtype=torch.float64)
            jobs = [
                partial(self._loss, batch, done, rows, advantages, references[i], olds[i], count, sums)
                for i, rows in enumerate(self.micro_batches(len(batch)))
            ]
            log = self.descend(jobs, batch.step)
            kl, tokens = self.over_ranks(float(sums[0]), float(sums[1]))
            log["train/kl"] = kl / max(tokens, 1.0)
        log |= self._by_label(batch, done, rewards, parts, advantages)
        log |= self._feed_back(batch, texts, advantages)
        self.log_dict(log | self.data_facts(batch))
        self.log("reward", log["reward/all"], prog_bar=True, logger=False)

    def _feed_back(self, batch: Batch, texts: list[str], advantages: Tensor) -> dict[str, float]:
        """Tells an adaptive stage how its cells fared, over all ranks; returns what it has learnt so far."""
        data, size = self.trainer.datamodule, self.rollout.group_size  # type: ignore[attr-defined]
        if data.cursor is None or not data.cursor.adapts:
            return {}
        stage = data.plan.dealt(data.training.stage).stage
        if stage.on_zero_advantage != "keep":
            raise InputError(f"stage {stage.name!r}: GRPO keeps groups without an advantage; on_zero_advantage: keep")
        real = [s.weight > 0 for s in batch.samples]
        cells = data.cells_of([s.row for s in batch.samples])[real]
        truths = [s.question.answer for s in batch.samples for _ in range(size)]
        right = [float(is_right(text, truth)) for text, truth in zip(texts, truths, strict=True)]
        accuracy = torch.tensor(right, dtype=torch.float64).view(-1, size).mean(1).numpy()
        gain = advantages.detach().cpu().double().view(-1, size).abs().mean(1).numpy()
        sums = Observations(cells, accuracy[real], "audio", gain[real]).sums(len(data.plan.cells))
        log: dict[str, float] = {}
        if stage.probe is not None and due(batch.step, stage.probe.rate):
            silent = self._probe(batch, stage.probe.how).cpu().numpy()[real]
            sums = sums + Observations(cells, silent, "silence").sums(len(data.plan.cells))
        sums = np.array(self.over_ranks(*sums.ravel())).reshape(sums.shape)
        data.cursor.observe(sums)
        seen = dict(zip(SUMS, sums.sum(1).tolist(), strict=True))
        if seen["silent_prompts"]:
            log["silent/all"] = seen["silent_right"] / seen["silent_prompts"]
        live = data.cursor.live()
        shown = [name for name in ("ac", "necessity", "useful") if name in live]
        return log | {f"live/{name}": float(live[name].mean()) for name in shown}

    def _probe(self, batch: Batch, how: str) -> Tensor:
        """[B] accuracy of the present policy without the audio."""
        silent, rollout = silent_prompts(self.net, batch), self.rollout
        if how == "option_logprob":
            return torch.cat([option_accuracy(self.net, silent, rows) for rows in self.micro_batches(len(batch))])
        return torch.cat(
            [
                rollout_accuracy(
                    self.net,
                    silent,
                    rows,
                    group_size=rollout.group_size,
                    temperature=rollout.temperature,
                    max_new_tokens=rollout.max_new_tokens,
                    name=(rollout.seed, batch.step),
                )
                for rows in self.micro_batches(len(batch))
            ]
        )

    def _columns(self, batch: Batch) -> dict[str, list]:
        """What reward functions may ask for, repeated over the group."""
        size = self.rollout.group_size
        columns: dict[str, list] = {
            "solution": [s.question.answer for s in batch.samples],
            "choices": [list(s.choices) for s in batch.samples],
            "question": [s.question.question for s in batch.samples],
            "question_type": [s.question.question_type for s in batch.samples],
            "label": [s.label for s in batch.samples],
        }
        return {name: [value for value in values for _ in range(size)] for name, values in columns.items()}

    def _rows(self, done: Completions, prompts: slice) -> Completions:
        size = self.rollout.group_size
        rows = torch.arange(prompts.start * size, prompts.stop * size, device=done.ids.device)
        return done.select(rows, prompts.start)

    def _logprob(self, policy: OmniPolicy, batch: Batch, part: Completions, prompts: slice) -> Tensor:
        return policy(
            batch.prompts.select(prompts), part.ids, part.mask, part.prompt_of_row, self.rollout.temperature
        ).logprob

    def _reference(self) -> AbstractContextManager[OmniPolicy]:
        return nullcontext(self._frozen[0]) if self._frozen else self.net.reference()

    @torch.no_grad()
    def _fixed_logprobs(self, batch: Batch, done: Completions) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Reference log-probs (None where beta is 0) and old ones (None where the first pass gives them anyway)."""
        references: list[Tensor | None] = []
        olds: list[Tensor | None] = []
        for prompts in self.micro_batches(len(batch)):
            part = self._rows(done, prompts)
            reference = None
            if self.clip.beta:
                if self._frozen:
                    self._frozen[0] = self._frozen[0].to(self.device)
                with self._reference() as frozen:
                    reference = self._logprob(frozen, batch, part, prompts)
            references.append(reference)
            olds.append(self._logprob(self.net, batch, part, prompts) if self.num_iterations > 1 else None)
        return references, olds

    def _loss(self, batch, done, prompts, advantages, reference, old, count, sums) -> Tensor:
        """One micro-batch's loss; adds its KL and its number of tokens to `sums` [2]."""
        part, size = self._rows(done, prompts), self.rollout.group_size
        logprob = self._logprob(self.net, batch, part, prompts)
        # The padding of a last batch must not count, not even through the KL term.
        real = (batch.weights[prompts] > 0).repeat_interleave(size)
        mask = part.mask * real[:, None]
        if reference is not None:
            estimate = (k3(logprob.detach(), reference) * mask).sum()
            sums += torch.tensor([float(estimate), float(mask.sum())], dtype=torch.float64)
        return grpo_loss(
            logprob,
            logprob.detach() if old is None else old,
            reference,
            advantages[prompts.start * size : prompts.stop * size],
            mask,
            num_completions=count,
            eps_low=self.clip.low,
            eps_high=self.clip.high,
            beta=self.clip.beta,
            weights=batch.weights[prompts].repeat_interleave(size),
        )

    def _by_label(
        self, batch: Batch, done: Completions, rewards: Tensor, parts: dict[str, Tensor], advantages: Tensor
    ) -> dict[str, float]:
        """`reward/{label}`, `accuracy/{label}` and `zero_advantage/{label}` over all ranks, and completion lengths."""
        size = self.rollout.group_size
        groups = rewards.nan_to_num(0.0).view(-1, size)
        flat = (advantages.cpu().view(-1, size) == 0).all(1).double()
        accuracy = parts.get("accuracy", torch.zeros_like(rewards)).nan_to_num(0.0).view(-1, size).mean(1)
        real = [s.weight > 0 for s in batch.samples]
        names, sums = [], []
        for label in ("all", *LABELS):
            mine = torch.tensor(
                [r and label in ("all", s.label or "unlabelled") for r, s in zip(real, batch.samples, strict=True)]
            )
            for name, value in (("reward", groups.mean(1)), ("accuracy", accuracy), ("zero_advantage", flat)):
                names.append(f"{name}/{label}")
                sums += [float(value[mine].sum()), float(mine.sum())]
        lengths, finished = float(done.mask.sum()), float(done.finished.sum())
        *reduced, lengths, finished, rows = self.over_ranks(*sums, lengths, finished, float(len(done.ids)))
        pairs = zip(names, reduced[::2], reduced[1::2], strict=True)
        log = {name: total / number for name, total, number in pairs if number}
        return log | {"rollout/mean_tokens": lengths / rows, "rollout/finished": finished / rows}
