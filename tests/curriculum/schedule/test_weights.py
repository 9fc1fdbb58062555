"""Every weight by hand on four cells, the grammar of weights, and what a user's own function may not return."""

from __future__ import annotations

import sys
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.schedule.allocation import masses
from earwitness.curriculum.schedule.cells import Axis, partition
from earwitness.curriculum.schedule.weights import WEIGHTS, parse_weight
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
SIZE = np.array([4, 3, 2, 1])
AC, LOSS = (0.8, 0.5, 0.25, 0.0), (2.0, 1.0, 0.5, 0.0)
NAMES = [f"label={label}, source={source}" for label in ("strong", "weak") for source in "ab"]
STRONG = np.array([True, True, False, False])


def four_cells(left=None, pool=None, **live):
    """Strong a, strong b, weak a, weak b with 4, 3, 2, 1 rows; numbers are the same over a cell, other is .8 - ac."""
    label, source = (Categorical(np.repeat(np.int32(codes), SIZE), names) for codes, names in AXES)
    numbers = {"ac": np.repeat(AC, SIZE), "loss": np.repeat(LOSS, SIZE), "other": np.repeat(0.8 - np.array(AC), SIZE)}
    table = Table(np.arange(10, dtype=np.uint64), {"label": label, "source": source, **numbers})
    cells, _ = partition(table, [Axis("label", "label"), Axis("source", "source")], {})
    assert [cells.name(q) for q in range(4)] == NAMES and cells.size.tolist() == SIZE.tolist()
    left = cells.left if left is None else np.array(left)
    return cells.at(
        left, np.ones(4, bool) if pool is None else np.array(pool), {k: np.array(v) for k, v in live.items()}
    )


AXES = (((0, 0, 1, 1), ("strong", "weak")), ((0, 1, 0, 1), ("a", "b")))


def weight(spec, cells, t=0.0):
    return parse_weight(spec, "weight")(cells, t).tolist()


def amounts(spec, cells, t=0.0, mass="remaining"):
    return parse_weight(spec, "weight").amounts(cells, t, mass)


RISING = {"linear": {"from": 0.0, "to": 1.0}}
BY_HAND = [
    ("uniform", 0, [1, 1, 1, 1]),
    ({"threshold": {"by": "ac", "at": 0.5}}, 0, [1, 1, 0, 0]),
    ({"threshold": {"by": "ac", "at": 0.5, "keep": "below"}}, 0, [0, 1, 1, 1]),
    ({"threshold": {"by": "ac", "at": RISING}}, 0.3, [1, 1, 0, 0]),
    # In order of ac the cells end at .1, .3, .6 and 1 of the rows.
    ({"competence": {"by": "ac", "pace": 0.5}}, 0, [0, 2 / 3, 1, 1]),
    ({"competence": {"by": "ac", "pace": 0.7}}, 0, [0.25, 1, 1, 1]),
    ({"competence": {"by": "ac", "pace": 0.1}}, 0, [0, 0, 0, 1]),
    ({"competence": {"by": "ac", "pace": 1.0}}, 0, [1, 1, 1, 1]),
    ({"competence": {"by": "other", "pace": 0.5}}, 0, [1, 1 / 3, 0, 0]),  # the same from the other end: .4, .7, .9, 1
    ({"competence": {"by": "ac", "pace": {"root": {"from": 0.1, "p": 1}}}}, 2 / 9, [0, 0, 1, 1]),  # .1 + .9 x 2/9 = .3
    ({"power": "ac"}, 0, [0.8, 0.5, 0.25, 0]),
    ({"power": {"by": "ac", "gamma": 2}}, 0, [0.64, 0.25, 0.0625, 0]),
    ({"power": {"by": "ac", "gamma": {"linear": {"from": 0, "to": 4}}}}, 0.5, [0.64, 0.25, 0.0625, 0]),
    ({"power": {"by": "ac", "gamma": 0}}, 0, [1, 1, 1, 1]),
    # Less .8, over .25: 0, -1.2, -2.2, -3.2. With the sign turned -3.2, -2, -1 and 0, and 0 is now the largest.
    ({"softmax": {"by": "ac", "temperature": 0.25}}, 0, [1, exp(-1.2), exp(-2.2), exp(-3.2)]),
    ({"softmax": {"by": "ac", "temperature": -0.25}}, 0, [exp(-3.2), exp(-2), exp(-1), 1]),
    # (x - .5)^2 is .09, 0, .0625 and .25; twice the variance is .125.
    ({"gaussian": {"by": "ac", "mean": 0.5, "sd": 0.25}}, 0, [exp(-0.72), 1, exp(-0.5), exp(-2)]),
    # The middles of the rank intervals are .8, .45, .2 and .05.
    ({"gaussian": {"by": "ac", "mean": 0.2, "sd": 0.5, "rank": True}}, 0, [exp(-0.72), exp(-0.125), 1, exp(-0.045)]),
    ({"focal": "ac"}, 0, [0.04, 0.25, 0.5625, 1]),
    ({"focal": {"by": "ac", "gamma": 1}}, 0, [0.2, 0.5, 0.75, 1]),
    ({"focal": {"by": "loss", "gamma": 2}}, 0, [0, 0, 0.25, 1]),  # 1 - 2 is below 0
    ({"kimi": "ac"}, 0, [0.2, 0.5, 0.75, 1]),
    ({"self_paced": {"by": "loss", "limit": 1}}, 0, [0, 0, 0.5, 1]),
    ({"self_paced": {"by": "loss", "limit": 4}}, 0, [0.5, 0.75, 0.875, 1]),
    # q is (.8 - .25) / .75 = 11/15 and (.5 - .25) / .75 = 1/3; at and below chance there is nothing to learn.
    ({"learnable": "ac"}, 0, [4 * 11 / 15 * 4 / 15, 8 / 9, 0, 0]),
    ({"learnable": {"by": "ac", "num_choices": 2}}, 0, [0.96, 0, 0, 0]),  # q = .6
    ({"product": ["uniform", {"power": "ac"}, {"kimi": "ac"}]}, 0, [0.16, 0.25, 0.1875, 0]),
    ({"product": [{"product": [{"power": "ac"}, {"power": "loss"}]}, {"kimi": "ac"}]}, 0, [0.32, 0.25, 0.09375, 0]),
]


@pytest.mark.parametrize(("spec", "t", "expected"), BY_HAND)
def test_weights_by_hand(spec, t, expected):
    """Columns: ac = .8, .5, .25, 0 and loss = 2, 1, .5, 0."""
    assert weight(spec, four_cells(), t) == pytest.approx(expected, abs=1e-12)


def test_every_weight_there_is_is_worked_by_hand_in_this_file():
    """So that a new one is not forgotten."""
    named = str([spec for spec, _, _ in BY_HAND])
    others = {"useful", "bandit", "shares", "matched", "floor", "cap", "revisit"}  # in tests of their own
    assert {name for name in WEIGHTS if name not in named} == others


def test_observed_weights_read_what_was_observed_by_default():
    """p = .25 is chance and p = .625 half of what is above it: 4 q (1 - q) is 0 and 1; .4375 gives .75."""
    cells = four_cells(p=[0.25, 0.625, 0.4375, 1.0], useful=[0.5, 0.0, 1.0, -0.25])
    assert weight("learnable", cells) == [0, 1, 0.75, 0]
    assert weight("focal", cells) == [0.5625, 0.140625, 0.31640625, 0]
    assert weight("kimi", cells) == [0.75, 0.375, 0.5625, 0]
    assert weight("useful", cells) == [0.5, 0, 1, 0]


def test_what_fell_has_its_share_again_and_without_a_fall_nothing_changes():
    """Left 4, 3, 2, 1: a uniform weight's amounts. Falls of .1 and .2 in cells of 2 and 1 rows count the same."""
    spec = {"uniform": None, "revisit": {"share": 0.4}}
    assert amounts(spec, four_cells(fallen=[0, 0, 0.1, 0.2])).tolist() == pytest.approx([2.4, 1.8, 1.2 + 2, 0.6 + 2])
    assert amounts(spec, four_cells(fallen=[0, 0, 0, 0])).tolist() == [4, 3, 2, 1]
    assert amounts(spec, four_cells(fallen=[0, 0, 0, 0.2], left=[4, 3, 2, 0])).tolist() == [4, 3, 2, 0]  # used up
    unwanted = {"threshold": {"by": "ac", "at": 0.5}, "revisit": {"share": 0.5}}
    assert amounts(unwanted, four_cells(fallen=[0, 0, 0.3, 0])).tolist() == pytest.approx([2, 1.5, 3.5, 0])


def test_power_takes_nothing_from_a_negative_column():
    cells = four_cells(ac=[-0.5, 0.5, 0.0, 2.0])
    assert weight({"power": {"by": "live.ac", "gamma": 2}}, cells) == [0, 0.25, 0, 4]


def test_softmax_scales_by_the_largest_of_the_pool():
    """Without the first cell the largest is .5: over .25 that is 0, -1, -2; outside the pool nothing counts."""
    spec = {"softmax": {"by": "ac", "temperature": 0.25}}
    pool = [False, True, True, True]
    assert weight(spec, four_cells(pool=pool)) == pytest.approx([0, 1, exp(-1), exp(-2)])
    assert amounts(spec, four_cells(pool=pool)) == pytest.approx([0, 3, 2 * exp(-1), exp(-2)])
    assert weight(spec, four_cells(pool=[False] * 4)) == pytest.approx([0] * 4)


def test_competence_counts_the_rows_of_the_pool():
    """Of the weak rows a third has ac 0, the rest .25: at .5 a quarter of the upper cell is in."""
    cells = four_cells(pool=~STRONG)
    assert weight({"competence": {"by": "ac", "pace": 0.5}}, cells)[2:] == pytest.approx([0.25, 1])


def test_bandit_by_hand():
    """8 prompts seen, 7 + 0 + 1 + 0: bonus sqrt(2 ln 8 / (n + 1)), a tenth of it is added to the gain, all over .5."""
    gain, seen = [0.4, 0.1, 0.2, 0.1], [7, 0, 1, 0]
    score = [(g + 0.1 * sqrt(2 * log(8) / (n + 1))) / 0.5 for g, n in zip(gain, seen, strict=True)]
    assert score == pytest.approx([0.944203, 0.607867, 0.688405, 0.607867], abs=1e-6)
    cells = four_cells(gain=gain, prompts=seen)
    spec = {"bandit": {"temperature": 0.5}}
    assert weight(spec, cells) == pytest.approx([1.0, 0.714384, 0.774298, 0.714384], abs=2e-6)
    before = four_cells(gain=[0.0] * 4, prompts=[0] * 4)  # ln 1 = 0: nothing is known, all are equal
    assert weight("bandit", before) == [1, 1, 1, 1]


def test_bandit_s_largest_is_that_of_the_pool():
    """Without the first cell the largest score is .688405: e to the -.080538, 0, -.080538."""
    cells = four_cells(pool=[False, True, True, True], gain=[0.4, 0.1, 0.2, 0.1], prompts=[7, 0, 1, 0])
    got = weight({"bandit": {"temperature": 0.5}}, cells)
    assert got == pytest.approx([0, 0.922619, 1, 0.922619], abs=2e-6)


def test_masses_by_hand():
    """Per row left, per row of the table, per cell; a deck that is empty has none."""
    half, left = np.array([1, 0.5, 2, 1]), np.array([2, 3, 1, 0])
    assert masses(half, "remaining", left, SIZE).tolist() == [2, 1.5, 2, 0]
    assert masses(half, "size", left, SIZE).tolist() == [4, 1.5, 4, 0]
    assert masses(half, "share", left, SIZE).tolist() == [1, 0.5, 2, 0]
    cells = four_cells(left=left)
    assert [amounts("uniform", cells, mass=m).tolist() for m in ("remaining", "size", "share")] == [
        [2, 3, 1, 0],
        [4, 3, 2, 0],
        [1, 1, 1, 0],
    ]
    assert amounts("uniform", cells).tolist() == [2, 3, 1, 0], "per row that is left unless the stage says otherwise"


def test_cells_outside_the_pool_have_no_mass():
    assert amounts({"power": "ac"}, four_cells(pool=~STRONG)).tolist() == [0, 0, 0.5, 0]
    assert amounts({"product": ["uniform"], "floor": 0.5}, four_cells(pool=STRONG)) == pytest.approx([4, 3, 0, 0])


@pytest.mark.parametrize(
    ("spec", "t", "expected"),
    [
        # The strong 4 and 3 share .7 in proportion, the weak 2 and 1 share .3.
        ({"shares": {"strong": 0.7, "weak": 0.3}}, 0, [0.4, 0.3, 0.2, 0.1]),
        ({"shares": {"strong": 0.5, "weak": 0.5}}, 0, [2 / 7, 3 / 14, 1 / 3, 1 / 6]),
        ({"shares": {"weak": 2}}, 0, [0, 0, 2 / 3, 1 / 3]),
        ({"shares": {"b": 1, "a": 3}}, 0, [0.5, 3 / 16, 0.25, 1 / 16]),  # the other axis
        ({"shares": {"strong": RISING, "weak": {"linear": {"from": 1, "to": 0}}}}, 0.25, [1 / 7, 3 / 28, 0.5, 0.25]),
        # ac times rows is 3.2, 1.5, .5, 0; source a has 6 rows of ten and 3.7 of the mass, b 4 and 1.5.
        ({"power": "ac", "matched": "source"}, 0, [3.2 * 0.6 / 3.7, 0.4, 0.5 * 0.6 / 3.7, 0]),
        ({"power": "ac", "shares": {"a": 0.5, "b": 0.5}}, 0, [1.6 / 3.7, 0.5, 0.25 / 3.7, 0]),
        # 3.2, 1.5, .5, 0 of 5.2, and a quarter of the plain mix .4, .3, .2, .1.
        ({"power": "ac", "floor": 0.25}, 0, [2.4 / 5.2 + 0.1, 1.125 / 5.2 + 0.075, 0.375 / 5.2 + 0.05, 0.025]),
        ({"power": "ac", "floor": 1}, 0, [0.4, 0.3, 0.2, 0.1]),
        (
            {"power": "ac", "floor": {"share": RISING}},
            0.25,
            [2.4 / 5.2 + 0.1, 1.125 / 5.2 + 0.075, 0.375 / 5.2 + 0.05, 0.025],
        ),
        # Twice the plain mix is .8, .6, .4, .2 of the mass; none is above.
        ({"power": "ac", "cap": 2}, 0, [3.2 / 5.2, 1.5 / 5.2, 0.5 / 5.2, 0]),
        # Shares first, then half of the plain mix, whichever the file names first.
        ({"shares": {"weak": 1}, "floor": 0.5}, 0, [0.2, 0.15, 1 / 3 + 0.1, 1 / 6 + 0.05]),
        ({"floor": 0.5, "shares": {"weak": 1}}, 0, [0.2, 0.15, 1 / 3 + 0.1, 1 / 6 + 0.05]),
        ({"product": [{"power": "ac"}, {"matched": "source"}]}, 0, [3.2 * 0.6 / 3.7, 0.4, 0.5 * 0.6 / 3.7, 0]),
    ],
)
def test_modifiers_by_hand(spec, t, expected):
    """The mix, from the masses that weight times rows left gives, the rows being 4, 3, 2, 1; the sum is the old one."""
    got = amounts(spec, four_cells(), t)
    assert sum(expected) == pytest.approx(1)
    assert got / got.sum() == pytest.approx(expected, abs=1e-12)
    assert got.sum() == pytest.approx(5.2 if "ac" in str(spec) else 10)


MODIFIED = {"shares": {"weak": 2, "strong": 3}, "matched": "source", "cap": 1.5, "floor": 0.25}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_modifiers_come_in_their_own_order_whatever_that_of_the_file(turned, inside):
    """Shares, matched, cap, floor: one after the other by hand, and all of them in any order or inside a product."""
    cells = four_cells()
    step = amounts({"power": "loss"}, cells)
    for name, value in MODIFIED.items():
        step = WEIGHTS[name](cells, 0.0, step, **value) if name == "shares" else WEIGHTS[name](cells, 0.0, step, value)
    items = list(({"power": "loss"} | MODIFIED).items())[:: -1 if turned else 1]
    spec = {"product": [{name: value} for name, value in items]} if inside else dict(items)
    assert amounts(spec, cells) == pytest.approx(step)


@LAW
@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.floats(0, 4),
    st.sets(st.sampled_from([*MODIFIED]), min_size=1),
    st.floats(1, 3),
    st.floats(0, 1),
    st.integers(1, 9),
    st.sampled_from(["remaining", "size", "share"]),
)
def test_every_modifier_keeps_the_sum(left, gamma, names, room, share, weak, mass):
    """Alone or with others, where the cells that have a weight can hold it all under the cap."""
    cells, left = four_cells(left=left), np.array(left)
    power = {"power": {"by": "loss", "gamma": gamma}}
    plain = amounts(power, cells, mass=mass)
    change = MODIFIED | {"cap": room * left.sum() / left[plain > 0].sum(), "floor": share}
    change["shares"] = {"weak": weak, "strong": 3}
    got = amounts(power | {name: change[name] for name in names}, cells, mass=mass)
    assert got.sum() == pytest.approx(plain.sum()) and got.min() >= 0


def test_cap_keeps_the_sum_where_too_few_cells_have_a_weight():
    """Only the first cell has one, 4 of 10 rows; one and a half times its part of the plain mix is .6 of the 4."""
    spec = {"threshold": {"by": "ac", "at": 0.7}}
    assert amounts(spec | {"cap": 1.5}, four_cells()).sum() == pytest.approx(amounts(spec, four_cells()).sum())


def test_floor_and_cap_are_relative_to_what_is_left_and_matched_to_the_whole_table():
    """Left are 1, 1, 2, 0 of 4, 3, 2, 1, so ac times left is .8, .5, .5, 0. Source a has 1.3 of that, b .5."""
    cells = four_cells(left=[1, 1, 2, 0])
    floor = amounts({"power": "ac", "floor": 0.5}, cells)
    assert floor / 1.8 == pytest.approx([0.4 / 1.8 + 0.125, 0.25 / 1.8 + 0.125, 0.25 / 1.8 + 0.25, 0])
    matched = amounts({"power": "ac", "matched": "source"}, cells)
    assert matched / 1.8 == pytest.approx([0.48 / 1.3, 0.4, 0.3 / 1.3, 0])


def test_cap_by_hand():
    """At most 1.25 times the plain mix: .5, .375, .25, .125 of the mass, which is .615, .288, .096, 0 without a cap.

    The first cell gives .6 of 5.2 away, to the others in proportion 3 : 1, and the second is then at its cap as well.
    """
    got = amounts({"power": "ac", "cap": 1.25}, four_cells())
    assert got / got.sum() == pytest.approx([0.5, 0.375, 0.125, 0])


def test_no_cell_s_share_exceeds_the_cap():
    cells = four_cells()
    for gamma in (0.5, 1, 2, 3):
        got = amounts({"power": {"by": "loss", "gamma": gamma}, "cap": 1.2}, cells)
        assert (got / got.sum() <= 1.2 * SIZE / 10 + 1e-9).all()


@LAW
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(sum), st.floats(0.01, 0.99), st.floats(0, 4))
def test_floor_leaves_every_cell_its_part_of_what_is_left(left, share, gamma):
    cells, left = four_cells(left=left), np.array(left)
    got = amounts({"power": {"by": "ac", "gamma": gamma}, "floor": share}, cells)
    assert (got / got.sum() >= share * left / left.sum() - 1e-12).all()


@LAW
@given(st.lists(st.integers(1, 9), min_size=4, max_size=4), st.floats(0, 4), st.integers(0, 9), st.integers(1, 9))
def test_shares_and_matched_fix_one_axis_and_leave_the_proportions_within_it(left, gamma, weak, strong):
    cells = four_cells(left=left)
    power = {"power": {"by": "loss", "gamma": gamma}}
    plain = amounts(power, cells)
    got = amounts(power | {"shares": {"weak": weak, "strong": strong}}, cells)
    mix = got / got.sum()
    assert [mix[STRONG].sum(), mix[~STRONG].sum()] == pytest.approx(np.array([strong, weak]) / (strong + weak))
    assert got[:2] * plain[:2].sum() == pytest.approx(plain[:2] * got[:2].sum())
    assert got[2:] * plain[2:].sum() == pytest.approx(plain[2:] * got[2:].sum())
    got = amounts(power | {"matched": "label"}, cells)
    assert [got[STRONG].sum(), got[~STRONG].sum()] == pytest.approx([0.7 * plain.sum(), 0.3 * plain.sum()])
    assert got[:2] * plain[:2].sum() == pytest.approx(plain[:2] * got[:2].sum())


@pytest.mark.parametrize(
    ("spec", "moves", "adapts", "mass"),
    [
        ("uniform", False, False, "remaining"),
        ({"power": {"by": "ac", "gamma": 2}}, False, False, "remaining"),
        ({"power": {"by": "ac", "gamma": {"constant": 2}}}, False, False, "remaining"),
        ({"power": {"by": "ac", "gamma": RISING}}, True, False, "remaining"),
        ({"product": ["uniform", {"threshold": {"by": "ac", "at": RISING}}]}, True, False, "remaining"),
        ({"floor": {"share": RISING}}, True, False, "remaining"),
        ({"shares": {"weak": RISING}}, True, False, "remaining"),
        ({"shares": {"weak": 1}, "floor": 0.1}, False, False, "remaining"),
        ("learnable", True, True, "remaining"),
        ({"learnable": {"by": "ac"}}, False, False, "remaining"),
        ({"power": "live.ac"}, True, True, "remaining"),
        ({"gaussian": {"by": "ac", "mean": {"live": "target"}}}, True, True, "remaining"),
        ({"floor": {"share": {"live": "target"}}}, True, True, "remaining"),
        ("bandit", True, True, "share"),
        ({"product": [{"power": "ac"}, "bandit"]}, True, True, "share"),
        ("math.sqrt", True, False, "remaining"),  # anything by an import path
    ],
)
def test_a_weight_knows_whether_it_moves_adapts_and_what_it_counts_by(spec, moves, adapts, mass):
    parsed = parse_weight(spec, "weight")
    assert (parsed.moves, parsed.adapts, parsed.mass) == (moves, adapts, mass)


def test_a_weight_that_follows_a_pace_of_what_was_observed():
    """The target is the mean over the cells, .5; sd .25."""
    cells = four_cells(target=[0.5] * 4)
    got = weight({"gaussian": {"by": "ac", "mean": {"live": "target"}, "sd": 0.25}}, cells)
    assert got == pytest.approx([exp(-0.72), 1, exp(-0.5), exp(-2)])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("powr", "weight: unknown name 'powr'; did you mean 'power'? (or give an import path)"),
        (
            "zzz",
            "weight: unknown name 'zzz'; there are uniform, threshold, competence, power, softmax, gaussian, focal,",
        ),
        ({"power": "ac", "kimi": "ac"}, "weight: power, kimi side by side; join them with `product: [...]`"),
        ({"product": ["uniform"], "kimi": "ac"}, "weight: product, kimi side by side; join them with `product: [...]`"),
        ({"product": []}, "weight.product: a list of weights is needed, got []"),
        ({"product": "uniform"}, "weight.product: a list of weights is needed, got 'uniform'"),
        ("product", "weight.product: a list of weights is needed, got None"),
        ({"product": [{"powr": "ac"}]}, "weight.product[0]: unknown name 'powr'; did you mean 'power'?"),
        ({"product": ["uniform", {"power": {}}]}, "weight.product[1].power: needs the argument 'by'"),
        ({"power": {"by": "ac", "gama": 2}}, "weight.power: unknown argument 'gama'; did you mean 'gamma'?"),
        ({"power": {"by": "ac", "zzz": 2}}, "weight.power: unknown argument 'zzz'; it takes by, gamma"),
        ({"power": {"gamma": 2}}, "weight.power: needs the argument 'by'"),
        ("matched", "weight.matched: needs the argument 'by'"),
        ({"softmax": "ac"}, "weight.softmax: needs the argument 'temperature'"),
        ({"uniform": 1}, "weight.uniform: takes no single value, got 1"),
        ({"uniform": {"by": "ac"}}, "weight.uniform: unknown argument 'by'; it takes "),
        ({"shares": 0.3}, "weight.shares: takes no single value, got 0.3"),
        ({"shares": {"weak": "all"}}, "weight.shares.weak: unknown name 'all'; there are constant, linear, cosine,"),
        (
            {"power": {"by": "ac", "gamma": {"liner": {}}}},
            "weight.power.gamma: unknown name 'liner'; did you mean 'linear'?",
        ),
        ({"power": {"by": "ac", "gamma": {"linear": 1}}}, "weight.power.gamma.linear: needs the argument 'to'"),
        ({"cells": "ac"}, "weight: unknown name 'cells'; "),
        (None, "weight: a name, or a mapping of one name to its arguments, is needed; got None"),
        (3, "weight: a name, or a mapping of one name to its arguments, is needed; got 3"),
        ({}, "weight: a name, or a mapping of one name to its arguments, is needed; got {}"),
        (["uniform"], "weight: a name, or a mapping of one name to its arguments, is needed; got ['uniform']"),
        ("no_such_lab.hard", "weight: cannot import 'no_such_lab.hard' (No module named 'no_such_lab')"),
        ("math.no_such", "weight: cannot import 'math.no_such' (module 'math' has no attribute 'no_such')"),
        ("math.pi", "weight: 'math.pi' is not a function"),
    ],
)
def test_a_weight_that_cannot_be_read_is_refused_with_the_way_out(spec, message):
    with pytest.raises(InputError) as caught:
        parse_weight(spec, "weight")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"threshold": {"by": "ac", "at": 0.5, "keep": "over"}}, "weight 'threshold' keeps what is 'above' or 'below'"),
        (
            {"threshold": {"by": "ac", "at": 0.9}},
            "weight: no cell of the pool with rows left has a positive weight at 50",
        ),
        ({"softmax": {"by": "ac", "temperature": 0}}, "weight.softmax: the temperature must not be 0"),
        ({"gaussian": {"by": "ac", "mean": 0, "sd": 0}}, "weight.gaussian: sd must be positive, got 0"),
        ({"self_paced": {"by": "loss", "limit": 0}}, "weight.self_paced: the limit must be positive, got 0"),
        ({"bandit": {"temperature": 0}}, "weight.bandit: the temperature must be positive, got 0"),
        ({"floor": 1.5}, "weight 'floor' is a share between 0 and 1, got 1.5"),
        ({"floor": -0.1}, "weight 'floor' is a share between 0 and 1, got -0.1"),
        ({"cap": 0.5}, "weight 'cap' is at least 1 times the plain mix, got 0.5"),
        (
            {"shares": {"week": 1}},
            "weight.shares: week are not values of one axis; there are label: strong, weak; sour",
        ),
        (
            {"shares": {"weak": 1, "a": 1}},
            "weight.shares: weak, a are not values of one axis; there are label: strong",
        ),
        ({"shares": {"weak": 1, "strong": -1}}, "weight.shares: -0.571428571"),
        ({"matched": "speaker"}, "no cell axis 'speaker'; add it to `cells`, there are label, source"),
        ({"power": "label"}, "'label' is no number column of the table; there are ac, loss, other"),
        ({"power": "live.ac"}, "no observed column 'live.ac'; there are none; give the stage a window and feedback"),
        (
            {"power": {"by": "ac", "gamma": -1}},
            "weight.power: inf for the cell label=weak, source=b at 50.0%; weights are",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_weight_that_cannot_be_worked_out_is_refused(spec, message):
    with pytest.raises(InputError) as caught:
        amounts(spec, four_cells(), 0.5)
    assert message in str(caught.value)


def test_nothing_with_a_weight_is_an_error_only_where_rows_are_left():
    """A pool that is empty has no mass and no message; one whose only rows have weight 0 has."""
    spec = {"power": "ac"}
    assert amounts(spec, four_cells(left=[0, 0, 0, 0])).tolist() == [0, 0, 0, 0]
    assert amounts(spec, four_cells(left=[0, 0, 0, 1], pool=STRONG)).tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match="^weight: no cell of the pool with rows left has a positive weight at 25.0%$"):
        amounts(spec, four_cells(left=[0, 0, 0, 1]), 0.25)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes a module `my_lab` that can be imported for the length of a test."""

    def write(source):
        (tmp_path / "my_lab.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    sys.modules.pop("my_lab", None)


OWN = """
import numpy as np
from earwitness.curriculum.schedule.components import Paced

def hard(cells, t, gamma: Paced, by="ac"):
    return (1 - cells.column(by)) ** gamma

def as_list(cells, t):
    return [t, 1, 2, 3]

def per_value(cells, t, **table: Paced):
    return np.array([table.get(name, 0.0) for name in cells.values("label")])
"""


def test_a_weight_of_the_user_s_own_is_named_by_its_import_path(lab):
    """(1 - ac)^2, the exponent a pace; a single value is the first argument; further names go to a double star."""
    lab(OWN)
    squares, cells = [0.04, 0.25, 0.5625, 1], four_cells()
    moving = {"gamma": {"linear": {"from": 0, "to": 4}}}
    assert weight({"my_lab.hard": moving}, cells, 0.5) == pytest.approx(squares)
    assert weight({"my_lab.hard": 2}, cells) == pytest.approx(squares)
    tripled = {"product": [{"my_lab.hard": {"gamma": 1, "by": "other"}}, "my_lab.as_list"]}
    assert weight(tripled, cells, 0.5) == pytest.approx([0.5, 0.7, 0.9, 0.6])  # 1, .7, .45, .2 times .5, 1, 2, 3
    assert weight("my_lab.as_list", cells, 0.5) == [0.5, 1, 2, 3]
    assert weight({"my_lab.per_value": {"weak": 2, "strong": RISING}}, cells, 0.5) == [0.5, 0.5, 2, 2]
    for spec, message in {
        "my_lab.hard": "weight.my_lab.hard: needs the argument 'gamma'",
        "my_lab.easy": "weight: cannot import 'my_lab.easy' (module 'my_lab' has no attribute 'easy')",
        "my_lab.np": "weight: 'my_lab.np' is not a function",
    }.items():
        with pytest.raises(InputError) as caught:
            parse_weight(spec, "weight")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "np.array([1, np.nan, 1, -1])",
            "nan for the cell label=strong, source=b at 25.0%; weights are finite, not neg",
        ),
        (
            "np.array([1, 1, np.inf, 1])",
            "inf for the cell label=weak, source=a at 25.0%; weights are finite, not negat",
        ),
        ("[1, 1, 1, -0.5]", "-0.5 for the cell label=weak, source=b at 25.0%; weights are finite, not negative"),
        ("np.ones(3)", "must return one number per cell, [4], got (3,)"),
        ("np.ones((4, 1))", "must return one number per cell, [4], got (4, 1)"),
        ("1.0", "must return one number per cell, [4], got float"),
        ("np.float64(1)", "must return one number per cell, [4], got float64"),
        ("None", "must return one number per cell, [4], got NoneType"),
        ("{'a': 1}", "must return one number per cell, [4], got dict"),
    ],
)
def test_what_a_user_s_weight_may_not_return_is_named_with_the_cell_and_the_progress(lab, returned, message):
    lab(f"import numpy as np\n\ndef wrong(cells, t):\n    return {returned}\n")
    for spec, where in (("my_lab.wrong", "weight"), ({"product": ["uniform", "my_lab.wrong"]}, "weight.product[1]")):
        with pytest.raises(InputError) as caught:
            amounts(spec, four_cells(), 0.25)
        assert str(caught.value).startswith(f"{where}.my_lab.wrong: {message}")


@pytest.mark.parametrize("returned", ["'high'", "['a', 'b', 'c', 'd']", "[[1], [1, 2], 3, 4]"])
def test_a_user_s_weight_that_returns_text_is_named(lab, returned):
    lab(f"def wrong(cells, t):\n    return {returned}\n")
    with pytest.raises(InputError) as caught:
        amounts("my_lab.wrong", four_cells())
    assert str(caught.value).startswith("weight.my_lab.wrong: ")


def test_a_user_s_weight_may_annotate_what_only_type_checkers_import(lab):
    lab(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n"
        "    from earwitness.curriculum.schedule.cells import Cells\n\n"
        "def same(cells: Cells, t: float):\n    return [1, 1, 1, 1]\n"
    )
    assert weight("my_lab.same", four_cells()) == [1, 1, 1, 1]


def test_a_user_s_weight_may_be_an_object_that_can_be_called(lab):
    lab("from functools import partial\n\ndef of(cells, t, n):\n    return [n] * len(cells)\n\ntwo = partial(of, n=2)")
    assert weight("my_lab.two", four_cells()) == [2, 2, 2, 2]


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    "spec", [{"softmax": {"by": "ac", "temperature": 0.0005}}, {"bandit": {"temperature": 0.0005}}]
)
def test_a_cell_outside_the_pool_may_have_any_weight(spec):
    """Strong cells lie more than 1,000 temperatures above the weak ones: exp overflows where nothing is dealt."""
    cells = four_cells(pool=~STRONG, gain=AC, prompts=[0] * 4)
    assert amounts(spec, cells) == pytest.approx([0, 0, 2, 0])


def test_a_cell_outside_the_pool_needs_no_value():
    """Only weak questions carry votes: a stage of weak questions may well be weighted by them."""
    label = Categorical(np.int32([0, 0, 1]), ("strong", "weak"))
    table = Table(np.arange(3, dtype=np.uint64), {"label": label, "ac": np.array([np.nan, np.nan, 0.5])})
    cells, _ = partition(table, [Axis("label", "label")], {})
    assert amounts({"power": "ac"}, cells.at(cells.left, np.array([False, True]), {})).tolist() == [0, 0.5]


@pytest.mark.parametrize(
    "spec",
    [{"learnable": {"by": "ac", "num_choices": 0}}, {"learnable": {"by": "ac", "num_choices": "4"}}, {"power": ["ac"]}],
)
def test_an_argument_of_the_wrong_kind_is_refused(spec):
    with pytest.raises(InputError):
        amounts(spec, four_cells())


def test_a_value_may_be_called_like_a_parameter():
    label = Categorical(np.int32([0, 0, 1]), ("t", "amount"))
    cells, _ = partition(Table(np.arange(3, dtype=np.uint64), {"label": label}), [Axis("label", "label")], {})
    assert amounts({"shares": {"t": 0.5, "amount": 0.5}}, cells).tolist() == [1.5, 1.5]
