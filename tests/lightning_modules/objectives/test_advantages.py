"""Advantages of groups: numbers of published trainers, numbers by hand, and the plain loops they must equal."""

from __future__ import annotations

import json
import math
import statistics
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import permutation
from earwitness.errors import InputError
from earwitness.lightning_modules.objectives.advantages import (
    advantages_named,
    compute_advantages,
    constant_groups,
    gdpo_advantages,
    group_advantages,
)
from earwitness.tests.places import GOLDEN

FIGURES = json.loads((GOLDEN / "grpo.json").read_text())["advantages"]
NAN = float("nan")
f64 = partial(torch.tensor, dtype=torch.float64)


def one_group(rewards, dtype=torch.float64, **how):
    return group_advantages(torch.tensor(rewards, dtype=dtype), torch.zeros(len(rewards), dtype=torch.int64), **how)


# ---- edge cases 4 to 6: numbers of TRL (ddof 1, eps 1e-4) and verl (eps 1e-6), rewards 2.5 right and 0.5 wrong
@pytest.mark.parametrize("eps", ["1e-4", "1e-6"])
@pytest.mark.parametrize("right", [1, 2, 3, 4])
def test_advantages_of_k_right_of_eight(right, eps):
    """Edge case 4, and by symmetry 8 - k right."""
    up, down = FIGURES[f"eps {eps}"][str(right)]
    got = one_group([2.5] * right + [0.5] * (8 - right), eps=float(eps))
    assert got.tolist() == pytest.approx([up] * right + [down] * (8 - right), abs=1e-6)
    other = one_group([2.5] * (8 - right) + [0.5] * right, eps=float(eps))
    assert other.tolist() == pytest.approx([-down] * (8 - right) + [-up] * right, abs=1e-6)


WEIGHTS = FIGURES["weights"]
MIXED = [WEIGHTS[0] * a + WEIGHTS[1] * f for a, f in zip(FIGURES["accuracy"], FIGURES["format"], strict=True)]


def test_advantages_of_accuracy_and_format():
    """Edge case 5, also against the others of the group (NeMo-RL's default, eps 1e-6)."""
    assert one_group(MIXED).tolist() == pytest.approx(FIGURES["of both"], abs=1e-6)
    others = FIGURES["of both, against the others, eps 1e-6"]
    assert one_group(MIXED, leave_one_out=True, eps=1e-6).tolist() == pytest.approx(others, abs=1e-6)


def test_a_completion_that_cannot_be_scored_is_left_out_of_its_group():
    """Edge case 6: it gets exactly 0, the other seven what a group of seven gets."""
    got = one_group([*MIXED[:7], NAN])
    assert got.tolist() == pytest.approx(FIGURES["of both, the last not scorable"], abs=1e-6) and got[7] == 0.0
    assert torch.equal(got[:7], one_group(MIXED[:7]))
    for rewards in ([NAN, NAN], [NAN, 2.5], [2.5]):
        for scale in ("group", "batch", "none"):
            for leave_one_out in (False, True):
                got = one_group(rewards, scale=scale, leave_one_out=leave_one_out)
                assert got.tolist() == [0.0] * len(rewards)


# ---- edge cases 1 and 2
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_of_equal_rewards_has_advantage_exactly_zero(scale, leave_one_out, dtype):
    """Edge cases 1 and 2: also where eight times 0.1, 0.3 or 0.7 does not have that number as its mean."""
    for reward in (0.0, 0.5, 2.5, 0.1, 0.3, 0.7):
        for size in (1, 2, 7, 8):
            rewards = torch.tensor([reward] * size + [0.0, 1.0], dtype=dtype)
            group = torch.tensor([5] * size + [1, 1])
            got = group_advantages(rewards, group, scale=scale, leave_one_out=leave_one_out)
            assert got[:size].tolist() == [0.0] * size and got[size] < 0 < got[size + 1] and got.dtype == dtype


def test_constant_groups_by_hand():
    """Equal, unequal, one scorable, none scorable; an unscorable member belongs to its group."""
    rewards = f64([0.1, 1.0, 2.0, 0.1, NAN, NAN, 3.0, 1.0, NAN, 0.1])
    group = torch.tensor([9, 4, 4, 9, 4, 0, 2, 4, 2, 9])
    assert constant_groups(rewards, group).tolist() == [c == "c" for c in "c..c.cc.cc"]
    assert constant_groups(rewards[1:2], group[1:2]).tolist() == [True]


# ---- scales and baselines
def by_loops(rewards, group, scale, leave_one_out, eps=1e-4):
    """The definition, one completion after the other."""
    scorable = [r for r in rewards if not math.isnan(r)]
    found = []
    for mine, number in zip(rewards, group, strict=True):
        members = [r for r, g in zip(rewards, group, strict=True) if g == number and not math.isnan(r)]
        if math.isnan(mine) or len(set(members)) < 2:
            found.append(0.0)
            continue
        others = list(members)
        if leave_one_out:
            others.remove(mine)
        gain = mine - statistics.fmean(others)
        if scale == "batch":
            gain /= statistics.stdev(scorable) + eps
        elif scale == "group" and len(set(others)) > 1:
            gain /= statistics.stdev(others) + eps
        found.append(gain)
    return found


GROUPED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.7, 2.0, 2.5, -1.0, NAN]), st.sampled_from([3, 0, 17, -2])),
    min_size=1, max_size=24,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(GROUPED, st.sampled_from(["group", "batch", "none"]), st.booleans())
def test_advantages_are_the_definition(pairs, scale, leave_one_out):
    """Groups of any size in any order, unscorable rewards, every scale and baseline."""
    rewards, group = zip(*pairs, strict=True)
    got = group_advantages(f64(rewards), torch.tensor(group), scale=scale, leave_one_out=leave_one_out)
    assert got.tolist() == pytest.approx(by_loops(rewards, group, scale, leave_one_out), abs=1e-9, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(GROUPED, st.sampled_from(["group", "batch", "none"]), st.booleans(), st.integers(0, 9))
def test_the_order_of_completions_and_the_names_of_groups_do_not_matter(pairs, scale, leave_one_out, seed):
    """Edge case 16: to the bit, so that groups may be split over any number of ranks."""
    rewards, group = f64([r for r, _ in pairs]), torch.tensor([g for _, g in pairs])
    order = torch.tensor(permutation(len(pairs), seed))
    how = {"scale": scale, "leave_one_out": leave_one_out}
    straight = group_advantages(rewards, group, **how)
    assert torch.equal(group_advantages(rewards[order], 100 - group[order], **how), straight[order])
    parts = torch.stack([rewards, rewards.roll(1).nan_to_num(0.5)])
    straight = gdpo_advantages(parts, [2.0, 0.5], group)
    assert torch.equal(gdpo_advantages(parts[:, order], [2.0, 0.5], 100 - group[order]), straight[order])
    assert torch.equal(constant_groups(rewards[order], group[order]), constant_groups(rewards, group)[order])


def test_groups_of_different_sizes_get_what_they_get_alone():
    """Edge case 16."""
    alone = [one_group(rewards) for rewards in (MIXED, [2.5, 0.5], [0.5], [2.5, 2.5, 0.0])]
    rewards = f64([*MIXED, 2.5, 0.5, 0.5, 2.5, 2.5, 0.0])
    group = torch.repeat_interleave(torch.tensor([7, 2, 40, 3]), torch.tensor([8, 2, 1, 3]))
    assert torch.equal(group_advantages(rewards, group), torch.cat(alone))


def test_scales_by_hand():
    """Groups (0, 2), (3, 3) and (1, unscorable): mean 1, 3 and 1; the batch 0, 2, 3, 3, 1 has variance 6.8 / 4."""
    rewards, group = f64([0.0, 3.0, 2.0, 3.0, 1.0, NAN]), torch.tensor([1, 0, 1, 0, 2, 2])
    distance = f64([-1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    assert torch.equal(group_advantages(rewards, group, scale="none"), distance)
    batch = group_advantages(rewards, group, scale="batch", eps=0.5)
    assert torch.allclose(batch, distance / (math.sqrt(1.7) + 0.5), rtol=0, atol=1e-15)
    own = group_advantages(rewards, group, eps=0.5)
    assert torch.allclose(own, distance / (math.sqrt(2) + 0.5), rtol=0, atol=1e-15)
    with pytest.raises(InputError, match="advantages: no scale 'std'; there are group, batch, none"):
        group_advantages(rewards, group, scale="std")


def test_the_others_of_a_group_by_hand():
    """Rewards 1, 0, 0.5 against the mean of the other two: 0.75, -0.75, 0; their std 0.5, 0.5, 1 over sqrt 2.

    One right of eight: the others of the right one are equal and have no std, so its advantage is the difference, 2.
    Two members: the plain difference, +-3.
    """
    assert one_group([1.0, 0.0, 0.5], scale="none", leave_one_out=True).tolist() == [0.75, -0.75, 0.0]
    scaled = one_group([1.0, 0.0, 0.5], leave_one_out=True, eps=0.25).tolist()
    expected = 0.75 / (0.5 / math.sqrt(2) + 0.25)
    assert scaled == pytest.approx([expected, -expected, 0.0], abs=1e-15)
    for rewards in ([2.5] + [0.5] * 7, [0.1] + [2.1] * 7):
        got = one_group(rewards, leave_one_out=True)
        assert abs(got[0].item()) == pytest.approx(2.0, abs=1e-14)
        # of the seven others: mean 2/7 away, variance (1 - 1/7) x 4 / 6 = 4/7
        assert got[1:].abs().tolist() == pytest.approx([(2 / 7) / (math.sqrt(4 / 7) + 1e-4)] * 7, abs=1e-12)
    assert one_group([3.0, 0.0], leave_one_out=True).tolist() == [3.0, -3.0]
    batch = one_group([3.0, 0.0], leave_one_out=True, scale="batch", eps=0.5)
    assert batch.tolist() == pytest.approx([3 / (3 / math.sqrt(2) + 0.5), -3 / (3 / math.sqrt(2) + 0.5)], abs=1e-15)


# ---- GDPO
def test_gdpo_by_hand():
    """Accuracy (1, 0) is +-1/2 over 1/sqrt 2; format (1, 1) adds 0; the sum, 2 x that, is divided by its own std.

    With eps 0: a = +-1/sqrt 2, s = +-sqrt 2, std s = 2, A = +-1/sqrt 2.
    """
    root = math.sqrt(0.5)
    parts, group = f64([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([4, 4])
    assert gdpo_advantages(parts, [2.0, 0.5], group, eps=0.0).tolist() == pytest.approx([root, -root], abs=1e-15)
    s = 2 * 0.5 / (root + 1e-4)
    expected = s / (s * math.sqrt(2) + 1e-4)
    assert gdpo_advantages(parts, [2.0, 0.5], group).tolist() == pytest.approx([expected, -expected], abs=1e-15)


def test_gdpo_gives_a_rare_reward_its_weight():
    """Rewards of one pattern and of any size count alike: scaling one function's rewards by 1000 changes nothing."""
    parts = f64([[1, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0, 1, 0]])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    got = gdpo_advantages(parts, [1.0, 1.0], group, eps=0.0)
    scaled = gdpo_advantages(parts * f64([[1000.0], [1.0]]), [1.0, 1.0], group, eps=0.0)
    assert torch.allclose(got, scaled, rtol=0, atol=1e-14)
    assert got.mean().item() == pytest.approx(0, abs=1e-15) and got.std().item() == pytest.approx(1, abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(GROUPED, st.integers(0, 5))
def test_gdpo_is_the_definition(pairs, shift):
    rewards, group = f64([r for r, _ in pairs]), torch.tensor([g for _, g in pairs])
    parts = torch.stack([rewards, rewards.roll(shift)])
    own = [by_loops(part.tolist(), group.tolist(), "group", False) for part in parts]
    scored = [not (math.isnan(a) and math.isnan(b)) for a, b in zip(*parts.tolist(), strict=True)]
    totals = [2.0 * a - 0.5 * b for a, b in zip(*own, strict=True)]
    known = [total for total, is_scored in zip(totals, scored, strict=True) if is_scored]
    mean = statistics.fmean(known) if known else 0.0
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    expected = [(total - mean) / (spread + 1e-4) * is_scored for total, is_scored in zip(totals, scored, strict=True)]
    got = gdpo_advantages(parts, [2.0, -0.5], group)
    assert got.tolist() == pytest.approx(expected, abs=1e-9)


def test_gdpo_leaves_out_what_cannot_be_scored():
    """Edge cases 1, 2 and 6: by no function, or in a group where no function tells members apart: exactly 0."""
    parts = f64([[1.0, 0.0, NAN, 0.1, 0.1, 0.1], [NAN, NAN, NAN, 0.3, 0.3, 0.3]])
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    got = gdpo_advantages(parts, [1.0, 1.0], group)
    assert got[2:].tolist() == [0.0] * 4 and got[0] > 0 and got[0] == -got[1]
    # Beside a group whose own advantages do not add up to 0 to the last bit.
    beside = f64([[0.0, 0.0, 0.1, 0.3, 0.3]])
    assert gdpo_advantages(beside, [1.0], torch.tensor([0, 0, 0, 1, 1]))[3:].tolist() == [0.0, 0.0]
    assert gdpo_advantages(parts * NAN, [1.0, 1.0], group).tolist() == [0.0] * 6
    assert gdpo_advantages(parts.float(), [1.0, 1.0], group).dtype == torch.float32
    with pytest.raises(InputError, match="advantages: 1 weights for the rewards of 2 functions"):
        gdpo_advantages(parts, [1.0], group)


# ---- by name
REWARDS, GROUP = [2.5, 0.5, NAN, 0.0, 2.0, 0.5, 0.1, 0.1], [0, 0, 0, 1, 1, 1, 2, 2]
PARTS = [[1.0, 0.0, NAN, 0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, NAN, 0.0, 0.0, 1.0, 0.2, 0.2]]


def by_name(name, **more):
    weights = {"parts": f64(PARTS), "weights": [2.0, 0.5]}
    return compute_advantages(name, f64(REWARDS), torch.tensor(GROUP), **weights, **more)


def test_advantages_by_name_are_those_of_the_functions():
    rewards, group = f64(REWARDS), torch.tensor(GROUP)
    for scale in ("group", "batch", "none"):
        for leave_one_out in (False, True):
            straight = group_advantages(rewards, group, scale=scale, leave_one_out=leave_one_out)
            assert torch.equal(by_name(scale, leave_one_out=leave_one_out), straight)
    assert torch.equal(by_name("gdpo"), gdpo_advantages(f64(PARTS), [2.0, 0.5], group))
    for name, message in (
        ("rank", r"objective.advantages: unknown name 'rank'; there are group, batch, none, gdpo \(or give an import"),
        ("groups", "objective.advantages: unknown name 'groups'; did you mean 'group'"),
        ("my_lab.advantages.mine", "objective.advantages: cannot import 'my_lab.advantages.mine'"),
        ("math.pi", "objective.advantages: 'math.pi' is not a function"),
    ):
        with pytest.raises(InputError, match=message):
            advantages_named(name, "objective.advantages")


@pytest.fixture
def my_lab(monkeypatch):
    """A module `my_lab` with a function `mine`, and what that function was given."""
    module = ModuleType("my_lab")
    monkeypatch.setitem(sys.modules, "my_lab", module)
    module.given = []

    def mine(rewards, group):
        module.given.append((rewards.clone(), group.clone()))
        rewards -= rewards.nanmean()  # in place: what the caller holds must not change
        return rewards.float()

    module.mine = mine
    return module


def test_advantages_of_the_users_are_found_by_their_import_path(my_lab):
    """NaN rewards get 0 whatever is returned for them; the mean of the other seven is 5.7 / 7."""
    got = by_name("my_lab.mine")
    assert got.dtype == torch.float64
    expected = [0.0 if math.isnan(reward) else reward - 5.7 / 7 for reward in REWARDS]
    assert got.tolist() == pytest.approx(expected, abs=1e-6) and got[2] == 0.0
    ((rewards, group),) = my_lab.given
    assert torch.equal(rewards.nan_to_num(9.0), f64(REWARDS).nan_to_num(9.0)) and group.tolist() == GROUP
    rewards = f64(REWARDS)
    compute_advantages("my_lab.mine", rewards, torch.tensor(GROUP), parts=f64(PARTS), weights=[2.0, 0.5])
    assert torch.equal(rewards.nan_to_num(9.0), f64(REWARDS).nan_to_num(9.0))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda rewards: rewards.nanmean(), r"one advantage per completion is needed, shape \[8\]; got shape \[\]"),
        (lambda rewards: rewards[:, None], r"shape \[8\]; got shape \[8, 1\]"),
        (lambda rewards: rewards.tolist(), r"shape \[8\]; got list"),
        (lambda rewards: None, r"shape \[8\]; got NoneType"),
        (lambda rewards: rewards - rewards.mean(), "an advantage is not finite where the reward is"),
        (lambda rewards: rewards / 0, "an advantage is not finite where the reward is"),
    ],
)
def test_advantages_of_the_users_are_one_finite_number_per_completion(my_lab, returned, message):
    my_lab.mine = lambda rewards, group: returned(rewards)
    with pytest.raises(InputError, match=f"advantages 'my_lab.mine': .*{message}"):
        by_name("my_lab.mine")
