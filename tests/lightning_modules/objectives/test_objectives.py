"""From completions to a loss, the schedule, and how answers are written."""

from __future__ import annotations

import math

import pytest
import torch

from earwitness.datamodules.questions.answers import extract_answer, is_right, is_well_formed, target_text
from earwitness.errors import InputError
from earwitness.lightning_modules.objectives.advantages import constant_groups, group_advantages
from earwitness.lightning_modules.objectives.kl import kl
from earwitness.lightning_modules.objectives.losses import loss_named
from earwitness.lightning_modules.objectives.rewards import Rewards
from earwitness.lightning_modules.step.learning_rate import Schedule


# ---- a whole step by hand
def test_from_completions_to_a_loss():
    """Two groups of two. In the first, 2.5 (right, tagged) against 0.5 (wrong, tagged): +-1 / (sqrt 2 + 1e-4). In the
    second both are right and untagged: 0. Ratio 1, beta 0.1, k3 of d = ln 2 on one token of the second group.

    The first group's loss, -A + A over equal lengths, is 0, and its slopes are -+A / 2 tokens / 4 completions.
    """
    columns = {"solution": ["Rain", "Rain", "Wind", "Wind"]}
    said = ["<answer>Rain</answer>", "<answer>Wind</answer>", "wind", "Wind"]
    scored = Rewards({"accuracy": 2.0, "format": 0.5})(said, columns, ["a/1", "a/1", "a/2", "a/2"])
    assert scored.total.tolist() == [2.5, 0.5, 2.0, 2.0]
    group = torch.tensor([0, 0, 1, 1])
    advantages = group_advantages(scored.total, group)
    gain = 1 / (math.sqrt(2) + 1e-4)
    assert advantages.tolist() == pytest.approx([gain, -gain, 0.0, 0.0], abs=1e-15)
    assert constant_groups(scored.total, group).tolist() == [False, False, True, True]
    logprob = torch.full((4, 2), -1.0, dtype=torch.float64, requires_grad=True)
    reference = torch.full((4, 2), -1.0, dtype=torch.float64)
    reference[3, 1] -= math.log(2)
    mask = torch.ones(4, 2)
    loss = loss_named("grpo").function(
        logprob, logprob.detach(), advantages, mask, denominator=4.0, penalty=0.1 * kl(logprob, reference, mask)
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.1 * (math.log(2) - 0.5) / 2 / 4, abs=1e-15)
    slopes = [[-gain / 8] * 2, [gain / 8] * 2, [0.0] * 2, [0.0, 0.1 * 0.5 / 8]]
    assert torch.allclose(logprob.grad, torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-15)


# ---- answers
def test_answers_are_written_as_they_are_read():
    for answer in ("Rain", "A dog's bark", "21.2s", "two\nlines"):
        text = target_text(answer)
        assert text == f"<answer>{answer}</answer>"
        assert extract_answer(text) == answer and is_right(text, answer) and is_well_formed(text)
    assert extract_answer("<answer>a</answer> or <answer>b</answer>") == "a"
    assert extract_answer("  no tags ") == "no tags"


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


def test_a_schedule_of_a_longer_run_by_hand():
    """5 % of 750 steps are 37.5, so 38. Step 3 of a run of 12 with a quarter of warm-up is the first of nine."""
    assert Schedule(warmup_share=0.05).factor(37, 750) == 1.0 > Schedule(warmup_share=0.05).factor(36, 750)
    assert Schedule(warmup_share=0.1).factor(2, 30) == 1.0  # 0.1 * 30 is above 3 in floating point
    longer = Schedule(warmup_share=0.25, cosine_steps=12)
    assert [longer.factor(step, 5) for step in (0, 2, 3)] == pytest.approx([1 / 3, 1.0, 1.0])
    assert longer.factor(4, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi / 9)))
    for wrong in ({"warmup_share": 1.0}, {"warmup_share": 0.1, "warmup_steps": 3}, {"cosine_steps": -1}):
        with pytest.raises(InputError):
            Schedule(**wrong)
