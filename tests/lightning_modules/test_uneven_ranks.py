"""A batch need not divide over the ranks: two processes learn what one does."""

from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch

from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.sft import SFT
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)


class Report(L.Callback):
    """Writes what each rank had and learnt; forked ranks share no memory with the test."""

    def __init__(self, folder) -> None:
        self.folder, self.seen = folder, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        rows = [sample.row for sample in batch.samples if sample.weight > 0]
        groups = [each.group.tolist() for each in module.experiences]
        self.seen.append((rows, groups, {k: float(v) for k, v in trainer.callback_metrics.items()}))

    def on_train_end(self, trainer, module) -> None:
        weights = torch.cat([p.detach().flatten() for p in module.net.parameters() if p.requires_grad])
        torch.save((weights, self.seen), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def data_of(small, algorithm: str, samples: int) -> AudioQuestions:
    stage = {"name": "s", "algorithm": algorithm, "pool": {"source": "sounds"}, "batch_size": 5}
    spec = {"seed": 3, "cells": ["label"], "stages": [stage | {"budget": {"samples": samples}}]}
    return AudioQuestions(small.index, small.tiny, small.labels, TrainingSpec(spec, "s"))


RATES = ("time/", "speed/", "memory/", "data/padding", "train/moved")


def module_of(small, algorithm: str):
    policy = partial(OmniPolicy, small.tiny)
    if algorithm == "sft":
        return SFT(policy, SGD, micro_batch_size=2)
    rewards, rollout = {"earwitness.tests.lab_rewards.length": 1.0}, Rollout(4, 1.0, 4)
    return GRPO(policy, SGD, micro_batch_size=2, rollout=rollout, rewards=rewards, objective=GRPOConfig(beta=0.05))


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_an_odd_batch_on_two_ranks_is_that_of_one(small, tmp_path, algorithm) -> None:
    """Batches of 5, 5 and 1 rows: shares of 3 and 2, and at last of 1 and none; groups stay whole."""
    for devices in (1, 2):
        more = {"strategy": "ddp_fork", "devices": 2} if devices == 2 else {}
        trainer = trainer_of(tmp_path, callbacks=[Report(tmp_path)], **more)
        trainer.fit(module_of(small, algorithm), data_of(small, algorithm, 11))
    (one, alone), *both = (torch.load(tmp_path / f"{name}.pt", weights_only=False) for name in ("1-0", "2-0", "2-1"))
    assert [len(rows) for rows, *_ in alone] == [5, 5, 1]
    assert [[len(rows) for rows, *_ in seen] for _, seen in both] == [[3, 3, 1], [2, 2, 0]]
    for weights, seen in both:
        torch.testing.assert_close(weights, one, atol=1e-6, rtol=0)
        for (*_, expected), (_, groups, found) in zip(alone, seen, strict=True):
            names = {name for name in expected if not name.startswith(RATES)}
            assert {n: found[n] for n in names} == pytest.approx({n: expected[n] for n in names}, abs=1e-5)
            assert all(group.count(number) == 4 for group in groups for number in set(group))
