"""What a stage keeps: validation before step 1 and at the end, paired changes by hand, and the gate's three acts."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from earwitness.curriculum.statistics import wilson_interval
from earwitness.curriculum.table import read_arrow, read_table
from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.errors import InputError
from earwitness.lightning_modules.base import PolicyModule
from earwitness.lightning_modules.callbacks.pass_rates import PassRateTable
from earwitness.lightning_modules.callbacks.retention import Retention, compared, first_of
from earwitness.lightning_modules.callbacks.retention_gate import RetentionGate
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step import probing
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)
LENGTH = {"earwitness.tests.lab_rewards.length": 1.0}


class Scripted:
    """Validation as told: after so many steps, how many of the weak questions are answered wrongly."""

    wrong: dict[int, int]

    def answer(self, batch):
        weak = sorted(s.question.uid for s in batch.samples if s.label == "weak")
        lost = weak[: self.wrong[self.trainer.datamodule.position]]
        return [
            {"uid": s.question.uid, "key": s.question.key, "condition": s.condition, "label": s.label}
            | {"verdict": "wrong" if s.question.uid in lost else "right", "correct": s.question.uid not in lost}
            for s in batch.samples
            if s.weight > 0
        ]


class ScriptedSFT(Scripted, SFT):
    """Supervised."""


class ScriptedGRPO(Scripted, GRPO):
    """With a reference to keep to."""


class Log(L.Callback):
    """What every validation logged, and the weights after it; on every rank."""

    def __init__(self, folder=None) -> None:
        self.seen, self.weights, self.betas, self.folder = [], [], [], folder

    def on_validation_end(self, trainer, module) -> None:
        kept = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.seen.append(kept)
        self.weights.append(weights(module))

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.betas.append(float(trainer.callback_metrics.get("train/beta", 0.0)))

    def on_train_end(self, trainer, module) -> None:
        if self.folder is not None:
            told = {"steps": trainer.datamodule.position, "seen": self.seen}
            (self.folder / f"{trainer.world_size}-{trainer.global_rank}.json").write_text(json.dumps(told))


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.net.parameters() if p.requires_grad])


def data_of(small, algorithm="sft", steps=6):
    stage = {"name": "s", "algorithm": algorithm, "pool": {"source": "sounds"}, "batch_size": 2}
    spec = {"seed": 3, "cells": ["label"], "stages": [stage | {"budget": {"steps": steps}}]}
    asking = EvaluationSpec({"source": "sounds", "split": "val"}, batch_size=64)
    return AudioQuestions(small.index, small.tiny, small.labels, TrainingSpec(spec, "s"), asking)


def module_of(small, wrong, kind=ScriptedSFT):
    policy = partial(OmniPolicy, small.tiny)
    if kind is ScriptedGRPO:
        module = ScriptedGRPO(policy, SGD, rollout=Rollout(2, 1.0, 2), rewards=LENGTH, objective=GRPOConfig(beta=0.05))
    else:
        module = ScriptedSFT(policy, SGD)
    module.wrong = wrong
    return module


def fit(small, tmp_path, module, *callbacks, every=2, data=None, path=None, **options):
    trainer = trainer_of(
        tmp_path,
        callbacks=list(callbacks),
        limit_val_batches=1.0,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        **options,
    )
    trainer.fit(module, data or data_of(small), ckpt_path=path)
    return trainer


def test_changes_are_paired_and_by_recording_by_hand():
    """Four weak questions on two recordings, right 1 1 1 0 and then 0 0 1 0: -1/2; the recordings deviate by -1, 1."""
    before = [(1, "audio", "weak", 7, True), (2, "audio", "weak", 7, True), (3, "audio", "weak", 8, True)]
    before += [(4, "audio", "weak", 8, False), (5, "audio", "strong", 9, False)]
    after = [(uid, c, label, clip, uid in (3, 5)) for uid, c, label, clip, _ in before]
    found = compared(after, first_of(before))
    error = 2**0.5 / 4  # of the mean of four: the root of 1 + 1, over 4
    assert found["val/change/audio/weak"] == pytest.approx(-0.5)
    assert found["val/change/audio/weak/high"] == pytest.approx(-0.5 + 1.959964 * error)
    assert found["val/change/audio/strong"] == 1 and found["val/change/audio/all"] == pytest.approx(-0.2)
    assert found["val/accuracy/audio/all"] == pytest.approx(0.4)
    assert found["val/accuracy/audio/strong/low"] == pytest.approx(wilson_interval(1, 1)[0])
    assert not [name for name in compared(after, {}) if "change" in name]


def test_conditions_of_one_kind_are_each_paired_with_themselves():
    """Right after 1 s of silence, wrong after 30 s, both before and after: nothing has changed."""
    asked = [(uid, f"silence:{s}", "weak", uid, s == 1) for uid in (1, 2, 3) for s in (1, 30)]
    found = compared(asked, first_of(asked))
    assert found["val/accuracy/silence/all"] == 0.5
    assert [found[f"val/change/silence/weak{end}"] for end in ("", "/low", "/high")] == [0, 0, 0]


def test_a_stage_is_validated_before_its_first_step_and_at_its_end_whatever_the_interval(small, tmp_path):
    """Six steps, validation after every fourth: at 0, 4 and 6. A run that is continued compares with the same first."""
    wrong = {0: 1, 4: 3, 6: 0}
    log, save = Log(), ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=5, filename="{step}")
    whole = module_of(small, wrong)
    fit(small, tmp_path, whole, log, save, every=4, enable_checkpointing=True)
    assert [one["val/step"] for one in log.seen] == [0, 4, 6]
    weak = round(1 / (1 - log.seen[0]["val/accuracy/audio/weak"]))  # of so many one was wrong
    assert [one["val/change/audio/weak"] * weak for one in log.seen] == pytest.approx([0, -2, 1])
    assert [one["val/change/audio/strong"] for one in log.seen] == [0, 0, 0]
    assert log.seen[1]["val/accuracy/audio/all"] == log.seen[1]["val/accuracy/audio"]
    again, resumed = Log(), module_of(small, wrong)
    fit(small, tmp_path, resumed, again, every=4, path=str(tmp_path / "step=5.ckpt"))
    assert again.seen == log.seen[2:] and torch.equal(weights(resumed), weights(whole))
    plain = module_of(small, wrong)
    trainer_of(tmp_path).fit(plain, data_of(small))
    assert torch.equal(weights(plain), weights(whole))  # asking changes nothing


def test_a_gate_stops_once_the_group_surely_fell(small, tmp_path):
    """One of some weak questions lost is no sure fall; all of them are."""
    for sure, steps in (("fall", 4), ("nothing", 2)):
        log = Log()
        gate = RetentionGate(points=2.0, sure=sure)
        module = module_of(small, {0: 0, 2: 1, 4: 99, 6: 0})
        trainer = fit(small, tmp_path, module, gate, log)
        assert trainer.datamodule.position == steps and len(log.seen) == 1 + steps // 2


def test_a_gate_restores_the_best_weights_before_they_are_exported(small, tmp_path, capsys):
    """Best after 2 steps; after 4 all weak ones are lost. The end is validated again, as the run then exports it."""
    log = Log()
    gate = RetentionGate(act="restore", folder=str(tmp_path / "best"))
    module = module_of(small, {0: 1, 2: 0, 4: 99})
    fit(small, tmp_path, module, gate, log)
    assert torch.equal(weights(module), log.weights[1]) and not torch.equal(log.weights[1], log.weights[2])
    assert [one["val/step"] for one in log.seen] == [0, 2, 4, 4]
    said = capsys.readouterr().err
    assert "RetentionGate, step 4: val/accuracy/audio/weak changed by -" in said and "those after step 2 again" in said


def test_a_gate_raises_the_weight_of_the_kl_and_a_continued_run_has_it(small, tmp_path):
    """0.05 until the fall after 2 steps, then twice that; after 4 steps four times, which is the most here."""
    wrong = {0: 0, 2: 99, 4: 99, 6: 99}
    gate = partial(RetentionGate, act="raise_kl", factor=2.0, most=2)
    log, save = Log(), ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=3, filename="{step}")
    data = data_of(small, "grpo")
    whole = module_of(small, wrong, ScriptedGRPO)
    fit(small, tmp_path, whole, gate(), log, save, data=data, enable_checkpointing=True)
    assert log.betas == pytest.approx([0.05, 0.05, 0.1, 0.1, 0.2, 0.2]) and whole.objective.beta == pytest.approx(0.2)
    again, resumed = Log(), module_of(small, wrong, ScriptedGRPO)
    path = str(tmp_path / "step=3.ckpt")
    fit(small, tmp_path, resumed, gate(), again, data=data_of(small, "grpo"), path=path)
    assert again.betas == pytest.approx([0.1, 0.2, 0.2]) and torch.equal(weights(resumed), weights(whole))


def test_two_ranks_log_the_same_and_stop_together(small, tmp_path):
    for devices in (1, 2):
        more = {"strategy": "ddp_fork", "devices": 2} if devices == 2 else {}
        module = module_of(small, {0: 0, 2: 99, 4: 0, 6: 0})
        fit(small, tmp_path, module, RetentionGate(), Log(tmp_path), **more)
    one, *both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert one["steps"] == 2
    for told in both:
        assert told["steps"] == 2
        for expected, found in zip(one["seen"], told["seen"], strict=True):
            assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"watch": "weak"}, "watch is an accuracy as val/accuracy/audio/weak, got 'weak'"),
        ({"act": "pray"}, "act is stop, restore or raise_kl, got 'pray'"),
        ({"act": "restore"}, "to restore, it needs a `folder`"),
        ({"factor": 1.0}, "factor > 1"),
        (
            {"watch": "val/accuracy/silence/weak"},
            "validation logs no val/change/silence/weak; it logs val/change/audio/all",
        ),
        ({"act": "raise_kl"}, "multiplies objective.beta of GRPO, which is 0 or not there"),
    ],
)
def test_a_gate_that_cannot_act_says_so_before_the_first_step(small, tmp_path, given, message):
    log = Log()
    with pytest.raises(InputError) as caught:
        fit(small, tmp_path, module_of(small, {0: 0}), RetentionGate(**given), log)
    assert message in str(caught.value) and not log.betas


def test_a_checkpoint_of_before_has_no_first_validation():
    fresh = Retention()
    fresh.load_state_dict({})
    assert fresh.first == {}


def test_pass_rates_are_a_column_that_curricula_read_and_do_not_depend_on_batches(small, tmp_path):
    """The options' texts are asked of a tiny model in 8 samples; every rate is a number of eighths."""
    tables = []
    for size in (5, 64):
        asking = EvaluationSpec({"source": "sounds", "split": "train"}, batch_size=size)
        data = AudioQuestions(small.index, small.tiny, small.labels, evaluation=asking)
        file = str(tmp_path / f"{size}.arrow")
        module = PolicyModule(partial(OmniPolicy, small.tiny), max_new_tokens=4)
        trainer_of(tmp_path, callbacks=[PassRateTable(file, samples=8, seed=3)]).predict(module, data)
        tables.append(read_arrow(file).to_pydict())
    assert tables[0] == tables[1] and len(tables[0]["uid"]) == 48
    assert tables[0]["pass_rate"] == [passes / 8 for passes in tables[0]["passes"]]
    table = read_table(small.index, [small.labels, file])
    assert "pass_rate" in table.columns and int(np.isfinite(table.columns["pass_rate"]).sum()) == 48


def test_a_pass_rate_is_the_share_of_samples_that_are_right(small, tmp_path, monkeypatch):
    """Three of four draws say the answer."""

    def sampled(policy, prompts, **options):
        return SimpleNamespace(ids=None, mask=None)

    asking = EvaluationSpec({"source": "sounds", "split": "val"}, batch_size=64)
    data = AudioQuestions(small.index, small.tiny, small.labels, evaluation=asking)
    module = PolicyModule(partial(OmniPolicy, small.tiny), max_new_tokens=4)
    monkeypatch.setattr(probing, "sample", sampled)
    monkeypatch.setattr(probing, "is_right", lambda text, truth: text == "right")
    monkeypatch.setattr(OmniProcessor, "decode", lambda *_: ["right", "right", "right", "wrong"] * 8)
    monkeypatch.setattr(PolicyModule, "predict_step", lambda *_: [])
    file = str(tmp_path / "rates.arrow")
    trainer_of(tmp_path, callbacks=[PassRateTable(file, samples=4)]).predict(module, data)
    assert read_arrow(file).column("pass_rate").to_pylist() == [0.75] * 8
