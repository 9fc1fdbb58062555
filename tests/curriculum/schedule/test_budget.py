"""Budgets and costs by hand, budgets of hours and FLOPs through a plan, and columns changed for a control."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import keyed, splitmix64
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.budget import Budget, Cost
from earwitness.curriculum.schedule.columns import changed, check_changes
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
LABELS = ("strong", "weak", "mixed", "other")


def table_of(counts, seconds):
    """`counts[i]` rows of LABELS[i], each of which lasts `seconds[i]`."""
    codes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    columns = {"label": Categorical(codes, LABELS[: len(counts)]), "duration_s": np.asarray(seconds, float)[codes]}
    return Table(splitmix64(np.arange(len(codes), dtype=np.uint64)), columns)


def plan_of(table, *stages, **top):
    filled = [{"name": f"s{k}", "algorithm": "sft", "batch_size": 2, **stage} for k, stage in enumerate(stages)]
    return Plan(parse_curriculum({"stages": filled, **top}), table)


def hours(seconds):
    return {"budget": {"hours": seconds / 3600}}


def presented(plan, stage="s0"):
    """Rows over all steps, without the padding of the last batch."""
    batches = [plan.batch(stage, step) for step in range(plan.stage_plan(stage).steps)]
    return np.concatenate([rows[weights > 0] for rows, weights in batches])


def seconds_of(plan, stage="s0"):
    return plan.table.columns["duration_s"][presented(plan, stage)]


@pytest.mark.parametrize(
    ("given_", "unit", "epochs"),
    [
        ({"samples": 5}, "samples", 1),
        ({"samples": 5, "epochs": 3}, "samples", 3),
        ({"fraction": 1}, "fraction", 1),
        ({"fraction": 0.5, "epochs": 2}, "fraction", 2),
        ({"epochs": 2}, "fraction", 2),
        ({"steps": 5}, "steps", 1),
        ({"steps": 5, "epochs": 1}, "steps", 1),
        ({"hours": 0.5}, "hours", 1),
        ({"flops": 1e18}, "flops", 1),
    ],
)
def test_a_budget_has_one_unit_and_its_epochs(given_, unit, epochs):
    budget = Budget(**given_)
    assert (budget.unit, budget.epochs) == (unit, epochs)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "exactly one of samples, fraction, steps, hours and flops, or epochs alone; got none"),
        ({"samples": 1, "steps": 1}, "got ['samples', 'steps']"),
        ({"fraction": 1, "hours": 1, "flops": 1}, "got ['fraction', 'hours', 'flops']"),
        ({"samples": 1, "hours": 1, "epochs": 1}, "got ['samples', 'hours']"),
        ({"samples": 2.0}, "budget samples must be a whole number, got 2.0"),
        ({"samples": True}, "budget samples must be a whole number, got True"),
        ({"steps": "3"}, "budget steps must be a whole number, got '3'"),
        ({"hours": "3"}, "budget hours must be a number, got '3'"),
        ({"hours": True}, "budget hours must be a number, got True"),
        ({"hours": float("nan")}, "budget hours must be a number, got nan"),
        ({"flops": float("inf")}, "budget flops must be a number, got inf"),
        ({"samples": 0}, "budget samples must be positive (a fraction at most 1), got 0"),
        ({"steps": -1}, "budget steps must be positive (a fraction at most 1), got -1"),
        ({"fraction": 0}, "budget fraction must be positive (a fraction at most 1), got 0"),
        ({"fraction": 1.01}, "budget fraction must be positive (a fraction at most 1), got 1.01"),
        ({"hours": -0.5}, "budget hours must be positive (a fraction at most 1), got -0.5"),
        ({"epochs": 0}, "budget epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 1.0}, "budget epochs must be a whole number of at least 1, got 1.0"),
        ({"samples": 1, "epochs": True}, "budget epochs must be a whole number of at least 1, got True"),
        ({"steps": 1, "epochs": 2}, "budget epochs are not combined with steps; got 2"),
        ({"hours": 1, "epochs": 2}, "budget epochs are not combined with hours; got 2"),
        ({"flops": 1, "epochs": 3}, "budget epochs are not combined with flops; got 3"),
        ({"at_most": 0.5}, "exactly one of samples, fraction, steps, hours and flops, or epochs alone; got none"),
        ({"steps": 1, "at_most": 0}, "budget at_most is a share of what is left, more than 0 and at most 1; got 0"),
        ({"steps": 1, "at_most": 50}, "budget at_most is a share of what is left, more than 0 and at most 1; got 50"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(given_, message):
    with pytest.raises(InputError) as caught:
        Budget(**given_)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given_", "factor", "expected"),
    [
        ({"samples": 100}, 0.255, {"samples": 26}),  # 25.5 to the even number
        ({"samples": 100, "epochs": 2}, 0.5, {"samples": 50, "epochs": 2}),
        ({"samples": 3}, 0.1, {"samples": 1}),  # never nothing
        ({"steps": 100}, 1.5, {"steps": 150}),
        ({"hours": 2}, 0.25, {"hours": 0.5}),
        ({"flops": 1e18}, 3, {"flops": 3e18}),
        ({"fraction": 0.5, "epochs": 2}, 0.5, {"fraction": 0.25, "epochs": 2}),
        ({"fraction": 0.5}, 2, {"fraction": 1.0}),
        ({"epochs": 2}, 0.5, {"fraction": 0.5, "epochs": 2}),
        ({"steps": 9, "at_most": 0.5}, 2, {"steps": 18, "at_most": 0.5}),
        ({"fraction": 0.5, "at_most": 0.75}, 2, {"fraction": 1.0, "at_most": 0.75}),
    ],
)
def test_a_budget_times_a_factor(given_, factor, expected):
    assert Budget(**given_).scaled(factor) == Budget(**expected)


@pytest.mark.parametrize("given_", [{"fraction": 0.6}, {"epochs": 2}])
def test_more_than_the_whole_pool_is_no_budget(given_):
    share = given_.get("fraction", 1) * 2
    with pytest.raises(
        InputError, match=f"a fraction of {share:.3f} is more than the whole pool; give the arm another"
    ):
        Budget(**given_).scaled(2)


EASY = {"parameters": 10, "audio_tokens_per_s": 25, "max_audio_s": 4, "prompt_tokens": 10, "answer_tokens": 5}
EASY |= {"completion_tokens": 3, "group_size": 4}


def test_tokens_by_hand():
    """2 s are 50 tokens and 9 s are cut at 4, so 100; with 10 of text 60 and 110; then 5 of answer, or 4 x 3 said."""
    cost, seconds = Cost(**EASY), np.array([2, 9, 4])
    assert cost.tokens("sft", seconds).tolist() == [65, 115, 115]
    assert cost.tokens("grpo", seconds).tolist() == [72, 122, 122]


def test_flops_of_sft_by_hand():
    """6 x 10 parameters for each of 65 and 115 tokens."""
    assert Cost(**EASY).flops("sft", np.array([2, 9])).tolist() == [3900, 6900]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # Sampling reads 60 + 12 at 2, training at 6, the reference at 2: 10 x (2 + 6 + 2) x 72.
        ({}, 7200),
        ({"reference": False}, 5760),  # 10 x 8 x 72
        ({"old": True}, 8640),  # 10 x 12 x 72
        # Without sharing training and reference read 4 x 60 + 12 = 252: 10 x (2 x 72 + 8 x 252).
        ({"shared_prompt": False}, 21_600),
        ({"shared_prompt": False, "old": True}, 26_640),  # 10 x (144 + 10 x 252)
        ({"shared_prompt": False, "reference": False}, 16_560),  # 10 x (144 + 6 x 252)
        ({"shared_prompt": False, "group_size": 1}, 6300),  # nothing to share: 10 x 10 x 63
        ({"group_size": 1}, 6300),
    ],
)
def test_flops_of_grpo_by_hand(more, expected):
    """2 s of recording: a prompt of 60 tokens, and 4 completions of 3."""
    assert Cost(**{**EASY, **more}).flops("grpo", np.array([2.0])).tolist() == [expected]


def test_the_default_cost_of_ten_seconds():
    """250 + 110 + 12 tokens, six times 7.6 thousand million each."""
    assert Cost().tokens("sft", np.array([10.0])).tolist() == [372]
    assert Cost().flops("sft", np.array([10.0])) == pytest.approx([1.69632e13])
    assert Cost().tokens("grpo", np.array([1000.0])).tolist() == [300 * 25 + 110 + 8 * 16]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("parameters", -1, "not be negative"),
        ("max_audio_s", float("nan"), "not be negative"),
        ("parameters", "7B", "be a number"),
        ("group_size", "8", "be a number"),
        ("group_size", 0, "be at least 1"),
    ],
)
def test_a_cost_that_cannot_be_is_refused(name, value, rule):
    with pytest.raises(InputError, match=f"cost {name} must {rule}, got {value!r}"):
        Cost(**{name: value})


def test_hours_by_hand():
    """90 s are nine rows of 10 s. Of as many rows of 4 s as of 8 s, 6 s on average, 45 s are seven."""
    plan = plan_of(table_of([30], [10]), hours(90))
    assert plan.stage_plan("s0").rows == 9 and plan.stage_plan("s0").steps == 5
    plan = plan_of(table_of([50, 50], [4, 8]), {**hours(45), "block": 100})
    assert plan.composition("s0", "label") in ({"strong": 4, "weak": 3}, {"strong": 3, "weak": 4})
    assert seconds_of(plan).sum() in (40, 44)


def test_flops_by_hand():
    """A row of 2 s costs 3,900 for SFT and 7,200 for GRPO: 40,000 are ten rows, or five."""
    table = table_of([30], [2])
    assert plan_of(table, {"budget": {"flops": 40_000}}, cost=EASY).stage_plan("s0").rows == 10
    grpo = {"algorithm": "grpo", "budget": {"flops": 40_000}}
    assert plan_of(table, grpo, cost=EASY).stage_plan("s0").rows == 5
    assert plan_of(table, grpo, cost=EASY | {"shared_prompt": False}).stage_plan("s0").rows == 1  # 21,600 each


@LAW
@given(st.integers(1, 300), st.integers(1, 60), st.floats(0.01, 1), st.sampled_from([{}, {"by": "flops"}]))
def test_rows_of_one_cost_are_the_whole_number_that_the_budget_holds(count, seconds, part, how):
    """floor(target / cost); what does not pay for one row is refused."""
    target = count * seconds * part
    table = table_of([count, 3], [seconds, 1000])
    budget = {"flops": target} if how else {"hours": target / 3600}
    cost = {"parameters": 1 / 6, "audio_tokens_per_s": 1, "max_audio_s": 1e4, "prompt_tokens": 0, "answer_tokens": 0}
    assume(abs(target / seconds - round(target / seconds)) > 1e-6)
    stage = {"pool": {"label": "strong"}, "budget": budget}
    if target < seconds:
        with pytest.raises(InputError, match="pay for less than one row"):
            plan_of(table, stage, cost=cost)
    else:
        assert plan_of(table, stage, cost=cost).stage_plan("s0").rows == int(target / seconds)


CROSSING = {"strong": {"linear": {"from": 1, "to": 0}}, "weak": {"linear": {"from": 0, "to": 1}}}


@pytest.mark.parametrize(
    ("counts", "seconds", "weight", "target", "rows"),
    [
        ([40, 40], [5, 15], "uniform", 303, [15, 15]),  # 10 s on average: 30 rows
        ([60, 60], [5, 15], {"shares": {"strong": 0.75, "weak": 0.25}}, 304, [30, 10]),  # 7.5 s: 40 rows are 300 s
        ([100, 100], [2, 20], {"shares": CROSSING}, 405, [18, 18]),  # halves over the whole stage: 11 s, 36 rows, 396 s
    ],
)
def test_hours_of_a_mix_by_hand(counts, seconds, weight, target, rows):
    plan = plan_of(table_of(counts, seconds), {**hours(target), "weight": weight})
    assert list(plan.composition("s0", "label").values()) == rows
    assert seconds_of(plan).sum() == sum(n * s for n, s in zip(rows, seconds, strict=True)) <= target


SHARES = {"shares": {"strong": 0.7, "weak": 0.3}}


@LAW
@given(
    st.lists(st.tuples(st.integers(2, 60), st.integers(1, 40)), min_size=2, max_size=4),
    st.sampled_from(["uniform", SHARES]),
    st.floats(0.05, 0.95),
)
@example([(30, 8), (39, 36)], SHARES, 911 / 1644)  # 708 s of 911: the strong deck runs dry at 61 rows
@example([(38, 13), (31, 2), (16, 3)], "uniform", 469 / 604)  # 474 s of 469
def test_hours_of_any_mix_are_at_most_the_budget_and_within_two_rows_of_it(decks, weight, part):
    """Two of the longest: with one row more, rounding may give another cell one, too."""
    counts, seconds = zip(*decks, strict=True)
    supply = len(decks) if weight == "uniform" else 2
    target = part * sum(n * s for n, s in decks[:supply])
    assume(target > max(seconds))
    spent = seconds_of(
        plan_of(table_of(counts, seconds), {**hours(target), "weight": weight, "on_short": "stop"})
    ).sum()
    assert target - 2 * max(seconds[:supply]) < spent <= target + 1e-6


@pytest.mark.parametrize(("seconds", "half_an_hour"), [(30, 60), (15, 120), (12, 150), (6, 300)])
def test_half_an_hour_is_as_many_rows_as_fit_exactly(seconds, half_an_hour):
    assert plan_of(table_of([1000], [seconds]), {"budget": {"hours": 0.5}}).stage_plan("s0").rows == half_an_hour


def test_hours_that_the_wanted_cells_can_supply_are_dealt():
    """9,000 s of 100 rows of 100 s; the first guess takes the mean over all cells, 50.5 s, and wants 178 rows."""
    stage = {**hours(9000), "weight": {"shares": {"weak": 1}}}
    assert plan_of(table_of([1000, 100], [1, 100]), stage).composition("s0", "label") == {"weak": 90}


def test_hours_beyond_the_pool_are_refused_with_what_there_is():
    """20 rows of 10 s are 200 s = 0.0556 hours; the second stage finds what the first has left."""
    table = table_of([20], [10])
    with pytest.raises(InputError) as caught:
        plan_of(table, hours(720))
    assert str(caught.value) == (
        "stage 's0' wants 0.2 hours, the 20 rows left have 0.0555556; lower the budget, or set on_short to stop "
        "or repeat"
    )
    with pytest.raises(InputError, match="stage 's1' wants 0.05 hours, the 8 rows left after s0 have 0.0222222; lower"):
        plan_of(table, hours(120), hours(180))
    with pytest.raises(
        InputError, match=r"stage 's0' wants 100000 flops, the 20 rows left have 78000; lower the budget"
    ):
        plan_of(table_of([20], [2]), {"budget": {"flops": 100_000}}, cost=EASY)
    assert plan_of(table, hours(200)).stage_plan("s0").rows == 20, "exactly all of it is not too much"


def test_samples_beyond_the_pool_are_refused_stopped_at_or_repeated():
    """Five weak rows, twelve wanted."""
    table = table_of([3, 5], [1, 1])
    stage = {"pool": {"label": "weak"}, "budget": {"samples": 12}}
    with pytest.raises(InputError) as caught:
        plan_of(table, stage)
    assert str(caught.value) == (
        "stage 's0' wants 12 rows of label weak, 5 are left; lower the budget, or set on_short to stop or repeat"
    )
    weak = set(range(3, 8))
    rows = presented(plan_of(table, {**stage, "on_short": "stop"})).tolist()
    assert len(rows) == 5 and set(rows) == weak
    rows = presented(plan_of(table, {**stage, "on_short": "repeat"})).tolist()
    assert len(rows) == 12 and set(rows[:5]) == set(rows[5:10]) == weak and len(set(rows[10:])) == 2


def test_samples_that_are_there_are_neither_stopped_at_nor_repeated():
    for on_short in ("error", "stop", "repeat"):
        rows = presented(plan_of(table_of([9], [1]), {"budget": {"samples": 7, "epochs": 2}, "on_short": on_short}))
        assert len(rows) == 14 and set(rows[:7]) == set(rows[7:]) and len(set(rows)) == 7


@pytest.mark.parametrize(
    ("budget", "rows"),
    [
        ({"steps": 3, "at_most": 0.5}, 3),  # three batches of one
        ({"steps": 90, "at_most": 0.5}, 5),  # 4.5 rounded up
        ({"samples": 90, "at_most": 1.0, "epochs": 2}, 9),
        ({"fraction": 0.5, "at_most": 0.25}, 3),
        ({"fraction": 0.5, "at_most": 1.0}, 4),
        ({"epochs": 3, "at_most": 0.1}, 1),
        ({"hours": 5 / 3600, "at_most": 1.0}, 5),  # rows of a second
        ({"hours": 99, "at_most": 0.5}, 5),
    ],
)
def test_at_most_cuts_a_budget_of_any_unit(budget, rows):
    """Nine rows of a second; nothing is repeated but by `epochs`."""
    plan = plan_of(table_of([9], [1]), {"budget": budget, "batch_size": 1})
    assert plan.stage_plan("s0").rows == rows
    assert plan.stage_plan("s0").presented == rows * budget.get("epochs", 1)


def test_at_most_is_a_share_of_what_the_stages_before_left():
    """Six of ten rows are left, three of them granted; of three all, and then nothing is left to grant."""
    table, half, whole = table_of([10], [1]), {"samples": 99, "at_most": 0.5}, {"samples": 99, "at_most": 1.0}
    plan = plan_of(table, *({"budget": one} for one in ({"samples": 4}, half, whole)))
    assert [plan.stage_plan(f"s{k}").rows for k in range(3)] == [4, 3, 3]
    with pytest.raises(InputError) as caught:
        plan_of(table, {"budget": {"samples": 10}}, {"budget": whole})
    assert str(caught.value) == (
        "stage 's1' wants 99 rows of all rows, 0 are left after s0; lower the budget of the stages that take "
        "theirs first"
    )


def test_what_at_most_cuts_off_may_be_repeated():
    stage = {"budget": {"samples": 12, "at_most": 0.5}, "on_short": "repeat"}
    rows = presented(plan_of(table_of([10], [1]), stage)).tolist()
    assert len(rows) == 12 and set(rows[:5]) == set(rows[5:10]) and len(set(rows)) == 5


def test_a_fraction_of_less_than_a_row_is_refused():
    with pytest.raises(InputError) as caught:
        plan_of(table_of([9], [1]), {"budget": {"fraction": 0.1}})
    assert str(caught.value) == "stage 's0': a fraction of 0.1 of the 9 rows of its pool is less than one row; raise it"


def test_a_stage_that_may_stop_takes_at_least_a_row():
    """Weak rows alone are wanted, and the stage before has them."""
    first = {"pool": {"label": "weak"}, "budget": {"fraction": 1.0}}
    second = {"budget": {"samples": 2}, "weight": {"shares": {"weak": 1}}, "on_short": "stop"}
    with pytest.raises(InputError) as caught:
        plan_of(table_of([5, 5], [1, 1]), first, second)
    assert str(caught.value) == "stage 's1': the cells that its weight wants have no row left; widen the weight"


def test_hours_beyond_the_pool_stop_at_its_end():
    plan = plan_of(table_of([20], [10]), {**hours(720), "on_short": "stop"})
    assert sorted(presented(plan).tolist()) == list(range(20))


@pytest.mark.parametrize("block", [4, 7, 100])
def test_a_stage_stops_where_the_wanted_cells_are_empty(block):
    """Ten weak rows are wanted alone; 10 is no multiple of 4 or 7, so the last block is cut short."""
    stage = {"budget": {"samples": 20}, "weight": {"shares": {"weak": 1}}, "on_short": "stop", "block": block}
    plan = plan_of(table_of([15, 10], [1, 1]), stage)
    assert sorted(presented(plan).tolist()) == list(range(15, 25))
    with pytest.raises(
        InputError, match="the cells with a positive weight have .* rows left, .* are wanted; lower the"
    ):
        plan_of(table_of([15, 10], [1, 1]), {**stage, "on_short": "error"})


@pytest.mark.parametrize("block", [1, 2, 5, 10])
def test_a_stage_also_stops_where_they_are_empty_at_the_end_of_a_block(block):
    stage = {"budget": {"samples": 20}, "weight": {"shares": {"weak": 1}}, "on_short": "stop", "block": block}
    assert sorted(presented(plan_of(table_of([15, 10], [1, 1]), stage)).tolist()) == list(range(15, 25))


@pytest.mark.parametrize(
    ("budget", "rows"),
    [
        ({"hours": 400 / 3600}, 40),  # 40 rows of 10 s from a pool of 20
        ({"flops": 6 * 260 * 40}, 40),  # 250 + 5 + 5 tokens each
    ],
)
def test_hours_and_flops_beyond_the_pool_are_repeated(budget, rows):
    cost = {"parameters": 1, "prompt_tokens": 5, "answer_tokens": 5}
    plan = plan_of(table_of([20], [10]), {"budget": budget, "on_short": "repeat"}, cost=cost)
    assert len(presented(plan)) == rows


def test_a_fraction_beyond_what_is_left_is_repeated():
    """Half of 20 rows where the stage before has left 4."""
    half = {"budget": {"fraction": 0.5}, "on_short": "repeat"}
    plan = plan_of(table_of([20], [10]), {"budget": {"samples": 16}}, half)
    assert len(presented(plan, "s1")) == 10


def test_hours_need_to_know_how_long_a_recording_is():
    table = table_of([5], [1])
    for columns in ({}, {"duration_s": table.columns["label"]}):
        other = Table(table.uid, {"label": table.columns["label"], **columns})
        with pytest.raises(InputError, match="stage 's0': a budget in hours needs the column duration_s"):
            plan_of(other, hours(1))
        with pytest.raises(InputError, match="stage 's0': a budget in flops needs the column duration_s"):
            plan_of(other, {"budget": {"flops": 1e15}})


@pytest.mark.parametrize("pool", [{}, {"label": "strong"}])
def test_a_missing_duration_is_named_or_left_out(pool):
    """A stage that deals only rows whose length is known does not need the others."""
    table = table_of([5, 5], [2, np.nan])
    if pool:
        assert plan_of(table, {**hours(6), "pool": pool}).stage_plan("s0").rows == 3
    else:
        with pytest.raises(InputError, match="duration_s"):
            plan_of(table, hours(6))


def controlled(size, seed=0):
    """Label, source and a number for every row, with gaps in all three."""
    rng = np.random.default_rng(seed)
    columns = {
        "label": Categorical(rng.integers(-1, 2, size).astype(np.int32), ("weak", "strong")),
        "source": Categorical(rng.integers(-1, 3, size).astype(np.int32), ("c", "a", "b")),
        "ac": np.where(rng.random(size) < 0.2, np.nan, rng.random(size)),
    }
    return Table(splitmix64(np.arange(size, dtype=np.uint64)), columns)


@LAW
@given(st.integers(1, 200), st.integers(0, 99), st.sampled_from(["label", "ac"]), st.sampled_from([None, "source"]))
def test_permuted_values_stay_in_their_group_and_nothing_else_changes(size, seed, column, within):
    """The same values as often in each group, missing ones included; the uids and the other columns are shared."""
    table = controlled(size, seed)
    got = changed(table, {column: {"permute": {"within": within} if within else {}}}, seed)
    group = table.text("source").codes if within else np.zeros(size)
    old, new = (t.text("label").codes if column == "label" else t.columns["ac"] for t in (table, got))
    for one in np.unique(group):
        assert str(np.sort(new[group == one])) == str(np.sort(old[group == one]))
    assert got.uid is table.uid
    assert all(got.columns[name] is table.columns[name] for name in table.columns if name != column)


@LAW
@given(st.integers(1, 100), st.integers(0, 99), st.sampled_from(["label", "ac"]), st.sampled_from([None, "source"]))
def test_a_permutation_depends_on_the_uids_and_not_on_the_order_of_the_file(size, seed, column, within):
    table, order = controlled(size, seed), np.random.default_rng(seed).permutation(size)
    change = {column: {"permute": {"within": within} if within else {}}}
    first, other = changed(table, change, 3).take(order), changed(table.take(order), change, 3)
    if column == "label":
        assert other.text("label").codes.tolist() == first.text("label").codes.tolist()
    else:
        np.testing.assert_array_equal(other.columns["ac"], first.columns["ac"])


def test_a_permutation_by_hand():
    """The k-th value by uid goes to the row with the k-th hash, group by group."""
    uid = np.array([5, 3, 9, 7, 1], np.uint64)
    source = Categorical(np.int32([0, 0, 1, 0, 1]), ("a", "b"))
    table = Table(uid, {"source": source, "ac": uid.astype(float)})
    got = changed(table, {"ac": {"permute": {"within": "source"}}}, 4).columns["ac"]
    hashed = dict(zip(uid.tolist(), keyed(uid, 4, "permute", "ac").tolist(), strict=True))
    for group in ([3, 5, 7], [1, 9]):
        for value, place in zip(group, sorted(group, key=hashed.get), strict=True):
            assert got[uid.tolist().index(place)] == value


@LAW
@given(st.integers(1, 200), st.integers(0, 99), st.sampled_from(["label", "ac"]), st.sampled_from([None, "source"]))
def test_among_known_values_what_is_missing_stays_where_it_is(size, seed, column, within):
    table = controlled(size, seed)
    got = changed(table, {column: {"permute": {"among": "known"} | ({"within": within} if within else {})}}, seed)
    old, new = (t.text("label").codes if column == "label" else t.columns["ac"] for t in (table, got))
    missing = old < 0 if column == "label" else np.isnan(old)
    assert (missing == (new < 0 if column == "label" else np.isnan(new))).all()
    group = table.text("source").codes if within else np.zeros(size)
    for one in np.unique(group):
        assert str(np.sort(new[group == one])) == str(np.sort(old[group == one]))


def test_permutations_of_two_columns_or_two_seeds_have_nothing_to_do_with_each_other():
    uid = splitmix64(np.arange(60, dtype=np.uint64))
    table = Table(uid, {"a": np.arange(60.0), "b": np.arange(60.0)})
    both = changed(table, {"a": {"permute": {}}, "b": {"permute": {}}}, 0)
    orders = [both.columns["a"], both.columns["b"], changed(table, {"a": {"permute": {}}}, 1).columns["a"]]
    assert len({tuple(order) for order in [np.arange(60.0), *orders]}) == 4


VOTES = np.array(
    [
        [1, 1, 1],
        [1, 1, 0],
        [1, 0, 1],
        [0, 1, 1],
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [0, 0, 0],
        [1, np.nan, 1],
        [0, np.nan, 1],
    ]
)


def voted(votes=VOTES, **more):
    """Labels that have nothing to do with the votes, and one column of votes per voter."""
    label = Categorical(np.full(len(votes), 2, np.int32), ("x", "y", "mixed"))
    columns = {f"vote_{k}": column for k, column in enumerate(votes.T)}
    return Table(np.arange(len(votes), dtype=np.uint64), {"label": label, **columns, **more})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "wwwwssssw?"),  # two of three; a vote that is missing may decide
        ({"drop": ["vote_2"]}, "wwssssss?s"),  # both of the first two
        ({"drop": ["vote_0"]}, "wsswssss??"),
        ({"drop": ["vote_1"]}, "wswsssssws"),
        ({"drop": ["vote_1", "vote_2"]}, "wwwswsssws"),  # the first alone
        ({"at_least": 1}, "wwwwwwwsww"),
        ({"at_least": 3}, "wsssssss?s"),
        ({"drop": ["vote_2"], "at_least": 1}, "wwwwwwssw?"),
    ],
)
def test_labels_from_the_voters_that_remain(arguments, expected):
    """w: weak, right without the audio; s: strong; ?: open. The smallest majority unless the file says how many."""
    table = voted()
    got = changed(table, {"label": {"votes": arguments}}, 0)
    assert "".join("ws?"[code] for code in got.text("label").codes) == expected
    assert got.text("label").names == ("weak", "strong")
    assert all(got.columns[f"vote_{k}"] is table.columns[f"vote_{k}"] for k in range(3))


def test_a_column_of_another_name_can_hold_the_votes_labels():
    got = changed(voted(), {"jury": {"votes": {"drop": ["vote_2"]}}}, 0)
    assert got.text("label").names == ("x", "y", "mixed") and (got.text("label").codes == 2).all()
    assert (got.text("jury").codes == 0).sum() == 2


def test_a_plan_deals_from_the_changed_labels():
    """Four of the ten are weak by the majority of three and two without the third voter; open ones are never dealt."""
    stage = {"budget": {"fraction": 1.0}, "pool": {"label": "weak"}}
    plan = plan_of(voted(), stage, columns={"label": {"votes": {"drop": ["vote_2"]}}})
    assert sorted(presented(plan).tolist()) == [0, 1]
    plan = plan_of(voted(), stage, columns={"label": {"votes": {}}})
    assert sorted(presented(plan).tolist()) == [0, 1, 2, 3, 8]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["label"], "curriculum.columns must map columns to a change"),
        (
            {"label": "permute"},
            "curriculum.columns.label: one of permute, votes with its arguments is needed, got 'permute'",
        ),
        (
            {"label": {"permute": {"among": "some"}}},
            "curriculum.columns.label.permute: among is one of all, known, got 'some'",
        ),
        ({"label": {}}, "curriculum.columns.label: one of permute, votes with its arguments is needed, got {}"),
        (
            {"label": {"shuffle": {}}},
            "curriculum.columns.label: one of permute, votes with its arguments is needed, got {'sh",
        ),
        (
            {"label": {"permute": {}, "votes": {}}},
            "curriculum.columns.label: one of permute, votes with its arguments is",
        ),
        (
            {"label": {"permute": {"by": "source"}}},
            "curriculum.columns.label.permute: unknown key 'by'; it knows within",
        ),
        (
            {"label": {"votes": {"dorp": []}}},
            "curriculum.columns.label.votes: unknown key 'dorp'; it knows drop, at_least",
        ),
    ],
)
def test_a_change_that_cannot_be_read_is_refused(spec, message):
    with pytest.raises(InputError) as caught:
        check_changes(spec)
    assert message in str(caught.value)


def test_a_change_without_arguments_has_none():
    assert check_changes({"a": {"permute": None}, "b": {"votes": {"drop": ["vote_1"]}}}) == {
        "a": {"permute": {}},
        "b": {"votes": {"drop": ["vote_1"]}},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labl": {"permute": {}}},
            "columns.labl: no such column in the table; there are label, vote_0, vote_1, vote_2",
        ),
        (
            {"label": {"permute": {"within": "source"}}},
            "no text column 'source' in the table; there are label, vote_0, vote",
        ),
        (
            {"label": {"votes": {"drop": ["vote_3"]}}},
            "columns.label: no votes 'vote_3'; there are vote_0, vote_1, vote_2",
        ),
        (
            {"label": {"votes": {"drop": ["vote_0", "vote_1", "vote_2"]}}},
            "columns.label: no voter is left; the label table",
        ),
    ],
)
def test_a_change_that_the_table_does_not_allow_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        changed(voted(), change, 0)
    assert message in str(caught.value)
    with pytest.raises(InputError, match="columns.label: no voter is left; the label table needs vote_"):
        changed(voted(VOTES[:, :0]), {"label": {"votes": {}}}, 0)


@pytest.mark.parametrize("at_least", [0, 3, -1, "two"])
def test_more_right_votes_than_voters_or_none_are_no_rule(at_least):
    """Three of two would make every question strong and none of two every question weak, without a word."""
    with pytest.raises(InputError, match="at_least"):
        changed(voted(), check_changes({"label": {"votes": {"drop": ["vote_2"], "at_least": at_least}}}), 0)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [({"votes": {"drop": "vote_2"}}, "'vote_2'"), ({"permute": "source"}, "'source'"), ({"permute": 5}, "5")],
)
def test_a_value_where_a_list_or_a_mapping_belongs_is_named_or_understood(change, wanted):
    try:
        changed(voted(source=voted().columns["label"]), check_changes({"label": change}), 0)
    except InputError as error:
        assert wanted in str(error)
