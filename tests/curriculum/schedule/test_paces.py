"""Every pace by hand at the beginning, the middle and the end of a stage, and how a file names one."""

from __future__ import annotations

import sys
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.schedule.paces import PACES, parse_pace
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
NUMBER = st.floats(-1e3, 1e3)


def at(spec, *times, **live):
    pace = parse_pace(spec, "pace")
    return [pace(t, {name: np.array(values) for name, values in live.items()}) for t in times]


BY_HAND = [
    (3, [3, 3, 3]),
    (-0.25, [-0.25, -0.25, -0.25]),
    ({"constant": 3}, [3, 3, 3]),
    ({"constant": {"value": 0.5}}, [0.5, 0.5, 0.5]),
    ({"linear": {"from": 1, "to": 3}}, [1, 2, 3]),
    ({"linear": {"from": 3, "to": -1}}, [3, 1, -1]),
    ({"linear": {"from": 0, "to": 8, "start": 0.25}}, [0, 8 / 3, 8]),  # a third of the way from .25 to 1
    ({"linear": {"from": 0, "to": 8, "until": 0.5}}, [0, 8, 8]),
    ({"linear": {"from": 1, "to": 2, "start": 0.5, "until": 0.75}}, [1, 1, 2]),
    ({"cosine": {"from": 0, "to": 4}}, [0, 2, 4]),
    ({"cosine": {"from": 1, "to": 0}}, [1, 0.5, 0]),
    ({"cosine": {"from": 0, "to": 4, "start": 0.25, "until": 1}}, [0, 1, 4]),  # (1 - cos 60 degrees) / 2 is a quarter
    ({"geometric": {"from": 1, "to": 16}}, [1, 4, 16]),
    ({"geometric": {"from": 0.09, "to": 0.01}}, [0.09, 0.03, 0.01]),
    ({"root": {"from": 0.6, "p": 2}}, [0.6, sqrt(0.68), 1]),  # half of 1 - .36, and .36
    ({"root": {"from": 0.2, "p": 1}}, [0.2, 0.6, 1]),
    ({"root": {"from": 0.6, "until": 0.5}}, [0.6, 1, 1]),
    ({"root": {"from": 0.6, "until": 2}}, [0.6, sqrt(0.52), sqrt(0.68)]),
    ({"root": {"from": 0, "p": 3}}, [0, 0.5 ** (1 / 3), 1]),
    ("root", [0.01, sqrt(0.50005), 1]),
    ({"root": {}}, [0.01, sqrt(0.50005), 1]),
    ({"root": 0.6}, [0.6, sqrt(0.68), 1]),
    ({"steps": {"at": [0.5], "values": [1, 2]}}, [1, 2, 2]),  # .5 has passed at .5
    ({"steps": {"at": [0.2, 0.51], "values": [3, 1, 2]}}, [3, 1, 2]),
    ({"steps": {"at": [], "values": [7]}}, [7, 7, 7]),
    ({"steps": {"at": [0, 0.5, 0.5], "values": [9, 1, 2, 3]}}, [1, 3, 3]),
]


@pytest.mark.parametrize(("spec", "expected"), BY_HAND)
def test_paces_by_hand(spec, expected):
    """At progress 0, .5 and 1."""
    assert at(spec, 0, 0.5, 1) == pytest.approx(expected, abs=1e-12)


def test_every_pace_there_is_is_worked_by_hand_in_this_file():
    assert {name for name in PACES if name not in str(BY_HAND)} == {"live"}


def test_a_number_is_a_constant_and_only_a_constant_does_not_move():
    assert parse_pace(2, "pace").name == "constant" and not parse_pace(2.5, "pace").moves
    assert not parse_pace({"constant": 1}, "pace").moves
    assert all(parse_pace(spec, "pace").moves for spec in ("root", {"linear": {"from": 1, "to": 1}}, {"live": "p"}))


def test_from_may_be_spelt_as_in_the_file_although_it_is_a_keyword():
    assert at({"linear": {"from": 1, "to": 3}}, 0.25) == at({"linear": {"from_": 1, "to": 3}}, 0.25) == [1.5]
    with pytest.raises(InputError, match=r"^pace.linear: needs the argument 'from'$"):
        parse_pace("linear", "pace")


@LAW
@given(NUMBER, NUMBER, st.floats(0, 0.9), st.floats(0.01, 1), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_lines_and_waves_stay_between_their_ends_and_never_turn(low, high, start, length, times):
    """Flat before the start and after the end; both halve the way at the middle."""
    low, high = sorted((low, high))
    for name in ("linear", "cosine"):
        span = {"start": start, "until": start + length}
        values = at({name: {"from": low, "to": high, **span}}, *sorted(times))
        assert values == sorted(values) and low - 1e-9 <= values[0] and values[-1] <= high + 1e-9
        mirrored = at({name: {"from": high, "to": low, **span}}, *sorted(times))
        assert [a + b for a, b in zip(values, mirrored, strict=True)] == pytest.approx(
            [low + high] * len(times), abs=1e-9
        )
        before, middle, after = at({name: {"from": low, "to": high, **span}}, start, start + length / 2, start + length)
        assert [before, middle, after] == pytest.approx([low, (low + high) / 2, high], abs=1e-9)


@LAW
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 0.5), st.floats(0, 0.5))
def test_equal_times_make_equal_factors(first, last, t, step):
    a, b, c, d = at({"geometric": {"from": first, "to": last}}, 0, step, t, t + step)
    assert b / a == pytest.approx(d / c)


@LAW
@given(st.floats(0.001, 0.99), st.floats(0.5, 4), st.floats(0.1, 1), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_the_root_s_power_grows_by_the_same_amount_in_equal_times_up_to_one(first, p, until, times):
    values = at({"root": {"from": first, "p": p, "until": until}}, *times)
    line = [min(1.0, first**p + (1 - first**p) * t / until) for t in times]
    assert [value**p for value in values] == pytest.approx(line) and max(values) <= 1


@LAW
@given(st.lists(st.floats(0, 1), max_size=6), st.lists(NUMBER, min_size=7, max_size=7), st.floats(0, 1))
def test_steps_count_the_times_that_have_passed(times, values, t):
    times = sorted(times)
    spec = {"steps": {"at": times, "values": values[: len(times) + 1]}}
    assert at(spec, t) == [values[sum(time <= t for time in times)]]


def test_an_observed_pace_is_the_mean_over_the_cells():
    """Whatever the progress; the name alone is the first argument."""
    assert at({"live": "p"}, 0, 0.5, 1, p=[0.25, 0.5, 0.75, 1.0]) == [0.625] * 3
    assert at({"live": {"column": "target"}}, 0.5, target=[0.3, 0.3], p=[1.0, 1.0]) == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("live", "message"),
    [
        ({}, "pace 'live': nothing observed is called 'target'; there are none"),
        ({"p": [0.5], "ac": [0.5]}, "pace 'live': nothing observed is called 'target'; there are p, ac"),
        ({"target": [0.5, float("nan")]}, "pace 'live' gives nan at progress 0.500; a finite number is needed"),
    ],
)
def test_an_observed_pace_without_its_column_says_what_there_is(live, message):
    with pytest.raises(InputError) as caught:
        at({"live": "target"}, 0.5, **live)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"steps": {"at": [0.5], "values": [1]}}, "one value more than times, got [0.5] and [1]"),
        ({"steps": {"at": [0.5], "values": [1, 2, 3]}}, "one value more than times, got [0.5] and [1, 2, 3]"),
        (
            {"steps": {"at": [0.5, 0.2], "values": [1, 2, 3]}},
            "pace 'steps' needs ascending `at` and one value more than",
        ),
        ({"geometric": {"from": 0, "to": 1}}, "pace 'geometric' goes between positive numbers, got from 0 to 1"),
        ({"geometric": {"from": 1, "to": -1}}, "pace 'geometric' goes between positive numbers, got from 1 to -1"),
        (
            {"linear": {"from": 0, "to": 1, "start": 0.5, "until": 0.5}},
            "a pace starts before it ends, got start 0.5 and u",
        ),
        ({"cosine": {"from": 0, "to": 1, "start": 1}}, "a pace starts before it ends, got start 1 and until 1.0"),
        ({"linear": {"from": 0}}, "pace.linear: needs the argument 'to'"),
        ({"linear": {"form": 0, "to": 1}}, "pace.linear: unknown argument 'form'; did you mean 'from'?"),
        ({"root": {"zzz": 0}}, "pace.root: unknown argument 'zzz'; it takes from, p, until"),
        ({"linear": {"from": float("nan"), "to": 1}}, "pace 'linear' gives nan at progress 0.000; a finite number is"),
        ({"constant": "high"}, "pace 'constant' gives 'high' at progress 0.000; a finite number is needed"),
        ("linaer", "pace: unknown name 'linaer'; did you mean 'linear'? (or give an import path)"),
        ("zzz", "pace: unknown name 'zzz'; there are constant, linear, cosine, geometric, root, steps, live"),
        (
            {"linear": {}, "root": {}},
            "pace: a name, or a mapping of one name to its arguments, is needed; got {'linear'",
        ),
        (True, "pace: a name, or a mapping of one name to its arguments, is needed; got True"),
        (None, "pace: a name, or a mapping of one name to its arguments, is needed; got None"),
        ([0, 1], "pace: a name, or a mapping of one name to its arguments, is needed; got [0, 1]"),
    ],
)
def test_a_pace_that_cannot_be_is_refused_when_it_is_read(spec, message):
    with pytest.raises(InputError) as caught:
        parse_pace(spec, "pace")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "t", "message"),
    [
        (float("nan"), 0, "pace 'constant' gives nan at progress 0.000; a finite number is needed"),
        (float("inf"), 0, "pace 'constant' gives inf at progress 0.000; a finite number is needed"),
        (
            {"steps": {"at": [0.5], "values": [1, "two"]}},
            0.625,
            "pace 'steps' gives 'two' at progress 0.625; a finite num",
        ),
    ],
)
def test_a_pace_that_is_no_number_later_is_refused_there(spec, t, message):
    with pytest.raises(InputError) as caught:
        parse_pace(spec, "pace")(t, {})
    assert message in str(caught.value)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes a module `my_paces` that can be imported for the length of a test."""

    def write(source):
        (tmp_path / "my_paces.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    sys.modules.pop("my_paces", None)


OWN = """
import numpy as np

def parabola(t, height=1.0, from_=0.0):
    return from_ + 4 * height * t * (1 - t)

def catching_up(t, goal, live):
    return np.float32(goal * t) - live["p"].mean()

def seldom(t):
    return float("nan") if t > 0.5 else 1

def wordy(t):
    return "fast"

def many(t):
    return np.ones(2)
"""


def test_a_pace_of_the_user_s_own_is_named_by_its_import_path(lab):
    """It gets what was observed only where it has a parameter `live`, which the file does not fill."""
    lab(OWN)
    assert at("my_paces.parabola", 0, 0.5, 1) == [0, 1, 0]
    assert at({"my_paces.parabola": 3}, 0.25) == [2.25]
    assert at({"my_paces.parabola": {"height": 2, "from": 1}}, 0.5, p=[0.5]) == [3]
    assert at({"my_paces.catching_up": 1}, 0.5, p=[0.25, 0.5]) == [0.125]
    assert parse_pace("my_paces.parabola", "pace").moves
    with pytest.raises(InputError, match="pace.my_paces.catching_up: needs the argument 'goal'"):
        parse_pace("my_paces.catching_up", "pace")
    with pytest.raises(InputError, match="pace.my_paces.catching_up: unknown argument 'live'; it takes goal"):
        parse_pace({"my_paces.catching_up": {"goal": 1, "live": 1}}, "pace")
    with pytest.raises(InputError, match="pace: cannot import 'my_paces.line'"):
        parse_pace("my_paces.line", "pace")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seldom", "pace 'my_paces.seldom' gives nan at progress 0.750; a finite number is needed"),
        ("wordy", "pace 'my_paces.wordy' gives 'fast' at progress 0.750; a finite number is needed"),
        ("many", "pace 'my_paces.many' gives array([1., 1.]) at progress 0.750; a finite number is needed"),
    ],
)
def test_a_user_s_pace_that_returns_no_number_is_named_with_the_progress(lab, name, message):
    lab(OWN)
    assert name != "seldom" or at("my_paces.seldom", 0.5) == [1]
    with pytest.raises(InputError) as caught:
        at(f"my_paces.{name}", 0.75)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "spec",
    [
        {"linear": {"from": "low", "to": 1}},
        {"linear": {"from": 0, "to": 1, "until": "end"}},
        {"geometric": {"from": "low", "to": 1}},
        {"steps": {"at": 0.5, "values": [1, 2]}},
        {"steps": {"at": ["half"], "values": [1, 2]}},
        {"root": {"p": 0}},
        {"root": {"until": 0}},
        {"root": {"from": -0.1, "p": 0.5}},
    ],
)
def test_an_argument_that_is_no_fitting_number_is_refused_when_it_is_read(spec):
    with pytest.raises(InputError):
        parse_pace(spec, "pace")
