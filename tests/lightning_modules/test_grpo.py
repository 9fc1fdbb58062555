"""A GRPO step: what counts, what is divided by what, which log-probs are fixed when, and whose completion is whose."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.errors import InputError
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.correction import Correction
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.ranks import Ranks
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.step.token_meter import TokenMeter
from earwitness.tests.grpo_parts import Changed, Kept, backwards, flat, mislabelled
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)
LENGTH = {"earwitness.tests.lab_rewards.length": 1.0}
HALF = {"earwitness.tests.grpo_parts.half": 1.0}
CONSTANT = {"earwitness.tests.lab_rewards.constant": 1.0}


def data_of(small, **stage) -> AudioQuestions:
    """Two steps of four questions."""
    given = {"name": "grpo", "algorithm": "grpo", "pool": {"source": "sounds"}, "batch_size": 4}
    curriculum = {"seed": 3, "cells": ["label"], "stages": [given | {"budget": {"steps": 2}} | stage]}
    return AudioQuestions(
        small.index, small.tiny, small.labels, TrainingSpec(curriculum, "grpo"), EvaluationSpec({"split": "val"})
    )


def module_of(small, rewards=LENGTH, rollout=None, objective=None, lora=None, **options) -> GRPO:
    given = {"max_grad_norm": 1e9, "micro_batch_size": 4}
    return GRPO(
        partial(OmniPolicy, small.tiny, lora=lora),
        SGD,
        rollout=rollout or Rollout(4, 1.0, 6),
        objective=objective or GRPOConfig(beta=0.0),
        rewards=rewards,
        **(given | options),
    )


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.net.parameters() if p.requires_grad])


def run(small, tmp_path, module, steps: int = 1, **stage) -> tuple[torch.Tensor, Kept]:
    """How far the weights moved, and what was logged."""
    module.configure_model()
    start, kept = weights(module).clone(), Kept()
    trainer_of(tmp_path, steps, callbacks=[kept]).fit(module, data_of(small, **stage))
    return weights(module) - start, kept


def close(a: torch.Tensor, b: torch.Tensor, to: float = 1e-6) -> None:
    assert a.abs().max() > 20 * to, "something must have moved"
    torch.testing.assert_close(a, b, rtol=0, atol=to)


# ---- groups without an advantage (edge cases 1 to 3)
def test_kept_groups_stay_in_the_denominator_dropped_ones_do_not(small, tmp_path):
    """k of 4 groups teach: dropping the others makes the same gradient 4 / k times as large."""
    kept, log = run(small, tmp_path, module_of(small, HALF))
    dropped, other = run(small, tmp_path, module_of(small, HALF), on_zero_advantage="drop")
    teach = sum(not flat(s.question.key) for s in log.experiences[0][0].batch.samples)
    assert 0 < teach < 4 and log.logs[0]["zero_adv/all"] == 1 - teach / 4
    close(dropped, kept * 4 / teach)
    assert other.logs[0]["filter/discarded_valid"] == 4 - teach and other.logs[0]["filter/kept"] == teach
    assert "filter/discarded_valid" not in log.logs[0]


@pytest.mark.parametrize(("action", "moves"), [("keep", True), ("drop", False)])
def test_the_kl_still_pulls_at_groups_without_an_advantage(small, tmp_path, action, moves):
    """Beside a reference that differs from the policy: kept groups are pulled to it, dropped ones are not."""
    module = module_of(small, CONSTANT, objective=GRPOConfig(beta=0.5))
    module.configure_model()
    with torch.no_grad():
        module.net.head.add_(0.05 * torch.randn(module.net.head.shape, generator=torch.Generator().manual_seed(0)))
    moved, kept = run(small, tmp_path, module, on_zero_advantage=action)
    assert bool(moved.any()) == moves and kept.logs[0]["zero_adv/all"] == 1.0
    if moves:
        assert kept.logs[0]["train/kl"] > 1e-3


def test_a_share_of_groups_without_advantage_is_split_and_predicted(small, tmp_path):
    """All wrong: an untrained model says nothing right, p = 0 predicts a share of 1."""
    _, kept = run(small, tmp_path, module_of(small, CONSTANT))
    log = kept.logs[0]
    assert (log["zero_adv/all/all_wrong"], log["zero_adv/all/all_right"]) == (1.0, 0.0)
    assert log["accuracy/all"] == 0.0 and log["zero_adv/all/predicted"] == 1.0


# ---- truncated and empty completions (edge cases 7 to 10)
def test_a_batch_of_cut_completions_moves_nothing_and_is_counted(small, tmp_path):
    """A random model never ends: with `mask_truncated` all is masked, and every number is finite."""
    objective = GRPOConfig(beta=0.1, mask_truncated=True)
    module = module_of(small, objective=objective)
    moved, kept = run(small, tmp_path, module, steps=2)
    assert not moved.any() and module.trainer.datamodule.position == 2 and module.trainer.global_step == 2
    assert all(math.isfinite(value) for log in kept.logs for value in log.values())
    assert kept.logs[0]["train/loss"] == 0.0 and kept.logs[0]["rollout/finished"] == 0.0


def finishing(done):
    """As if every third completion had ended with its third token, and one with its first."""
    lengths = torch.tensor([3 if n % 3 == 0 else done.ids.shape[1] for n in range(len(done.ids))])
    mask = (torch.arange(done.ids.shape[1]) < lengths[:, None]).long()
    return replace(done, mask=mask, finished=lengths < done.ids.shape[1], logprob=done.logprob * mask)


@pytest.mark.parametrize(("loss", "power"), [("grpo", 1), ("gspo", 1), ("sapo", 1), ("dr_grpo", 1), ("dapo", 0)])
def test_empty_completions_are_counted_unless_dropped(small, tmp_path, loss, power):
    """6 of 16 end; with `mask_truncated` 10 have no token that counts: without them the mean is 16 / 6 as large.

    Token means never count them.
    """
    given = {"loss": loss, "beta": 0.0, "mask_truncated": True}
    counted, _ = run(small, tmp_path, module_of(small, objective=GRPOConfig(**given), engine=Changed(finishing)))
    given["drop_empty"] = True
    dropped, _ = run(small, tmp_path, module_of(small, objective=GRPOConfig(**given), engine=Changed(finishing)))
    close(dropped, counted * (16 / 6) ** power)


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo", "cispo"])
def test_denominators_are_the_steps_for_any_micro_batch_size(small, tmp_path, loss):
    """Completions of unlike length, two iterations: 1, 3 or 4 prompts at a time."""
    high = 5.0 if loss == "cispo" else 0.2
    moves = []
    for size in (1, 3, 4):
        objective = GRPOConfig(loss=loss, high=high, beta=0.05)
        module = module_of(
            small, objective=objective, engine=Changed(finishing), micro_batch_size=size, num_iterations=2
        )
        moves.append(run(small, tmp_path, module)[0])
    close(moves[0], moves[1])
    close(moves[0], moves[2])


# ---- temperatures, supports and what is fixed when (edge cases 11 to 14)
def test_policy_old_and_reference_share_the_temperature(small, tmp_path):
    """At 1.5 on the first step: ratio exactly 1, KL 0, and the engine's log-probs are the policy's."""
    objective = GRPOConfig(beta=0.1)
    _, kept = run(small, tmp_path, module_of(small, rollout=Rollout(4, 1.5, 6), objective=objective))
    log = kept.logs[0]
    assert log["train/ratio"] == 1.0 and abs(log["train/kl"]) < 1e-9 and log["rollout/logprob_gap"] < 1e-5
    assert log["train/clip_low"] == log["train/clip_high"] == 0.0 and 1.0 < log["train/entropy"] < math.log(576)


@pytest.mark.parametrize("how", [{"top_k": 4}, {"top_p": 0.6}, {"top_k": 8, "top_p": 0.9}])
def test_truncated_sampling_has_the_ratio_of_the_truncated_distributions(small, tmp_path, how):
    """The paper's temperature 1.5 and top_k 4. Over the whole vocabulary the log-probs would be nats away."""
    module = module_of(small, rollout=Rollout(4, 1.5, 6, **how), objective=GRPOConfig(beta=0.1))
    _, kept = run(small, tmp_path, module)
    log, each = kept.logs[0], kept.experiences[0][0]
    assert log["rollout/logprob_gap"] < 1e-5 and log["train/ratio"] == 1.0 and abs(log["train/kl"]) < 1e-9
    done = each.completions
    there = done.mask.bool()
    sizes = (done.support >= 0).sum(-1)[there]
    assert int(sizes.max()) <= how.get("top_k", 576) and int(sizes.min()) >= 1
    assert (done.support == done.ids[..., None]).any(-1)[there].all(), "what was drawn is in its support"
    assert not torch.isin(done.support, module.net.suppressed).any()
    with torch.no_grad():
        start = OmniPolicy(small.tiny)
        whole = start(each.batch.prompts, done.ids, done.mask, done.prompt_of_row, 1.5).logprob
    assert (done.logprob - whole)[there].mean() > 0.3


def test_old_log_probs_are_fixed_before_the_first_of_several_iterations(small, tmp_path, monkeypatch):
    """Three iterations: the ratio is 1 in the first and moves after it; the rollout is read once more, not thrice."""
    ratios, calls = [], []

    def spy(self, loss, logprob, *rest):
        calls.append(loss.old.clone())
        ratios.append(float(((logprob - loss.old) * loss.mask).exp().sub(1).abs().max()))
        return measure(self, loss, logprob, *rest)

    measure = TokenMeter.measure
    monkeypatch.setattr(TokenMeter, "measure", spy)
    run(small, tmp_path, module_of(small, num_iterations=3))
    assert len(ratios) == 3 and ratios[0] < 1e-5 < 1e-3 < ratios[1] < ratios[2]
    assert torch.equal(calls[0], calls[1]) and torch.equal(calls[1], calls[2])


def test_skipping_the_old_log_probs_changes_nothing(small, tmp_path, monkeypatch):
    """One iteration: the old ones are the policy's own, whether they are computed before or taken from the pass."""
    skipped, _ = run(small, tmp_path, module_of(small, objective=GRPOConfig(beta=0.1)))
    fixed = GRPO._fixed_logprobs

    def recomputed(self, work):
        with torch.no_grad():
            return [replace(m, old=self._logprobs(self.net, m).logprob) for m in fixed(self, work)]

    monkeypatch.setattr(GRPO, "_fixed_logprobs", recomputed)
    close(run(small, tmp_path, module_of(small, objective=GRPOConfig(beta=0.1)))[0], skipped)


def away(nats: float):
    """An engine whose log-probs are so far above the policy's."""
    return Changed(lambda done: replace(done, logprob=(done.logprob + nats) * done.mask))


@pytest.mark.parametrize(
    ("correction", "nats", "factor"),
    [
        (None, 0.2, 1.0),
        (Correction("token", "truncate", 2.0), 0.2, math.exp(-0.2)),
        (Correction("token", "truncate", 2.0), -0.9, 2.0),  # e^0.9 = 2.46
        (Correction("token", "mask", 2.0), -0.9, 0.0),
        (Correction("sequence", "truncate", 3.0), 0.1, math.exp(-0.6)),  # six tokens
        (Correction("sequence", "mask", 3.0), -0.2, 0.0),  # e^1.2 = 3.32
    ],
)
def test_importance_weights_scale_the_policys_gradient(small, tmp_path, correction, nats, factor):
    """The same gap for every token: the whole gradient is multiplied, also in the second iteration."""
    plain, _ = run(small, tmp_path, module_of(small))
    objective = GRPOConfig(beta=0.0, correction=correction)
    weighed, kept = run(small, tmp_path, module_of(small, objective=objective, engine=away(nats)))
    if factor:
        close(weighed, plain * factor)
    else:
        assert not weighed.any()
    assert kept.logs[0]["rollout/logprob_gap"] == pytest.approx(abs(nats), abs=1e-5)
    if correction:
        assert kept.logs[0]["rollout/correction"] == pytest.approx(factor, abs=1e-5)


def test_a_correction_needs_the_engines_log_probs(small, tmp_path):
    silent = Changed(lambda done: replace(done, logprob=None))
    module = module_of(small, objective=GRPOConfig(correction=Correction()), engine=silent)
    with pytest.raises(InputError, match="Changed gives no log-probs of its own"):
        run(small, tmp_path, module)


# ---- whose completion is whose
def test_completions_may_come_in_any_order(small, tmp_path):
    """Prompts, recordings, rewards, groups and weights follow `prompt_of_row`."""
    plain, _ = run(small, tmp_path, module_of(small, HALF, micro_batch_size=3))
    turned, _ = run(small, tmp_path, module_of(small, HALF, micro_batch_size=3, engine=Changed(backwards)))
    close(turned, plain)


def test_completions_of_other_prompts_stop_the_run(small, tmp_path):
    """`repeat` for `repeat_interleave`: every prompt has its four completions, most of them somebody else's."""
    for engine in (Changed(mislabelled),):
        with pytest.raises(InputError, match="audio that belongs to other prompts"):
            run(small, tmp_path, sharp(small, engine=engine))


def sharp(small, **options) -> GRPO:
    """A policy that is sure of what it says, so that another prompt's words are far from likely."""
    module = module_of(small, **options)
    module.configure_model()
    with torch.no_grad():
        module.net.head.mul_(12.0)
    return module


def test_a_prompt_without_completions_is_noticed(small, tmp_path):
    lost = Changed(lambda done: replace(done, prompt_of_row=done.prompt_of_row.clamp(min=1)))
    with pytest.raises(ValueError, match=r"every prompt must have as many completions, got \[0, 8, 4, 4\]"):
        run(small, tmp_path, module_of(small, engine=lost))


# ---- references
@pytest.mark.parametrize("offload", [False, True])
def test_a_frozen_copy_is_the_reference_of_full_fine_tuning(small, tmp_path, offload):
    objective = GRPOConfig(beta=0.1, offload_reference=offload)
    module = module_of(small, objective=objective)
    moved, kept = run(small, tmp_path, module, steps=2)
    copy = module._references[0].copy
    original = OmniPolicy(small.tiny)
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), original.parameters(), strict=True))
    assert not any(p.requires_grad for p in copy.parameters()) and moved.any()
    assert abs(kept.logs[0]["train/kl"]) < 1e-9 < kept.logs[1]["train/kl"]
    assert not [name for name in module.state_dict() if "reference" in name]


def test_without_kl_and_with_adapters_no_second_model_is_loaded(small, tmp_path):
    loads = []
    for lora, beta in ((None, 0.0), (Lora(rank=4), 0.1)):
        module = module_of(small, lora=lora, objective=GRPOConfig(beta=beta))
        make, count = module.make_policy, []
        module.make_policy = lambda make=make, count=count: count.append(1) or make()
        run(small, tmp_path, module)
        loads.append(len(count))
    assert loads == [1, 1]


# ---- every rank has work, with audio
def test_every_micro_batch_runs_the_audio_tower_once(small, tmp_path, monkeypatch):
    """Also one that only keeps a rank busy, and one whose completions are all masked."""
    module = module_of(small, micro_batch_size=2, objective=GRPOConfig(beta=0.0, mask_truncated=True))
    module.configure_model()
    calls = []
    module.net.tower.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    monkeypatch.setattr(Ranks, "greatest", lambda self, value: 5.0)  # as if another rank had five micro-batches
    moved, _ = run(small, tmp_path, module)
    assert calls == [False] + [True] * 5 and not moved.any()


def test_a_micro_batch_that_keeps_a_rank_busy_adds_nothing(small, tmp_path, monkeypatch):
    plain, log = run(small, tmp_path, module_of(small, micro_batch_size=2, objective=GRPOConfig(beta=0.1)))
    busy = module_of(small, micro_batch_size=2, objective=GRPOConfig(beta=0.1))
    monkeypatch.setattr(Ranks, "greatest", lambda self, value: 5.0)
    same, other = run(small, tmp_path, busy)
    close(same, plain, 1e-7)
    assert log.logs[0]["train/entropy"] == pytest.approx(other.logs[0]["train/entropy"], abs=1e-12)


# ---- advantages over the batch, losses by name
def test_advantages_of_the_whole_batch_and_of_every_reward_alone(small, tmp_path):
    """`none` follows differences in reward; `batch` divides them by one number: the moves are parallel."""
    none, _ = run(small, tmp_path, module_of(small, objective=GRPOConfig(beta=0.0, advantages="none")))
    batch, kept = run(small, tmp_path, module_of(small, objective=GRPOConfig(beta=0.0, advantages="batch")))
    spread = float(kept.experiences[0][0].scored.total.std())
    close(batch * (spread + 1e-4), none)
    both = {**LENGTH, "earwitness.tests.grpo_parts.first_letter": 0.5}
    gdpo, kept = run(small, tmp_path, module_of(small, both, objective=GRPOConfig(beta=0.0, advantages="gdpo")))
    assert gdpo.any() and float(kept.experiences[0][0].advantages.std()) == pytest.approx(1.0, abs=1e-3)


def test_a_users_loss_is_named_by_its_import_path(small, tmp_path):
    """-A log-prob over the step's tokens: dapo on the first pass."""
    mine, _ = run(
        small,
        tmp_path,
        module_of(
            small,
            objective=GRPOConfig(loss="earwitness.tests.lab_rewards.reinforce", beta=0.0),
        ),
    )
    close(run(small, tmp_path, module_of(small, objective=GRPOConfig(loss="dapo", beta=0.0)))[0], mine)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"advantages": "rank"}, "objective.advantages: unknown name 'rank'; there are group, batch, none, gdpo"),
        ({"kl": "k4"}, "objective.kl: unknown name 'k4'; there are k1, k2, k3, k3\\+"),
        ({"advantages": "gdpo", "leave_one_out": True}, "gdpo has no leave_one_out"),
        ({"beta": -1.0}, "must not be negative"),
        ({"low": 1.5}, "0 <= low <= 1 and high >= 0 are needed"),
        ({"delta": 0.9}, "delta is a ratio above 1"),
        ({"loss": "cispo"}, "for cispo the largest ratio itself, at least 1"),
        ({"loss": "grop"}, "did you mean 'grpo'"),
    ],
)
def test_what_cannot_be_optimised_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        GRPOConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"group_size": 1}, {"temperature": 0.0}, {"max_new_tokens": 0}, {"top_k": 1}, {"top_k": -1}, {"top_p": 0.0}],
)
def test_rollouts_that_cannot_be_sampled_are_refused(wrong):
    with pytest.raises(InputError, match=r"^rollout(\.\w+)?: "):
        Rollout(**wrong)
