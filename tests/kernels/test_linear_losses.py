"""The fused GRPO loss: the numbers of published trainers, and those of the plain objectives."""

from __future__ import annotations

import json

import pytest
import torch

from earwitness.kernels.linear_logprob import linear_grpo_loss, linear_logprob
from earwitness.lightning_modules.objectives.kl import k3, kl
from earwitness.lightning_modules.objectives.losses import Clip, grpo
from earwitness.tests.places import GOLDEN

CASES = {
    "grpo": {},
    "grpo, no KL": {"beta": 0.0},
    "grpo, high 0.28": {"eps_high": 0.28},
    "gspo": {"importance_level": "sequence"},
    "grpo, delta 1.3": {"delta": 1.3},
    "dapo": {"loss_type": "dapo"},
    "dr_grpo": {"loss_type": "dr_grpo", "max_completion_length": 8},
    "cispo, high 5": {"loss_type": "cispo", "eps_high": 5.0},
    "grpo, empty completions not counted": {"num_items": 3.0},
}


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_of_published_trainers(case):
    """Two words with the logits (z, 0) have log p(first) = log sigmoid(z): any log-probs can be given that way.

    d loss / d z = d loss / d logprob x (1 - p), which gives back the published norm of d loss / d logprob.
    """
    figures = json.loads((GOLDEN / "grpo.json").read_text())
    given = {name: torch.tensor(values, dtype=torch.float64) for name, values in figures["batch"].items()}
    p = given["logprob"].exp()
    hidden = (given["logprob"] - torch.log1p(-p))[..., None].requires_grad_()
    weight = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    options = {"beta": 0.04, "eps_low": 0.2, "eps_high": 0.2} | CASES[case]
    loss, metrics = linear_grpo_loss(
        hidden,
        weight,
        torch.zeros(p.shape, dtype=torch.int64),
        given["advantages"],
        old_logprob=given["old"],
        ref_logprob=given["reference"],
        mask=given["mask"],
        **options,
    )
    loss.backward()
    slope = hidden.grad[..., 0] / (1 - p)
    assert [loss.item(), slope.norm().item()] == pytest.approx(figures["losses"][case], abs=1e-6)
    assert set(metrics) == {"kl", "ratio", "clip_low", "clip_high"}


def rollout(train_head: bool, dtype=torch.float64):
    """Three completions of up to four tokens over eleven words."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(3, 4, 5, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 5, generator=generator, dtype=dtype).requires_grad_(train_head)
    targets = torch.randint(0, 11, (3, 4), generator=generator)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    near = linear_logprob(hidden.detach(), weight.detach(), targets, temperature=0.7).logprob
    noise = 0.3 * torch.randn(2, 3, 4, generator=generator, dtype=dtype)
    advantages = torch.tensor([1.0, -0.5, 0.25], dtype=dtype)
    return hidden, weight, targets, mask, near + noise[0], near + noise[1], advantages


@pytest.mark.parametrize("train_head", [False, True])
@pytest.mark.parametrize("chunk", [1 << 28, 2 * 8 * 11])
@pytest.mark.parametrize("first_pass", [False, True])
def test_it_is_the_objective_of_the_log_probs(train_head, chunk, first_pass):
    """Loss and both gradients, in one chunk and in chunks of two tokens; with old log-probs and without."""
    hidden, weight, targets, mask, old, reference, advantages = rollout(train_head)
    options = {"beta": 0.04, "eps_low": 0.2, "eps_high": 0.28}
    loss, metrics = linear_grpo_loss(
        hidden, weight, targets, advantages, old_logprob=None if first_pass else old, ref_logprob=reference, mask=mask,
        num_items=7.0, temperature=0.7, max_workspace_bytes=chunk, **options,
    )  # fmt: skip
    found = torch.autograd.grad(loss, [hidden, weight] if train_head else [hidden])
    logprob = linear_logprob(hidden, weight, targets.masked_fill(mask == 0, -100), temperature=0.7).logprob
    old = logprob.detach() if first_pass else old
    penalty, clip = 0.04 * kl(logprob, reference, mask), Clip(0.2, 0.28)
    plain = grpo(logprob, old, advantages, mask, denominator=7.0, clip=clip, penalty=penalty)
    expected = torch.autograd.grad(plain, [hidden, weight] if train_head else [hidden])
    assert loss.item() == pytest.approx(plain.item(), abs=1e-14)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-14)
    divergence = (k3(logprob.detach(), reference) * mask).sum() / mask.sum()
    assert metrics["kl"].item() == pytest.approx(divergence.item(), abs=1e-14)
    ratio = ((logprob.detach() - old).exp() * mask).sum() / mask.sum()
    assert metrics["ratio"].item() == pytest.approx(ratio.item(), abs=1e-14)


def test_clip_shares_by_hand():
    """Ratios 1.5, 0.5, 1.5, 0.5 with advantages +, -, -, +: the first is clipped above, the second below."""
    weight = torch.tensor([[0.0], [0.0]], dtype=torch.float64)
    now = torch.full((4, 1), 0.5, dtype=torch.float64).log()
    old = now - torch.tensor([[1.5], [0.5], [1.5], [0.5]], dtype=torch.float64).log()
    hidden = torch.ones(4, 1, 1, dtype=torch.float64)
    _, metrics = linear_grpo_loss(
        hidden, weight, torch.zeros(4, 1, dtype=torch.int64), torch.tensor([1.0, -1.0, -1.0, 1.0]), old_logprob=old
    )
    assert (metrics["clip_high"].item(), metrics["clip_low"].item()) == (0.25, 0.25)
    assert metrics["ratio"].item() == pytest.approx(1.0) and "kl" not in metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_type": "ppo"}, "no loss 'ppo' at level 'token'; there are grpo, dapo"),
        ({"importance_level": "word"}, "no loss 'grpo' at level 'word'"),
        ({"beta": 0.1}, "beta 0.1 needs the log-probs of a reference policy"),
        ({"loss_type": "dr_grpo"}, "give max_completion_length"),
        ({"advantages": torch.ones(2)}, r"advantages \[B\] or \[B, L\], got \(2,\)"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    hidden, weight, targets, _, _, _, advantages = rollout(False)
    with pytest.raises(ValueError, match=message):
        linear_grpo_loss(hidden, weight, targets, **({"advantages": advantages} | change))


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "cispo"])
def test_a_batch_without_tokens_is_zero_and_in_the_graph(loss_type):
    hidden, weight, targets, mask, *_, advantages = rollout(True)
    loss, _ = linear_grpo_loss(hidden, weight, targets, advantages, mask=mask * 0, loss_type=loss_type)
    loss.backward()
    assert loss.item() == 0 and not hidden.grad.any() and not weight.grad.any()
