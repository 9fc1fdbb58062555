"""What was observed: sums that no order and no split can change, and reducers whose columns are worked by hand."""

from __future__ import annotations

import sys
from math import sqrt, tanh
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.schedule.cells import Axis, partition
from earwitness.curriculum.schedule.feedback import (
    SUMS,
    Adarft,
    ContributionEstimator,
    Forgotten,
    Observations,
    parse_feedback,
)
from earwitness.curriculum.schedule.paces import parse_pace
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
unit_numbers = st.floats(0, 1)


def cells_of(**columns):
    """One cell per row, named by letters; number columns as given."""
    count = len(next(iter(columns.values())))
    names = tuple("abcdefgh"[:count])
    label = Categorical(np.arange(count, dtype=np.int32), names)
    numbers = {name: np.array(values, float) for name, values in columns.items()}
    table = Table(np.arange(count, dtype=np.uint64), {"label": label, **numbers})
    return partition(table, (Axis("label", "label"),), {})[0]


def window(num_cells=1, **sums):
    """Sums [8, Q] by their names; what is not named is 0."""
    out = np.zeros((len(SUMS), num_cells))
    for name, values in sums.items():
        out[SUMS.index(name)] = values
    return out


def named(sums):
    return {name: line.tolist() for name, line in zip(SUMS, sums, strict=True)}


@st.composite
def observed(draw):
    """Up to 40 prompts in 5 cells, under either condition, with or without groups."""
    count = draw(st.integers(0, 40))
    lists = st.lists(unit_numbers, min_size=count, max_size=count)
    cell = np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)), np.int64)
    gain = np.array(draw(lists)) if draw(st.booleans()) else None
    return Observations(cell, np.array(draw(lists)), draw(st.sampled_from(["audio", "silence"])), gain)


def part_of(seen, places):
    gain = None if seen.gain is None else seen.gain[places]
    return Observations(seen.cell[places], seen.accuracy[places], seen.condition, gain)


@LAW
@given(observed(), st.lists(st.integers(0, 40), max_size=4), st.randoms(use_true_random=False))
def test_sums_are_the_same_bits_in_any_order_and_any_split(seen, cuts, random):
    """Float additions do not commute in general; here they are exact, so ranks and micro-batches cannot be seen."""
    order = list(range(len(seen.cell)))
    random.shuffle(order)
    parts = np.split(np.array(order, np.int64), sorted(min(cut, len(order)) for cut in cuts))
    random.shuffle(parts)
    total = np.zeros((len(SUMS), 5))
    for part in parts:
        total = total + part_of(seen, part).sums(5)
    assert total.tobytes() == seen.sums(5).tobytes()


def test_plain_float_sums_would_show_the_order():
    """The law above is no accident: these accuracies add up to other bits from the other end."""
    accuracy = np.array([0.1, 0.2, 0.3, 0.7, 0.9, 0.6, 0.1])
    assert sum(accuracy.tolist()) != sum(accuracy[::-1].tolist())
    cell = np.zeros(7, np.int64)
    forward, backward = Observations(cell, accuracy).sums(1), Observations(cell, accuracy[::-1]).sums(1)
    assert forward.tobytes() == backward.tobytes()


def test_sums_by_hand():
    """Cell 0: three groups, right in all, in none, in half. Cell 2: one where all were right. Cell 1 was not asked."""
    accuracy, gain = np.array([1.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.75, 0.0])
    heard = Observations(np.array([0, 0, 0, 2]), accuracy, gain=gain)
    assert named(heard.sums(3)) == {
        "prompts": [3, 0, 1],
        "right": [1.5, 0, 1],
        "silent_prompts": [0, 0, 0],
        "silent_right": [0, 0, 0],
        "groups": [3, 0, 1],
        "all_right": [1, 0, 1],
        "all_wrong": [1, 0, 0],
        "gain": [0.75, 0, 0],
    }
    silent = named(Observations(np.array([1, 1, 2]), np.array([0.25, 0.5, 1.0]), "silence").sums(3))
    assert silent["silent_prompts"] == [0, 2, 1] and silent["silent_right"] == [0, 0.75, 1]
    assert not any(any(silent[name]) for name in SUMS if not name.startswith("silent"))


def test_observed_values_are_rounded_to_multiples_of_2_to_the_minus_24():
    """0.1 x 2^24 = 1677721.6, so 1677722 of them."""
    sums = named(Observations(np.array([0]), np.array([0.1]), gain=np.array([0.1])).sums(1))
    assert sums["right"] == sums["gain"] == [1677722 / 16777216]


def test_a_group_whose_advantages_round_to_nothing_counts_as_idle():
    """Half a quantum rounds to zero; one quantum does not."""
    sums = Observations(np.array([0, 1]), np.array([1.0, 1.0]), gain=np.array([2.0**-26, 2.0**-24])).sums(2)
    assert named(sums)["all_right"] == [1, 0] and named(sums)["gain"] == [0, 2.0**-24]


def test_a_group_without_advantages_was_right_above_one_half():
    """Where accuracies are probabilities of the option; exactly one half is no success."""
    sums = named(Observations(np.arange(3), np.array([0.51, 0.5, 0.49]), gain=np.zeros(3)).sums(3))
    assert sums["all_right"] == [1, 0, 0] and sums["all_wrong"] == [0, 1, 1]


@pytest.mark.parametrize("accuracy", [[-0.01], [1.01], [float("nan")], [float("inf")]])
def test_an_accuracy_that_is_no_share_is_refused(accuracy):
    with pytest.raises(ValueError, match=r"observed accuracies must lie in \[0, 1\]"):
        Observations(np.array([0]), np.array(accuracy)).sums(1)


def test_an_unknown_condition_or_cell_is_refused():
    with pytest.raises(ValueError, match="under 'audio' or 'silence', got 'noise'"):
        Observations(np.array([0]), np.array([1.0]), "noise").sums(1)
    for cell in (3, -1):
        with pytest.raises(ValueError):
            Observations(np.array([cell]), np.array([1.0])).sums(3)


def test_the_prior_of_the_contribution_by_hand():
    """`from` is 0.2 and 0.8, 4 choices: silence 0.25, and 0.2 where 0.25 + 0.8 would be more than 1."""
    reducer = ContributionEstimator(from_="ac", group_size=2)
    cells = cells_of(ac=[0.2, 0.8], num_choices=[4, 4])
    columns = reducer.columns(reducer.start(cells), cells)
    assert columns["p"] == pytest.approx([0.45, 1.0]) and columns["p_silence"] == pytest.approx([0.25, 0.2])
    assert columns["ac"] == pytest.approx([0.2, 0.8])
    # n = k = 32 prompts that the prior is worth.
    first = sqrt(0.45 * 0.55 / 33 + 0.25 * 0.75 / 33)
    assert columns["ac_se"] == pytest.approx([first, sqrt(0.2 * 0.8 / 33)])
    assert columns["necessity"] == pytest.approx([0.2 / 0.45, 0.8])
    # Two answers agree with 0.45^2 + 0.55^2 = 0.505; where p = 1 they always do.
    assert columns["useful"] == pytest.approx([0.495, 0.0])
    assert columns["gain"].tolist() == [0, 0] and columns["prompts"].tolist() == [0, 0]


def test_the_prior_of_useful_is_the_chance_of_a_mixed_group():
    """p = 1/2 and 8 completions: all alike with 2 / 256. p = 0.9: 1 - 0.9^8 - 0.1^8 = 0.56953."""
    for prior, wanted in ((0.5, 1 - 2 / 256), (0.9, 0.56953278)):
        reducer = ContributionEstimator(audio=prior, silence=0.25)
        cells = cells_of(ac=[0.0])
        assert reducer.columns(reducer.start(cells), cells)["useful"] == pytest.approx([wanted], abs=1e-8)


def test_the_contribution_after_observations_by_hand():
    """Strength 4. (3 + 4 x 0.5) / 8 heard, (0.5 + 4 x 0.25) / 6 in silence; of 4 groups 2 idle and 4 x 0.5 expected."""
    reducer = ContributionEstimator(audio=0.5, silence=0.25, strength=4, group_size=2)
    cells = cells_of(ac=[0.0])
    seen = window(prompts=4, right=3, silent_prompts=2, silent_right=0.5, groups=4, all_right=1, all_wrong=1, gain=1)
    columns = reducer.columns(reducer.close(reducer.start(cells), seen), cells)
    assert columns["p"].tolist() == [0.625] and columns["p_silence"].tolist() == [0.25]
    assert columns["ac"].tolist() == [0.375] and columns["necessity"].tolist() == [0.6]
    assert columns["ac_se"] == pytest.approx([sqrt(0.625 * 0.375 / 9 + 0.25 * 0.75 / 7)])
    assert columns["useful"].tolist() == [1 - (2 + 4 * 0.5) / 8]
    assert columns["gain"].tolist() == [0.25] and columns["prompts"].tolist() == [4]


def test_old_sums_fade_by_the_discount():
    """8 prompts with 8 right, then 2 with none right, discount 1/2: 6 prompts, 4 right; (4 + 2 x 0.5) / 8."""
    reducer = ContributionEstimator(audio=0.5, silence=0.5, strength=2, discount=0.5)
    cells = cells_of(ac=[0.0])
    state = reducer.close(reducer.start(cells), window(prompts=8, right=8))
    state = reducer.close(state, window(prompts=2))
    columns = reducer.columns(state, cells)
    assert columns["prompts"].tolist() == [6] and columns["p"].tolist() == [0.625]
    kept = ContributionEstimator(audio=0.5, silence=0.5, strength=2, discount=1.0)
    assert kept.close(kept.close(kept.start(cells), window(prompts=8)), window(prompts=2))[0].tolist() == [10]


def test_silence_alone_moves_only_the_silent_accuracy_and_a_negative_contribution_needs_no_audio():
    reducer = ContributionEstimator(audio=0.5, silence=0.5, strength=1)
    cells = cells_of(ac=[0.0])
    columns = reducer.columns(reducer.close(reducer.start(cells), window(silent_prompts=3, silent_right=3)), cells)
    assert columns["p"].tolist() == [0.5] and columns["p_silence"].tolist() == [0.875]
    assert columns["ac"].tolist() == [-0.375] and columns["necessity"].tolist() == [0]


@LAW
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), unit_numbers, st.integers(1, 16))
def test_without_observations_the_contribution_is_the_offline_one(offline, silence, size):
    """And both accuracies stay probabilities, however much of the contribution the silent prior cannot hold."""
    reducer = ContributionEstimator(from_="ac", silence=silence, group_size=size)
    cells = cells_of(ac=offline)
    columns = reducer.columns(reducer.start(cells), cells)
    assert columns["ac"] == pytest.approx(offline, abs=1e-12)
    for name in ("p", "p_silence", "necessity", "useful"):
        assert columns[name].min() >= -1e-12 and columns[name].max() <= 1 + 1e-12
    # The silent prior is moved no further than it must be.
    inside = [0 <= silence + c <= 1 for c in offline]
    assert columns["p_silence"][inside] == pytest.approx(silence)


@LAW
@given(observed(), unit_numbers, unit_numbers)
def test_observed_accuracies_stay_between_the_prior_and_what_was_seen(seen, audio, silence):
    reducer = ContributionEstimator(audio=audio, silence=silence)
    cells = cells_of(ac=[0.0] * 5)
    columns = reducer.columns(reducer.close(reducer.start(cells), seen.sums(5)), cells)
    name, prior = ("p", audio) if seen.condition == "audio" else ("p_silence", silence)
    for cell in range(5):
        mine = seen.accuracy[seen.cell == cell]
        mean = float(mine.mean()) if len(mine) else prior
        assert min(prior, mean) - 1e-6 <= columns[name][cell] <= max(prior, mean) + 1e-6
        # 32 prompts of the prior against those that were seen.
        weight = len(mine) / (len(mine) + 32)
        assert columns[name][cell] == pytest.approx(weight * mean + (1 - weight) * prior, abs=1e-6)


def test_priors_come_from_columns_numbers_or_the_number_of_choices():
    """1 over the mean of 2 and 4 choices is 1/3; values of a column beyond [0, 1] are clipped, a contribution to 1."""
    cells = cells_of(p=[0.3, 1.2], quiet=[-0.1, 0.4], num_choices=[2, 4], ac=[1.5, -2.0])
    assert [side.tolist() for side in ContributionEstimator(audio="p", silence="quiet").prior(cells)] == [
        [0.3, 1.0],
        [0.0, 0.4],
    ]
    audio, silence = ContributionEstimator().prior(cells)
    assert audio.tolist() == [0.5, 0.5] and silence == pytest.approx([1 / 3, 1 / 3])
    assert [side.tolist() for side in ContributionEstimator(from_="ac").prior(cells)] == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(InputError, match=r"a prior accuracy lies in \[0, 1\], got 1.5"):
        ContributionEstimator(audio=1.5, silence=0.1).prior(cells)
    with pytest.raises(InputError, match="'num_choices' is no number column of the table; there are p"):
        ContributionEstimator().prior(cells_of(p=[0.5]))


@pytest.mark.parametrize("wrong", [{"strength": 0}, {"discount": 1.1}, {"discount": -0.1}, {"group_size": 0}])
def test_a_contribution_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="strength > 0, 0 <= discount <= 1 and group_size >= 1 are needed"):
        ContributionEstimator(**wrong)


def test_adarft_moves_its_target_by_hand():
    """6 of 8 right: 0.2 + 0.05 tanh(2 x 0.25) = 0.22310586; then 0 of 4: - 0.05 tanh(1). Silence does not count."""
    reducer, cells = Adarft(initial=0.2), cells_of(ac=[0.0, 0.0])
    state = reducer.close(reducer.start(cells), window(2, prompts=[5, 3], right=[5, 1], silent_prompts=[9, 9]))
    assert state == pytest.approx([0.22310586], abs=1e-8)
    state = reducer.close(state, window(2, prompts=[0, 4]))
    assert state == pytest.approx([0.2 + 0.05 * (tanh(0.5) - tanh(1.0))])
    columns = reducer.columns(state, cells)
    assert columns["target"].tolist() == [state[0]] * 2
    assert parse_pace({"live": "target"}, "here")(0.5, columns) == pytest.approx(float(state[0]))


def test_adarft_stands_still_at_the_target_accuracy_and_without_prompts():
    reducer, cells = Adarft(initial=0.4, beta=0.75), cells_of(ac=[0.0])
    state = reducer.start(cells)
    assert reducer.close(state, window(prompts=4, right=3)).tolist() == [0.4]
    assert reducer.close(state, window(silent_prompts=4, silent_right=4)).tolist() == [0.4]


def test_adarft_stays_within_its_bounds():
    """eta 1: 0.5 + tanh(1) = 1.26 and 0.5 - tanh(1) = -0.26 are cut to the bounds."""
    reducer, state = Adarft(initial=0.5, eta=1.0, low=0.1, high=0.9), np.array([0.5])
    assert reducer.close(state, window(prompts=4, right=4)).tolist() == [0.9]
    assert reducer.close(state, window(prompts=4)).tolist() == [0.1]


@pytest.mark.parametrize("given", [{"initial": 2.0}, {"initial": -0.1}, {"initial": 0.5, "low": 0.6}, {"high": -1}])
def test_adarft_starts_within_its_bounds(given):
    """Both ends are within."""
    with pytest.raises(InputError, match=r"feedback adarft: initial [-0-9.]+ lies outside \[[-0-9.]+, [-0-9.]+\]$"):
        Adarft(**given)
    for initial in (0.2, 0.7):
        reducer = Adarft(initial=initial, low=0.2, high=0.7)
        cells = cells_of(ac=[0.0])
        assert reducer.columns(reducer.start(cells), cells)["target"].tolist() == [initial]


def test_feedback_is_named_alone_with_a_value_or_with_arguments():
    assert parse_feedback("contribution", "here").reducers == {"contribution": ContributionEstimator()}
    assert parse_feedback({"contribution": None}, "here").reducers == {"contribution": ContributionEstimator()}
    assert parse_feedback({"contribution": "ac_prob"}, "here").reducers["contribution"].from_ == "ac_prob"
    both = parse_feedback({"contribution": {"from": "ac", "strength": 8}, "adarft": {"initial": 0.3}}, "here")
    assert both.reducers == {
        "contribution": ContributionEstimator(from_="ac", strength=8),
        "adarft": Adarft(initial=0.3),
    }
    cells = cells_of(ac=[0.5], num_choices=[4])
    live = both.columns(both.close(both.start(cells), window(prompts=8, right=8)), cells)
    assert {"p", "ac", "useful", "target"} <= set(live)
    # 8 right and 8 x 0.75 of the prior over 16; 0.3 + 0.05 tanh(1).
    assert live["p"].tolist() == [0.875] and live["target"] == pytest.approx([0.3 + 0.05 * tanh(1.0)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "here: a mapping of names to arguments is needed, got None"),
        ({}, "here: a mapping of names to arguments is needed, got {}"),
        (["contribution"], "here: a mapping of names to arguments is needed"),
        ("contributon", "here: unknown name 'contributon'; did you mean 'contribution'?"),
        ({"zzz": {}}, "here: unknown name 'zzz'; there are contribution, adarft, forgotten (or give an import path)"),
        ({"contribution": {"form": "ac"}}, "here.contribution: unknown argument 'form'; did you mean 'from'?"),
        ({"adarft": {"zzz": 1}}, "here.adarft: unknown argument 'zzz'; it takes initial, eta, alpha, beta, low, high"),
        ({"contribution": {"strength": -1}}, "strength > 0, 0 <= discount <= 1 and group_size >= 1 are needed"),
        ({"no_such_lab.Reducer": {}}, "here: cannot import 'no_such_lab.Reducer' (No module named 'no_such_lab')"),
        ({"math.pi": {}}, "here: 'math.pi' is not a function"),
    ],
)
def test_feedback_that_cannot_be_is_refused(given, message):
    with pytest.raises(InputError) as caught:
        parse_feedback(given, "here")
    assert message in str(caught.value)


@pytest.mark.parametrize("given", [{"contribution": {"strength": "many"}}, {"adarft": {"initial": "low"}}])
def test_a_word_in_place_of_a_number_is_refused_in_one_sentence(given):
    with pytest.raises(InputError, match=f"^here.{next(iter(given))}: .*not supported between") as caught:
        parse_feedback(given, "here")
    assert "\n" not in str(caught.value)


class Surprise:
    """Counts the windows and how far the last one was from the first guess."""

    def __init__(self, guess: float, shape: str = "right") -> None:
        self.guess, self.shape = guess, shape

    def start(self, cells):
        return np.zeros((2, len(cells)))

    def close(self, state, window):
        seen = np.maximum(window[SUMS.index("prompts")], 1)
        return np.stack([state[0] + 1, np.abs(window[SUMS.index("right")] / seen - self.guess)])

    def columns(self, state, cells):
        wrong = {"short": state[1][:-1], "nan": state[1] * np.nan}
        return {"windows": state[0], "surprise": wrong.get(self.shape, state[1])}


@pytest.fixture
def my_lab(monkeypatch):
    module = ModuleType("my_lab")
    module.Surprise = Surprise
    monkeypatch.setitem(sys.modules, "my_lab", module)


def test_a_reducer_of_the_users_is_found_by_its_import_path(my_lab):
    """Its columns stand beside the others; 3 of 4 right against a guess of 0.25 is a surprise of 0.5."""
    feedback = parse_feedback({"my_lab.Surprise": 0.25, "adarft": {}}, "here")
    cells = cells_of(ac=[0.0, 0.0])
    state = feedback.close(feedback.start(cells), window(2, prompts=[4, 0], right=[3, 0]))
    live = feedback.columns(state, cells)
    assert live["windows"].tolist() == [1, 1] and live["surprise"].tolist() == [0.5, 0.25]
    assert live["target"] == pytest.approx([0.05 * tanh(2 * 0.25)] * 2)
    with pytest.raises(InputError, match="here.my_lab.Surprise: needs the argument 'guess'"):
        parse_feedback("my_lab.Surprise", "here")


@pytest.mark.parametrize("shape", ["short", "nan"])
def test_a_column_that_is_not_one_finite_number_per_cell_is_named(my_lab, shape):
    feedback = parse_feedback({"my_lab.Surprise": {"guess": 0.5, "shape": shape}}, "here")
    cells = cells_of(ac=[0.0, 0.0])
    with pytest.raises(InputError) as caught:
        feedback.columns(feedback.start(cells), cells)
    wanted = "feedback 'my_lab.Surprise': column 'surprise' must hold one finite number per cell"
    assert str(caught.value) == wanted


def test_what_was_forgotten_is_how_far_a_cell_lies_below_its_best_by_hand():
    """Discount 1/2, at least 4 prompts. Cell a: 8 of 8, then 0 of 4: 4 of 8, .5 below its best. Cell b has too few.

    Then nothing is seen: 4 discounted prompts of a still count, at 2 it keeps what it had.
    """
    cells, reducer = cells_of(ac=[0, 0]), Forgotten(margin=0.25, least=4, discount=0.5)
    state = reducer.close(reducer.start(cells), window(2, prompts=[8, 3], right=[8, 3]))
    assert {k: v.tolist() for k, v in reducer.columns(state, cells).items()} == {"best": [1, 0], "fallen": [0, 0]}
    state = reducer.close(state, window(2, prompts=[4, 0], right=[0, 0]))
    assert reducer.columns(state, cells)["fallen"].tolist() == [0.5, 0]
    for _ in range(3):
        state = reducer.close(state, window(2))
        assert reducer.columns(state, cells)["fallen"].tolist() == [0.5, 0]
    state = reducer.close(state, window(2, prompts=[11.5, 0], right=[9, 0]))  # 9.25 of 12: .77, within the margin
    assert reducer.columns(state, cells)["fallen"].tolist() == [0, 0]
    with pytest.raises(InputError, match="0 <= margin < 1"):
        Forgotten(margin=1)
