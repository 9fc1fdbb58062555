"""GRPO with vLLM inside the training process: what is sampled at every step comes from the weights of that step.

Run by `make test-vllm` with the interpreter of vLLM's own environment.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here; use make test-vllm")

from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.interleaved import Interleaved
from earwitness.lightning_modules.objectives.correction import Correction
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.rollout.vllm_engine import VllmEngine
from earwitness.tests.grpo_parts import Kept
from earwitness.tests.sharded_runs import VLLM, launch
from earwitness.tests.trainers import trainer_of

LENGTH = {"earwitness.tests.lab_rewards.length": 1.0}


def data_of(small, *stages: dict, name: str = "grpo") -> AudioQuestions:
    curriculum = {"seed": 3, "cells": ["label"], "stages": list(stages)}
    return AudioQuestions(
        small.index, small.tiny, small.labels, TrainingSpec(curriculum, name), EvaluationSpec({"split": "val"})
    )


GRPO_STAGE = {"name": "grpo", "algorithm": "grpo", "pool": {"source": "sounds"}, "batch_size": 4}
GRPO_STAGE["budget"] = {"steps": 3}


def engine(**options) -> VllmEngine:
    return VllmEngine(max_model_len=1024, enforce_eager=True, max_num_seqs=32, **options)


def moving(small, kind=GRPO, lora=None, lr: float = 0.5, **options):
    """A policy that every step moves far: a rollout from the weights of a step before would be seen at once."""
    objective = GRPOConfig(beta=0.01, correction=Correction())
    given = {"rollout": Rollout(4, 1.5, 8, top_k=4), "objective": objective, "rewards": LENGTH, "micro_batch_size": 4}
    return kind(partial(OmniPolicy, small.tiny, lora=lora), partial(torch.optim.SGD, lr=lr), **(given | options))


@pytest.mark.parametrize(
    ("lora", "sync", "lr"), [(None, "merged", 0.5), (Lora(rank=4), "adapter", 50.0)], ids=["full", "adapter"]
)
def test_every_rollout_comes_from_the_weights_of_its_step(small, tmp_path, lora, sync, lr):
    """Temperature 1.5, top_k 4: three steps, each with log-probs equal to the policy's to 1e-4 and ratio 1."""
    module, kept = moving(small, lora=lora, lr=lr, engine=engine(sync=sync)), Kept()
    module.configure_model()
    start = torch.cat([p.detach().flatten() for p in module.net.parameters() if p.requires_grad])
    trainer_of(tmp_path, callbacks=[kept]).fit(module, data_of(small, GRPO_STAGE))
    end = torch.cat([p.detach().flatten() for p in module.net.parameters() if p.requires_grad])
    assert len(kept.logs) == 3 and (end - start).abs().max() > 1e-3
    for log in kept.logs:
        assert log["rollout/logprob_gap"] < 1e-4 and log["train/ratio"] == 1.0
        assert log["rollout/correction"] == pytest.approx(1.0, abs=1e-3)
    assert abs(kept.logs[0]["train/kl"]) < 1e-6 < kept.logs[2]["train/kl"]


def test_sft_and_grpo_take_turns_around_one_engine(small, tmp_path):
    """The weights that SFT changed in between are those the next rollout comes from."""
    members = [
        {"name": "sft", "algorithm": "sft", "batch_size": 4, "pool": {"label": "weak"}},
        {"name": "grpo", "algorithm": "grpo", "batch_size": 2, "pool": {"label": "strong"}},
    ]
    entry = {"name": "both", "interleave": {"steps": 4, "share": {"grpo": 0.5}}, "stages": members}
    module, kept = moving(small, Interleaved, engine=engine()), Kept()
    trainer_of(tmp_path, callbacks=[kept]).fit(module, data_of(small, entry, name="both"))
    assert [log["rollout/logprob_gap"] < 1e-4 for log in kept.logs[1::2]] == [True, True]
    assert kept.logs[0]["loss/weak"] > kept.logs[2]["loss/weak"]


def test_engines_of_two_processes_get_gathered_weights(small, tmp_path):
    """FSDP2, an engine in each process, whole weights and adapters: log-probs are the policy's, on both alike."""
    for case, result in launch(small.root, tmp_path, 2, "FSDP2()", *VLLM).items():
        first, second = result["logs"]
        assert result["moved"] > 1e-3, case
        assert max(first["rollout/logprob_gap"], second["rollout/logprob_gap"]) < 1e-4, case
