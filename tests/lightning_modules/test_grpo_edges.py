"""Corners of a GRPO step: odd data, odd settings, odd moments."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.online.curriculum_metrics import curriculum_metrics
from earwitness.curriculum.online.cursor import Cursor
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table, read_arrow, write_arrow
from earwitness.datamodules.batch import Replaced, Sample
from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError
from earwitness.lightning_modules.callbacks.completions import CompletionTable
from earwitness.lightning_modules.callbacks.silent_probe import SilentProbe
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.interleaved import Interleaved
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.rollout.sampling import PolicyEngine, sample
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step import probing
from earwitness.lightning_modules.step.learning_rate import Schedule
from earwitness.lightning_modules.step.probing import option_accuracy
from earwitness.tests.grpo_parts import Changed, Kept
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)
ALONE = "EARWITNESS_TEST_ALONE"
HERE = "earwitness.tests.lightning_modules.test_grpo_edges."
LENGTH = {"earwitness.tests.lab_rewards.length": 1.0}
HALF = {"earwitness.tests.grpo_parts.half": 1.0}
CONSTANT = {"earwitness.tests.lab_rewards.constant": 1.0}
REFILL = {"on_zero_advantage": "refill_same_cell"}


# ---- rewards that tests name
def nothing(completions, **columns):
    """Never able to score."""
    return [None] * len(completions)


def huge(completions, **columns):
    """`length`, in other units."""
    return [1e30 * len(text) for text in completions]


def some(completions, group, **columns):
    """Every other completion of two groups of four can be scored: 9, 11, 13, 15; of the others none."""
    return [None if n % 2 == 0 or g < 2 else float(n) for n, g in enumerate(group)]


def odd(completions, **columns):
    """0, 1, 0, 1, ..."""
    return [float(n % 2) for n in range(len(completions))]


def even(completions, **columns):
    """2, 0, 2, 0, ..."""
    return [2.0 - 2.0 * (n % 2) for n in range(len(completions))]


def flat_on_rank_0(completions, group, **columns):
    """Equal rewards for the first rank's prompts, every other one of the batch, and for what comes in their place."""
    lengths = [float(len(text)) for text in completions]
    if torch.distributed.is_initialized():
        return lengths if torch.distributed.get_rank() else [0.5] * len(lengths)
    whole = len(set(group)) == 4
    return [value if whole and prompt % 2 else 0.5 for value, prompt in zip(lengths, group, strict=True)]


# ---- parts
def data_of(
    small, steps: int = 2, labels: str = "", training: dict | None = None, curriculum=None, cells="label", **stage
):
    """Steps of four questions."""
    given = {"name": "grpo", "algorithm": "grpo", "pool": {"source": "sounds"}, "batch_size": 4}
    spec = {"seed": 3, "cells": [cells], "stages": [given | {"budget": {"steps": steps}} | stage]}
    chosen = TrainingSpec(curriculum or spec, **({"stage": "grpo"} | (training or {})))
    return AudioQuestions(small.index, small.tiny, labels or small.labels, chosen, EvaluationSpec({"split": "val"}))


def module_of(small, rewards=None, rollout=None, objective=None, policy=None, kind=GRPO, optimizer=SGD, **options):
    given = {"max_grad_norm": 1e9, "micro_batch_size": 4}
    return kind(
        partial(OmniPolicy, small.tiny, **(policy or {})),
        optimizer,
        rollout=rollout or Rollout(4, 1.0, 4),
        objective=objective or GRPOConfig(beta=0.0),
        rewards=LENGTH if rewards is None else rewards,
        **(given | options),
    )


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().float() for p in module.net.parameters() if p.requires_grad])


def run(small, tmp_path, module, steps: int = 1, data=None, callbacks=(), **stage):
    """How far the weights moved, and what was logged."""
    module.configure_model()
    start, kept = weights(module).clone(), Kept()
    trainer_of(tmp_path, steps, callbacks=[kept, *callbacks]).fit(module, data or data_of(small, **stage))
    return weights(module) - start, kept


def close(a: torch.Tensor, b: torch.Tensor, to: float = 1e-6) -> None:
    assert a.abs().max() > 20 * to, "something must have moved"
    torch.testing.assert_close(a, b, rtol=0, atol=to)


def relabelled(small, tmp_path, weak: str | None) -> str:
    """The label table with another word for "weak"."""
    table = read_arrow(small.labels)
    labels = [weak if name == "weak" else name for name in table.column("label").to_pylist()]
    write_arrow(pa.table({"uid": table.column("uid"), "label": pa.array(labels, pa.string())}), tmp_path / "l.arrow")
    return str(tmp_path / "l.arrow")


class Told(PolicyEngine):
    """An engine that writes down what it is told, and fails at one of its completions."""

    def __init__(self, fails_at: int = 0) -> None:
        self.calls: list[str] = []
        self.fails_at = fails_at

    def start(self, policy, rank, world_size):
        self.calls.append("start")
        super().start(policy, rank, world_size)

    def sync(self, policy):
        self.calls.append("sync")

    def complete(self, batch, rollout, keys):
        self.calls.append("complete")
        if self.calls.count("complete") == self.fails_at:
            raise RuntimeError("lost")
        return super().complete(batch, rollout, keys)

    def rest(self):
        self.calls.append("rest")

    def close(self):
        self.calls.append("close")


# ---- labels
def test_questions_without_a_label_are_unlabelled(small, tmp_path):
    data = data_of(small, labels=relabelled(small, tmp_path, None), cells="question_type")
    _, kept = run(small, tmp_path, module_of(small), data=data)
    missing = sum(not s.label for s in kept.experiences[0][0].batch.samples)
    assert 0 < missing == kept.logs[0]["seen/prompts/unlabelled"] and "train/entropy/unlabelled" in kept.logs[0]


def test_another_label_is_trained_as_unlabelled(small, tmp_path):
    labels = relabelled(small, tmp_path, "medium")
    _, kept = run(small, tmp_path, module_of(small), data=data_of(small, labels=labels))
    found = sum(s.label == "medium" for s in kept.experiences[0][0].batch.samples)
    assert 0 < found == kept.logs[0]["seen/prompts/unlabelled"]


def test_another_label_is_probed_as_unlabelled(small, tmp_path):
    labels, found = relabelled(small, tmp_path, "medium"), []

    class See(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            found.append(dict(trainer.callback_metrics))

    data = data_of(small, labels=labels, algorithm="sft")
    trainer_of(tmp_path, 1, callbacks=[See(), SilentProbe(1)]).fit(SFT(partial(OmniPolicy, small.tiny), SGD), data)
    assert "silent/unlabelled" in found[0] and "loss/unlabelled" in found[0]


# ---- what comes for groups that taught nothing
def test_a_refill_asks_for_thinking_as_its_stage_does(small, tmp_path):
    data = data_of(small, training={"reasoning": "structured"}, **REFILL)
    _, kept = run(small, tmp_path, module_of(small, HALF), data=data)
    first, *more = kept.experiences[0]
    assert more and {s.style for s in first.batch.samples} == {"think"}
    assert {s.style for each in more for s in each.batch.samples} == {"think"}


def test_a_refill_weighs_what_its_cell_weighs(small, tmp_path):
    weight = {"shares": {"weak": 0.75, "strong": 0.25}}
    _, kept = run(small, tmp_path, module_of(small, HALF), loss_weight=weight, **REFILL)
    found = {(s.label, s.weight) for each in kept.experiences[0] for s in each.batch.samples if s.weight}
    assert found == {("weak", 1.5), ("strong", 0.5)}


def test_bad_samples_among_what_fills_up_are_logged(small, tmp_path):
    data = data_of(small, **REFILL)
    data.setup("fit")
    more, bad = data.training_data.refill, (Replaced("k", 1, "r", "s", "grpo", 0),)
    data.training_data.refill = lambda *given: replace(more(*given), replaced=bad)
    _, kept = run(small, tmp_path, module_of(small, HALF, rollout=Rollout(4, 1.0, 6, refill_rounds=1)), data=data)
    assert kept.logs[0]["filter/rounds"] == 1 == kept.logs[0]["data/replaced"]


def test_a_stage_that_repeats_all_its_cards_has_none_to_fill_up_with(small, tmp_path):
    pool = {"source": "sounds", "label": "weak"}
    more = {"budget": {"samples": 60}, "on_short": "repeat", "pool": pool}
    data = data_of(small, **more, **REFILL)
    _, kept = run(small, tmp_path, module_of(small, HALF, Rollout(2, 1.0, 3)), steps=2, data=data)
    assert data.num_steps == 15 and data.plan.stage_plan("grpo").rows < 60
    assert [log["filter/rounds"] for log in kept.logs] == [0, 0] and kept.logs[0]["filter/discarded_valid"] > 0


def test_a_fork_of_a_run_that_filled_up_asks_nothing_again(small, tmp_path):
    record = tmp_path / "record.json"
    data = data_of(small, training={"record": str(record)}, **REFILL)
    _, first = run(small, tmp_path, module_of(small, HALF, Rollout(2, 1.0, 3)), steps=1, data=data)
    data = data_of(small, training={"replan": str(record)}, **REFILL)
    _, second = run(small, tmp_path, module_of(small, HALF, Rollout(2, 1.0, 3)), steps=1, data=data)
    one, two = (
        {s.question.uid for step in kept.experiences for each in step for s in each.batch.samples}
        for kept in (first, second)
    )
    assert len(one) > 4 < len(two) and not one & two and json.loads(record.read_text())["refilled"]


# ---- the cards of refills
def plan_of(*stages: dict, rows: int = 60) -> Plan:
    """Two labels in turn."""
    codes = (np.arange(rows) % 2).astype(np.int32)
    table = Table(splitmix64(np.arange(rows, dtype=np.uint64)), {"label": Categorical(codes, ("weak", "strong"))})
    return Plan(parse_curriculum({"seed": 1, "cells": ["label"], "stages": list(stages)}), table)


def stage_of(name: str = "g", **more) -> dict:
    return {"name": name, "algorithm": "grpo", "batch_size": 4} | more


TWELVE = {"budget": {"samples": 12}}
ADAPTIVE = {"window": 1, "feedback": {"contribution": {"silence": 0.25}}}


def taken(cursor: Cursor, stage: str, *wanted: int) -> set[int]:
    found = cursor.refill(stage, np.array(wanted)).values()
    return {row for rows in found for row in rows.tolist()}


def test_members_of_an_interleave_never_fill_up_with_the_same_card():
    entry = {
        "name": "both",
        "interleave": {"steps": 6, "share": {"a": 0.5}},
        "stages": [stage_of("a", **REFILL), stage_of("b", **REFILL)],
    }
    cursor = Cursor(plan_of(entry), "both")
    assert not taken(cursor, "a", 3, 3) & taken(cursor, "b", 3, 3)


def test_stages_one_after_the_other_never_fill_up_with_the_same_card():
    plan = plan_of(stage_of("a", **TWELVE, **REFILL), stage_of("b", **TWELVE, **REFILL))
    assert not taken(Cursor(plan, "a"), "a", 3, 3) & taken(Cursor(plan, "b"), "b", 3, 3)


def test_what_an_adaptive_stage_will_deal_is_not_spare():
    plan = plan_of(stage_of("a", **TWELVE), stage_of("b", budget={"samples": 40}, **ADAPTIVE))
    first, cursor = taken(Cursor(plan, "a"), "a", 9, 9), Cursor(plan, "b")
    for _ in range(10):
        cursor.observe(np.zeros((8, 2)))
        cursor.trained()
    assert plan.stage_plan("b").matrix.sum() == 40 and not first & set(plan.stage_plan("b").row_set().tolist())


def test_a_refill_leaves_the_cards_that_the_weight_will_want():
    """30 strong rows, 20 of them needed; the weight wants no weak ones, of which there are 30 to spare."""
    weight = {"product": [{"shares": {"strong": 1.0, "weak": 0.0}}, {"useful": {}}]}
    plan = plan_of(stage_of(budget={"steps": 5}, weight=weight, **ADAPTIVE))
    cursor, strong = Cursor(plan, "g"), plan.cells.axes["label"].index("strong")
    cursor.refill("g", np.where(np.arange(2) == strong, 28, 0))
    for _ in range(5):
        cursor.observe(np.zeros((8, 2)))
        cursor.trained()
    assert plan.stage_plan("g").matrix.sum() == 20


def test_a_state_without_refills_takes_them_back():
    cursor = Cursor(plan_of(stage_of(**TWELVE)), "g")
    fresh = cursor.state()
    cursor.refill("g", np.array([2, 2]))
    cursor.load(fresh)
    assert "refilled" not in cursor.state()


def test_numbers_that_move_are_those_a_member_was_dealt_with():
    """A first in a share that falls from 1 to 0: its last step is the ninth of twelve, at 8.5 / 12."""
    down, up = ({"linear": {"from": a, "to": b}} for a, b in ((1.0, 0.0), (0.0, 1.0)))
    first = stage_of("a", block=4, weight={"shares": {"strong": up, "weak": down}})
    entry = {"name": "both", "interleave": {"steps": 12, "share": {"a": down}}, "stages": [first, stage_of("b")]}
    plan = plan_of(entry)
    step = int(np.flatnonzero(plan.turns["both"] == 0)[-1])
    assert step == 8 and curriculum_metrics(plan, "both", step)["curriculum/strong"] == pytest.approx(8.5 / 12)


# ---- padding and weights
def lengths_by_prompt(done):
    """One token for the first prompt's completions, two for the second's, ..."""
    mask = (torch.arange(done.ids.shape[1]) <= done.prompt_of_row[:, None]).long()
    return replace(done, mask=mask, logprob=done.logprob * mask)


def test_the_padding_of_a_last_batch_trains_nothing(small, tmp_path):
    """Three questions in a batch of four as in one of three: a mean of 12 completions, the KL included."""
    padded, kept = run(small, tmp_path, module_of(small, objective=GRPOConfig(beta=0.1)), budget={"samples": 3})
    alone, other = run(
        small, tmp_path, module_of(small, objective=GRPOConfig(beta=0.1)), budget={"samples": 3}, batch_size=3
    )
    assert len(kept.experiences[0][0].batch) == 3 == kept.logs[0]["seen/prompts/all"]
    close(padded, alone)
    for name in ("reward/all", "group_std/all", "train/entropy", "train/loss"):
        assert kept.logs[0][name] == pytest.approx(other.logs[0][name], abs=1e-6)


def test_mean_lengths_are_of_real_prompts(small, tmp_path):
    """Prompts of 1, 2 and 3 tokens and a padded one of 4."""
    _, kept = run(small, tmp_path, module_of(small, engine=Changed(lengths_by_prompt)), budget={"samples": 3})
    assert kept.logs[0]["rollout/tokens/all"] == 2.0 == kept.logs[0]["rollout/mean_tokens"]


def test_loss_weights_multiply_the_gradient(small, tmp_path):
    """Weights a and 2 - a and their opposites add up to twice the plain step; the denominator does not know them."""
    moves = []
    for weak, strong in ((0.75, 0.25), (0.25, 0.75)):
        weight = {"shares": {"weak": weak, "strong": strong}}
        moved, kept = run(small, tmp_path, module_of(small), loss_weight=weight)
        moves.append(moved)
        assert {round(s.weight, 6) for s in kept.experiences[0][0].batch.samples} == {0.5, 1.5}
    plain, _ = run(small, tmp_path, module_of(small))
    close(moves[0] + moves[1], 2 * plain)
    assert (moves[0] - moves[1]).abs().max() > 1e-4


def test_a_batch_of_weight_0_is_passed_over(small, tmp_path):
    weight = {"shares": {"weak": 0.0, "strong": 1.0}}
    more = {"batch_size": 1, "mix": "shuffle", "loss_weight": weight}
    _, kept = run(small, tmp_path, module_of(small), steps=4, data=data_of(small, 4, **more))
    assert len(kept.logs) == 4


# ---- rewards
@pytest.mark.parametrize("advantages", ["group", "gdpo"])
def test_a_reward_that_never_scores_changes_nothing(small, tmp_path, advantages):
    objective = GRPOConfig(beta=0.0, advantages=advantages)
    plain, _ = run(small, tmp_path, module_of(small, objective=objective))
    moved, _ = run(small, tmp_path, module_of(small, {**LENGTH, f"{HERE}nothing": 3.0}, objective=objective))
    assert torch.equal(plain, moved) and plain.any()


def test_a_step_that_nothing_could_score_stops_the_run(small, tmp_path):
    with pytest.raises(InputError, match=rf"^step 0: reward '{HERE}nothing' returned None for all 16 completions"):
        run(small, tmp_path, module_of(small, {f"{HERE}nothing": 1.0}))


def test_rewards_of_1e30_have_the_advantages_of_1(small, tmp_path):
    """But for the 1e-4 beside the deviation."""
    batch = GRPOConfig(beta=0.0, advantages="batch")
    plain, _ = run(small, tmp_path, module_of(small, objective=batch))
    close(run(small, tmp_path, module_of(small, {f"{HERE}huge": 1.0}, objective=batch))[0], plain, 2e-6)


def test_mean_rewards_are_of_what_could_be_scored(small, tmp_path):
    """9, 11, 13 and 15."""
    _, kept = run(small, tmp_path, module_of(small, {f"{HERE}some": 1.0}))
    assert kept.experiences[0][0].scored.total.nanmean() == 12.0
    assert kept.logs[0]["reward/all"] == kept.logs[0][f"reward/{HERE}some/all"] == 12.0


def test_gdpo_drops_groups_that_are_constant_in_every_reward(small, tmp_path):
    """2 x odd + even is 2 throughout; gdpo has 2 (+-0.87) - 0.87 before it is scaled again."""
    rewards, objective = {f"{HERE}odd": 2.0, f"{HERE}even": 1.0}, GRPOConfig(beta=0.0, advantages="gdpo")
    kept, _ = run(small, tmp_path, module_of(small, rewards, objective=objective))
    dropped, _ = run(small, tmp_path, module_of(small, rewards, objective=objective), on_zero_advantage="drop")
    assert kept.abs().max() > 1e-3
    close(dropped, kept)


# ---- sampling
@pytest.mark.parametrize(("temperature", "gap"), [(0.01, 0.02), (1.0, 0.02), (10.0, 0.002)])
def test_a_step_in_bfloat16_trains_what_was_sampled(small, tmp_path, temperature, gap):
    """Sampling reads token by token what training reads at once; hundredths of a nat apart, at any temperature."""
    objective = GRPOConfig(beta=0.01)
    policy = {"dtype": "bfloat16"}
    module = module_of(small, rollout=Rollout(2, temperature, 6), objective=objective, policy=policy, num_iterations=2)
    _, kept = run(small, tmp_path, module)
    log = kept.logs[0]
    assert 0 < log["rollout/logprob_gap"] < gap and all(math.isfinite(value) for value in log.values())
    assert module.net.head.dtype == torch.bfloat16


def test_top_k_above_the_vocabulary_leaves_nothing_out(small, tmp_path):
    lora = {"lora": Lora(rank=4)}
    plain, kept = run(small, tmp_path, module_of(small, policy=lora, rollout=Rollout(2, 1.0, 6)))
    module = module_of(small, policy=lora, rollout=Rollout(2, 1.0, 6, top_k=10_000))
    _, cut = run(small, tmp_path, module)
    one, two = kept.experiences[0][0].completions, cut.experiences[0][0].completions
    assert torch.equal(one.ids, two.ids) and plain.any()
    assert cut.logs[0]["rollout/logprob_gap"] < 1e-5 and cut.logs[0]["train/ratio"] == 1.0


def test_completions_of_one_token_in_groups_of_two(small, tmp_path):
    """The first token is predicted by the prompt's last state; nothing more is read, also when log-probs are made."""
    module = module_of(small, rollout=Rollout(2, 1.0, 1), objective=GRPOConfig(beta=0.1), num_iterations=2)
    _, kept = run(small, tmp_path, module)
    done = kept.experiences[0][0].completions
    assert done.mask.tolist() == [[1]] * 8 and kept.logs[0]["rollout/logprob_gap"] < 1e-5
    assert kept.logs[0]["train/grad_norm"] > 0


def test_an_end_that_is_also_the_padding_counts_once(small, tmp_path):
    module = module_of(small, rollout=Rollout(4, 1.0, 12), objective=GRPOConfig(beta=0.1), num_iterations=2)
    module.configure_model()
    with torch.no_grad():
        module.net.head[module.net.processor.pad_id] *= 3.0
    module.net.processor.eos_id = module.net.processor.pad_id
    data = data_of(small)
    data.checkpoint = None  # the policy's processor is the only one
    _, kept = run(small, tmp_path, module, data=data)
    done, pad = kept.experiences[0][0].completions, module.net.processor.pad_id
    ends = ((done.ids == pad) & done.mask.bool()).sum(1)
    assert 0 < int(done.finished.sum()) < 16 and torch.equal(ends, done.finished.long())
    last = done.ids.gather(1, done.mask.sum(1, keepdim=True) - 1).squeeze(1)
    assert torch.equal(last == pad, done.finished) and kept.logs[0]["rollout/logprob_gap"] < 1e-5


@pytest.mark.parametrize("count", [2, 26])
def test_any_number_of_options_is_scored(small, count):
    """The probabilities of all the options, each in turn called right, add up to 1."""
    policy = OmniPolicy(small.tiny)
    choices = [f"sound {chr(97 + n)}" for n in range(count)]
    total = 0.0
    for answer in choices:
        record = {"source_dataset": "s", "id": "1", "question": "Which?", "answer": answer, "choices": choices}
        question = parse_question(record, "test")
        batch = policy.processor.batch([Sample(question, question.choices)], [np.zeros(16_000, np.float32)], ["a"], [0])
        total += float(option_accuracy(policy, batch, slice(0, 1)))
    assert total == pytest.approx(1.0, abs=1e-6)


# ---- policies
def test_lora_dropout_does_not_blur_the_ratio(small, tmp_path):
    """Drawn anew for each: ratios mean nothing. With 0.5 the run stops, as if other weights had sampled."""
    module = module_of(small, policy={"lora": Lora(rank=4, dropout=0.1)})
    module.configure_model()
    with torch.no_grad():
        for name, p in module.net.named_parameters():
            if "lora_B" in name:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    _, kept = run(small, tmp_path, module)
    assert kept.logs[0]["rollout/logprob_gap"] < 1e-5


@pytest.mark.parametrize("train", [["audio_tower", "projector", "language_model"], ["projector"]])
def test_gradient_checkpointing_and_shared_recordings_change_nothing(small, tmp_path, train):
    """Eight questions about fewer recordings, read once and shared, or row by row and again in the backward pass."""
    moves, pool = [], {"source": ["reading-a", "reading-b", "reading-c"]}
    for saving in (False, True):
        how = {"policy": {"train": train, "gradient_checkpointing": saving}, "objective": GRPOConfig(beta=0.1)}
        module = module_of(small, rollout=Rollout(2, 1.0, 3), num_iterations=2, micro_batch_size=3, **how)
        moved, kept = run(small, tmp_path, module, batch_size=8, pool=pool)
        moves.append(moved)
        prompts = kept.experiences[0][0].batch.prompts
        assert len(prompts.prefix_ids) < len(prompts) == 8 and kept.logs[0]["rollout/logprob_gap"] < 1e-5
    assert (len(moves[0]) == 2_112) == (train == ["projector"])
    close(moves[0], moves[1])


def test_answering_questions_needs_no_reference(small, tmp_path):
    module, loads = module_of(small, objective=GRPOConfig(beta=0.1)), []
    make = module.make_policy
    module.make_policy = lambda: loads.append(1) or make()
    trainer_of(tmp_path, limit_test_batches=1).test(module, data_of(small), verbose=False)
    assert len(loads) == 1


# ---- engines
def test_an_engine_is_closed_whatever_ends_the_run(small, tmp_path):
    engine = Told(fails_at=2)
    module = module_of(small, rollout=Rollout(2, 1.0, 2), engine=engine)
    with pytest.raises(RuntimeError, match="lost"):
        run(small, tmp_path, module, steps=2)
    assert engine.calls[-1] == "close"
    run(small, tmp_path, module, steps=1)
    assert engine.calls.count("start") == engine.calls.count("close") == 2


def test_a_run_may_follow_one_that_failed(small, tmp_path):
    """With the same module: it trains on from the weights it has, as one that never failed."""
    engine = Told(fails_at=1)
    module = module_of(small, rollout=Rollout(2, 1.0, 3), engine=engine)
    with pytest.raises(RuntimeError, match="lost"):
        run(small, tmp_path, module)
    moved, _ = run(small, tmp_path, module)
    close(moved, run(small, tmp_path, module_of(small, rollout=Rollout(2, 1.0, 3)))[0])


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_two_iterations_cut_and_resumed_are_as_uncut(small, tmp_path, lora):
    """Adam's moments, the reference and the draws continue bit for bit; the engine is started before it is used."""

    def make(engine=None) -> GRPO:
        return module_of(
            small,
            objective=GRPOConfig(beta=0.1),
            num_iterations=2,
            policy={"lora": lora},
            optimizer=partial(torch.optim.AdamW, lr=1e-3),
            rollout=Rollout(2, 1.0, 2, top_k=8),
            engine=engine,
        )

    whole, engine = make(), Told()
    whole.configure_model()
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer_of(tmp_path).fit(whole, data_of(small))
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    first, again, data = make(), make(engine), data_of(small)
    first.configure_model()
    first.load_state_dict(start)  # adapters begin at random
    trainer_of(tmp_path, 2, callbacks=[save], enable_checkpointing=True).fit(first, data_of(small))
    trainer_of(tmp_path).fit(again, data, ckpt_path=str(tmp_path / "last.ckpt"))
    assert torch.equal(weights(again), weights(whole)) and data.position == 2
    assert engine.calls == ["start", "sync", "complete", "rest", "close"]


# ---- the run around the step
def test_two_iterations_have_the_schedule_of_the_batches_that_are_trained(small, tmp_path):
    """max_steps 4 ends after two batches: the second is trained at half of the cosine, as in a run of two."""
    how = {"rollout": Rollout(2, 1.0, 2), "schedule": Schedule()}
    _, kept = run(small, tmp_path, module_of(small, num_iterations=2, **how), steps=4, data=data_of(small, 4))
    assert len(kept.logs) == 2
    assert [log["train/lr"] for log in kept.logs] == pytest.approx([0.05, 0.025])


def test_validation_between_steps_changes_nothing(small, tmp_path):
    plain, other, kept = module_of(small), module_of(small), Kept()
    trainer_of(tmp_path).fit(plain, data_of(small))
    options = {"limit_val_batches": 1, "val_check_interval": 1}
    trainer = trainer_of(tmp_path, callbacks=[kept])
    trainer.limit_val_batches, trainer.val_check_interval = options["limit_val_batches"], options["val_check_interval"]
    trainer.fit(other, data_of(small))
    assert torch.equal(weights(plain), weights(other)) and kept.logs[1]["val/accuracy/audio"] == 0.0


@pytest.mark.parametrize("how", ["option_logprob", "rollout"])
def test_stages_that_take_turns_fill_up_and_are_probed(small, tmp_path, how):
    """SFT and GRPO in turn, a probe at every step, tables of the GRPO steps alone."""
    members = [
        {"name": "sft", "algorithm": "sft", "batch_size": 4, "pool": {"label": "weak"}},
        {"name": "g", "algorithm": "grpo", "batch_size": 2, "pool": {"label": "strong"}, **REFILL},
    ]
    entry = {"name": "both", "interleave": {"steps": 4, "share": {"g": 0.5}}, "stages": members}
    data = data_of(small, curriculum={"seed": 5, "cells": ["label"], "stages": [entry]}, training={"stage": "both"})
    probe, table = SilentProbe(1, how), CompletionTable(str(tmp_path / "t"), 1)
    module = module_of(small, HALF, rollout=Rollout(2, 1.0, 3), kind=Interleaved)
    _, kept = run(small, tmp_path, module, steps=-1, data=data, callbacks=[probe, table])
    assert [bool(step) for step in kept.experiences] == [False, True, False, True]
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names == ["latest.html", "step-000001.parquet", "step-000003.parquet"]
    assert all((log["silent/all"] == 0.0) == (how == "rollout") for log in kept.logs)
    asked = [s.question.uid for step in kept.experiences for each in step for s in each.batch.samples if s.weight]
    assert len(set(asked)) == len(asked) > 4


def test_a_probe_by_rollout_is_refused_where_nothing_is_sampled(small, tmp_path):
    module = SFT(partial(OmniPolicy, small.tiny), SGD)
    refused = False
    try:
        trainer_of(tmp_path, 1, callbacks=[SilentProbe(1, "rollout")]).fit(module, data_of(small, algorithm="sft"))
    except InputError:
        refused = True
    assert refused


def test_a_probe_by_rollout_truncates_as_training_does(small, tmp_path, monkeypatch):
    given = []

    def spy(*args, **options):
        given.append((options.get("top_k", 0), options.get("top_p", 1.0)))
        return sample(*args, **options)

    monkeypatch.setattr(probing, "sample", spy)
    run(
        small,
        tmp_path,
        module_of(small, rollout=Rollout(2, 1.5, 2, top_k=4, top_p=0.9)),
        callbacks=[SilentProbe(1, "rollout")],
    )
    assert given == [(4, 0.9)]


def test_an_adaptive_stage_compares_audio_and_silence_of_one_policy(small, tmp_path):
    """And under the name that SilentProbe logs, which it overwrites."""
    more = {
        "window": 1,
        "probe": {"rate": 1.0},
        "feedback": {"contribution": {"strength": 4}},
        "weight": {"useful": {}},
    }
    expected = []

    class Before(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, number):
            expected.append(float(module.silent_accuracy(batch).mean()))

    fast = module_of(small, optimizer=partial(torch.optim.SGD, lr=2.0))
    _, kept = run(small, tmp_path, fast, callbacks=[Before(), SilentProbe(1)], **more)
    assert kept.logs[0]["silent/all"] == pytest.approx(expected[0], abs=1e-6)
    assert abs(float(fast.silent_accuracy(kept.experiences[0][0].batch).mean()) - expected[0]) > 1e-3


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda small, tmp: module_of(small, num_iterations=0), id="num_iterations 0 trains nothing"),
        pytest.param(lambda small, tmp: module_of(small, {}), id="rewards {} are the paper's"),
        pytest.param(lambda small, tmp: Rollout(4, math.inf, 4), id="temperature inf"),
        pytest.param(lambda small, tmp: Rollout(4, 1.0, 4, refill_rounds=-1), id="refill_rounds -1"),
        pytest.param(lambda small, tmp: CompletionTable(str(tmp), 0), id="every_n_steps 0 divides by it"),
    ],
)
def test_settings_that_mean_nothing_are_refused(small, tmp_path, make):
    with pytest.raises(InputError):
        make(small, tmp_path)


# ---- ranks
class Report(L.Callback):
    """What a rank saw, in a file."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, module, *_) -> None:
        found = {
            "log": {
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if not name.startswith(("time/", "speed/", "memory/"))
            },
            "sizes": [(len(e.batch), int(e.real.sum()), int(e.kept.sum())) for e in module.experiences],
            "weights": weights(module),
            "refilled": trainer.datamodule.cursor.state()["refilled"],
        }
        torch.save(found, self.folder / f"rank-{trainer.global_rank}.pt")


def test_a_rank_without_groups_to_replace_keeps_step():
    """In a process of its own: what is forked beside the threads of other tests may wait for them."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "keeps_up_without_groups"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | {ALONE: "1"})
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout[-3_000:]


@pytest.mark.skipif(ALONE not in os.environ, reason="run by the test above")
def test_a_rank_keeps_up_without_groups_to_replace(small, tmp_path):
    """Rank 1 teaches with all its prompts, rank 0 with none, refilled or not: as one process with the same rewards.

    Rewards that need the silence, a probe, a table, two iterations and the KL: as many collective calls on either.
    """

    def make() -> GRPO:
        rewards = {f"{HERE}flat_on_rank_0": 1.0, "contribution": 0.0}
        how = {"rollout": Rollout(3, 1.0, 4, refill_rounds=1), "objective": GRPOConfig(beta=0.1)}
        return module_of(small, rewards, micro_batch_size=1, num_iterations=2, **how)

    alone, ranks = make(), make()
    moved, kept = run(small, tmp_path, alone, callbacks=[SilentProbe(1)], **REFILL)
    callbacks = [Report(tmp_path), CompletionTable(str(tmp_path / "t"), 1), SilentProbe(1)]
    trainer_of(tmp_path, 1, strategy="ddp_fork", devices=2, callbacks=callbacks).fit(ranks, data_of(small, **REFILL))
    one, two = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert one["sizes"] == [(2, 2, 0), (2, 2, 0)] and two["sizes"] == [(2, 2, 2), (1, 0, 0)]
    assert one["log"] == two["log"] and one["refilled"] == two["refilled"]
    assert torch.equal(one["weights"], two["weights"]) and moved.abs().max() > 1e-3
    torch.testing.assert_close(one["weights"], weights(alone), rtol=0, atol=1e-6)
    for name in ("reward/all", "train/kl", "train/entropy", "silent/all", "filter/discarded_valid", "zero_adv/all"):
        assert one["log"][name] == pytest.approx(kept.logs[0][name], abs=1e-6)
    assert pq.read_table(tmp_path / "t" / "step-000000.parquet").num_rows == 6 * 3
