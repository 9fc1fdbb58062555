"""Log-probabilities without the logits: the same numbers and gradients as the plain formula, and no worse rounding."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from earwitness.kernels.linear_logprob import linear_logprob

N, H, V = 7, 5, 11


def case(dtype=torch.float64, rows=N, hidden=H, vocabulary=V, scale=1.0):
    """hidden [N, H], weight [V, H], targets [N], from a fixed generator."""
    generator = torch.Generator().manual_seed(rows * hidden + vocabulary)
    states = torch.randn(rows, hidden, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(vocabulary, hidden, generator=generator, dtype=torch.float64)
    return states.to(dtype), weight.to(dtype), torch.randint(0, vocabulary, (rows,), generator=generator)


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, temperature=1.0, exclude=None) -> tuple[Tensor, Tensor]:
    """The formula as written: all logits at once. Returns log-probs and entropies [N]."""
    logits = hidden @ weight.T / temperature
    if exclude is not None:
        logits = logits.index_fill(-1, exclude, -torch.inf)
    logp = log_softmax(logits, dim=-1)
    entropy = torch.special.entr(logp.exp()).sum(-1)
    return logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy


def gradients(function, hidden, weight, targets, train_head, upstream):
    """Value and gradients (hidden, weight or None) of sum_i upstream_i logprob_i."""
    h = hidden.clone().requires_grad_()
    w = weight.clone().requires_grad_(train_head)
    value = function(h, w, targets)
    (value * upstream).sum().backward()
    return value.detach(), h.grad, w.grad


@pytest.mark.parametrize("exclude", [None, torch.tensor([0, 9])])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
@pytest.mark.parametrize("train_head", [False, True])
def test_value_and_gradient_are_the_formula_s(train_head, temperature, exclude):
    """Float64, chunks of two rows: equal to 1e-13 for any weighting of the tokens, with and without a frozen head."""
    hidden, weight, _ = case()
    targets, upstream = torch.tensor([1, 8, 3, 3, 10, 2, 5]), torch.linspace(-2, 3, N, dtype=torch.float64)
    options = {"temperature": temperature, "exclude": exclude}
    got = gradients(
        lambda *args: linear_logprob(*args, **options, max_workspace_bytes=2 * 4 * V).logprob,
        *(hidden, weight, targets, train_head, upstream),
    )
    expected = gradients(lambda *args: naive(*args, **options)[0], *(hidden, weight, targets, train_head, upstream))
    for a, b in zip(got, expected, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("exclude", [None, torch.tensor([0, 9])])
def test_gradcheck(exclude):
    """Against finite differences: frozen head, trainable head, and a trainable head over frozen states."""
    hidden, weight, _ = case()
    targets = torch.tensor([1, -100, 3, 3, 10, 2, -100])

    def value(h, w):
        options = {"temperature": 0.7, "exclude": exclude, "max_workspace_bytes": 3 * 4 * V}
        return linear_logprob(h, w, targets, **options).logprob

    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda h: value(h, weight), (h,))
    assert torch.autograd.gradcheck(value, (h, w))
    assert torch.autograd.gradcheck(lambda w: value(hidden, w), (w,))


def test_by_hand():
    """Logits (ln 6, ln 2, 0) at temperature 2 are (ln 6, ln 2, 0) / 2; at 1 the probabilities are 6/9, 2/9, 1/9."""
    weight = torch.tensor([[log(6)], [log(2)], [0.0]], dtype=torch.float64)
    hidden, targets = torch.ones(3, 1, dtype=torch.float64), torch.tensor([0, 1, 2])
    got = linear_logprob(hidden, weight, targets).logprob
    assert got.exp().tolist() == pytest.approx([6 / 9, 2 / 9, 1 / 9], abs=1e-15)
    got = linear_logprob(hidden, weight, targets, temperature=2.0).logprob
    roots = [6**0.5, 2**0.5, 1.0]
    assert got.exp().tolist() == pytest.approx([root / sum(roots) for root in roots], abs=1e-15)
    got = linear_logprob(hidden[:2], weight, targets[:2], exclude=torch.tensor([2])).logprob
    assert got.exp().tolist() == pytest.approx([6 / 8, 2 / 8], abs=1e-15)


def test_temperature_divides_the_states():
    hidden, weight, targets = case()
    options = {"return_entropy": True, "return_lse": True}
    warm = linear_logprob(hidden, weight, targets, temperature=4.0, **options)
    for a, b in zip(warm, linear_logprob(hidden / 4, weight, targets, **options), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-14)


def test_exclude_is_a_smaller_vocabulary():
    """Suppressing ids gives what a head without their rows gives, and their rows get an exactly zero gradient."""
    hidden, weight, _ = case()
    targets, exclude = torch.tensor([1, 2, 4, 5, 6, 8, 10]), torch.tensor([0, 3, 7, 9])
    keep = torch.tensor([v for v in range(V) if v not in exclude.tolist()])
    weight.requires_grad_()
    got = linear_logprob(hidden, weight, targets, exclude=exclude)
    small = linear_logprob(hidden, weight[keep], torch.arange(7))
    assert torch.allclose(got.logprob, small.logprob, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(got.logprob.sum(), weight)
    (expected,) = torch.autograd.grad(small.logprob.sum(), weight)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-14)
    assert torch.equal(gradient[exclude], torch.zeros(4, H, dtype=torch.float64))


@pytest.mark.parametrize("train_head", [False, True])
def test_ignored_rows_are_exactly_zero_and_touch_nothing(train_head):
    """Value and gradient are 0.0 whatever the state and the upstream gradient; the other rows are as if alone."""
    hidden, weight, targets = case(torch.float32)
    ignored = torch.tensor([True, False, True, False, False, True, False])
    hidden[ignored] *= 1e6
    upstream = torch.linspace(1, 3, N).masked_fill(ignored, 1e6)
    masked = targets.masked_fill(ignored, -100)
    value, on_hidden, on_weight = gradients(
        lambda *args: linear_logprob(*args).logprob, hidden, weight, masked, train_head, upstream
    )
    assert torch.equal(value[ignored], torch.zeros(3)) and torch.equal(on_hidden[ignored], torch.zeros(3, H))
    kept = gradients(
        lambda *args: linear_logprob(*args).logprob,
        *(hidden[~ignored], weight, targets[~ignored], train_head, upstream[~ignored]),
    )
    assert torch.equal(value[~ignored], kept[0]) and torch.equal(on_hidden[~ignored], kept[1])
    assert on_weight is None or torch.equal(on_weight, kept[2])


def test_the_ignored_index_may_be_any_number():
    """A token id as ignore_index: its rows are ignored like those of -100."""
    hidden, weight, _ = case()
    a = linear_logprob(hidden, weight, torch.tensor([3, 0, 4, 3, 0, 1, 2]), ignore_index=3, return_entropy=True)
    b = linear_logprob(hidden, weight, torch.tensor([-100, 0, 4, -100, 0, 1, 2]), return_entropy=True)
    assert torch.equal(a.logprob, b.logprob) and torch.equal(a.entropy, b.entropy)
    assert a.logprob[[0, 3]].tolist() == a.entropy[[0, 3]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("train_head", [False, True])
@pytest.mark.parametrize("rows", [0, 4])
def test_a_batch_without_tokens_stays_in_the_graph(rows, train_head):
    """No rows, or all ignored: the sum is 0, backward runs, and states and head get a gradient of zeros."""
    hidden, weight, _ = case(rows=4)
    hidden, weight = hidden[:rows].clone().requires_grad_(), weight.requires_grad_(train_head)
    logprob = linear_logprob(hidden, weight, torch.full((rows,), -100)).logprob
    assert logprob.tolist() == [0.0] * rows
    logprob.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert not train_head or torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("rows", [0, 4])
def test_a_batch_without_tokens_has_no_entropy_and_stays_in_the_graph(rows):
    hidden, weight, _ = case(rows=4)
    hidden = hidden[:rows].clone().requires_grad_()
    output = linear_logprob(hidden, weight, torch.full((rows,), -100), return_entropy=True)
    assert output.entropy.tolist() == output.logprob.tolist() == [0.0] * rows
    output.logprob.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))


@pytest.mark.parametrize("train_head", [False, True])
def test_the_chunk_length_changes_nothing(train_head):
    """One row at a time, three, all at once, and a workspace smaller than one row."""
    hidden, weight, targets = case()
    upstream = torch.linspace(-1, 1, N, dtype=torch.float64)
    runs = [
        gradients(
            lambda *args, size=size: linear_logprob(*args, max_workspace_bytes=size).logprob,
            *(hidden, weight, targets, train_head, upstream),
        )
        for size in (1 << 28, 4 * V, 3 * 4 * V, 1)
    ]
    for run in runs[1:]:
        assert all(a is b or torch.allclose(a, b, rtol=0, atol=1e-14) for a, b in zip(run, runs[0], strict=True))


def test_leading_dimensions_are_rows():
    hidden, weight, targets = case(rows=6)
    grid = linear_logprob(hidden.view(2, 3, H), weight, targets.view(2, 3), return_entropy=True)
    flat = linear_logprob(hidden, weight, targets, return_entropy=True)
    assert torch.equal(grid.logprob, flat.logprob.view(2, 3)) and torch.equal(grid.entropy, flat.entropy.view(2, 3))


@pytest.mark.parametrize("exclude", [None, torch.tensor([0, 9])])
def test_entropy_is_the_formula_s_and_carries_no_gradient(exclude):
    hidden, weight, _ = case()
    targets = torch.tensor([1, 8, -100, 3, 10, 2, 5])
    options = {"temperature": 1.3, "exclude": exclude}
    hidden.requires_grad_()
    output = linear_logprob(hidden, weight, targets, **options, return_entropy=True, max_workspace_bytes=2 * 4 * V)
    expected = naive(hidden, weight, targets.clamp(min=1), **options)[1].masked_fill(targets < 0, 0.0)
    assert torch.allclose(output.entropy, expected, rtol=0, atol=1e-14)
    assert output.logprob.requires_grad and not output.entropy.requires_grad
    assert linear_logprob(hidden, weight, targets).entropy is None


def test_entropy_of_equal_logits_is_the_log_of_the_vocabulary():
    """A head of zeros: log-prob -ln V and entropy ln V; with two of eleven ids excluded ln 9."""
    hidden, _, targets = case()
    targets = targets.clamp(min=2)
    for exclude, size in ((None, V), (torch.tensor([0, 1]), V - 2)):
        options = {"exclude": exclude, "return_entropy": True}
        output = linear_logprob(hidden, torch.zeros(V, H, dtype=torch.float64), targets, **options)
        assert output.entropy.tolist() == pytest.approx([log(size)] * N, abs=1e-14)
        assert output.logprob.tolist() == pytest.approx([-log(size)] * N, abs=1e-14)


@pytest.mark.parametrize("train_head", [False, True])
def test_the_gradient_of_a_sure_token_does_not_cancel(train_head):
    """Logits (40, 0) in float32: 1 - p rounds to 0, but d logprob / d logit = 1 / (1 + e^40) is representable."""
    hidden, weight = torch.tensor([[40.0]], requires_grad=True), torch.tensor([[1.0], [0.0]])
    linear_logprob(hidden, weight.requires_grad_(train_head), torch.tensor([0])).logprob.backward()
    assert hidden.grad.item() == pytest.approx(1 / (1 + exp(40)), rel=1e-6)
    if train_head:
        assert weight.grad[:, 0].tolist() == pytest.approx([40 / (1 + exp(40)), -40 / (1 + exp(40))], rel=1e-6)


@pytest.mark.parametrize("train_head", [False, True])
def test_bfloat16_is_no_worse_than_eager(train_head):
    """Mean and worst error against float64 on the same bf16 inputs: value, hidden gradient, head gradient."""
    hidden, weight, targets = case(torch.bfloat16, rows=64, hidden=32, vocabulary=400, scale=0.5)
    upstream = torch.linspace(-1, 1, 64, dtype=torch.float32)

    def eager(h, w, t):
        return log_softmax((h @ w.T).float(), dim=-1).gather(1, t[:, None]).squeeze(1)

    truth = gradients(
        lambda *args: naive(*args)[0], hidden.double(), weight.double(), targets, train_head, upstream.double()
    )
    ours = gradients(lambda *args: linear_logprob(*args).logprob, hidden, weight, targets, train_head, upstream)
    theirs = gradients(eager, hidden, weight, targets, train_head, upstream)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == torch.bfloat16
    for exact, got, plain in zip(truth, ours, theirs, strict=True):
        if exact is not None:
            error, bound = (got.double() - exact).abs(), (plain.double() - exact).abs()
            assert error.mean() <= bound.mean() and error.max() <= bound.max()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.nn.Linear(H, V)}, TypeError, "must be a plain tensor, got Linear"),
        ({"weight": torch.zeros(V, H, dtype=torch.float32)}, TypeError, "hidden is torch.float64 and weight torch.fl"),
        ({"weight": torch.zeros(V, H + 1, dtype=torch.float64)}, ValueError, r"got \(7, 5\), \(11, 6\), \(7,\)"),
        ({"weight": torch.zeros(H, dtype=torch.float64)}, ValueError, "shapes must be hidden"),
        ({"targets": torch.zeros(N + 1, dtype=torch.int64)}, ValueError, "shapes must be hidden"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive and finite, got 0.0"),
        ({"temperature": -1.0}, ValueError, "got -1.0"),
        ({"temperature": float("inf")}, ValueError, "got inf"),
        ({"temperature": float("nan")}, ValueError, "got nan"),
        ({"temperature": True}, ValueError, "got True"),
        ({"targets": torch.tensor([0, 1, 2, 3, 4, 5, V])}, ValueError, r"targets must lie in \[0, 11\) or be -100"),
        ({"targets": torch.tensor([0, 1, 2, 3, 4, 5, -1])}, ValueError, r"targets must lie in \[0, 11\) or be -100"),
        ({"exclude": torch.tensor([3]), "targets": torch.arange(N)}, ValueError, "target is among the excluded"),
    ],
)
def test_what_cannot_be_computed_is_refused(change, error, message):
    hidden, weight, targets = case()
    with pytest.raises(error, match=message):
        linear_logprob(**({"hidden": hidden, "weight": weight, "targets": targets} | change))


def test_a_parameter_is_a_plain_tensor():
    hidden, weight, targets = case()
    a = linear_logprob(hidden, torch.nn.Parameter(weight), targets).logprob
    assert torch.equal(a, linear_logprob(hidden, weight, targets).logprob)


@pytest.mark.parametrize("rows", [0, 4])
def test_the_head_stays_in_the_graph_when_entropy_is_asked_for(rows):
    """Nothing to train on still gives both inputs a gradient of zeros: ranks must not disagree on it."""
    hidden, weight = torch.randn(rows, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    linear_logprob(hidden, weight, torch.full((rows,), -100), return_entropy=True).logprob.sum().backward()
    assert torch.equal(weight.grad, torch.zeros(5, 3))


def test_an_ignored_state_may_be_anything():
    hidden = torch.randn(2, 3)
    hidden[0] = torch.nan
    assert linear_logprob(hidden, torch.randn(5, 3), torch.tensor([-100, 1])).logprob[0] == 0
