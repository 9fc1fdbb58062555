"""Log-probabilities without the logits: the same numbers and gradients as the plain formula, and no worse rounding."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from earwitness.kernels.linear_logprob import linear_cross_entropy, linear_logprob

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


@pytest.mark.parametrize("train_head", [False, True])
def test_a_large_vocabulary_is_looked_at_a_few_rows_at_a_time(train_head):
    """100,000 words and 11 tokens in chunks of 4 in the same memory: equal to the formula, also entropies."""
    hidden, weight, targets = case(rows=11, hidden=3, vocabulary=100_003)
    upstream = torch.linspace(-2, 3, 11, dtype=torch.float64)
    options = {"temperature": 0.8, "exclude": torch.tensor([99_000, 100_002])}
    ours = {"return_entropy": True, "max_workspace_bytes": 4 * 8 * len(weight)}
    got = gradients(
        lambda *args: linear_logprob(*args, **options, **ours).logprob, hidden, weight, targets, train_head, upstream
    )
    expected = gradients(lambda *args: naive(*args, **options)[0], hidden, weight, targets, train_head, upstream)
    for a, b in zip(got, expected, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=0, atol=1e-12)
    entropy = linear_logprob(hidden, weight, targets, **options, **ours).entropy
    assert torch.allclose(entropy, naive(hidden, weight, targets, **options)[1], rtol=0, atol=1e-12)


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


def test_lse_is_the_log_of_the_sum_and_an_entropy_with_a_gradient_is_the_formula_s():
    hidden, weight, targets = case()
    options = {"temperature": 0.7, "exclude": torch.tensor([0])}
    targets = targets.clamp(min=1)
    found = linear_logprob(hidden, weight, targets, **options, return_lse=True)
    logits = (hidden @ weight.T / 0.7).index_fill(1, torch.tensor([0]), -torch.inf)
    assert torch.allclose(found.lse, torch.logsumexp(logits, 1), rtol=0, atol=1e-13)

    def entropy(h, w):
        return linear_logprob(h, w, targets, **options, entropy_grad=True, max_workspace_bytes=2 * 8 * V).entropy

    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    assert torch.autograd.gradcheck(entropy, (h, w)) and torch.autograd.gradcheck(lambda h: entropy(h, weight), (h,))


@pytest.mark.parametrize("train_head", [False, True])
def test_float32_is_within_1e_5_of_float64(train_head):
    """Log-probs within 1e-5, gradients within 1e-5 of their norm, over 2,000 words and logits up to about 10."""
    hidden, weight, targets = case(torch.float32, rows=200, hidden=64, vocabulary=2_000, scale=0.3)
    upstream = torch.linspace(-1, 1, 200)
    double = [hidden.double(), weight.double(), targets, train_head, upstream.double()]
    exact = gradients(lambda *args: linear_logprob(*args).logprob, *double)
    found = gradients(lambda *args: linear_logprob(*args).logprob, hidden, weight, targets, train_head, upstream)
    assert float((found[0] - exact[0]).abs().max()) < 1e-5
    for got, want in zip(found[1:], exact[1:], strict=True):
        assert want is None or float((got - want).norm() / want.norm()) < 1e-5


def test_a_support_is_a_smaller_vocabulary_per_token():
    """Renormalised over three kept ids: log-prob, entropy, lse and both gradients of the gathered formula."""
    hidden, weight, _ = case()
    support = torch.tensor([[1, 4, 7], [8, 2, -1], [3, -1, -1], [3, 5, 9], [10, 0, 1], [2, 6, -1], [5, 4, 3]])
    targets = torch.tensor([4, 8, 3, 9, 10, -100, 3])
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    found = linear_logprob(h, w, targets, support=support, temperature=1.5, return_entropy=True, return_lse=True)
    a, b = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    expected, entropies = [], []
    for row, (ids, target) in enumerate(zip(support.tolist(), targets.tolist(), strict=True)):
        kept = [i for i in ids if i >= 0]
        if target < 0:
            expected.append(torch.zeros((), dtype=torch.float64))
            entropies.append(0.0)
            continue
        logp = log_softmax(a[row] @ b[kept].T / 1.5, 0)
        expected.append(logp[kept.index(target)])
        entropies.append(float(torch.special.entr(logp.exp()).sum()))
    upstream = torch.linspace(-2, 1, N, dtype=torch.float64)
    (torch.stack(expected) * upstream).sum().backward()
    (found.logprob * upstream).sum().backward()
    assert torch.allclose(found.logprob, torch.stack(expected), rtol=0, atol=1e-14)
    assert found.entropy.tolist() == pytest.approx(entropies, abs=1e-14)
    assert torch.allclose(h.grad, a.grad, rtol=0, atol=1e-14) and torch.allclose(w.grad, b.grad, rtol=0, atol=1e-14)
    assert found.logprob[2] == 0, "a single kept id is certain"
    with pytest.raises(ValueError, match="a target is not in its support"):
        linear_logprob(hidden, weight, torch.tensor([4, 8, 3, 9, 10, -100, 1]), support=support)


def test_targets_that_are_no_words_give_nan_where_they_are_not_checked():
    hidden, weight, targets = case()
    targets[[1, 5]] = torch.tensor([V, -7])
    found = linear_logprob(hidden, weight, targets, validate_targets=False).logprob
    assert found.isnan().tolist() == [False, True, False, False, False, True, False]


@pytest.mark.parametrize("train_head", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_torch_s(reduction, train_head):
    hidden, weight, targets = case()
    targets[2] = -100
    parts = []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(train_head)
        if fused:
            loss = linear_cross_entropy(h, w, targets, reduction=reduction, max_workspace_bytes=2 * 8 * V)
        else:
            loss = torch.nn.functional.cross_entropy(h @ w.T, targets, reduction=reduction)
        (2 * loss).sum().backward()
        parts.append((loss.detach(), h.grad, w.grad))
    for a, b in zip(*parts, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="this torch has no chunked op")
def test_torch_s_own_chunked_op_agrees():
    hidden, weight, targets = case(torch.float32, rows=40, hidden=16, vocabulary=300)
    parts = []
    for op in (linear_cross_entropy, torch.nn.functional.linear_cross_entropy):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = op(h, w, targets)
        loss.backward()
        parts.append((loss.detach(), h.grad, w.grad))
    for a, b in zip(*parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_weights_and_a_count_of_items_scale_the_cross_entropy():
    """(0.5 x 2 + 1 x 4) / 10 with log-probs of -2 and -4."""
    weight = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    hidden = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]), num_items=10, weights=torch.tensor([0.5, 1.0]))
    plain = -linear_logprob(hidden, weight, torch.tensor([0, 1])).logprob
    assert loss.item() == pytest.approx((0.5 * plain[0] + plain[1]).item() / 10, abs=1e-15)
    with pytest.raises(ValueError, match="reduction must be"):
        linear_cross_entropy(hidden, weight, torch.tensor([0, 1]), reduction="max")


class Wrapped(torch.nn.Module):
    """What peft makes of a layer: the adapter's part is not in `.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = torch.nn.Linear(H, V)


class Sharded(torch.Tensor):
    """What a sharded head looks like from outside."""

    def full_tensor(self) -> torch.Tensor:
        return torch.zeros(V, H)


def test_heads_that_would_lose_a_part_are_refused_with_advice():
    hidden, _, targets = case(torch.float32)
    with pytest.raises(TypeError, match="wrapped by an adapter, which would be lost; merge it"):
        linear_logprob(hidden, Wrapped(), targets)
    with pytest.raises(TypeError, match=r"gather it with \.full_tensor\(\) first"):
        linear_logprob(hidden, Sharded(V, H), targets)
    with pytest.raises(TypeError, match="pass its .weight"):
        linear_logprob(hidden, torch.nn.Linear(H, V), targets)
    with pytest.raises(TypeError, match="targets must be int64 or int32"):
        linear_logprob(hidden, torch.zeros(V, H), targets.float())
    with pytest.raises(ValueError, match="backend must be one of"):
        linear_logprob(hidden, torch.zeros(V, H), targets, backend="cuda")


def test_autocast_does_not_lower_the_numbers():
    """Under bf16 autocast states are cast to the head's type, and the products are as without it."""
    hidden, weight, targets = case(torch.float32)
    plain = linear_logprob(hidden, weight, targets).logprob
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_logprob(hidden, weight, targets).logprob
        low = linear_logprob(hidden.bfloat16(), weight, targets).logprob
    assert torch.equal(inside, plain)
    assert torch.equal(low, linear_logprob(hidden.bfloat16().float(), weight, targets).logprob)


def test_strided_states_and_heads_are_taken_as_they_are():
    hidden, weight, targets = case()
    strided = torch.zeros(N, 2 * H, dtype=torch.float64)[:, ::2].copy_(hidden)
    turned = weight.T.contiguous().T
    assert not strided.is_contiguous() and not turned.is_contiguous()
    plain, found = (linear_logprob(*pair, targets).logprob for pair in ((hidden, weight), (strided, turned)))
    assert torch.allclose(found, plain, rtol=0, atol=1e-14)


def test_two_runs_are_bitwise_equal_and_a_second_derivative_is_refused():
    hidden, weight, targets = case(torch.float32)
    runs = [
        gradients(lambda *args: linear_logprob(*args).logprob, hidden, weight, targets, True, torch.ones(N))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    h = hidden.clone().requires_grad_()
    (first,) = torch.autograd.grad(linear_logprob(h, weight, targets).logprob.sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        first.sum().backward()


def test_the_default_type_changes_nothing():
    """Some trainers set it to bfloat16 around a step."""
    hidden, weight, targets = case(torch.bfloat16, rows=16, hidden=32, vocabulary=100, scale=0.5)
    results = []
    for default in (torch.float32, torch.bfloat16):
        states, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        torch.set_default_dtype(default)
        try:
            logprob = linear_logprob(states, head, targets).logprob
            logprob.sum().backward()
        finally:
            torch.set_default_dtype(torch.float32)
        results.append((logprob.detach(), states.grad, head.grad))
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("trains", [False, True])
def test_many_kept_tokens_are_a_mask_over_the_vocabulary(trains):
    """Log-probs, entropies and gradients of 250 kept of 300 ids, against the softmax over them in plain torch."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(7, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(300, 12, generator=generator, dtype=torch.float64, requires_grad=trains)
    support = torch.stack([torch.randperm(300, generator=generator)[:250] for _ in range(7)])
    targets = support[:, 11].clone()
    support[2, 100:] = -1
    given = {"temperature": 0.7, "support": support, "return_entropy": True}
    found = linear_logprob(hidden, weight, targets, max_workspace_bytes=3 * 8 * 300, **given)
    gradients = torch.autograd.grad(found.logprob.sum(), [hidden, weight] if trains else [hidden])
    scores = (hidden @ weight.T / 0.7).gather(1, support.clamp(min=0)).masked_fill(support < 0, -torch.inf)
    every = scores.log_softmax(-1)
    torch.testing.assert_close(found.logprob, every[:, 11], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.entropy, torch.special.entr(every.exp()).sum(-1), rtol=0, atol=1e-10)
    wanted = torch.autograd.grad(every[:, 11].sum(), [hidden, weight] if trains else [hidden])
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="a target is not in its support"):
        linear_logprob(hidden, weight, targets.flip(0), **(given | {"support": support[:, 12:]}))
