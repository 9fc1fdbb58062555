"""Training on a curriculum that follows the policy: observed, probed, cut, resumed, forked; and stages taking turns."""

from __future__ import annotations

import json
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from earwitness.curriculum.online.cursor import read_state
from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.errors import InputError
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.interleaved import Interleaved
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step.feedback import silent_metrics
from earwitness.lightning_modules.step.probing import due, option_accuracy, rollout_accuracy, silent_prompts
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)
LIVE = {"product": [{"power": {"by": "live.p"}}, {"useful": {}}], "floor": 0.2}


def online(**stage) -> dict:
    """Seven steps of four questions in windows of two, weighted by what was observed."""
    given = {
        "name": "grpo",
        "algorithm": "grpo",
        "pool": {"source": "sounds"},
        "batch_size": 4,
        "budget": {"steps": 7},
        "window": 2,
        "probe": {"rate": 0.5},
        "feedback": {"contribution": {"audio": 0.3, "strength": 4, "group_size": 2}},
        "weight": LIVE,
    }
    return {"seed": 5, "cells": ["label", "question_type", "source"], "stages": [given | stage]}


def data_of(small, curriculum, stage: str = "grpo", workers: int = 0, **training) -> AudioQuestions:
    chosen = TrainingSpec(curriculum, stage, **training)
    return AudioQuestions(
        small.index, small.tiny, small.labels, chosen, EvaluationSpec({"split": "val"}), num_workers=workers
    )


def grpo_of(small, kind: type = GRPO, **options):
    rollout = Rollout(group_size=2, max_new_tokens=3, seed=1)
    return kind(
        partial(OmniPolicy, small.tiny),
        SGD,
        rollout=rollout,
        objective=GRPOConfig(beta=0.0),
        micro_batch_size=4,
        **options,
    )


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.net.parameters()])


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The uninterrupted run: its data module and its weights."""
    module, data = grpo_of(small), data_of(small, online())
    trainer_of(tmp_path_factory.mktemp("whole")).fit(module, data)
    return data, weights(module)


def test_every_window_is_planned_and_dealt_once(whole) -> None:
    data, _ = whole
    dealt = data.plan.stage_plan("grpo")
    assert dealt.matrix.sum(axis=1).tolist() == [8, 8, 8, 4] and dealt.matrix.min() >= 0
    rows = data.plan.rows("grpo", np.arange(28))
    assert len(set(rows.tolist())) == 28
    live = data.cursor.live()
    # Discounted prompts of four windows: 8 x .9^3 + 8 x .9^2 + 8 x .9 + 4.
    assert live["prompts"].sum() == pytest.approx(8 * 0.729 + 8 * 0.81 + 8 * 0.9 + 4)
    # Probed are steps 1, 3 and 5 (rate 1/2): four silent prompts in each of the first three windows.
    silent = data.cursor.state()["adaptive"]["state"]["contribution"][2]
    assert sum(silent) == pytest.approx(4 * 0.729 + 4 * 0.81 + 4 * 0.9)


def test_what_was_probed_is_told_by_label(whole) -> None:
    """Of ten prompts of weak cells four are right, of five strong ones one; cells that were not probed say nothing."""
    cells = whole[0].plan.cells
    labels = cells.values("label")
    sums = np.zeros((8, len(cells)))
    first = {name: int(np.flatnonzero(labels == name)[0]) for name in ("weak", "strong")}
    sums[2, first["weak"]], sums[3, first["weak"]] = 10, 4
    sums[2, first["strong"]], sums[3, first["strong"]] = 5, 1
    expected = {"silent/all": 5 / 15, "silent/weak": 0.4, "silent/strong": 0.2}
    assert silent_metrics(cells, sums) == pytest.approx(expected)
    assert silent_metrics(cells, sums * 0) == {}


@pytest.mark.parametrize(("cut", "workers"), [(1, 0), (3, 0), (4, 2)])
def test_a_run_cut_inside_a_window_continues_bit_for_bit(small, tmp_path, whole, cut, workers) -> None:
    """Sums of the open window, planned windows and debts are in the checkpoint; loader processes change nothing."""
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    first = data_of(small, online(), workers=workers)
    trainer_of(tmp_path, cut, callbacks=[save], enable_checkpointing=True).fit(grpo_of(small), first)
    module, data = grpo_of(small), data_of(small, online(), workers=workers)
    trainer_of(tmp_path).fit(module, data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    expected, expected_weights = whole
    assert np.array_equal(data.plan.stage_plan("grpo").matrix, expected.plan.stage_plan("grpo").matrix)
    assert data.cursor.state() == expected.cursor.state()
    assert torch.equal(weights(module), expected_weights)


def test_what_was_observed_decides_what_is_dealt(small, whole) -> None:
    """All cells but three prove hopeless in the first window: with one window's lag, the third deals from the three.

    p = 4 x 0.3 / (4 + 1000) = 0.0012 against 0.3; to the fourth power, the others have 3e-10 of a weight.
    """
    curriculum = online(weight={"power": {"by": "live.p", "gamma": 4.0}})
    data = data_of(small, curriculum)
    data.setup("fit")
    first = data.plan.stage_plan("grpo").matrix[:2].copy()
    good = np.flatnonzero(data.plan.stage_plan("grpo").left - first.sum(0) >= 4)[:3]
    good = good[np.isin(good, np.flatnonzero(data.plan.cells.values("source") == "sounds"))]
    wrong = np.zeros((8, len(data.plan.cells)))
    wrong[0] = 1_000.0
    wrong[0, good] = 0.0
    data.cursor.observe(wrong)
    data.trained()
    data.trained()
    assert np.array_equal(data.plan.stage_plan("grpo").matrix[:2], first)
    assert data.plan.stage_plan("grpo").planned == 3
    third = data.plan.stage_plan("grpo").matrix[2]
    assert third.sum() == 8 and third[good].sum() == min(
        8, (data.plan.stage_plan("grpo").left - first.sum(0))[good].sum()
    )


def test_the_record_is_readable_and_another_curriculum_goes_on_from_it(small, tmp_path) -> None:
    record = tmp_path / "curriculum.json"
    first = data_of(small, online(), record=str(record))
    trainer_of(tmp_path, 4).fit(grpo_of(small), first)
    state = json.loads(record.read_text())
    assert (state["stage"], state["step"], state["fingerprint"]) == ("grpo", 4, first.plan.fingerprint)
    trained = {s.question.uid for n in range(4) for s in first.builder.batch(first.training_data.request(n)).samples}
    stage = {"name": "sft", "algorithm": "sft", "batch_size": 4, "pool": {"source": "sounds"}, "budget": {"epochs": 1}}
    second = data_of(small, {"cells": ["label"], "stages": [stage]}, "sft", replan=str(record))
    second.setup("fit")
    batches = [second.builder.batch(second.training_data.request(n)) for n in range(second.num_steps)]
    rest = {s.question.uid for batch in batches for s in batch.samples}
    everything = set(second.table.uid[second.table.where({"source": "sounds", "split": "train"})].tolist())
    assert len(trained) == 16 and not trained & rest and trained | rest == everything
    assert read_state(record) == state


def test_stages_take_turns_and_each_step_is_its_objective_s(small, tmp_path) -> None:
    """An interleave of 3 SFT and 3 GRPO steps; cut after two, it continues with the same weights."""
    members = [
        {"name": "sft", "algorithm": "sft", "batch_size": 4, "pool": {"label": "weak"}},
        {"name": "grpo", "algorithm": "grpo", "batch_size": 2, "pool": {"label": "strong"}},
    ]
    entry = {"name": "both", "interleave": {"steps": 6, "share": {"grpo": 0.5}}, "stages": members}
    curriculum = {"seed": 5, "stages": [entry]}
    seen: list[tuple[str, int]] = []

    class See(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, number):
            seen.append((batch.stage, len(batch)))
            assert "loss/weak" in trainer.callback_metrics or batch.stage == "grpo" or number > 0

    module = grpo_of(small, Interleaved)
    trainer_of(tmp_path, callbacks=[See()]).fit(module, data_of(small, curriculum, "both"))
    assert seen == [("sft", 4), ("grpo", 2)] * 3
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    trainer_of(tmp_path, 2, callbacks=[save], enable_checkpointing=True).fit(
        grpo_of(small, Interleaved), data_of(small, curriculum, "both")
    )
    again = grpo_of(small, Interleaved)
    trainer_of(tmp_path).fit(again, data_of(small, curriculum, "both"), ckpt_path=str(tmp_path / "last.ckpt"))
    assert torch.equal(weights(again), weights(module))


@pytest.mark.parametrize(
    ("module", "objective"), [(SFT, "grpo"), (GRPO, "sft")], ids=["SFT on a GRPO stage", "GRPO on an SFT stage"]
)
def test_a_stage_meant_for_another_algorithm_is_refused(small, tmp_path, module, objective) -> None:
    stage = {"name": "s", "objective": objective, "batch_size": 4, "budget": {"samples": 8}}
    with pytest.raises(InputError, match=f"stage 's' is for the algorithm '{objective}', {module.__name__} trains"):
        trainer_of(tmp_path).fit(module(partial(OmniPolicy, small.tiny), SGD), data_of(small, {"stages": [stage]}, "s"))


def test_probes_are_spread_evenly() -> None:
    assert [due(step, 0.25) for step in range(8)] == [False, False, False, True] * 2
    assert all(due(step, 1.0) for step in range(5)) and sum(due(step, 0.3) for step in range(1000)) == 300


def test_option_accuracy_is_the_softmax_over_whole_answers(small) -> None:
    """Each option scored by itself, the four probabilities put together; the split into micro-batches is no matter."""
    data = data_of(small, online())
    data.setup("fit")
    batch, policy = data.builder.batch(data.training_data.request(0)), OmniPolicy(small.tiny)
    silent = silent_prompts(policy, batch)
    found = torch.cat([option_accuracy(policy, silent, slice(k, k + 2)) for k in (0, 2)])
    torch.testing.assert_close(found, option_accuracy(policy, silent, slice(0, 4)), rtol=0, atol=1e-6)
    for k, sample in enumerate(batch.samples):
        scores = []
        for choice in sample.choices:
            ids, mask = policy.processor.targets([f"<answer>{choice}</answer>"])
            with torch.no_grad():
                scores.append(policy(silent.prompts.select(slice(k, k + 1)), ids, mask).logprob.double().sum())
        right = sample.choices.index(sample.question.answer)
        assert float(found[k]) == pytest.approx(float(torch.stack(scores).softmax(0)[right]), abs=1e-5)


def test_rollout_accuracy_counts_right_answers_and_depends_on_its_name_alone(small) -> None:
    data = data_of(small, online())
    data.setup("fit")
    policy = OmniPolicy(small.tiny)
    silent = silent_prompts(policy, data.builder.batch(data.training_data.request(0)))
    options = {"rollout": Rollout(3, 1.0, 3), "name": (1, 2)}
    one = rollout_accuracy(policy, silent, slice(0, 4), **options)
    parts = [rollout_accuracy(policy, silent, slice(k, k + 1), **options) for k in range(4)]
    assert torch.equal(one, torch.cat(parts)) and ((one * 3) % 1 == 0).all()


def test_loss_weights_reach_the_gradient(small, tmp_path) -> None:
    """A loss weight of 2 on one half and 2/3 on the other moves as the weighted sum of the halves' gradients."""
    base = {"name": "s", "algorithm": "sft", "batch_size": 8, "pool": {"source": "sounds"}, "budget": {"steps": 1}}
    weight = {"shares": {"weak": 0.75, "strong": 0.25}}
    data = data_of(small, {"seed": 1, "cells": ["label"], "stages": [base | {"loss_weight": weight}]}, "s")
    module = SFT(partial(OmniPolicy, small.tiny), SGD)
    start = weights_of(small)
    trainer_of(tmp_path).fit(module, data)
    batch = data.builder.batch(data.training_data.request(0))
    policy = OmniPolicy(small.tiny)
    logprob = policy(batch.prompts, batch.target_ids, batch.target_mask).logprob
    labels = [s.label for s in batch.samples]
    count = {label: labels.count(label) for label in ("weak", "strong")}
    expected = torch.tensor([weight["shares"][label] * 8 / count[label] for label in labels])
    torch.testing.assert_close(batch.weights, expected)
    loss = -(logprob * expected[:, None]).sum() / batch.target_mask.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in policy.parameters()])
    torch.testing.assert_close(weights(module) - start, -0.05 * gradient, rtol=1e-3, atol=1e-6)


def weights_of(small) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in OmniPolicy(small.tiny).parameters()])
