"""What a step is does not depend on how it is split, interrupted or distributed."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from earwitness.datamodules.batches.requests import Augmentation, EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.errors import InputError
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step.learning_rate import Schedule
from earwitness.tests.trainers import trainer_of

CURRICULUM = {
    "seed": 3,
    "cells": ["source", "label"],
    "stages": [
        {
            "name": "sft",
            "algorithm": "sft",
            "pool": {"source": "sounds", "label": "weak"},
            "batch_size": 4,
            "budget": {"samples": 23},
        },
        {
            "name": "grpo",
            "algorithm": "grpo",
            "pool": {"source": "sounds", "label": "strong"},
            "batch_size": 4,
            "budget": {"steps": 3},
        },
    ],
}
SGD = partial(torch.optim.SGD, lr=0.05)


def data_of(small, stage: str = "sft", **options) -> AudioQuestions:
    training = TrainingSpec(CURRICULUM, stage, shuffle_options=True, augmentation=Augmentation())
    return AudioQuestions(small.index, small.tiny, small.labels, training, EvaluationSpec({"split": "val"}), **options)


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.net.parameters() if p.requires_grad])


def policy_of(small, **options) -> partial:
    return partial(OmniPolicy, small.tiny, **options)


def trained(small, tmp_path, module, stage: str = "sft", max_steps: int = 2):
    trainer_of(tmp_path, max_steps).fit(module, data_of(small, stage))
    return weights(module)


def test_sft_is_the_same_for_every_micro_batch_size(small, tmp_path) -> None:
    results = [trained(small, tmp_path, SFT(policy_of(small), SGD, micro_batch_size=size)) for size in (1, 3, 4)]
    start = weights_before(small)
    assert (results[0] - start).abs().max() > 1e-4  # something was learnt
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-6, rtol=0)


def weights_before(small) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in OmniPolicy(small.tiny).parameters() if p.requires_grad])


@pytest.mark.parametrize("iterations", [1, 2])
def test_grpo_is_the_same_for_every_micro_batch_size(small, tmp_path, iterations) -> None:
    """Rollouts are drawn by identity, losses share one denominator: 1 or 4 prompts at a time give equal weights."""

    def module(size: int) -> GRPO:
        rewards = {"earwitness.tests.lab_rewards.length": 1.0}
        return GRPO(
            policy_of(small),
            SGD,
            micro_batch_size=size,
            rollout=Rollout(group_size=4, max_new_tokens=6),
            objective=GRPOConfig(beta=0.05),
            rewards=rewards,
            num_iterations=iterations,
        )

    one, four = (trained(small, tmp_path, module(size), "grpo") for size in (1, 4))
    assert (one - weights_before(small)).abs().max() > 1e-5
    torch.testing.assert_close(four, one, atol=1e-6, rtol=0)


def test_equal_rewards_without_kl_change_nothing(small, tmp_path) -> None:
    module = GRPO(
        policy_of(small),
        SGD,
        rollout=Rollout(4, 1.0, 6),
        objective=GRPOConfig(beta=0.0),
        rewards={"earwitness.tests.lab_rewards.constant": 1.0},
    )
    assert torch.equal(trained(small, tmp_path, module, "grpo", 1), weights_before(small))


def test_grpo_with_adapters_keeps_the_base_and_the_reference(small, tmp_path) -> None:
    """With LoRA the reference is the policy without adapters: KL is 0 at the first step and positive after it."""
    module = GRPO(
        policy_of(small, lora=Lora(rank=4)),
        partial(torch.optim.SGD, lr=5.0),
        rollout=Rollout(4, 1.0, 6),
        rewards={"earwitness.tests.lab_rewards.length": 1.0},
    )
    kls = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            kls.append(float(trainer.callback_metrics["train/kl"]))

    trainer_of(tmp_path, 3, callbacks=[Watch()]).fit(module, data_of(small, "grpo"))
    assert abs(kls[0]) < 1e-9 and kls[-1] > 1e-7
    base = {n: p for n, p in module.net.base.named_parameters() if "lora" not in n}
    original = OmniPolicy(small.tiny).thinker.state_dict()
    assert all(torch.equal(p, original[n.replace(".base_layer", "")]) for n, p in base.items())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("asks_for_steps", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(small, tmp_path, workers, asks_for_steps) -> None:
    """Cut after 2 and after 5 of 6 steps (the last one padded): same batches, bit-equal weights.

    A callback that asks the trainer for its number of steps makes Lightning build the loader before the restore.
    """
    seen: list[tuple[int, tuple[str, ...]]] = []

    class Watch(L.Callback):
        def __init__(self, cut_before: int) -> None:
            self.cut_before = cut_before

        def setup(self, trainer, *_, **__):
            if asks_for_steps:
                assert trainer.estimated_stepping_batches > 0

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch.step == self.cut_before:
                raise PowerCut
            seen.append((batch.step, tuple(s.question.key for s in batch.samples)))

    def run(cut_before: int = -1, resume: int | None = None):
        adam = partial(torch.optim.AdamW, lr=1e-3)
        module = SFT(policy_of(small), adam, Schedule(2, 0.1), micro_batch_size=4)
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_of(tmp_path, callbacks=[Watch(cut_before), keep], enable_checkpointing=True)
        path = None if resume is None else str(tmp_path / f"step={resume}.ckpt")
        with suppress(PowerCut):
            trainer.fit(module, data_of(small, num_workers=workers), ckpt_path=path, weights_only=True)
        return weights(module)

    straight = run()
    planned, seen[:] = list(seen), []
    for path in tmp_path.glob("*.ckpt"):
        path.unlink()
    run(cut_before=2)
    run(cut_before=5, resume=2)
    resumed = run(resume=5)
    assert [step for step, _ in planned] == [0, 1, 2, 3, 4, 5]
    assert seen == planned
    assert torch.equal(resumed, straight)


class PowerCut(Exception):
    """Ends a run in the middle."""


def test_a_checkpoint_of_another_plan_is_refused(small, tmp_path) -> None:
    trainer = trainer_of(tmp_path, 1)
    trainer.fit(SFT(policy_of(small), SGD), data_of(small))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = data_of(small)
    other.training.curriculum = {**CURRICULUM, "seed": 4}
    with pytest.raises(InputError, match="since the checkpoint: seed was 3, is 4"):
        trainer_of(tmp_path, 2).fit(SFT(policy_of(small), SGD), other, ckpt_path=str(tmp_path / "a.ckpt"))


def test_a_batch_out_of_turn_stops_the_run(small, tmp_path) -> None:
    data = data_of(small)

    class Skip(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            if data.position == 1:
                data.trained()

    with pytest.raises(RuntimeError, match="batch 1 of plan .* came, batch 2 of plan"):
        trainer_of(tmp_path, 3, callbacks=[Skip()]).fit(SFT(policy_of(small), SGD), data)


def test_the_last_batch_is_as_small_as_what_is_left(small, tmp_path) -> None:
    """23 samples in batches of 4: nothing is computed for a place that nobody fills."""
    module, data = SFT(policy_of(small), SGD, micro_batch_size=4), data_of(small)
    trainer_of(tmp_path, 1).fit(module, data)
    last = data.builder.batch(data.training_data.request(5))
    assert last.weights.tolist() == [1, 1, 1] and len(last.target_ids) == 3


class Losses(L.Callback):
    """Every step's loss, in full precision."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_loss_curves_are_those_of_the_naive_logits(small, tmp_path, monkeypatch, stage) -> None:
    """The same run with all logits at once: losses and final weights agree to rounding."""
    from torch.nn.functional import log_softmax

    from earwitness.kernels.linear_logprob import LogProbOutput, TokenLoss
    from earwitness.lightning_modules.policy import omni

    def naive(hidden, weight, targets, *, temperature, exclude, **_) -> LogProbOutput:
        logits = (hidden @ weight.T / temperature).index_fill(-1, exclude, -torch.inf)
        every = log_softmax(logits, -1)
        logprob = every.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
        return LogProbOutput(logprob.where(targets >= 0, 0.0), -(every.exp() * every.clamp(min=-1e4)).sum(-1))

    def naive_loss(hidden, weight, targets, loss_of, *, places, **options) -> TokenLoss:
        logprob, entropy, _ = naive(hidden, weight, targets, **options)
        return TokenLoss(loss_of(logprob.reshape(-1)[places], places).sum(), logprob.detach(), entropy)

    curves, ends = [], []
    for function in (None, naive):
        if function is not None:
            monkeypatch.setattr(omni, "linear_logprob", function)
            monkeypatch.setattr(omni, "linear_token_loss", naive_loss)
        seen = Losses()
        if stage == "sft":
            module = SFT(policy_of(small), SGD)
        else:
            rewards, rollout = (
                {"earwitness.tests.lab_rewards.length": 1.0},
                Rollout(group_size=4, max_new_tokens=6),
            )
            module = GRPO(
                policy_of(small),
                SGD,
                rollout=rollout,
                objective=GRPOConfig(beta=0.05),
                rewards=rewards,
                num_iterations=2,
            )
        trainer_of(tmp_path, callbacks=[seen]).fit(module, data_of(small, stage))
        curves.append(torch.tensor(seen.values, dtype=torch.float64))
        ends.append(weights(module))
    assert len(curves[0]) == (6 if stage == "sft" else 3) and curves[0].abs().max() > 1e-6
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-5)
