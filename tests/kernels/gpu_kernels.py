"""The Triton kernels on a GPU, at the published shapes: run by `make gpu` with torch, triton and pytest alone."""

from __future__ import annotations

import pytest
import torch

from earwitness.kernels.linear_logprob import linear_cross_entropy, linear_logprob

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
BACKENDS = ("triton_rows", "triton_fused")
SHAPES = ((300, 3_584, 152_064), (257, 2_048, 151_936), (64, 64, 1_000))


def case(rows: int, hidden: int, vocabulary: int):
    """States that point towards their targets, so that some tokens are sure and others are not."""
    generator = torch.Generator("cuda").manual_seed(rows)
    options = {"generator": generator, "device": "cuda", "dtype": torch.bfloat16}
    head = torch.randn(vocabulary, hidden, **options) * 0.05
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, device="cuda")
    own = head[targets]
    pull = torch.rand(rows, 1, **options) * 24
    return (
        torch.randn(rows, hidden, **options) + own * pull / own.float().square().sum(1, keepdim=True).bfloat16(),
        head,
        targets,
    )


def run(states, head, targets, backend, dtype, **options):
    """Log-prob, entropy, lse, and both gradients, in float64."""
    x, w = states.to(dtype).requires_grad_(), head.to(dtype).requires_grad_()
    found = linear_logprob(x, w, targets, backend=backend, return_entropy=True, return_lse=True, **options)
    (found.logprob * torch.linspace(-1, 1, len(targets), device="cuda")).sum().backward()
    return [part.detach().double() for part in (*found, x.grad, w.grad)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_equal_to_float64(backend, shape, temperature):
    """Log-probs and lse to 1e-4, entropies to 2e-4, gradients to 3e-3 of their norm; twice bitwise the same."""
    states, head, targets = case(*shape)
    options = {"temperature": temperature, "exclude": torch.tensor([5, 6], device="cuda")}
    targets = targets.clamp(min=7)
    exact = run(states, head, targets, "torch", torch.float64, **options)
    found = run(states, head, targets, backend, torch.bfloat16, **options)
    again = run(states, head, targets, backend, torch.bfloat16, **options)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    for name, got, want, limit in zip(("logprob", "entropy", "lse"), found, exact, (1e-4, 2e-4, 1e-4), strict=False):
        assert float((got - want).abs().max()) <= limit, name
    for name, got, want in zip(("states", "head"), found[3:], exact[3:], strict=True):
        assert float((got - want).norm() / want.norm()) <= 5e-3, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_beyond_the_window_are_mended(backend):
    states, head, targets = case(64, 64, 1_000)
    exact = run(states * 100, head, targets, "torch", torch.float64, temperature=0.5)
    found = run(states * 100, head, targets, backend, torch.bfloat16, temperature=0.5)
    assert all(torch.isfinite(part).all() for part in found)
    torch.testing.assert_close(found[0], exact[0], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_fused_loss_and_ignored_tokens(backend):
    states, head, targets = case(300, 2_048, 151_936)
    targets[::3] = -100
    losses = []
    for name in ("torch", backend):
        x, w = states.clone().requires_grad_(), head.clone().requires_grad_()
        loss = linear_cross_entropy(x, w, targets, backend=name)
        loss.backward()
        assert not x.grad[::3].any()
        losses.append((loss.detach().double(), x.grad.double(), w.grad.double()))
    for got, want in zip(*losses, strict=True):
        assert float((got - want).norm() / want.norm()) <= 8e-3


def test_auto_chooses_a_triton_backend(caplog):
    import logging

    from earwitness.kernels import backends

    backends._logged.clear()
    states, head, targets = case(64, 64, 1_000)
    with caplog.at_level(logging.INFO, "earwitness.kernels"):
        linear_logprob(states, head, targets)
    assert "triton_rows" in caplog.text
