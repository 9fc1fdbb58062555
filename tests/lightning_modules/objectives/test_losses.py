"""The loss family, KL estimates and importance weights: golden numbers of the field's trainers, and numbers by hand."""

from __future__ import annotations

import inspect
import json
import math
import sys
from functools import partial
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.errors import InputError
from earwitness.lightning_modules.objectives.correction import Correction, importance
from earwitness.lightning_modules.objectives.kl import ESTIMATORS, k3, kl, kl_named
from earwitness.lightning_modules.objectives.losses import (
    LOSSES,
    Clip,
    clip_metrics,
    clipped_surrogate,
    grpo,
    loss_named,
    nll_loss,
    ratio,
)
from earwitness.tests.places import GOLDEN

INF, NAN = float("inf"), float("nan")
f64 = partial(torch.tensor, dtype=torch.float64)

FIGURES = json.loads((GOLDEN / "grpo.json").read_text())
# A batch with clipping on both sides, ratios of 1, uneven lengths and one completion without tokens (edge case 8).
BATCH = FIGURES["batch"]
BOUNDS = {"cispo": Clip(high=5.0)}  # where the default is none
# The step's counts of this batch, with 8 as the longest completion allowed.
COUNTS = {"completions": 4.0, "tokens": 10.0, "budget": 32.0}
# What differs from grpo with beta 0.04. The figures are of the functions of TRL and, where rows are dropped, of verl.
CASES = {
    "grpo": {},
    "grpo, no KL": {"beta": 0.0},
    "grpo, high 0.28": {"clip": Clip(high=0.28)},
    "gspo": {"loss": "gspo"},
    "grpo, delta 1.3": {"clip": Clip(delta=1.3)},
    "grpo, KL times ratio": {"kl_correction": True},
    "grpo, correction truncated at 3": {"how": "truncate"},
    "grpo, correction masked at 3": {"how": "mask"},
    "dapo": {"loss": "dapo"},
    "dr_grpo": {"loss": "dr_grpo"},
    "cispo, high 5": {"loss": "cispo", "clip": Clip(high=5.0)},
    "sapo": {"loss": "sapo"},
    "bnpo": {"loss": "bnpo"},
    "grpo, empty completions not counted": {"denominator": 3.0},
    "dr_grpo, empty completions not counted, budget 5": {"loss": "dr_grpo", "denominator": 15.0},
}


def golden_batch() -> list[torch.Tensor]:
    """logprob, old and reference [4, 5], mask [4, 5], advantages [4], correction [4, 5]."""
    return [f64(values) for values in BATCH.values()]


def golden_loss(loss="grpo", denominator=None, clip=None, beta=0.04, kl_correction=False, how=None):
    """Loss and gradient [4, 5] by the log-probs; the weights of the golden batch stand for rollout -> old."""
    logprob, old, reference, mask, advantages, weight = golden_batch()
    logprob.requires_grad_()
    correction = None
    if how:
        correction, _ = importance(weight.log(), weight * 0, mask, level="token", how=how, cap=3.0)
    penalty = None
    if beta:
        rho = ratio(logprob, old, mask) if kl_correction else None
        penalty = beta * kl(logprob, reference, mask, ratio=rho)
    function, counted = LOSSES[loss]
    value = function(
        logprob, old, advantages, mask, denominator=denominator or COUNTS[counted], clip=clip or Clip(),
        penalty=penalty, correction=correction,
    )  # fmt: skip
    value.backward()
    return value.item(), logprob.grad


@pytest.mark.parametrize("case", FIGURES["losses"])
def test_golden(case):
    """Loss and L2 norm of its gradient by the log-probs; every figure has its case."""
    got, gradient = golden_loss(**CASES[case])
    assert [got, float(gradient.norm())] == pytest.approx(FIGURES["losses"][case], abs=1e-6)


def test_a_completion_without_tokens_is_counted_or_not_by_the_denominator():
    """Edge case 8: 4 completions or the 3 that have tokens, a factor of 4/3; nothing else depends on the empty row."""
    counted, dropped = golden_loss(), golden_loss(denominator=3.0)
    assert dropped[0] == pytest.approx(counted[0] * 4 / 3, abs=1e-15)
    assert not counted[1][3].any()


# ---- laws that every loss keeps
def whole_call(loss, rows=slice(None), columns=5, **changed):
    """One loss of some completions with everything a call can have, and the log-probs it is a function of."""
    names = ("logprob", "old", "reference", "mask", "advantages", "correction")
    given = dict(zip(names, golden_batch(), strict=True)) | {"weights": f64([1.0, 0.5, 2.0, 1.5])}
    given |= changed
    part = {name: each[rows, :columns] if each.ndim == 2 else each[rows] for name, each in given.items()}
    logprob = part["logprob"].clone().requires_grad_()
    penalty = 0.04 * kl(logprob, part["reference"], part["mask"])
    function, counted = LOSSES[loss]
    value = function(
        logprob, part["old"], part["advantages"], part["mask"], denominator=COUNTS[counted], penalty=penalty,
        correction=part["correction"], weights=part["weights"], clip=BOUNDS.get(loss, Clip()),
    )  # fmt: skip
    return value, logprob


def value_and_gradient(loss, rows=slice(None), columns=5, **changed):
    value, logprob = whole_call(loss, rows, columns, **changed)
    value.backward()
    return value.item(), logprob.grad


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=25, deadline=None)
@given(places=st.lists(st.integers(0, 3), min_size=4, max_size=4), data=st.data())
def test_micro_batches_and_ranks_add_up_to_the_step(loss, places, data):
    """However completions are dealt to micro-batches and ranks, each padded to its own longest: the same loss and
    gradient, also with a token that a filter removed.
    """
    logprob, *_ = golden_batch()
    row = data.draw(st.integers(0, 3))
    logprob[row, 1] = -INF
    value, gradient = value_and_gradient(loss, logprob=logprob)
    summed, pieces = 0.0, torch.zeros(4, 5, dtype=torch.float64)
    for place in set(places):
        rows = [each for each in range(4) if places[each] == place]
        longest = max(1, int(golden_batch()[3][rows].sum(1).max()))
        columns = data.draw(st.integers(longest, 5))
        part, slope = value_and_gradient(loss, rows, columns, logprob=logprob)
        summed += part
        pieces[rows, :columns] += slope
    assert summed == pytest.approx(value, abs=1e-12)
    assert torch.allclose(pieces, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("filler", [NAN, INF, -INF, 900.0, -900.0])
def test_what_stands_outside_the_mask_does_not_matter(loss, filler):
    """Edge case 18: the same loss and gradient to the bit, and that gradient is 0 there. 900 overflows an exp."""
    outside = golden_batch()[3] == 0
    expected, slope = value_and_gradient(loss)
    for name, values in zip(("logprob", "old", "reference", "-", "-", "correction"), golden_batch(), strict=True):
        if name != "-":
            got, gradient = value_and_gradient(loss, **{name: values.masked_fill(outside, filler)})
            assert got == expected and torch.equal(gradient, slope), name
    assert not slope[outside].any() and slope[~outside].all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_penalty_outside_the_mask_does_not_matter(loss):
    """Edge case 18: also one that was made without a mask, from a reference with probabilities 0."""
    logprob, old, _, mask, advantages, _ = golden_batch()
    how = {"denominator": 4.0, "clip": BOUNDS.get(loss, Clip())}
    values = []
    for filler in (0.0, NAN, INF):
        penalty = (logprob.square() / 8).masked_fill(mask == 0, filler).requires_grad_()
        value = LOSSES[loss].function(logprob, old, advantages, mask, penalty=penalty, **how)
        (slope,) = torch.autograd.grad(value, penalty)
        values.append(value.item())
        assert not slope[mask == 0].any()
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("side", ["logprob", "old"])
def test_a_filtered_token_is_treated_as_masked(loss, side):
    """Edge case 18: log-prob -inf inside the mask, under either policy."""
    logprob, old, _, mask, *_ = golden_batch()
    changed = (logprob if side == "logprob" else old).clone()
    changed[2, 3] = -INF
    masked = mask.clone()
    masked[2, 3] = 0
    got, gradient = value_and_gradient(loss, **{side: changed})
    expected, slope = value_and_gradient(loss, mask=masked)
    assert math.isfinite(got) and got == expected and torch.equal(gradient, slope)
    assert got != value_and_gradient(loss)[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_without_tokens_has_loss_and_gradient_zero(loss):
    """Edge case 7: all masked; finite, and still in the graph."""
    value, gradient = value_and_gradient(loss, mask=torch.zeros(4, 5))
    assert value == 0.0 and torch.equal(gradient, torch.zeros(4, 5, dtype=torch.float64))
    shares = clip_shares(torch.ones(4, 5), torch.ones(4), torch.zeros(4, 5), Clip())
    assert {name: each.item() for name, each in shares.items()} == dict.fromkeys(shares, 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_on_policy_every_loss_has_the_policy_gradient(loss):
    """Ratio 1: the derivative by a token's log-prob is -A w over the denominator, and over n_i for sequence means."""
    logprob, *_, advantages, _ = golden_batch()
    weights = f64([1.0, 0.5, 2.0, 1.5])
    _, gradient = value_and_gradient(
        loss, old=logprob, reference=logprob, correction=torch.ones(4, 1).double(), weights=weights
    )
    mask = golden_batch()[3]
    lengths = mask.sum(1).clamp(min=1) if LOSSES[loss].denominator == "completions" else torch.ones(4)
    expected = -(advantages * weights / lengths)[:, None] * mask / COUNTS[LOSSES[loss].denominator]
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cispo"])
def test_gradients_are_derivatives(loss):
    """Against finite differences; cispo is none: its ratio is held fixed."""
    _, old, reference, mask, advantages, correction = golden_batch()
    function, counted = LOSSES[loss]

    def call(logprob):
        penalty = 0.5 * kl(logprob, reference, mask, ratio=ratio(logprob, old, mask))
        return function(
            logprob, old, advantages, mask, denominator=COUNTS[counted], penalty=penalty, correction=correction
        )

    assert torch.autograd.gradcheck(call, golden_batch()[0].requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_correction_multiplies_the_policy_part_alone(loss):
    """With weight 0 the penalty is what is left; a weight per completion is that weight on each of its tokens."""
    logprob, _, reference, mask, *_ = golden_batch()
    got, _ = value_and_gradient(loss, correction=torch.zeros(4, 5).double())
    penalty, weights = 0.04 * k3(logprob, reference) * mask, f64([1.0, 0.5, 2.0, 1.5])
    lengths = mask.sum(1).clamp(min=1) if LOSSES[loss].denominator == "completions" else torch.ones(4)
    expected = (penalty.sum(1) / lengths * weights).sum() / COUNTS[LOSSES[loss].denominator]
    assert got == pytest.approx(expected.item(), abs=1e-15)
    column = f64([[2.0], [0.5], [1.5], [3.0]])
    whole = value_and_gradient(loss, correction=column.expand(4, 5))
    assert value_and_gradient(loss, correction=column)[0] == whole[0]


def test_a_group_without_advantage_still_pays_its_kl():
    """Edge case 3: advantage 0, beta 0.1, d = ln 2 on one of four counted tokens: 0.1 (1/2 + ln 2 - 1) / 4."""
    logprob = f64([[0.0, 0.0], [0.0, 0.0]]).requires_grad_()
    reference = f64([[-math.log(2), 0.0], [0.0, 0.0]])
    mask = torch.ones(2, 2)
    for name, denominator in (("dapo", 4.0), ("grpo", 2.0)):
        penalty = 0.1 * kl(logprob, reference, mask)
        value = LOSSES[name].function(
            logprob, logprob.detach(), torch.zeros(2), mask, denominator=denominator, penalty=penalty
        )
        (slope,) = torch.autograd.grad(value, logprob)
        assert value.item() == pytest.approx(0.1 * (math.log(2) - 0.5) / 4, abs=1e-15)
        assert slope.tolist() == [[pytest.approx(0.1 * 0.5 / 4), 0.0], [0.0, 0.0]]


def test_every_loss_has_the_same_arguments():
    signatures = {str(inspect.signature(loss.function)) for loss in LOSSES.values()}
    assert signatures == {str(inspect.signature(grpo))}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("denominator", [0.0, -1.0, NAN])
def test_a_step_that_counts_nothing_is_not_divided_by(loss, denominator):
    logprob, old, _, mask, advantages, _ = golden_batch()
    with pytest.raises(InputError, match="the denominator is the step's count, above 0; got"):
        LOSSES[loss].function(logprob, old, advantages, mask, denominator=denominator, clip=BOUNDS.get(loss, Clip()))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_dtype_of_the_log_probs_is_kept(loss):
    logprob, old, _, mask, advantages, _ = golden_batch()
    how = {"denominator": 4.0, "clip": BOUNDS.get(loss, Clip())}
    value = LOSSES[loss].function(logprob.float(), old.float(), advantages, mask.bool(), **how)
    exact = LOSSES[loss].function(logprob, old, advantages, mask, **how)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(exact.item(), abs=1e-6)


# ---- each loss by hand
@pytest.mark.parametrize(
    ("rho", "advantage", "delta", "loss", "slope"),
    [
        (1.5, 1.0, None, -1.2, 0.0),  # already more likely than the trust region allows: clipped, no gradient
        (1.5, -1.0, None, 1.5, 1.5),  # too likely and bad: not clipped
        (0.5, 1.0, None, -0.5, -0.5),
        (0.5, -1.0, None, 0.8, 0.0),
        (1.1, 2.0, None, -2.2, -2.2),
        (1.0, -0.5, None, 0.5, 0.5),
        (3.0, -1.0, 2.0, 2.0, 0.0),  # beyond delta
        (1.5, -1.0, 2.0, 1.5, 1.5),
        (3.0, 1.0, 2.0, -1.2, 0.0),
    ],
)
def test_clipping_by_hand(rho, advantage, delta, loss, slope):
    """low = high = 0.2. Where nothing is clipped, d(-rho A) / d logprob = -rho A."""
    logprob = torch.tensor([[math.log(rho)]], dtype=torch.float64, requires_grad=True)
    gain, mask = f64([advantage]), torch.ones(1, 1)
    scaled = clipped_surrogate(ratio(logprob, logprob.detach() * 0, mask), gain, Clip(delta=delta))
    scaled.backward()
    assert (scaled.item(), logprob.grad.item()) == pytest.approx((loss, slope), abs=1e-12)


def test_a_sequence_ratio_by_hand():
    """Log ratios ln 2 and 0: rho = sqrt 2 on both tokens, A = -1: loss sqrt 2, half of it as either token's slope."""
    logprob = f64([[math.log(2), 0.0, 5.0]]).requires_grad_()
    mask, root = torch.tensor([[1, 1, 0]]), math.sqrt(2)
    assert ratio(logprob, logprob.detach() * 0, mask, "sequence").tolist() == [[pytest.approx(root)]]
    assert ratio(logprob, logprob.detach() * 0, mask).tolist() == [[pytest.approx(2.0), 1.0, 1.0]]
    value = LOSSES["gspo"].function(logprob, logprob.detach() * 0, torch.tensor([-1.0]), mask, denominator=1.0)
    value.backward()
    assert value.item() == pytest.approx(root)
    assert logprob.grad.tolist() == [[pytest.approx(root / 2), pytest.approx(root / 2), 0.0]]
    assert ratio(logprob, logprob * 0, mask * 0, "sequence").item() == 1.0
    with pytest.raises(InputError, match="ratio: no level 'word'; there are token, sequence"):
        ratio(logprob, logprob, mask, "word")


@pytest.mark.parametrize(("rho", "weight"), [(3.0, 2.0), (1.5, 1.5), (0.1, 0.1)])
def test_cispo_by_hand(rho, weight):
    """high 2: -min(rho, 2) A logprob with A = 0.5, logprob -1, and the slope -min(rho, 2) A."""
    logprob = f64([[-1.0]]).requires_grad_()
    old = logprob.detach() - math.log(rho)
    value = LOSSES["cispo"].function(
        logprob, old, torch.tensor([0.5]), torch.ones(1, 1), denominator=1.0, clip=Clip(high=2.0)
    )
    value.backward()
    assert (value.item(), logprob.grad.item()) == pytest.approx((weight / 2, -weight / 2), abs=1e-12)
    with pytest.raises(InputError, match=r"clip\.high is the largest ratio itself, at least 1, as in 5\.0; got 0\.2"):
        LOSSES["cispo"].function(logprob, old, torch.tensor([0.5]), torch.ones(1, 1), denominator=1.0)


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.0), (-2.0, 1.05), (0.0, 1.05)])
def test_sapo_by_hand(advantage, tau):
    """rho 2: -A s 4 / tau with s = sigmoid(tau), and the slope -A 4 s (1 - s) rho."""
    logprob = f64([[math.log(2)]]).requires_grad_()
    gain = f64([advantage])
    value = LOSSES["sapo"].function(logprob, logprob.detach() * 0, gain, torch.ones(1, 1), denominator=1.0)
    value.backward()
    s = 1 / (1 + math.exp(-tau))
    expected = (-advantage * s * 4 / tau, -advantage * 4 * s * (1 - s) * 2)
    assert (value.item(), logprob.grad.item()) == pytest.approx(expected, abs=1e-12)


def test_weights_and_lengths_by_hand():
    """Ratio 1, advantages 1 and -1, lengths 1 and 2, weights 3 and 0.5, denominator 2.

    Sequence means: (3 x -1 + 0.5 x 1) / 2 = -1.25; tokens: (3 x -1 + 0.5 x 2) / 2 = -1.
    """
    zeros, mask = torch.zeros(2, 2).double(), torch.tensor([[1, 0], [1, 1]])
    given = (zeros, zeros, torch.tensor([1.0, -1.0]), mask)
    weights = torch.tensor([3.0, 0.5])
    values = {
        name: loss.function(*given, denominator=2.0, weights=weights).item()
        for name, loss in LOSSES.items()
        if name not in ("cispo", "sapo")
    }
    assert values == {"grpo": -1.25, "gspo": -1.25, "dapo": -1.0, "bnpo": -1.0, "dr_grpo": -1.0}


def test_nll_by_hand():
    """Weights 1 and 0.5 over two and one tokens, denominator 2.5: (1 + 2 + 0.5 x 4) / 2.5 = 2; masked is nothing."""
    for outside in (-9.0, -INF, NAN):
        logprob = torch.tensor([[-1.0, -2.0], [-4.0, outside]], requires_grad=True)
        mask, weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.5])
        loss = nll_loss(logprob, mask, weights, denominator=2.5)
        loss.backward()
        assert loss.item() == 2.0
        assert torch.equal(logprob.grad, torch.tensor([[-0.4, -0.4], [-0.2, 0.0]]))


@pytest.mark.parametrize("cuts", [[0, 1, 4], [0, 2, 4], [0, 1, 2, 3, 4]])
def test_micro_batches_of_nll_add_up(cuts):
    logprob, *_, mask, _, _ = golden_batch()
    weights = f64([1.0, 0.5, 2.0, 1.5])
    parts = [slice(a, b) for a, b in pairwise(cuts)]
    summed = sum(nll_loss(logprob[p], mask[p], weights[p], denominator=10.0).item() for p in parts)
    assert summed == pytest.approx(nll_loss(logprob, mask, weights, denominator=10.0).item(), abs=1e-15)


# ---- settings
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": -0.1}, "0 <= low <= 1 and high >= 0 are needed; got low -0.1, high 0.2"),
        ({"low": 1.1}, "got low 1.1"),
        ({"high": -0.2}, "got low 0.2, high -0.2"),
        ({"delta": 1.0}, "delta is a ratio above 1, or null; got 1.0"),
    ],
)
def test_a_trust_region_holds_ratio_one(given, message):
    with pytest.raises(InputError, match=message):
        Clip(**given)


def test_losses_are_found_by_name_and_import_path():
    """A user's function says what its denominator counts; completions where it says nothing."""
    assert loss_named("dr_grpo") == LOSSES["dr_grpo"] and loss_named("gspo").denominator == "completions"
    assert {name: loss.denominator for name, loss in LOSSES.items() if loss.denominator != "completions"} == {
        "dapo": "tokens", "bnpo": "tokens", "cispo": "tokens", "dr_grpo": "budget",
    }  # fmt: skip
    mine = loss_named("earwitness.tests.lab_rewards.reinforce")
    assert mine.denominator == "tokens"
    logprob, old, _, mask, advantages, _ = golden_batch()
    assert mine.function(logprob, old, advantages, mask, denominator=10.0).item() == pytest.approx(
        -(advantages[:, None] * logprob * mask).sum().item() / 10
    )
    assert loss_named("earwitness.lightning_modules.objectives.losses.grpo").denominator == "completions"
    for name, message in (
        ("grpoo", "loss: unknown name 'grpoo'; did you mean 'grpo'"),
        ("earwitness.tests.lab_rewards.nothing", "loss: cannot import"),
        ("math.pi", "loss: 'math.pi' is not a function"),
        (
            "earwitness.tests.lab_rewards.by_words",
            "no denominator 'words'; there are completions, tokens, budget",
        ),
    ):
        with pytest.raises(InputError, match=message):
            loss_named(name)


# ---- KL
def test_estimators_by_hand():
    """d = ln 2, -ln 2 and 0, policy over reference; edge case 17: the slope of each by the log-prob."""
    two = math.log(2)
    expected = {
        "k1": ([two, -two, 0.0], [1.0, 1.0, 1.0]),
        "k2": ([two**2 / 2, two**2 / 2, 0.0], [two, -two, 0.0]),
        "k3": ([two - 0.5, 1 - two, 0.0], [0.5, -1.0, 0.0]),
        "k3+": ([two - 0.5, 1 - two, 0.0], [two, -two, 0.0]),
    }
    assert set(expected) == set(ESTIMATORS)
    for name, (values, slopes) in expected.items():
        logprob = torch.tensor([[-1.0, -1.0, -1.0]], dtype=torch.float64, requires_grad=True)
        reference = torch.tensor([[-1.0 - two, two - 1, -1.0]], dtype=torch.float64)
        estimate = kl(logprob, reference, torch.ones(1, 3), estimator=name)
        estimate.sum().backward()
        assert estimate[0].tolist() == pytest.approx(values, abs=1e-15), name
        assert logprob.grad[0].tolist() == pytest.approx(slopes, abs=1e-15), name


def test_estimators_in_expectation():
    """Over all three words of a policy: which value is KL(policy || reference), and whose gradient the slope is."""
    logits = f64([0.3, -0.2, 1.1]).requires_grad_()
    reference = f64([0.5, 0.2, 0.3]).log()
    logprob = logits.log_softmax(0)
    p = logprob.detach().exp()

    def slope(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    backward = (logprob.exp() * (logprob - reference)).sum()
    forward = (reference.exp() * (reference - logprob)).sum()
    mask = torch.ones(1, 3)
    for name in ESTIMATORS:
        estimate = (p * kl(logprob[None], reference[None], mask, estimator=name)[0]).sum()
        assert (abs(estimate - backward) < 1e-15) == (name != "k2")
        wanted = {"k1": backward * 0, "k3": forward}.get(name, backward)
        assert torch.allclose(slope(estimate), slope(wanted), rtol=0, atol=1e-15), name
    rho = ratio(logprob[None], logprob.detach()[None], mask)
    for name in ("k1", "k3"):
        corrected = (p * kl(logprob[None], reference[None], mask, estimator=name, ratio=rho)[0]).sum()
        assert torch.allclose(slope(corrected), slope(backward), rtol=0, atol=1e-15)


def test_kl_is_zero_where_nothing_counts():
    """Edge case 18: outside the mask, and where either policy gives probability 0."""
    logprob = f64([[-1.0, -INF, -1.0, NAN, -1.0]]).requires_grad_()
    reference = f64([[-2.0, -1.0, -INF, -1.0, NAN]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    rho = f64([[2.0, NAN, 1.0, INF, NAN]])
    for name, estimator in ESTIMATORS.items():
        estimate = kl(logprob, reference, mask, estimator=name, ratio=rho)
        (slope,) = torch.autograd.grad(estimate.sum(), logprob)
        first = estimator(f64(-1.0), f64(-2.0)).item()
        assert estimate.tolist() == [[pytest.approx(2 * first), 0.0, 0.0, 0.0, 0.0]]
        assert slope[0, 0] > 0 and slope[0, 1:].tolist() == [0.0] * 4
    with pytest.raises(InputError, match=r"kl: unknown name 'k4'; there are k1, k2, k3, k3\+ \(or give an import path"):
        kl(logprob, reference, mask, estimator="k4")


def test_an_estimator_of_the_users_is_found_by_its_import_path(monkeypatch):
    """p log(p / q) + q - p of the token itself: no function of the difference alone, and 0.5 where both are equal."""

    def mine(logprob, reference):
        seen.append((logprob.detach(), reference))
        return logprob.exp() * (logprob - reference) + reference.exp() - logprob.exp() + offset

    seen, offset = [], 0.5
    module = ModuleType("my_lab")
    module.mine, module.mean, module.name = mine, lambda logprob, reference: (logprob - reference).mean(), "mine"
    module.as_list = lambda logprob, reference: (logprob - reference).tolist()
    monkeypatch.setitem(sys.modules, "my_lab", module)
    logprob = f64([[-1.0, -2.0, -INF, NAN], [-1.0, -1.0, -1.0, -1.0]]).requires_grad_()
    reference = f64([[-2.0, -1.0, -1.0, -1.0], [-1.0, NAN, -3.0, -INF]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1]])
    counts = torch.tensor([[True, True, False, False], [True, False, False, False]])
    rho = f64([[2.0, 1.0, NAN, INF], [3.0, 1.0, NAN, 1.0]])
    estimate = kl(logprob, reference, mask, estimator="my_lab.mine", ratio=rho)
    (slope,) = torch.autograd.grad(estimate.sum(), logprob)
    p, q = (f64(values).exp() for values in ([-1.0, -2.0, -1.0], [-2.0, -1.0, -1.0]))
    factor = f64([2.0, 1.0, 3.0])
    assert torch.allclose(estimate[counts], factor * (p * (p / q).log() + q - p + offset), rtol=0, atol=1e-15)
    assert torch.allclose(slope[counts], factor * p * (p / q).log(), rtol=0, atol=1e-15)
    assert estimate[~counts].tolist() == slope[~counts].tolist() == [0.0] * 5
    assert all(values[~counts].tolist() == [0.0] * 5 for values in seen[0])
    for name, message in (
        ("my_lab.mean", r"kl 'my_lab.mean': one estimate per token is needed, shape \[2, 4\]; got shape \[\]"),
        ("my_lab.as_list", r"kl 'my_lab.as_list': one estimate per token is needed, shape \[2, 4\]; got list"),
    ):
        with pytest.raises(InputError, match=message):
            kl(logprob, reference, mask, estimator=name)
    for name, message in (
        ("my_lab.name", "objective.kl: 'my_lab.name' is not a function"),
        ("my_lab.yours", "objective.kl: cannot import 'my_lab.yours'"),
        ("k3++", r"objective.kl: unknown name 'k3\+\+'; did you mean 'k3\+'"),
    ):
        with pytest.raises(InputError, match=message):
            kl_named(name, "objective.kl")


# ---- importance weights
OLD = [[math.log(3), math.log(0.25), 7.0], [math.log(0.1), 0.0, 0.0]]
MASK = [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("level", "how", "floor", "expected"),
    [
        ("token", "truncate", 0.0, [[2.0, 0.25, 1.0], [0.1, 1.0, 1.0]]),
        ("token", "truncate", 0.5, [[2.0, 0.5, 1.0], [0.5, 1.0, 1.0]]),
        ("token", "mask", 0.0, [[0.0, 0.25, 1.0], [0.1, 1.0, 1.0]]),
        ("token", "mask", 0.2, [[0.0, 0.25, 1.0], [0.0, 1.0, 1.0]]),
        ("sequence", "truncate", 0.0, [[0.75], [0.1]]),  # products, not geometric means
        ("sequence", "mask", 0.2, [[0.75], [0.0]]),
    ],
)
def test_importance_by_hand(level, how, floor, expected):
    """Rollout log-probs 0, so that the weights are exp(old): 3, 1/4 and 1/10; cap 2."""
    old = f64(OLD).requires_grad_()
    weight, raw = importance(old, old * 0, torch.tensor(MASK), level=level, how=how, cap=2.0, floor=floor)
    assert torch.allclose(weight, f64(expected), rtol=0, atol=1e-15)
    whole = {"token": [[3.0, 0.25, 1.0], [0.1, 1.0, 1.0]], "sequence": [[0.75], [0.1]]}[level]
    assert torch.allclose(raw, f64(whole), rtol=0, atol=1e-15)
    assert not weight.requires_grad and not raw.requires_grad


def test_importance_without_finite_log_probs():
    """Edge case 18: what does not count has weight 1; a raw weight of inf stays within bounds."""
    old = torch.tensor([[-1.0, -INF, -1.0, NAN], [NAN, INF, -INF, 9.0]])
    rollout = torch.tensor([[-1.0, -1.0, -INF, -1.0], [NAN, 1.0, 1.0, 1.0]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]])
    for level, shape in (("token", (2, 4)), ("sequence", (2, 1))):
        weight, raw = importance(old, rollout, mask, level=level, how="truncate", cap=2.0)
        assert torch.equal(weight, torch.ones(shape)) and torch.equal(raw, torch.ones(shape))
    long = torch.full((1, 1000), 0.2)
    for how, expected in (("truncate", 2.0), ("mask", 0.0)):
        weight, raw = importance(long, long * 0, torch.ones(1, 1000), level="sequence", how=how, cap=2.0)
        assert weight.item() == expected and raw.item() == INF


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"level": "word"}, "correction: no level 'word'; there are token, sequence"),
        ({"how": "drop"}, "correction: no how 'drop'; there are truncate, mask"),
        ({"cap": 0.0}, r"0 <= floor < cap is needed; got floor 0\.0, cap 0\.0"),
        ({"floor": -0.5}, "got floor -0.5"),
        ({"cap": NAN}, "cap nan"),
    ],
)
def test_a_correction_that_cannot_be_is_refused(given, message):
    assert (Correction().level, Correction().how, Correction().cap, Correction().floor) == (
        "token",
        "truncate",
        2.0,
        0.0,
    )
    with pytest.raises(InputError, match=message):
        Correction(**given)
    if "level" in given or "how" in given:
        with pytest.raises(InputError, match=message):
            importance(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), cap=2.0,
                       **({"level": "token", "how": "mask"} | given))  # fmt: skip


# ---- logging
def clip_shares(*given) -> dict[str, torch.Tensor]:
    """Sums over the tokens."""
    return {name: values.sum(dtype=torch.float64) for name, values in clip_metrics(*given).items()}


def test_clip_shares_by_hand():
    """Bounds 0.9 and 1.3: with A > 0 the ratios above count as high, with A < 0 those below as low, with 0 none."""
    rho = f64([[1.5, 0.5, NAN], [0.5, 1.5, 0.8], [2.0, 0.1, 1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]])
    shares = clip_shares(rho, torch.tensor([1.0, -1.0, 0.0]), mask, Clip(low=0.1, high=0.3))
    assert {name: value.item() for name, value in shares.items()} == {
        "ratio": pytest.approx(7.9), "clip_low": 2.0, "clip_high": 1.0, "tokens": 8.0,
    }  # fmt: skip
    parts = [clip_shares(rho[r], torch.tensor([1.0, -1.0, 0.0])[r], mask[r], Clip(0.1, 0.3)) for r in ([0], [1, 2])]
    assert all(sum(part[name] for part in parts) == pytest.approx(value.item()) for name, value in shares.items())
    sequence = clip_shares(torch.tensor([[1.5], [0.5], [2.0]]), torch.tensor([1.0, -1.0, 0.0]), mask, Clip())
    assert [sequence[name].item() for name in shares] == [2 * 1.5 + 3 * 0.5 + 3 * 2.0, 3.0, 2.0, 8.0]


def test_clip_shares_of_the_golden_batch():
    """TRL logs, as the mean over completions, high 0.2 of all tokens and low 0: two of ten tokens, by count."""
    logprob, old, _, mask, advantages, _ = golden_batch()
    shares = clip_shares(ratio(logprob, old, mask), advantages, mask, Clip())
    assert (shares["clip_high"] / shares["tokens"]).item() == 0.2 and shares["clip_low"].item() == 0
