"""Dynamic sampling: questions that teach nothing are replaced by others of their cell, once each, also after a cut."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.online.cursor import Cursor, fork
from earwitness.curriculum.online.refill import spare
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.tests.grpo_parts import Kept, flat
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)


# ---- the cards
def plan_of(*stages: dict, rows: int = 60, **more) -> Plan:
    """Two labels in turn, five recordings per four rows."""
    codes = (np.arange(rows) % 2).astype(np.int32)
    columns = {"label": Categorical(codes, ("weak", "strong")), "clip": (np.arange(rows) * 4 // 5).astype(np.uint64)}
    table = Table(splitmix64(np.arange(rows, dtype=np.uint64)), columns)
    return Plan(parse_curriculum({"seed": 1, "cells": ["label"], "stages": list(stages), **more}), table)


def grpo_stage(**more) -> dict:
    return {"name": "g", "algorithm": "grpo", "batch_size": 4, "budget": {"samples": 20}} | more


SFT = {"name": "s", "algorithm": "sft", "batch_size": 4, "budget": {"samples": 20}}


def dealt(plan: Plan, stage: str) -> set[int]:
    return set(plan.stage_plan(stage).row_set().tolist())


def test_what_is_taken_is_of_the_cell_dealt_to_nobody_and_taken_once():
    plan = plan_of(SFT, grpo_stage())
    cursor, seen = Cursor(plan, "g"), []
    for wanted in ([2, 1], [0, 3], [1, 1]):
        found = cursor.refill("g", np.array(wanted))
        for cell, rows in found.items():
            assert len(rows) == wanted[cell] and set(plan.cell_of_row[rows].tolist()) == {cell}
            seen += rows.tolist()
    assert len(seen) == len(set(seen)) == 8
    assert not set(seen) & (dealt(plan, "s") | dealt(plan, "g"))


def test_a_cell_gives_what_it_has_and_then_nothing():
    """60 rows, 40 dealt by two stages, evenly: ten are left in each cell."""
    plan = plan_of(SFT, grpo_stage())
    cursor = Cursor(plan, "g")
    assert len(cursor.refill("g", np.array([7, 0]))[0]) == 7
    assert len(cursor.refill("g", np.array([7, 0]))[0]) == 3
    assert cursor.refill("g", np.array([7, 0])) == {}
    assert len(cursor.refill("g", np.array([0, 99]))[1]) == 10


def test_no_recording_of_another_stage_is_heard():
    plan = plan_of(SFT, grpo_stage(budget={"samples": 8}), disjoint=["uid", "clip"])
    clips = plan.table.identity("clip")
    rows = np.concatenate([spare(plan, "g", cell) for cell in (0, 1)])
    assert len(rows) and not set(clips[rows].tolist()) & set(clips[sorted(dealt(plan, "s"))].tolist())


def test_the_position_holds_what_was_taken_and_a_fork_leaves_it_out():
    plan = plan_of(SFT, grpo_stage())
    cursor = Cursor(plan, "g")
    first = cursor.refill("g", np.array([3, 2]))
    cursor.trained(2)
    state = json.loads(json.dumps(cursor.state()))
    again = Cursor(plan, "g")
    again.load(state)
    a, b = cursor.refill("g", np.array([2, 2])), again.refill("g", np.array([2, 2]))
    assert {c: r.tolist() for c, r in a.items()} == {c: r.tolist() for c, r in b.items()}
    used = fork(state, plan.table)
    taken = np.concatenate(list(first.values()))
    assert used[taken].all() and used.sum() == 20 + 8 + 5
    assert "refilled" not in Cursor(plan, "g").state()


def test_an_adaptive_stage_plans_around_what_was_taken():
    """Nine windows of four rows out of two cells of thirty, five of each taken in between: no row twice."""
    feedback = {"window": 1, "feedback": {"contribution": {"silence": 0.25}}, "weight": {"power": {"by": "live.p"}}}
    plan = plan_of(grpo_stage(budget={"steps": 11}, **feedback))
    cursor, taken = Cursor(plan, "g"), []
    for step in range(11):
        if step in (2, 6):
            for rows in cursor.refill("g", np.array([4, 4])).values():
                taken += rows.tolist()
        cursor.observe(np.zeros((8, 2)))
        cursor.trained()
    assert len(set(taken)) == 16 and plan.stage_plan("g").matrix.sum() == 44
    assert not set(taken) & dealt(plan, "g")


def test_an_adaptive_stage_keeps_the_cards_that_its_budget_needs():
    """60 rows of which 44 will be dealt: sixteen can be spared, whatever is asked for and of which cell."""
    plan = plan_of(grpo_stage(budget={"steps": 11}, window=1, feedback={"contribution": {"silence": 0.25}}))
    cursor = Cursor(plan, "g")
    assert sum(map(len, cursor.refill("g", np.array([12, 12])).values())) == 16
    for _ in range(11):
        cursor.observe(np.zeros((8, 2)))
        cursor.trained()
    assert plan.stage_plan("g").matrix.sum() == 44 and cursor.refill("g", np.array([1, 1])) == {}


# ---- the training step
def data_of(small, steps: int = 2, **stage) -> AudioQuestions:
    given = {"name": "grpo", "algorithm": "grpo", "pool": {"source": "sounds"}, "batch_size": 4}
    given |= {"budget": {"steps": steps}, "on_zero_advantage": "refill_same_cell"}
    curriculum = {"seed": 3, "cells": ["label", "question_type"], "stages": [given | stage]}
    return AudioQuestions(
        small.index, small.tiny, small.labels, TrainingSpec(curriculum, "grpo"), EvaluationSpec({"split": "val"})
    )


def module_of(small, rounds: int = 4, rewards: str = "half") -> GRPO:
    return GRPO(
        partial(OmniPolicy, small.tiny),
        SGD,
        micro_batch_size=2,
        rollout=Rollout(3, 1.0, 4, refill_rounds=rounds),
        objective=GRPOConfig(beta=0.0),
        rewards={f"earwitness.tests.{'grpo_parts.half' if rewards == 'half' else 'lab_rewards.constant'}": 1.0},
    )


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.net.parameters()])


def tried(kept: Kept) -> list[list[list]]:
    """Step by step, round by round, the samples."""
    return [[list(each.batch.samples) for each in step] for step in kept.experiences]


def test_a_step_is_filled_up_with_questions_of_the_same_cells(small, tmp_path):
    module, data, kept = module_of(small), data_of(small), Kept()
    trainer_of(tmp_path, callbacks=[kept]).fit(module, data)
    everything = [s.question.key for step in tried(kept) for part in step for s in part]
    assert len(everything) == len(set(everything)) > 8, "nothing is asked twice"
    for step, log in zip(tried(kept), kept.logs, strict=True):
        missing = [s for s in step[0] if flat(s.question.key)]
        for part in step[1:]:
            cells = sorted(data.training_data.cells_of([s.row for s in missing]).tolist())
            found = sorted(data.training_data.cells_of([s.row for s in part]).tolist())
            assert len(found) <= len(cells) and all(found.count(cell) <= cells.count(cell) for cell in found)
            missing = [s for s in part if flat(s.question.key)]
        good = sum(not flat(s.question.key) for part in step for s in part)
        discarded = sum(flat(s.question.key) for part in step for s in part)
        assert (log["filter/kept"], log["filter/discarded_valid"]) == (good, discarded)
        assert log["filter/rounds"] == len(step) - 1 >= 1
        assert log["seen/prompts/all"] == good + discarded
        before = sum(s.label == "strong" for s in step[0]) / 4
        assert log.get("filter/mix_before/strong", 0.0) == before
    assert any(log["filter/kept"] == 4 for log in kept.logs)


def test_what_was_filled_in_is_what_is_trained(small, tmp_path):
    """Only kept prompts are in the loss, and all of them: 4 of 4 after refills as 4 of 4 that were dealt so."""
    kept = Kept()
    trainer_of(tmp_path, 1, callbacks=[kept]).fit(module_of(small), data_of(small))
    found = kept.experiences[0]
    assert sum(int(each.kept.sum()) for each in found) == kept.logs[0]["filter/kept"]
    for each in found:
        for sample, row in zip(each.batch.samples, each.kept.tolist(), strict=True):
            assert row == (not flat(sample.question.key))
        advantages = each.grouped(each.advantages)
        assert (advantages[~each.kept] == 0).all() and (advantages[each.kept].abs().sum(1) > 0).all()


@pytest.mark.parametrize("rounds", [0, 2])
def test_rounds_are_bounded(small, tmp_path, rounds):
    """Nothing ever teaches: so many more batches are tried, all is dropped, and the step counts."""
    module, kept = module_of(small, rounds, "constant"), Kept()
    module.configure_model()
    before = weights(module).clone()
    data = data_of(small)
    trainer_of(tmp_path, callbacks=[kept]).fit(module, data)
    assert [len(step) for step in kept.experiences] == [1 + rounds] * 2 and data.position == 2
    assert torch.equal(weights(module), before) and kept.logs[0]["filter/kept"] == 0


def test_a_resumed_run_refills_as_an_uninterrupted_one(small, tmp_path):
    whole, straight = module_of(small), Kept()
    data = data_of(small, 3)
    trainer_of(tmp_path, callbacks=[straight]).fit(whole, data)
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    trainer_of(tmp_path, 1, callbacks=[save], enable_checkpointing=True).fit(module_of(small), data_of(small, 3))
    module, rest, again = module_of(small), Kept(), data_of(small, 3)
    trainer_of(tmp_path, callbacks=[rest]).fit(module, again, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert torch.equal(weights(module), weights(whole))
    names = [[[s.question.key for s in part] for part in step] for step in tried(rest)]
    assert names == [[[s.question.key for s in part] for part in step] for step in tried(straight)[1:]]
    assert again.cursor.state() == data.cursor.state() and data.cursor.state()["refilled"]


def test_an_adaptive_stage_hears_of_everything_that_was_tried(small, tmp_path):
    """Also of what was dropped: its estimates would lean upward otherwise."""
    more = {"window": 1, "feedback": {"contribution": {"strength": 4, "discount": 1.0}}, "weight": {"useful": {}}}
    kept, data = Kept(), data_of(small, 3, **more)
    trainer_of(tmp_path, callbacks=[kept]).fit(module_of(small), data)
    prompts = sum(len(part) for step in tried(kept) for part in step)
    idle = sum(flat(s.question.key) for step in tried(kept) for part in step for s in part)
    state = data.cursor.state()["adaptive"]["state"]["contribution"]
    assert sum(state[0]) == prompts > 12 and sum(state[5]) + sum(state[6]) == idle
