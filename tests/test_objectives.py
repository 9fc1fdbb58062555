"""Advantages, losses, rewards, schedule and answers: golden numbers of the field's trainers and numbers by hand."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from earwitness.datamodules.answers import extract_answer, is_right, is_well_formed, target_text
from earwitness.errors import InputError
from earwitness.lightning_modules.objectives.advantages import group_advantages
from earwitness.lightning_modules.objectives.losses import clipped_surrogate, grpo_loss, k3, nll_loss
from earwitness.lightning_modules.objectives.rewards import accuracy, format, reward_function, weighted_rewards
from earwitness.lightning_modules.schedule import Schedule

GOLDEN_FILE = Path(__file__).parents[2] / "shared" / "conformance" / "grpo_golden.json"
NAN = float("nan")

# A batch with clipping on both sides, ratios of 1, uneven lengths and one completion without tokens.
BATCH = {
    "logprob": [[-0.5, -1, -0.2, -0.9, -2], [-0.1, -0.3, -0.7, -0.2, -0.4],
        [-1.5, -0.6, -0.05, -0.8, -0.3], [-0.9, -0.2, -0.1, -1.1, -0.6]],
    "old_logprob": [[-0.2, -1.4, -0.2, -0.8, -2], [-0.6, -0.1, -0.6, -0.2, -0.4],
        [-1.45, -0.65, 0.35, -1.4, -0.1], [-0.9, -0.2, -0.1, -1.1, -0.6]],
    "ref_logprob": [[-0.7, -0.9, -0.2, -0.6, -2], [0, -0.2, -1, -0.2, -0.4],
        [-1.5, -0.1, -0.15, -0.6, -0.3], [-0.7, -0.4, 0, -1.1, -0.5]],
    "mask": [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]],
    "advantage": [1.2, -0.7, 0.4, -0.9],
}  # fmt: skip
# Loss and L2 norm of its gradient by the log-probs, in float32 by the real functions of TRL and (drop) of verl.
GOLDEN = {
    "grpo": ({"beta": 0.04}, -0.17152950, 0.20596063),
    "grpo beta=0": ({"beta": 0.0}, -0.17201082, 0.20660098),
    "grpo eps_high=0.28": ({"beta": 0.04, "eps_high": 0.28}, -0.18112952, 0.20596063),
    "grpo, empty completions dropped from the denominator": ({"beta": 0.04, "n": 3}, -0.22870603, 0.27461419),
}


def golden_batch(source=BATCH):
    names = ("logprob", "old_logprob", "ref_logprob", "advantage", "mask")
    return [torch.tensor(source[name], dtype=torch.float64) for name in names]


def loss_and_gradient(parts, n=4, **options):
    """Sum over the parts (slices of completions) of their losses, and the gradient by the log-probs."""
    logprob, *rest = golden_batch()
    logprob.requires_grad_()
    losses = [grpo_loss(*(tensor[part] for tensor in (logprob, *rest)), num_completions=n, **options) for part in parts]
    for loss in losses:
        loss.backward()
    return sum(loss.item() for loss in losses), logprob.grad


@pytest.mark.parametrize("case", GOLDEN)
def test_grpo_golden(case):
    options, loss, norm = GOLDEN[case]
    got, gradient = loss_and_gradient([slice(0, 4)], **options)
    assert (got, float(gradient.norm())) == pytest.approx((loss, norm), abs=1e-6)


def test_the_shared_golden_file_holds_these_numbers():
    if not GOLDEN_FILE.is_file():
        pytest.skip("no shared/conformance/grpo_golden.json beside the repository")
    golden = json.loads(GOLDEN_FILE.read_text())
    for mine, shared in zip(golden_batch(), golden_batch(golden["inputs"]), strict=True):
        assert torch.equal(mine, shared)
    cases = {case["name"]: (case["loss"], case["grad_norm"]) for case in golden["cases"]}
    for name, (options, _, _) in GOLDEN.items():
        loss, gradient = loss_and_gradient([slice(0, 4)], **options)
        assert (loss, float(gradient.norm())) == pytest.approx(cases[name], abs=1e-6)
    shared = golden["advantages"]
    assert shared["mixed"]["advantage"] == MIXED_ADVANTAGE and shared["one_unscorable_last"] == UNSCORED_ADVANTAGE
    assert {int(k): tuple(pair) for k, pair in shared["k_right"].items()} == K_RIGHT


@pytest.mark.parametrize("cuts", [[0, 1, 4], [0, 2, 4], [0, 3, 4], [0, 1, 2, 3, 4]])
def test_micro_batches_add_up_to_the_batch(cuts):
    """The denominator is the step's: any split gives the same loss and gradient, also where lengths differ."""
    loss, gradient = loss_and_gradient([slice(0, 4)], beta=0.04)
    parts = [slice(a, b) for a, b in pairwise(cuts)]
    split, split_gradient = loss_and_gradient(parts, beta=0.04)
    assert split == pytest.approx(loss, abs=1e-15) and torch.allclose(split_gradient, gradient, rtol=0, atol=1e-15)


def test_a_batch_without_tokens_has_loss_zero_and_gradient_zero():
    """All completions masked: 0, finite, and still in the graph; with or without a KL term."""
    logprob, old, reference, advantages, mask = golden_batch()
    logprob.requires_grad_()
    loss = grpo_loss(logprob, old, reference, advantages, mask * 0, num_completions=4, beta=0.04)
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(logprob.grad, torch.zeros(4, 5, dtype=torch.float64))


def test_masked_positions_do_not_matter():
    """Other numbers where the mask is 0: the loss and its gradient stay, and that gradient is 0 there."""
    logprob, old, reference, advantages, mask = golden_batch()
    noise = torch.linspace(-3, 3, 20, dtype=torch.float64).view(4, 5) * (1 - mask)
    loss, gradient = loss_and_gradient([slice(0, 4)], beta=0.04)
    moved = (logprob + noise).requires_grad_()
    other = grpo_loss(moved, old - noise, reference, advantages, mask, num_completions=4, beta=0.04)
    other.backward()
    assert other.item() == loss and torch.equal(moved.grad, gradient)
    assert torch.equal(gradient * (1 - mask), torch.zeros(4, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 1.0, -1.2, 0.0),  # already more likely than the trust region allows: clipped, no gradient
        (1.5, -1.0, 1.5, 1.5),  # too likely and bad: not clipped
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.0, -0.5, 0.5, 0.5),
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, slope):
    """eps 0.2. Where nothing is clipped, d(-rho A) / d logprob = -rho A."""
    logprob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    scaled = clipped_surrogate(logprob, logprob.detach() * 0, torch.tensor([advantage]).double(), 0.2, 0.2)
    scaled.backward()
    assert (scaled.item(), logprob.grad.item()) == pytest.approx((loss, slope), abs=1e-12)


def test_k3_by_hand():
    """d = ln 2: 2 - ln 2 - 1; d = -ln 2: 1/2 + ln 2 - 1; 0 where equal. Its derivative by the log-prob is 1 - e^d."""
    logprob = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([math.log(2) - 1, -math.log(2) - 1, -1.0], dtype=torch.float64)
    value = k3(logprob, reference)
    value.sum().backward()
    assert value.tolist() == pytest.approx([1 - math.log(2), math.log(2) - 0.5, 0.0], abs=1e-15)
    assert logprob.grad.tolist() == pytest.approx([-1.0, 0.5, 0.0], abs=1e-15)


def test_a_kl_term_needs_a_reference():
    logprob, old, _, advantages, mask = golden_batch()
    with pytest.raises(ValueError, match=r"beta 0\.001 needs the log-probs of a reference policy"):
        grpo_loss(logprob, old, None, advantages, mask, num_completions=4)
    without = grpo_loss(logprob, old, None, advantages, mask, num_completions=4, beta=0)
    assert without.item() == pytest.approx(GOLDEN["grpo beta=0"][1], abs=1e-6)


def test_nll_by_hand():
    """Weights 1 and 0.5 over two and one tokens, denominator 2.5: (1 + 2 + 0.5 x 4) / 2.5 = 2; masked -9 is nothing."""
    logprob = torch.tensor([[-1.0, -2.0], [-4.0, -9.0]], requires_grad=True)
    mask, weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.5])
    loss = nll_loss(logprob, mask, weights, denominator=2.5)
    loss.backward()
    assert loss.item() == 2.0
    assert torch.equal(logprob.grad, torch.tensor([[-0.4, -0.4], [-0.2, 0.0]]))


# ---- advantages: numbers of TRL (ddof 1, eps 1e-4), rewards 2.5 right and 0.5 wrong
def one_group(rewards, dtype=torch.float64):
    return group_advantages(torch.tensor(rewards, dtype=dtype), torch.zeros(len(rewards), dtype=torch.int64))


K_RIGHT = {1: (2.474524, -0.353503), 2: (1.620010, -0.540003), 3: (1.207498, -0.724499), 4: (0.935327, -0.935327)}


@pytest.mark.parametrize("right", K_RIGHT)
def test_advantages_of_k_right_of_eight(right):
    """And by symmetry of 8 - k right."""
    up, down = K_RIGHT[right]
    got = one_group([2.5] * right + [0.5] * (8 - right))
    assert got.tolist() == pytest.approx([up] * right + [down] * (8 - right), abs=1e-6)
    other = one_group([2.5] * (8 - right) + [0.5] * right)
    assert other.tolist() == pytest.approx([-down] * (8 - right) + [-up] * right, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reward", [0.0, 0.5, 2.5, 0.1, 0.3, 0.7])
def test_a_group_of_equal_rewards_has_advantage_exactly_zero(reward, dtype):
    """Also where eight times 0.1, 0.3 or 0.7 does not have that number as its mean."""
    for size in (1, 2, 7, 8):
        assert one_group([reward] * size, dtype).tolist() == [0.0] * size


MIXED = [2.0 * a + 0.5 * f for a, f in zip([1, 0, 0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0], strict=True)]
MIXED_ADVANTAGE = [1.594705, -0.446517, -0.446517, 1.594705, -0.446517, -0.446517, -0.446517, -0.956823]
UNSCORED_ADVANTAGE = [1.463700, -0.585480, -0.585480, 1.463700, -0.585480, -0.585480, -0.585480, 0.0]


def test_advantages_of_accuracy_and_format():
    assert one_group(MIXED).tolist() == pytest.approx(MIXED_ADVANTAGE, abs=1e-6)


def test_a_completion_that_cannot_be_scored_is_left_out_of_its_group():
    """It gets exactly 0, the other seven what a group of seven gets."""
    got = one_group([*MIXED[:7], NAN])
    assert got.tolist() == pytest.approx(UNSCORED_ADVANTAGE, abs=1e-6) and got[7] == 0.0
    assert torch.equal(got[:7], one_group(MIXED[:7]))
    assert one_group([NAN, NAN]).tolist() == one_group([NAN, 2.5]).tolist() == [0.0, 0.0]


def test_groups_of_different_sizes_in_any_order():
    """Every group gets what it gets alone; completions may be shuffled over the batch."""
    alone = [one_group(rewards) for rewards in (MIXED, [2.5, 0.5], [0.5], [2.5, 2.5, 0.0])]
    rewards = torch.tensor([*MIXED, 2.5, 0.5, 0.5, 2.5, 2.5, 0.0], dtype=torch.float64)
    group = torch.repeat_interleave(torch.tensor([7, 2, 40, 3]), torch.tensor([8, 2, 1, 3]))
    order = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    assert torch.equal(group_advantages(rewards[order], group[order]), torch.cat(alone)[order])


# ---- rewards: what the release's plugin returns, solution "Rain"
@pytest.mark.parametrize(
    ("completion", "right", "formed"),
    [
        ("<answer>Rain</answer>", 1, 1),
        ("<answer>rAIN</answer>", 1, 1),
        (" \n<answer>\n Rain </answer>\n", 1, 1),
        ("Rain", 1, 0),
        (" rain\n", 1, 0),
        ("<ANSWER>Rain</ANSWER>", 1, 0),
        ("<answer>Rain</ANSWER>", 1, 0),
        ("It is <answer>Rain</answer>", 1, 0),
        ("<answer>Rain</answer>.", 1, 0),
        ("<answer>Rain</answer><answer>Wind</answer>", 1, 0),
        ("<answer>Wind</answer><answer>Rain</answer>", 0, 0),
        ("<answer>Wind</answer>", 0, 1),
        ("<answer>Rain.</answer>", 0, 1),
        ("<answer></answer>", 0, 1),
        ("<answer>Rain", 0, 0),
        ("Rain</answer>", 0, 0),
        ("<answer><answer>Rain</answer>", 0, 0),
        ("The answer is Rain", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_rewards_are_the_plugin_s(completion, right, formed):
    """Accuracy: the first tagged text (tags in any case, over lines) or all of it, stripped, in lower case. Format:
    one lower-case pair around the stripped whole. A tagged solution is unwrapped too.
    """
    assert accuracy([completion] * 2, solution=["Rain", "<answer>rain </answer>"]) == [right, right]
    assert format([completion]) == [formed]
    total, parts = weighted_rewards(
        {"accuracy": (accuracy, 2.0), "format": (format, 0.5)}, [completion], {"solution": ["Rain"], "choices": [[]]}
    )
    assert total.tolist() == [2.0 * right + 0.5 * formed] and total.dtype == torch.float64
    assert {name: part.tolist() for name, part in parts.items()} == {"accuracy": [right], "format": [formed]}


def test_answers_are_written_as_they_are_read():
    for answer in ("Rain", "A dog's bark", "21.2s", "two\nlines"):
        text = target_text(answer)
        assert text == f"<answer>{answer}</answer>"
        assert extract_answer(text) == answer and is_right(text, answer) and is_well_formed(text)
    assert extract_answer("<answer>a</answer> or <answer>b</answer>") == "a"
    assert extract_answer("  no tags ") == "no tags"


def test_a_completion_is_scored_by_the_functions_that_can():
    """None leaves a function out of the sum; where no function scored, the reward is NaN."""
    functions = {
        "first": (lambda completions, **_: [1, None, None, True], 2.0),
        "second": (lambda completions, **_: [None, 0.5, None, 1.0], 0.5),
    }
    total, parts = weighted_rewards(functions, ["a", "b", "c", "d"], {})
    assert total[[0, 1, 3]].tolist() == [2.0, 0.25, 2.5] and total[2].isnan()
    assert parts["first"].isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions, **_: 1 / 0, "reward 'mine' raised ZeroDivisionError: division by zero"),
        (lambda completions: [1.0], "reward 'mine' raised TypeError: .*unexpected keyword argument 'solution'"),
        (lambda completions, **_: None, "reward 'mine' raised TypeError"),
        (lambda completions, **_: [1.0], "reward 'mine' returned 1 values for 2 completions"),
        (lambda completions, **_: [1.0, NAN], "reward 'mine' returned nan; a finite number or None is needed"),
        (lambda completions, **_: [math.inf, 1.0], "reward 'mine' returned inf"),
        (lambda completions, **_: [1.0, "1"], "reward 'mine' returned '1'"),
    ],
)
def test_a_reward_function_that_fails_is_named(function, message):
    with pytest.raises(InputError, match=message):
        weighted_rewards({"fine": (format, 1.0), "mine": (function, 1.0)}, ["a", "b"], {"solution": ["a", "b"]})


def test_reward_functions_are_found_by_import_path():
    assert reward_function("accuracy") is accuracy and reward_function("format") is format
    assert reward_function("earwitness.lightning_modules.objectives.rewards.format") is format
    assert reward_function("math.fsum") is math.fsum


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("acuracy", "rewards: no built-in reward 'acuracy'; there are accuracy, format"),
        ("no_such_module.reward", r"cannot import 'no_such_module\.reward' \(No module named 'no_such_module'\)"),
        ("math.reward", r"cannot import 'math\.reward'"),
        ("math.pi", r"rewards: 'math\.pi' is not a function"),
    ],
)
def test_a_reward_function_that_is_not_there_is_named(path, message):
    with pytest.raises(InputError, match=message):
        reward_function(path)


# ---- schedule
def test_schedule_by_hand():
    """Warm-up of 4: 1/4, 2/4, 3/4, 1. Then six steps of a cosine from 1 to 0.1: 0.1 + 0.9 (1 + cos(pi k / 6)) / 2."""
    factors = [Schedule(warmup_steps=4, final=0.1).factor(step, 10) for step in range(10)]
    root = math.sqrt(3) / 2
    cosine = [0.1 + 0.45 * (1 + c) for c in (1, root, 0.5, 0, -0.5, -root)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, *cosine], abs=1e-15)


def test_schedule_without_warmup_starts_at_one_and_ends_at_its_final_factor():
    """It never leaves [final, 1], also past its end and where the warm-up is as long as the stage."""
    assert [Schedule().factor(step, 4) for step in (0, 2)] == pytest.approx([1.0, 0.5], abs=1e-15)
    assert [Schedule(final=0.2).factor(step, 4) for step in (4, 5, 99)] == pytest.approx([0.2] * 3, abs=1e-15)
    assert [Schedule(warmup_steps=3).factor(step, 3) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert Schedule(final=1.0).factor(3, 7) == 1.0
