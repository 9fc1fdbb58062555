"""Where a run stands: resuming, following what was observed, taking turns, forking, and what no two stages share."""

from __future__ import annotations

import json
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import keyed, splitmix64, unit
from earwitness.curriculum.online.cursor import Cursor, fork, read_state, write_state
from earwitness.curriculum.plan.fingerprint import differences
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.preview import describe
from earwitness.curriculum.schedule.allocation import apportion
from earwitness.curriculum.schedule.feedback import SUMS, Observations
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
FEW = settings(deadline=None, max_examples=25)


def table_of(count=60, seed=0):
    """Rows with a label, a source, a contribution, and recordings that up to three rows share."""
    draw = np.random.default_rng(seed)
    columns = {
        "label": Categorical(draw.integers(0, 2, count).astype(np.int32), ("weak", "strong")),
        "source": Categorical(draw.integers(0, 3, count).astype(np.int32), ("a", "b", "c")),
        "ac": draw.random(count),
        "num_choices": np.full(count, 4.0),
        "duration_s": draw.integers(2, 20, count).astype(float),
        "clip": splitmix64(draw.integers(0, max(1, count // 2), count).astype(np.uint64)),
    }
    return Table(splitmix64(np.arange(count, dtype=np.uint64)), columns)


TABLE = table_of()
AXES = ["label", "source"]
FOLLOW = {"product": [{"power": {"by": "live.necessity", "gamma": 1.0}}, {"learnable": {"by": "live.p"}}], "floor": 0.2}


def static(name="s", **more):
    return {"name": name, "algorithm": "sft", "batch_size": 4, "budget": {"samples": 14}} | more


def adaptive(name="g", **more):
    """9 steps of 3 rows in windows of 2 steps: five windows, the last one of a single step."""
    stage = {"name": name, "algorithm": "grpo", "batch_size": 3, "budget": {"steps": 9}, "window": 2, "lag": 1}
    stage["feedback"] = {"contribution": {"from": "ac", "strength": 2.0}, "adarft": {"initial": 0.2, "eta": 0.3}}
    return stage | {"weight": FOLLOW} | more


def turns(name="both", steps=10, share=0.4):
    members = [static("x", batch_size=3), static("y", batch_size=2)]
    for one in members:
        del one["budget"]
    return {"name": name, "interleave": {"steps": steps, "share": {"y": share}}, "stages": members}


def spec(*stages, **top):
    return {"stages": list(stages), "seed": 3, "cells": AXES, **top}


def plan_of(*stages, table=TABLE, used=None, origin=None, **top):
    return Plan(parse_curriculum(spec(*stages, **top)), table, used, origin)


def as_json(value):
    return json.loads(json.dumps(value))


def joined(parts):
    return list(chain.from_iterable(parts))


def dealt_rows(plan, name):
    dealt = plan.stage_plan(name)
    return plan.rows(name, np.arange(int(dealt.edges[dealt.planned])))


def answers(plan, rows):
    """What a policy might say, by the identity of the row alone: heard by all, a quarter also asked in silence."""
    uid = plan.table.uid[rows]
    accuracy = unit(keyed(uid, "right"))
    gain = np.where(accuracy > 0.8, 0.0, np.minimum(accuracy, 1 - accuracy))
    quiet = uid % np.uint64(4) == 0
    heard = Observations(plan.cell_of_row[rows], accuracy, gain=gain)
    return [heard, Observations(plan.cell_of_row[rows][quiet], 0.5 * accuracy[quiet], "silence")]


def train_step(cursor):
    """One optimizer step: its rows are read, observed and trained."""
    rows = cursor.plan.batch(cursor.stage, cursor.step)[0]
    for seen in answers(cursor.plan, rows):
        cursor.observe(seen)
    cursor.trained()
    return rows.tolist()


def train(cursor, steps=None):
    count = cursor.plan.num_steps(cursor.stage) - cursor.step if steps is None else steps
    return [train_step(cursor) for _ in range(count)]


STATIC = {
    "two passes with a padded batch": (spec(static(budget={"samples": 14, "epochs": 2})), "s"),
    "a second stage": (spec(static(), static("t", algorithm="grpo", pool={"label": "strong"})), "t"),
    "turns": (spec(static(), turns()), "both"),
    "a small pool again and again": (spec(static(on_short="repeat", budget={"steps": 40})), "s"),
}


@pytest.mark.parametrize("what", STATIC)
def test_a_static_run_resumed_at_any_step_deals_what_is_left(what):
    """The state goes through JSON text into a plan and a cursor made anew."""
    mapping, stage = STATIC[what]
    plan = Plan(parse_curriculum(mapping), TABLE)
    whole = [plan.batch(stage, step) for step in range(plan.num_steps(stage))]
    cursor = Cursor(plan, stage)
    for step in range(len(whole) + 1):
        state = as_json(cursor.state())
        fresh = Plan(parse_curriculum(as_json(mapping)), TABLE)
        resumed = Cursor(fresh, stage)
        resumed.load(state)
        assert resumed.step == step and not resumed.adapts and resumed.live() == {}
        rest = [fresh.batch(stage, later) for later in range(resumed.step, fresh.num_steps(stage))]
        for (rows, weights), (wanted, their) in zip(rest, whole[step:], strict=True):
            assert rows.tolist() == wanted.tolist() and weights.tolist() == their.tolist()
        assert resumed.state() == state
        cursor.trained()


def test_observations_of_a_static_stage_change_nothing():
    plan = plan_of(static())
    cursor = Cursor(plan, "s")
    before = as_json(cursor.state())
    cursor.observe(Observations(np.array([0]), np.array([1.0])))
    assert cursor.state() == before and "adaptive" not in before


@pytest.mark.parametrize("lag", [1, 2])
def test_an_adaptive_run_resumed_at_any_step_plans_the_same_windows(lag):
    """At window ends and in the middle of windows, where the open window's sums are carried along."""
    mapping = spec(static(), adaptive(lag=lag))
    cursor = Cursor(Plan(parse_curriculum(mapping), TABLE), "g")
    states, whole = [as_json(cursor.state())], []
    for _ in range(9):
        whole.append(train_step(cursor))
        states.append(as_json(cursor.state()))
    matrix, live = cursor.plan.stage_plan("g").matrix, cursor.live()
    assert matrix.min() >= 0 and any(any(line) for line in states[1]["adaptive"]["open"])
    for step, state in enumerate(states):
        resumed = Cursor(Plan(parse_curriculum(as_json(mapping)), TABLE), "g")
        resumed.load(state)
        assert resumed.state() == state
        assert train(resumed) == whole[step:]
        assert resumed.plan.stage_plan("g").matrix.tobytes() == matrix.tobytes()
        assert {name: values.tobytes() for name, values in resumed.live().items()} == {
            name: values.tobytes() for name, values in live.items()
        }


def test_a_step_interrupted_between_its_observations_and_its_end_goes_on_where_it_was():
    """Observed but not trained: the sums are in the open window, the step is not counted."""
    whole = Cursor(plan_of(adaptive()), "g")
    train(whole)
    half = Cursor(plan_of(adaptive()), "g")
    train(half, 3)
    for seen in answers(half.plan, half.plan.batch("g", 3)[0]):
        half.observe(seen)
    resumed = Cursor(plan_of(adaptive()), "g")
    resumed.load(as_json(half.state()))
    assert resumed.step == 3
    resumed.trained()
    train(resumed)
    assert resumed.plan.stage_plan("g").matrix.tobytes() == whole.plan.stage_plan("g").matrix.tobytes()


def test_what_was_observed_changes_what_is_dealt():
    """The guard of the tests above: with a policy that is always right the windows are others, after the lag."""
    one, other = Cursor(plan_of(adaptive()), "g"), Cursor(plan_of(adaptive()), "g")
    train(one)
    for step in range(9):
        rows = other.plan.batch("g", step)[0]
        other.observe(Observations(other.plan.cell_of_row[rows], np.ones(3)))
        other.trained()
    a, b = one.plan.stage_plan("g").matrix, other.plan.stage_plan("g").matrix
    assert a[:2].tolist() == b[:2].tolist() and a[2:].tolist() != b[2:].tolist()


def test_a_window_is_planned_from_its_weights_by_hand():
    """Two cells, one prompt of prior. Silence is never right, p = (right + 0.5) / (n + 1), the weight is p itself.

    Windows 0 and 1 know nothing: 4 : 4. Then cell a is right in 4 of 4, b in none: p = 0.9 and 0.1. Of the 92 + 92
    cards left window 2 deals 8 in proportion to 0.9 and 0.1: 7.2 and 0.8, so 7 and 1.
    """
    count = 200
    label = Categorical(np.arange(count, dtype=np.int32) % 2, ("a", "b"))
    table = Table(splitmix64(np.arange(count, dtype=np.uint64)), {"label": label})
    stage = adaptive(batch_size=4, weight={"power": {"by": "live.p"}}, budget={"steps": 8})
    stage["feedback"] = {"contribution": {"audio": 0.5, "silence": 0.0, "strength": 1.0}}
    cursor = Cursor(plan_of(stage, table=table, cells=["label"]), "g")
    matrix = cursor.plan.stage_plan("g").matrix
    assert matrix.tolist() == [[4, 4], [4, 4], [-1, -1], [-1, -1]]
    for _ in range(2):
        cursor.observe(Observations(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 0.0, 0.0])))
        cursor.trained()
    assert cursor.live()["p"].tolist() == [0.9, 0.1]
    assert matrix.tolist() == [[4, 4], [4, 4], [7, 1], [-1, -1]]


def test_the_last_window_closes_with_the_stage_though_it_is_shorter():
    """Nine steps of three rows in windows of two steps: all 27 rows are counted, none waits in an open window."""
    stage = adaptive(feedback={"contribution": {"from": "ac", "discount": 1.0}})
    cursor = Cursor(plan_of(stage), "g")
    counted = []
    for _ in range(9):
        train_step(cursor)
        counted.append(cursor.live()["prompts"].sum())
    assert counted == [0, 6, 6, 12, 12, 18, 18, 24, 27]
    assert not np.any(cursor.state()["adaptive"]["open"])


def test_an_adaptive_weight_may_move_with_the_stage_too():
    """Five windows of 20 rows stand at 0.1, 0.3, ... 0.9 of the stage, and deal that share of strong rows."""
    moving = {"weak": {"linear": {"from": 1.0, "to": 0.0}}, "strong": {"linear": {"from": 0.0, "to": 1.0}}}
    stage = adaptive(batch_size=10, budget={"steps": 10}, weight={"useful": {}, "shares": moving})
    cursor = Cursor(plan_of(stage, table=table_of(400), cells=["label"]), "g")
    cursor.trained(10)
    strong = cursor.plan.cells.values("label").tolist().index("strong")
    assert cursor.plan.stage_plan("g").matrix[:, strong].tolist() == [2, 6, 10, 14, 18]


def test_the_target_of_adarft_leads_the_gaussian():
    """A policy that is always right pulls the target up, and with it the contribution of what is dealt."""
    stage = adaptive(weight={"gaussian": {"by": "ac", "mean": {"live": "target"}, "sd": 0.1}}, budget={"steps": 12})
    stage["feedback"] = {"adarft": {"initial": 0.1, "eta": 0.5}}
    cursor = Cursor(plan_of(stage, table=table_of(400), cells={"ac": {"column": "ac", "bins": 20}}), "g")
    for step in range(12):
        rows = cursor.plan.batch("g", step)[0]
        cursor.observe(Observations(cursor.plan.cell_of_row[rows], np.ones(3)))
        cursor.trained()
    ac = cursor.plan.table.columns["ac"][dealt_rows(cursor.plan, "g")].reshape(6, 6).mean(axis=1)
    # From 0.1 by 0.5 tanh(1) = 0.38 per window: 0.1, 0.1, 0.48, 0.86, then held at 1.
    assert np.abs(ac[:4] - [0.1, 0.1, 0.48, 0.86]).max() < 0.1 and ac[4:].min() > 0.85


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_batches_may_be_read_lag_windows_ahead_and_no_further(lag):
    quiet = Cursor(plan_of(adaptive(lag=lag)), "g")
    train(quiet)
    cursor = Cursor(plan_of(adaptive(lag=lag)), "g")
    plan = cursor.plan
    ahead = {}
    for step in range(9):
        known = min(9, 2 * (step // 2 + 1 + lag))
        for later in range(step, known):
            assert plan.ready("g", later)
            assert ahead.setdefault(later, plan.batch("g", later)[0].tolist()) == plan.batch("g", later)[0].tolist()
        for later in range(known, 9):
            assert not plan.ready("g", later)
            with pytest.raises(LookupError, match=f"window {later // 2} of stage 'g' is not planned yet"):
                plan.batch("g", later)
        assert train_step(cursor) == ahead[step]
    assert plan.stage_plan("g").matrix.tobytes() == quiet.plan.stage_plan("g").matrix.tobytes()


def test_a_static_stage_is_always_ready():
    plan = plan_of(static(), turns(steps=5), adaptive(), table=table_of(80))
    assert all(plan.ready("s", step) for step in range(4)) and all(plan.ready("both", step) for step in range(5))
    assert not plan.ready("g", 0), "nothing is planned before there is a cursor"


@FEW
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_windows_do_not_depend_on_the_order_or_the_ranks_of_observations(random, world):
    """Each rank observes `rows[rank::world]` in any order; the sums of the ranks are added in any order."""
    plain = Cursor(plan_of(adaptive()), "g")
    train(plain)
    cursor = Cursor(plan_of(adaptive()), "g")
    for step in range(9):
        rows, ranks = cursor.plan.batch("g", step)[0], list(range(world))
        random.shuffle(ranks)
        total = np.zeros((len(SUMS), len(cursor.plan.cells)))
        for rank in ranks:
            mine = rows[rank::world].tolist()
            random.shuffle(mine)
            for seen in answers(cursor.plan, np.array(mine, np.int64)):
                total = total + seen.sums(len(cursor.plan.cells))
        cursor.observe(total)
        cursor.trained()
    assert cursor.plan.stage_plan("g").matrix.tobytes() == plain.plan.stage_plan("g").matrix.tobytes()
    assert as_json(cursor.state()) == as_json(plain.state())


def test_sums_of_another_shape_are_refused():
    cursor = Cursor(plan_of(adaptive()), "g")
    with pytest.raises(ValueError, match=r"sums must have the shape \(8, 6\), got \(8, 5\)"):
        cursor.observe(np.zeros((8, 5)))


@LAW
@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.data())
def test_an_adaptive_stage_deals_nothing_twice_and_keeps_off_the_static_rows(seed, size, window, lag, data):
    """Its windows are exact, and with the last rows it empties what the others left."""
    table = table_of(data.draw(st.integers(8, 60)), seed)
    others = [static("s", budget={"samples": 3}), static("t", budget={"samples": 2}, pool={"source": ["a", "b"]})]
    assume((table.text("source").codes < 2).sum() >= 5)
    room = len(table) - 5
    samples = data.draw(st.one_of(st.just(room), st.integers(1, room)))
    stage = adaptive(batch_size=size, window=window, lag=lag, budget={"samples": samples})
    cursor = Cursor(plan_of(*others, stage, table=table), "g")
    plan = cursor.plan
    train(cursor)
    dealt = plan.stage_plan("g")
    assert dealt.matrix.min() >= 0 and dealt.matrix.sum(axis=1).tolist() == np.diff(dealt.edges).tolist()
    assert np.diff(dealt.edges).tolist()[:-1] == [size * window] * (len(dealt.matrix) - 1)
    rows = [dealt_rows(plan, name).tolist() for name in ("s", "t", "g")]
    assert [len(part) for part in rows] == [3, 2, samples]
    assert len(set(joined(rows))) == 5 + samples
    alone = plan_of(*others, table=table)
    assert [dealt_rows(alone, name).tolist() for name in ("s", "t")] == rows[:2]


def test_an_adaptive_stage_may_have_all_that_is_left_and_no_more():
    """10 rows are left: four steps of three, the last one padded. It does not stop early: an eleventh is an error."""
    stages = [static(budget={"samples": 50}), adaptive(budget={"samples": 10})]
    plan = plan_of(*stages)
    cursor = Cursor(plan, "g")
    assert plan.num_steps("g") == 4 and plan.stage_plan("g").rows == 10
    assert plan.batch("g", 0)[1].tolist() == [1, 1, 1]
    train(cursor)
    assert plan.batch("g", 3)[1].tolist() == [1, 0, 0]
    stages[1]["budget"] = {"samples": 11}
    with pytest.raises(InputError, match="stage 'g' wants 11 rows of all rows, 10 are left after s; lower the budget"):
        plan_of(*stages)


def few_good_rows(count):
    """`count` rows, six of them with contribution 1, the others with 0."""
    ac = np.array([0.0] * (count - 6) + [1.0] * 6)
    return Table(splitmix64(np.arange(count, dtype=np.uint64)), {"ac": ac, "num_choices": np.full(count, 4.0)})


GOOD = {"batch_size": 2, "on_short": "stop", "budget": {"steps": 20}, "weight": {"threshold": {"by": "ac", "at": 0.9}}}


@pytest.mark.parametrize("block", [4, 8, 3, 6])
def test_a_stage_that_may_stop_does_so_when_the_cells_that_it_wants_are_empty(block):
    """Six rows have a positive weight. In blocks of 3 or 6 the last of them ends a block, and the next one is empty."""
    plan = plan_of(static(**GOOD, block=block), table=few_good_rows(30), cells=["ac"])
    assert plan.stage_plan("s").rows == 6 and plan.num_steps("s") == 3


def test_an_adaptive_stage_whose_wanted_cells_run_empty_says_so():
    """Six rows have a positive weight: three windows of a step. It may not stop, so there is nothing for the fourth.

    That one is planned as the second window closes, and would stand at 3.5 of 10 steps.
    """
    stage = adaptive(**GOOD | {"on_short": "error", "window": 1, "budget": {"steps": 10}})
    cursor = Cursor(plan_of(stage, table=few_good_rows(30), cells=["ac"]), "g")
    rows = joined(train(cursor, 1))
    with pytest.raises(InputError, match="no cell of the pool with rows left has a positive weight at 35.0%"):
        train(cursor, 1)
    rows += joined(cursor.plan.batch("g", step)[0].tolist() for step in (1, 2))
    assert len(set(rows)) == 6 and not cursor.plan.ready("g", 3)


SHORT = [
    (static(budget={"samples": 55}), adaptive(budget={"samples": 6})),
    (adaptive(batch_size=2, budget={"steps": 20}, weight={"threshold": {"by": "ac", "at": 0.97}}),),
    (static(budget={"samples": 55}), adaptive(budget={"hours": 9}, weight="uniform")),
]


@pytest.mark.parametrize("stages", SHORT, ids=["rows", "cells", "hours"])
def test_an_adaptive_stage_that_is_short_is_not_sent_to_what_it_may_not_have(stages):
    with pytest.raises(InputError) as caught:
        train(Cursor(plan_of(*stages, cells={"ac": {"column": "ac", "bins": 20}}), "g"))
    assert "lower the budget" in str(caught.value) and "on_short" not in str(caught.value)


def test_looking_at_a_plan_does_not_change_what_it_deals():
    def matrix(look):
        plan = plan_of(adaptive(batch_size=5, budget={"steps": 6}, weight={"useful": {}}), table=table_of(61))
        if look:
            fresh = plan.stage_plan("g").matrix.copy()
            assert describe(plan)["stages"]["g"]["windows"] == [2, 3] == describe(plan)["stages"]["g"]["windows"]
            assert plan.stage_plan("g").matrix.tolist() == fresh.tolist() and not plan.ready("g", 0)
        train(Cursor(plan, "g"))
        return plan.stage_plan("g").matrix.tolist()

    assert matrix(look=True) == matrix(look=False)


def test_looking_at_a_plan_in_the_middle_of_a_run_does_not_change_it_either():
    one, other = Cursor(plan_of(adaptive()), "g"), Cursor(plan_of(adaptive()), "g")
    for _ in range(9):
        train_step(one)
        train_step(other)
        describe(other.plan)
        assert other.state() == one.state()


# A fork: another curriculum goes on from where a run stands.

OTHER = {"seed": 8, "cells": {"ac": {"column": "ac", "bins": 5}, "where": "source"}}
REST = static(
    "rest",
    batch_size=7,
    budget={"samples": 1000},
    on_short="stop",
    weight={"softmax": {"by": "ac", "temperature": -0.2}},
)
RUNS = {
    "one stage": (spec(static()), "s"),
    "a later pass": (spec(static(budget={"samples": 14, "epochs": 3})), "s"),
    "a second stage": (spec(static(budget={"samples": 9, "epochs": 2}, block=4), static("t", algorithm="grpo")), "t"),
    "a stage that claims first": (spec(static(), static("t", claim="first"), static("u")), "t"),
    "turns": (spec(static(), turns(), static("t")), "both"),
    "after turns": (spec(turns(), static("t")), "t"),
    "an adaptive stage": (spec(adaptive()), "g"),
    "an adaptive second stage": (spec(static(), adaptive(lag=2)), "g"),
    "an adaptive stage after turns": (spec(static(), turns(steps=5), adaptive()), "g"),
}


def trained_before(plan, stage):
    """Rows of the stages listed before this one (or before the interleave): all of them were trained."""
    members, rows = plan.members(stage), []
    for name in plan.stages:
        if name in members:
            return rows
        rows += dealt_rows(plan, name).tolist()
    raise AssertionError(stage)


@pytest.mark.parametrize("what", RUNS)
def test_a_fork_at_any_step_deals_every_other_row_and_none_that_was_trained(what):
    """Other cells, another seed and other weights; the state goes through JSON."""
    mapping, stage = RUNS[what]
    cursor = Cursor(Plan(parse_curriculum(mapping), TABLE), stage)
    trained = trained_before(cursor.plan, stage)
    for step in range(cursor.plan.num_steps(stage) + 1):
        used = fork(as_json(cursor.state()), TABLE)
        other = Plan(parse_curriculum(spec(REST, **OTHER)), TABLE, used)
        rows = dealt_rows(other, "rest").tolist()
        assert not set(rows) & set(trained)
        assert sorted(rows) == np.flatnonzero(~used).tolist()
        whole = trained
        if cursor.adapts:  # a window is dealt as a whole: the rest of the open one counts as used
            ahead = range(step, min(cursor.plan.num_steps(stage), -(-step // 2) * 2))
            whole = trained + [row for later in ahead for row in cursor.plan.batch(stage, later)[0].tolist()]
        assert set(np.flatnonzero(used).tolist()) == set(whole)
        if step < cursor.plan.num_steps(stage):
            trained = trained + train_step(cursor)


def test_an_adaptive_stage_goes_on_from_a_fork():
    """All the rows that the first run left, window by window."""
    cursor = Cursor(plan_of(static(), adaptive()), "g")
    before = trained_before(cursor.plan, "g") + joined(train(cursor, 5))
    used = fork(as_json(cursor.state()), TABLE)
    left = int((~used).sum())
    assert left == 60 - 14 - 18  # three windows of six rows were begun
    other = Plan(parse_curriculum(spec(adaptive("again", budget={"samples": left}), **OTHER)), TABLE, used)
    rows = joined(train(Cursor(other, "again")))[:left]
    assert sorted(rows) == np.flatnonzero(~used).tolist() and not set(rows) & set(before)


def test_budgets_of_a_fork_are_of_what_is_left():
    """40 of 60 rows were used: a half of the pool is 10 rows, and all of it, three times, is 20."""
    used = np.arange(60) < 40
    half, whole = (plan_of(static(budget=budget), used=used) for budget in ({"fraction": 0.5}, {"epochs": 3}))
    assert (
        half.stage_plan("s").rows == 10 and whole.stage_plan("s").rows == 20 and whole.stage_plan("s").presented == 60
    )
    assert sorted(dealt_rows(whole, "s").tolist()) == list(range(40, 60))


def test_hours_of_a_fork_are_hours():
    """A minute each: 20 minutes are 20 rows, also where 60 of 100 rows are used."""
    one_cell = Categorical(np.zeros(100, np.int32), ("weak",))
    columns = {"label": one_cell, "duration_s": np.full(100, 60.0)}
    table = Table(splitmix64(np.arange(100, dtype=np.uint64)), columns)
    plan = plan_of(static(budget={"hours": 1 / 3}), table=table, used=np.arange(100) < 60, cells=["label"])
    assert plan.stage_plan("s").rows == 20


def test_a_plan_knows_by_its_fingerprint_what_was_used():
    none, used = np.zeros(60, bool), np.zeros(60, bool)
    used[7] = True
    prints = [plan_of(static(), used=mask).fingerprint for mask in (None, none, used)]
    assert prints[0] == prints[1] != prints[2]


def forked(cursor, *stages, **top):
    """A plan of other stages that goes on from where the cursor stands."""
    state = as_json(cursor.state())
    return plan_of(*stages, used=fork(state, TABLE), origin=state, **top)


def test_a_fork_can_be_forked_again():
    """And again, by an adaptive run in other cells; the last fork has all that is left."""
    first = Cursor(plan_of(static()), "s")
    trained = joined(train(first, 2))
    second = Cursor(forked(first, static(), seed=5), "s")
    trained += joined(train(second, 2))
    assert set(np.flatnonzero(fork(as_json(second.state()), TABLE)).tolist()) == set(trained)
    third = Cursor(forked(second, adaptive(), **OTHER), "g")
    trained += joined(train(third, 4))
    assert set(np.flatnonzero(fork(as_json(third.state()), TABLE)).tolist()) == set(trained)
    rest = dealt_rows(forked(third, REST), "rest").tolist()
    assert len(trained) == 8 + 8 + 12 and sorted(trained + rest) == list(range(60))


def test_a_fork_of_a_fork_is_resumed_from_its_state():
    """In a process of its own, which knows the state alone; a plan without the fork's past is another plan."""
    first = Cursor(plan_of(static()), "s")
    train(first, 2)
    second = Cursor(forked(first, adaptive(), **OTHER), "g")
    train(second, 5)
    state = as_json(second.state())
    again = Cursor(plan_of(adaptive(), used=fork(state["fork_of"], TABLE), origin=state["fork_of"], **OTHER), "g")
    again.load(state)
    assert again.state() == state and train(again) == train(second)
    with pytest.raises(InputError, match="the table changed since the checkpoint"):
        Cursor(plan_of(adaptive(), **OTHER), "g").load(state)


def test_a_fork_with_disjoint_recordings_keeps_off_those_of_the_used_rows():
    """Of all runs before it; without the rule the other rows of these recordings are dealt too."""
    clip = TABLE.columns["clip"]
    strict = {"disjoint": ["uid", "clip"]}
    first = Cursor(plan_of(static(), **strict), "s")
    trained = joined(train(first, 2))
    second = Cursor(forked(first, static(), seed=5, **strict), "s")
    assert not np.isin(clip[dealt_rows(second.plan, "s")], clip[trained]).any()
    trained += joined(train(second, 2))
    rest = dealt_rows(forked(second, REST, **strict), "rest").tolist()
    free = ~np.isin(clip, clip[trained])
    assert sorted(rest) == np.flatnonzero(free).tolist() and 0 < len(rest) < 60 - len(trained)
    loose = dealt_rows(forked(second, REST), "rest").tolist()
    assert sorted(loose + trained) == list(range(60)), "the guard: without the rule all the others are dealt"


@pytest.mark.parametrize("budget", [{"epochs": 1}, {"fraction": 1.0}])
def test_budgets_of_a_fork_with_disjoint_recordings_are_of_what_may_be_dealt(budget):
    """All of the pool is all that the fork may deal, as it is where recordings do not matter."""
    used, clip = np.arange(60) < 20, TABLE.columns["clip"]
    plan = plan_of(static(budget=budget), used=used, disjoint=["uid", "clip"])
    assert plan.stage_plan("s").rows == int((~np.isin(clip, clip[used])).sum())


# What a state belongs to.


def test_a_state_of_another_stage_is_refused():
    plan = plan_of(static(), static("t"))
    with pytest.raises(InputError) as caught:
        Cursor(plan, "t").load(Cursor(plan, "s").state())
    assert str(caught.value) == "the checkpoint is of stage 's', this run of 't'"


def axis_of(column):
    return {"bins": 32, "by": "quantile", "column": column, "edges": None, "name": column}


EDITS = [
    ({}, {"seed": 4}, "seed was 3, is 4"),
    ({"budget": {"samples": 15}}, {}, "stages[0].budget.samples was 14, is 15"),
    ({"pool": {"label": "weak"}}, {}, 'stages[0].pool.label was not there, is "weak"'),
    ({"batch_size": 5}, {}, "stages[0].batch_size was 4, is 5"),
    ({"weight": {"power": {"by": "ac"}}}, {}, 'stages[0].weight was "uniform", is {"power": {"by": "ac"}}'),
    ({"loss_weight": {"power": "ac"}}, {}, 'stages[0].loss_weight was not there, is {"power": "ac"}'),
    ({}, {"cells": {"label": "label", "source": {"bins": 8}}}, "cells[1].bins was 32, is 8"),
    ({}, {"cells": ["label"]}, f"cells was {json.dumps([*map(axis_of, AXES)])}, is {json.dumps([axis_of('label')])}"),
    ({}, {"columns": {"label": {"permute": {}}}}, 'columns.label was not there, is {"permute": {}}'),
    ({}, {"disjoint": ["uid", "clip"]}, 'disjoint was "uid", is "clip, uid"'),
]


@pytest.mark.parametrize(("stage", "top", "changed"), EDITS, ids=[edit[2].split(" was ")[0] for edit in EDITS])
def test_a_state_of_another_curriculum_is_refused_with_the_key_that_changed(stage, top, changed):
    """With the old value and the new one."""
    state = as_json(Cursor(plan_of(static()), "s").state())
    other = Cursor(plan_of(static(**stage), **top), "s")
    with pytest.raises(InputError) as caught:
        other.load(state)
    way_out = "; start the stage anew, or fork it with `replan`"
    assert str(caught.value) == f"the curriculum changed since the checkpoint: {changed}{way_out}"
    assert other.step == 0


@pytest.mark.parametrize("default", [{"pool": {}}, {"mix": "spread", "claim": 0, "weight": "uniform", "probe": None}])
def test_a_run_goes_on_where_a_default_was_written_out_or_dropped(default):
    plain, spelt = Cursor(plan_of(static()), "s"), Cursor(plan_of(static(**default)), "s")
    for one, other in ((plain, spelt), (spelt, plain)):
        one.trained()
        other.load(as_json(one.state()))
        assert other.step == one.step


def test_a_state_over_another_table_is_refused():
    """Fewer rows, other rows, and the same rows with other labels; the order of the file is no difference."""
    state = as_json(Cursor(plan_of(static()), "s").state())
    relabelled = np.array(TABLE.text("label").codes)
    relabelled[5] = 1 - relabelled[5]
    tables = {
        "fewer": TABLE.take(np.arange(59)),
        "other": Table(TABLE.uid + np.uint64(1), TABLE.columns),
        "labels": Table(TABLE.uid, TABLE.columns | {"label": Categorical(relabelled, ("weak", "strong"))}),
    }
    said = {}
    for name, table in tables.items():
        with pytest.raises(InputError) as caught:
            Cursor(plan_of(static(), table=table), "s").load(state)
        said[name] = str(caught.value).partition(";")[0]
    assert said.pop("fewer") == "the table changed since the checkpoint: 60 rows then, 59 now"
    others = "the table changed since the checkpoint: as many rows, but other ones, or other labels"
    assert set(said.values()) == {others}
    reordered = Cursor(plan_of(static(), table=TABLE.take(np.arange(60)[::-1])), "s")
    reordered.load(state)


def columns_changed(column):
    """Two plans over the same rows in the same cells, whose tables differ in a column that decides what is dealt."""
    stage, top, values = {
        "ac": (static(weight={"power": {"by": "ac", "gamma": 2.0}}), {}, TABLE.columns["ac"][::-1]),
        "duration_s": (static(budget={"hours": 0.05}), {}, 2 * TABLE.columns["duration_s"]),
        "clip": (static(), {"disjoint": ["uid", "clip"]}, TABLE.columns["clip"][::-1]),
    }[column]
    other = Table(TABLE.uid, TABLE.columns | {column: values})
    return [plan_of(stage, static("t"), table=table, **top) for table in (TABLE, other)]


@pytest.mark.parametrize("column", ["ac", "duration_s", "clip"])
def test_a_column_that_is_no_axis_may_decide_what_is_dealt(column):
    """The guard of the next test: a weight's number, the lengths that hours are counted in, the recordings."""
    one, other = columns_changed(column)
    assert any(dealt_rows(one, name).tolist() != dealt_rows(other, name).tolist() for name in ("s", "t"))


OTHER_TABLE = "the table changed since the checkpoint: as many rows, but other ones, or other labels"


@pytest.mark.parametrize("column", ["ac", "duration_s", "clip"])
def test_a_state_over_a_table_that_deals_other_rows_is_refused(column):
    """Otherwise a resumed run goes on with other rows, and deals some of them twice, without a word."""
    one, other = columns_changed(column)
    state = as_json(Cursor(one, "s").state())
    with pytest.raises(InputError, match=OTHER_TABLE):
        Cursor(other, "s").load(state)


@pytest.mark.parametrize(
    ("stage", "column"),
    [
        (static(loss_weight={"power": "ac"}), "ac"),
        (adaptive("s", feedback={"contribution": {"from": "ac"}}), "ac"),
        (adaptive("s", feedback={"contribution": {"audio": 0.5}}), "num_choices"),
        (adaptive("s", weight={"product": ["useful", {"power": "duration_s"}]}), "duration_s"),
    ],
    ids=["loss weights", "a prior", "another prior", "a factor beside what is observed"],
)
def test_a_state_over_a_table_of_other_weights_or_priors_is_refused(stage, column):
    """The rows of the static stage are the same, and their weights are not; windows are planned from other columns."""
    draw = np.random.default_rng(1)
    values = draw.integers(2, 6, 60).astype(float) if column == "num_choices" else TABLE.columns[column][::-1]
    other = Table(TABLE.uid, TABLE.columns | {column: values})
    state = as_json(Cursor(plan_of(stage), "s").state())
    with pytest.raises(InputError, match=OTHER_TABLE):
        Cursor(plan_of(stage, table=other), "s").load(state)


def test_a_column_that_nothing_reads_may_change():
    other = Table(TABLE.uid, TABLE.columns | {"ac": TABLE.columns["ac"][::-1]})
    for stage in (static(), adaptive("s", feedback={"contribution": {"audio": 0.5}})):
        Cursor(plan_of(stage, table=other), "s").load(as_json(Cursor(plan_of(stage), "s").state()))


def one_cell(neighbour):
    """Twelve rows of one cell, each with its own recording, but that `neighbour` shares the first dealt row's."""
    clip = np.arange(12, dtype=np.uint64)
    columns = {"label": Categorical(np.zeros(12, np.int32), ("weak",)), "num_choices": np.full(12, 4.0)}
    table = Table(splitmix64(np.arange(12, dtype=np.uint64)), columns | {"ac": np.full(12, 0.5), "clip": clip})
    first = dealt_rows(plan_of(static(budget={"samples": 1}), table=table, cells=["label"]), "s")[0]
    clip[[row for row in range(12) if row != first][neighbour]] = clip[first]
    return table


def test_a_state_over_other_recordings_is_refused_where_they_decide_what_an_adaptive_stage_deals():
    """Another row is left out for its recording, as many of each cell: the static stage's rows are the same."""
    stages = [static(budget={"samples": 1}), adaptive(budget={"samples": 10})]
    plans = [plan_of(*stages, table=one_cell(k), cells=["label"], disjoint=["uid", "clip"]) for k in (0, 1)]
    one, other = (Cursor(plan, "g") for plan in plans)
    state = as_json(one.state())
    assert set(joined(train(one))) != set(joined(train(other))), "the guard: other rows are dealt"
    with pytest.raises(InputError, match=OTHER_TABLE):
        Cursor(plans[1], "g").load(state)


def test_the_order_of_the_feedback_in_a_file_says_nothing():
    """YAML that is written anew sorts its keys."""
    stage = adaptive()
    turned = stage | {"feedback": dict(reversed(stage["feedback"].items()))}
    assert list(turned["feedback"]) != list(stage["feedback"])
    assert plan_of(turned).fingerprint == plan_of(stage).fingerprint


def test_a_state_is_written_whole_and_read_back(tmp_path):
    """Beside the target first, so that a reader never sees half a state; the folder is made."""
    cursor = Cursor(plan_of(static(), adaptive()), "g")
    train(cursor, 3)
    path = tmp_path / "new" / "state.json"
    for _ in range(2):
        write_state(cursor.state(), path)
        assert read_state(path) == cursor.state() and [p.name for p in path.parent.iterdir()] == ["state.json"]
        train(cursor, 1)


def test_a_state_file_that_is_missing_or_broken_is_named(tmp_path):
    missing, broken = tmp_path / "none.json", tmp_path / "half.json"
    broken.write_text('{"stage": "s"')
    with pytest.raises(InputError) as caught:
        read_state(missing)
    assert str(caught.value) == f"{missing}: not found; a run writes it to the file that `training.record` names"
    with pytest.raises(InputError, match="half.json: not the state of a curriculum"):
        read_state(broken)


def test_differences_name_nested_values_by_their_path():
    """In the order of the keys; a side that has no such key is None; lists of other lengths differ as wholes."""
    one = {"b": {"c": [2, {"d": 3}], "e": {}, "same": [1, {"x": 2}]}, "a": 1, "gone": {"k": 0}, "l": [1, 2]}
    other = {"l": [1], "a": 2, "b": {"c": [5, {"d": 4, "f": True}], "e": [], "same": [1, {"x": 2}]}, "new": "n"}
    assert list(differences(one, other)) == [
        ("a", 1, 2),
        ("b.c[0]", 2, 5),
        ("b.c[1].d", 3, 4),
        ("b.c[1].f", None, True),
        ("b.e", {}, []),
        ("gone", {"k": 0}, None),
        ("l", [1, 2], [1]),
        ("new", None, "n"),
    ]
    assert list(differences({"a": None}, {})) == [], "no key and a key without a value are alike"
    assert list(differences(1, 2, "top")) == [("top", 1, 2)] and list(differences([], [])) == []


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from("xyz"),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("abcd"), part, max_size=3),
    max_leaves=12,
)


def without_nothing(value):
    """The value without the keys that hold None; True and 1 are equal in Python, and so they are here."""
    if isinstance(value, dict):
        return {key: without_nothing(part) for key, part in value.items() if part is not None}
    return [without_nothing(part) for part in value] if isinstance(value, list) else value


@LAW
@given(nested, nested)
def test_differences_are_empty_only_of_what_is_the_same(one, other):
    """And the same ones, turned round, from the other side."""
    found = list(differences(one, other))
    assert list(differences(one, json.loads(json.dumps(one)))) == []
    if found:
        assert one != other
    else:
        assert without_nothing(one) == without_nothing(other)
    assert [(path, new, old) for path, old, new in found] == list(differences(other, one))
    assert len({path for path, _, _ in found}) == len(found)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"feedback": None}, "stage 'g': a window needs `feedback`, e.g. {contribution: {}}"),
        ({"window": None}, "stage 'g': what follows observations needs a `window`, a number of steps"),
        ({"window": None, "weight": "uniform"}, "stage 'g': what follows observations needs a `window`"),
        (
            {"window": None, "weight": "bandit", "feedback": None},
            "stage 'g': what follows observations needs a `window`",
        ),
        ({"window": 0}, "stage 'g': window must be a whole number of at least 1, got 0"),
        ({"window": 2.0}, "curriculum.stages[0].window must be a whole number or null, got 2.0"),
        ({"lag": 0}, "stage 'g': lag must be a whole number of at least 1, got 0"),
        ({"budget": {"samples": 9, "epochs": 2}}, "stage 'g': an adaptive stage has one pass and on_short: error"),
        ({"on_short": "repeat"}, "stage 'g': an adaptive stage has one pass and on_short: error"),
        ({"on_short": "stop"}, "stage 'g': an adaptive stage has one pass and on_short: error"),
        ({"loss_weight": "uniform"}, "stage 'g': an adaptive stage has no loss_weight; its mean is not known"),
        ({"probe": {"rate": 0.0}}, "probe: rate lies in (0, 1]"),
        ({"probe": {"rate": 0.5, "how": "guess"}}, "probe.how must be 'option_logprob' or 'rollout', got 'guess'"),
        ({"probe": {"condition": "noise"}}, "probe.condition must be 'silence', got 'noise'"),
        ({"probe": {"rat": 0.5}}, "curriculum.stages[0].probe: unknown key 'rat'; did you mean 'rate'?"),
        ({"feedback": {"contribution": {"stength": 1}}}, "unknown argument 'stength'; did you mean 'strength'?"),
        (
            {"on_zero_advantage": "skip"},
            "on_zero_advantage must be one of 'keep', 'drop', 'refill_same_cell', got 'skip'",
        ),
    ],
)
def test_an_adaptive_stage_that_cannot_be_is_refused(stage, message):
    with pytest.raises(InputError) as caught:
        parse_curriculum(spec(adaptive(**stage)))
    assert message in str(caught.value)


def test_a_weight_that_reads_what_no_feedback_gives_is_named_when_the_run_starts():
    stage = adaptive(weight={"power": {"by": "live.target"}})
    stage["feedback"] = {"contribution": {"from": "ac"}}
    with pytest.raises(
        InputError, match=r"no observed column 'live.target'; there are live.p, live.p_silence, live.ac"
    ):
        Cursor(plan_of(stage), "g")


@pytest.mark.parametrize(
    ("stages", "which"),
    [
        ([adaptive(), adaptive("h")], "g, h"),
        ([adaptive(), static()], "g"),
        ([static(), adaptive(), static("t", claim=2)], "g"),
        ([static("t", claim=2), adaptive(claim=1), static()], "g"),
        ([static(), adaptive(), turns(steps=5)], "g"),
    ],
)
def test_only_the_last_stage_may_adapt(stages, which):
    """A later stage is a process of its own: it compiles the plan anew and would never see the windows."""
    with pytest.raises(InputError) as caught:
        plan_of(*stages)
    assert str(caught.value) == f"only the last stage may adapt to what is observed, got {which}"


def test_an_adaptive_stage_may_be_listed_last_and_claim_first():
    """It deals from what the others leave all the same."""
    plan = plan_of(static(), turns(steps=5), adaptive(claim="first"))
    train(Cursor(plan, "g"))
    rows = [dealt_rows(plan, name).tolist() for name in plan.stages]
    assert len(set(joined(rows))) == sum(map(len, rows)) == 14 + 9 + 4 + 27


def test_hours_of_an_adaptive_stage_that_reads_no_observation_are_counted():
    """0.05 h are 180 s of 2 to 19 s each."""
    rows = plan_of(adaptive(budget={"hours": 0.05}, weight="uniform")).stage_plan("g").rows
    assert rows == pytest.approx(180 / TABLE.columns["duration_s"].mean(), abs=2)


@pytest.mark.parametrize(
    "stage", [adaptive(budget={"hours": 0.05}), static(budget={"hours": 0.05}, weight={"power": "acc"})]
)
def test_hours_are_counted_or_refused_with_the_way_out(stage):
    """0.05 h pay for some 17 rows, so "less than one row" is untrue: of a weight that reads observations or no column.

    An adaptive stage has its window and its feedback: a sentence that asks for them helps nobody.
    """
    try:
        assert plan_of(stage).stage_plan(stage["name"]).rows > 10
    except InputError as error:
        assert "pay for less than one row" not in str(error)
        assert "give the stage a window and feedback" not in str(error)


@pytest.mark.parametrize(
    "weight",
    [
        {"softmax": {"by": "live.p", "temperature": {"linear": {"from": 1.0, "to": 0.0}}}},
        {"self_paced": {"by": "live.p", "limit": {"linear": {"from": 0.0, "to": 20.0}}}},
    ],
)
def test_a_pace_may_end_where_no_window_stands(weight):
    """Windows stand at their middles, 0.11 ... 0.94: a temperature that would be 0 at the very end is never 0."""
    cursor = Cursor(plan_of(adaptive(weight=weight)), "g")
    assert len(joined(train(cursor))) == 27


# Stages that take turns.

weights = st.lists(st.integers(1, 9), min_size=2, max_size=4)


def shared_turns(steps, paces):
    """The turns of an interleave of `len(paces)` members, the first one without a pace of its own."""
    members = [{"name": f"m{k}", "algorithm": "sft", "batch_size": 1} for k in range(len(paces))]
    share = {f"m{k}": pace for k, pace in enumerate(paces) if k}
    group = {"name": "all", "interleave": {"steps": steps, "share": share}, "stages": members}
    return plan_of(group, table=table_of(steps)).turns["all"]


def furthest(turns, shares):
    """The largest distance between turns had and turns wanted, over all members and prefixes."""
    had = np.cumsum(np.eye(shares.shape[1])[turns], axis=0)
    return np.abs(had - np.cumsum(shares, axis=0)).max()


@LAW
@given(weights, st.integers(40, 60))
def test_turns_have_constant_shares_on_every_prefix_within_one_turn(weights, steps):
    shares = np.array(weights) / sum(weights)
    turns = shared_turns(steps, shares.tolist())
    assert furthest(turns, np.tile(shares, (steps, 1))) < 1


@LAW
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 5), st.integers(0, 5), st.integers(20, 60))
def test_turns_have_linear_shares_on_every_prefix_within_one_turn(a0, a1, b0, b1, steps):
    """m1 goes from a0 to a1 tenths, m2 from b0 to b1, m0 has the rest; a step's share is that of its middle."""
    ends = np.array([[10 - a0 - b0, a0, b0], [10 - a1 - b1, a1, b1]]) / 10
    t = (np.arange(steps)[:, None] + 0.5) / steps
    shares = ends[0] * (1 - t) + ends[1] * t
    kept = [k for k in range(3) if shares[:, k].sum() >= 1.5]  # a member with less may have no turn at all
    assume(len(kept) == 3)
    turns = shared_turns(steps, [0, *({"linear": {"from": ends[0, k], "to": ends[1, k]}} for k in (1, 2))])
    assert furthest(turns, shares) < 1


def test_turns_by_hand():
    """Shares 0.6 and 0.4: the debts are (.6, .4), (.2, .8), (.8, .2), (.4, .6), (1, 0); the largest has the turn."""
    assert shared_turns(10, [None, 0.4]).tolist() == [0, 1, 0, 1, 0] * 2
    # Equal debts: the member that is listed first.
    assert shared_turns(6, [None, 0.5]).tolist() == [0, 1] * 3


def fitted(rows, at_most, before=0):
    """Two members in turns, with batches of 4 and 1, over so many rows of which an earlier stage takes some."""
    members = [{"name": name, "algorithm": "sft", "batch_size": size} for name, size in (("x", 4), ("y", 1))]
    turns = {"steps": 100, "share": {"y": 0.5}, "at_most": at_most}
    stages = [{"name": "both", "interleave": turns, "stages": members}]
    if before:
        stages.insert(0, {"name": "s", "algorithm": "sft", "batch_size": 1, "budget": {"samples": before}})
    return plan_of(*stages, table=table_of(rows))


@pytest.mark.parametrize(
    ("rows", "at_most", "steps"), [(250, 1.0, 100), (1000, 0.25, 100), (40, 1.0, 16), (40, 0.5, 8)]
)
def test_turns_are_as_many_as_fit_what_is_left(rows, at_most, steps):
    """A pair of steps takes five rows: 250 for a hundred steps."""
    for before in (0, 12):
        plan = fitted(rows + before, at_most, before)
        assert plan.num_steps("both") == steps and plan.turns["both"].tolist() == [0, 1] * (steps // 2)
        assert [plan.stage_plan(name).rows for name in "xy"] == [2 * steps, steps // 2]
        assert plan.batch("both", steps - 1)[1].tolist() == [1.0]


def test_a_member_that_would_stop_in_the_middle_of_the_turns_is_refused():
    """Every second turn takes two weak rows: there are two too few, or just enough."""
    table = table_of(16, 0)
    weak = int((table.text("label").codes == 0).sum())
    member = {"name": "weak", "algorithm": "sft", "batch_size": 2, "pool": {"label": "weak"}, "on_short": "stop"}
    other = {"name": "x", "algorithm": "sft", "batch_size": 1, "on_short": "repeat"}
    stages = [{"name": "all", "interleave": {"steps": weak + 2, "share": {"weak": 0.5}}, "stages": [member, other]}]
    with pytest.raises(InputError, match=f"stage 'weak' has {weak} rows for the {weak + 2} of its turns; give the"):
        plan_of(*stages, table=table)
    stages[0]["interleave"]["steps"] = weak // 2 * 2
    assert plan_of(*stages, table=table).stage_plan("weak").steps == weak // 2


def test_turns_without_a_batch_of_each_are_refused():
    with pytest.raises(InputError) as caught:
        fitted(9, 0.5)
    assert str(caught.value) == (
        "interleave 'both': at_most 0.5 of the 9 rows left is less than one batch of each, 4 of x and 1 of y; make "
        "their batch_size smaller"
    )
    with pytest.raises(
        InputError, match=r"stages\[0\].interleave: at_most is a share, more than 0 and at most 1; got 2"
    ):
        fitted(9, 2)


@LAW
@given(st.lists(st.lists(st.integers(1, 40), min_size=8, max_size=8), min_size=1, max_size=60), st.integers(2, 8))
def test_turns_of_many_members_have_their_shares_within_little_more(weights, members):
    """However the shares move: with M members within 1/2 + 1/3 + ... + 1/M turns, 0.83 for three, 1.08 for four."""
    shares = np.array(weights, float)[:, :members]
    shares = np.tile(shares / shares.sum(1, keepdims=True), (-(-60 // len(shares)), 1))
    assert furthest(apportion(shares), shares) <= sum(1 / k for k in range(2, members + 1)) + 1e-9


def test_the_batches_of_an_interleave_are_its_members_batches_in_order():
    """Each member's batches in their order, none left out; their rows are disjoint, also from the other stages."""
    plan = plan_of(static(), turns(share={"linear": {"from": 0.1, "to": 0.7}}))
    assert plan.num_steps("both") == 10 and plan.members("both") == ("x", "y") and plan.members("s") == ("s",)
    next_step = {"x": 0, "y": 0}
    for step, turn in enumerate(plan.turns["both"].tolist()):
        name = "xy"[turn]
        assert plan.member("both", step) == (name, next_step[name])
        rows, weights = plan.batch("both", step)
        wanted, their = plan.batch(name, next_step[name])
        assert rows.tolist() == wanted.tolist() and weights.tolist() == their.tolist() == [1.0] * len(rows)
        assert plan.passes("both", step).tolist() == [0] * len(rows)
        next_step[name] += 1
    # The share of y at the middles of ten steps is 0.13, 0.19, ... 0.67: four turns in all.
    assert next_step == {"x": 6, "y": 4} == {name: plan.num_steps(name) for name in "xy"}
    rows = [dealt_rows(plan, name).tolist() for name in ("s", "x", "y")]
    assert [len(part) for part in rows] == [14, 18, 8] and len(set(joined(rows))) == 40
    with pytest.raises(IndexError, match="interleave 'both' has 10 steps, asked for step 10"):
        plan.batch("both", 10)


def test_a_member_s_weight_moves_with_the_whole_interleave():
    """y has the second half: its steps stand at 0.55 ... 0.95 of the whole, and deal that share of strong rows."""
    group = turns(share={"steps": {"at": [0.5], "values": [0.0, 1.0]}})
    moving = {"weak": {"linear": {"from": 1.0, "to": 0.0}}, "strong": {"linear": {"from": 0.0, "to": 1.0}}}
    group["stages"][1] |= {"batch_size": 20, "block": 20, "weight": {"shares": moving}}
    plan = plan_of(group, table=table_of(400), cells=["label"])
    strong = plan.stage_plan("y").matrix[:, plan.cells.values("label").tolist().index("strong")]
    assert strong.tolist() == [11, 13, 15, 17, 19]


def broken(**edits):
    group = turns()
    for path, value in edits.items():
        if path in ("steps", "share"):
            group["interleave"][path] = value
        else:
            group[path] = value
    return group


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (broken(share={"x": 0.5, "y": 0.4}), "interleave 'both': the shares must lie in [0, 1] and add up to 1"),
        (broken(share={"x": 0.7, "y": 0.4}), "interleave 'both': the shares must lie in [0, 1] and add up to 1"),
        (broken(share={"y": 1.1}), "the shares must lie in [0, 1] and add up to 1 at every step"),
        (broken(share={"y": -0.1}), "the shares must lie in [0, 1] and add up to 1 at every step"),
        (broken(share={"y": {"linear": {"from": 0.5, "to": 1.5}}}), "must lie in [0, 1] and add up to 1 at every step"),
        (broken(share={}), "curriculum.stages[0].interleave: `share` says which share of the steps a member has"),
        (broken(share={"z": 0.5}), "curriculum.stages[0].interleave.share: unknown key 'z'; it knows x, y"),
        (broken(share={"y": 0.01}), "stage 'y': its share of the 10 steps is less than one"),
        (broken(steps=0), "curriculum.stages[0].interleave: steps must be a whole number of at least 1, got 0"),
        (broken(steps=None), "curriculum.stages[0].interleave.steps must be a whole number, got None"),
        (broken(stages=turns()["stages"][:1]), "curriculum.stages[0]: an interleave needs at least two `stages`"),
        (
            broken(stages=[static("x"), turns()["stages"][1]]),
            "curriculum.stages[0].stages[0]: the interleave says how many steps a member has; drop its budget",
        ),
        (
            broken(stages=[turns()["stages"][0], {k: v for k, v in adaptive("y").items() if k != "budget"}]),
            "curriculum.stages[0]: an adaptive stage cannot take turns with others",
        ),
        (broken(name="x"), "a curriculum needs stages with different names, got ['x', 'y', 'x']"),
        (broken(stagse=[]), "curriculum.stages[0]: unknown key 'stagse'; did you mean 'stages'?"),
    ],
)
def test_an_interleave_that_cannot_be_is_refused(group, message):
    with pytest.raises(InputError) as caught:
        plan_of(group)
    assert message in str(caught.value)


# What two stages never share, and who deals first.


@LAW
@given(st.integers(0, 999), st.integers(6, 60), st.integers(1, 12), st.permutations([0, 1, 2]), st.booleans())
def test_no_recording_is_in_two_stages(seed, count, clips, claims, adapts):
    """Rows of one recording may all be dealt, but by one stage; each stage deals all that is left to it if it must."""
    table = table_of(count, seed)
    clip = splitmix64(np.random.default_rng(seed).integers(0, clips, count).astype(np.uint64))
    table = Table(table.uid, table.columns | {"clip": clip})
    stages = [static(f"s{k}", claim=claim, on_short="stop", budget={"samples": 7}) for k, claim in enumerate(claims)]
    stages[0] |= {"pool": {"label": "weak"}}
    strict = {"table": table, "disjoint": ["uid", "clip"]}
    try:
        plan = plan_of(*(stages[:2] if adapts else stages), **strict)
    except InputError as error:
        # Some recording took all, or no row is weak.
        assert ", 0 are left" in str(error) or "the table has no row with label weak" in str(error)
        return
    if adapts:  # it must not be short: it gets what is left, and a row more is an error
        others = clip[joined(dealt_rows(plan, name).tolist() for name in plan.stages)]
        left = int((~np.isin(clip, others)).sum())
        with pytest.raises(InputError, match=f"stage 's2' wants {left + 1} rows of all rows, {left} are left after"):
            plan_of(*stages[:2], adaptive("s2", budget={"samples": left + 1}), **strict)
        if not left:
            return
        plan = plan_of(*stages[:2], adaptive("s2", budget={"samples": min(7, left)}), **strict)
        train(Cursor(plan, "s2"))
    taken = set()
    for k in sorted(range(3), key=lambda k: (adapts and k == 2, claims[k])):
        rows = dealt_rows(plan, f"s{k}")
        weak = table.text("label").codes == 0 if k == 0 else np.ones(count, bool)
        free = weak & ~np.isin(clip, np.array(sorted(taken), np.uint64))
        assert len(rows) == len(set(rows.tolist())) == min(7, int(free.sum())) and free[rows].all()
        taken |= set(clip[rows].tolist())


def test_members_that_take_turns_share_no_recording_either():
    plan = plan_of(turns(steps=12), table=table_of(120), disjoint=["uid", "clip"])
    clips = [set(plan.table.columns["clip"][dealt_rows(plan, name)].tolist()) for name in "xy"]
    assert clips[0] and clips[1] and not clips[0] & clips[1]
    loose = plan_of(turns(steps=12), table=table_of(120))
    loose_clips = [set(loose.table.columns["clip"][dealt_rows(loose, name)].tolist()) for name in "xy"]
    assert loose_clips[0] & loose_clips[1], "the guard: without the rule some are shared"


def test_disjoint_recordings_need_a_column_clip():
    columns = {name: values for name, values in TABLE.columns.items() if name != "clip"}
    with pytest.raises(InputError, match="no identity column 'clip' in the table; there are label, source"):
        plan_of(static(), static("t"), table=Table(TABLE.uid, columns), disjoint=["uid", "clip"])
    with pytest.raises(InputError, match="curriculum: disjoint knows uid, clip, got 'speaker'"):
        plan_of(static(), disjoint=["speaker"])


pools = st.sampled_from([{}, {"label": "weak"}, {"label": "strong"}, {"source": ["a", "b"]}])


@LAW
@given(pools, st.integers(1, 12), st.booleans(), st.lists(pools, max_size=2), st.integers(1, 9), st.booleans())
def test_who_claims_first_deals_the_same_rows_whatever_the_others_do(pool, samples, strict, others, budget, first):
    """Among stages over the same cells; listed first or last, with or without disjoint recordings."""
    mine = static("mine", pool=pool, claim="first", budget={"samples": samples})
    stages = [static(f"o{k}", pool=p, budget={"samples": budget}, on_short="stop") for k, p in enumerate(others)]
    top = {"disjoint": ["uid", "clip"]} if strict else {}
    try:
        plan = plan_of(*([mine, *stages] if first else [*stages, mine]), **top)
    except InputError as error:
        assert ", 0 are left after" in str(error)
        return
    assert dealt_rows(plan, "mine").tolist() == dealt_rows(plan_of(mine), "mine").tolist()


def test_who_claims_first_deals_the_same_rows_as_in_another_arm_only_where_both_have_the_same_cells():
    """The columns of pools become axes, and in finer cells the same number of rows is made up of other rows.

    An arm that names the column in its `cells` has the other arm's rows, though none of its own pools needs it.
    """
    mine = static("mine", pool={"label": "strong"}, claim="first", budget={"samples": 10})
    other = static("o", pool={"source": "a"})

    def rows(*stages, cells):
        return dealt_rows(plan_of(*stages, cells=cells), "mine").tolist()

    assert rows(mine, cells=AXES) == rows(other, mine, cells=["label"]) == rows(other, mine, cells=AXES)
    assert set(rows(mine, cells=["label"])) != set(rows(mine, cells=AXES)), "the guard: other cells, other rows"


@LAW
@given(st.lists(st.integers(1, 25), min_size=2, max_size=2), st.integers(1, 9), st.integers(0, 9))
def test_a_shorter_arm_s_rows_are_among_a_longer_one_s(budgets, block, seed):
    """Of one cell; over several, each cell's rows are nested, and rounding moves less than a row per cell."""
    short, long = (
        {
            name: plan_of(static(budget={"samples": n}, block=block, **more), seed=seed)
            for name, more in {"one": {"pool": {"label": "weak", "source": "a"}, "on_short": "stop"}, "all": {}}.items()
        }
        for n in sorted(budgets)
    )
    assert set(dealt_rows(short["one"], "s")) <= set(dealt_rows(long["one"], "s"))
    a, b = (set(dealt_rows(arm["all"], "s").tolist()) for arm in (short, long))
    number = short["all"].cell_of_row
    for cell in range(len(short["all"].cells)):
        mine, theirs = ({row for row in rows if number[row] == cell} for rows in (a, b))
        assert mine <= theirs or theirs < mine
        assert len(mine - theirs) <= 1


# Weights of rows in the loss.


def test_loss_weights_are_proportional_to_their_column():
    """Cells a, b, c with means 1, 2 and 5, and 4, 4, 2 rows dealt: the mean is 22 / 10, so x / 2.2."""
    source = np.repeat(np.int32([0, 1, 2]), [4, 4, 2])
    columns = {"source": Categorical(source, ("a", "b", "c")), "x": np.array([0.0, 2, 1, 1, 2, 2, 2, 2, 4, 6])}
    table = Table(splitmix64(np.arange(10, dtype=np.uint64)), columns)
    stage = static(budget={"samples": 10}, loss_weight={"power": {"by": "x", "gamma": 1.0}})
    plan = plan_of(stage, table=table, cells=["source"])
    found = {}
    for step in range(3):
        rows, weights = plan.batch("s", step)
        assert weights[(np.arange(4) + 4 * step) >= 10].tolist() == [0.0] * (2 if step == 2 else 0)
        found |= dict(zip(rows.tolist(), weights.tolist(), strict=True)) if step < 2 else {}
    assert len(found) == 8
    for row, weight in found.items():
        assert weight == pytest.approx([1, 2, 5][source[row]] / 2.2, rel=1e-6)


@LAW
@given(
    st.integers(1, 60), st.integers(1, 20), st.floats(-2, 2), st.floats(-2, 2), st.integers(1, 3), st.integers(0, 99)
)
def test_loss_weights_have_mean_1_over_the_dealt_rows_and_vanish_on_padding_alone(samples, block, a, b, epochs, seed):
    """Whatever the weight does over the stage."""
    moving = {"power": {"by": "ac", "gamma": {"linear": {"from": a, "to": b}}}}
    budget = {"samples": samples, "epochs": epochs}
    plan = plan_of(static(budget=budget, block=block, loss_weight=moving), table=table_of(60, seed))
    batches = [plan.batch("s", step)[1] for step in range(plan.num_steps("s"))]
    weights = np.concatenate(batches)
    assert (weights[: samples * epochs] > 0).all() and not weights[samples * epochs :].any()
    for one in range(epochs):
        assert weights[one * samples : (one + 1) * samples].mean() == pytest.approx(1.0, rel=1e-5)


def test_rows_weigh_1_without_loss_weights_and_with_uniform_ones():
    for more in ({}, {"loss_weight": "uniform"}):
        plan = plan_of(static(**more))
        assert [plan.batch("s", step)[1].tolist() for step in range(4)] == [[1.0] * 4] * 3 + [[1.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "modifier",
    [
        {},
        {"floor": 0.5},
        {"matched": {"by": "label"}},
        {"shares": {"weak": 0.3}},
        {"cap": 2.0},
        {"shares": {"weak": 0.3}, "matched": "label", "cap": 1.0, "floor": 0.1},
    ],
)
def test_a_row_of_a_short_block_weighs_no_more_than_one_of_a_long_block(modifier):
    """The same cell under a weight that does not move: 11 rows in blocks of 10 and 1."""
    table = table_of(60)
    label = Categorical(np.zeros(60, np.int32), ("weak",))
    table = Table(table.uid, table.columns | {"label": label})
    stage = static(budget={"samples": 11}, block=10, loss_weight={"power": {"by": "num_choices"}, **modifier})
    plan = plan_of(stage, table=table, cells=["label"])
    assert plan.stage_plan("s").loss == pytest.approx(np.ones((2, 1)))


def test_loss_weights_do_not_change_which_rows_are_dealt():
    plain, weighted = plan_of(static()), plan_of(static(loss_weight={"power": {"by": "ac"}}))
    assert dealt_rows(plain, "s").tolist() == dealt_rows(weighted, "s").tolist()


def test_stages_of_one_plan_share_no_row():
    """Static, taking turns and adaptive, all in one curriculum: 27 + 14 + 3 x 3 + 2 x 2 + 4 rows."""
    plan = plan_of(static(), turns(steps=5), static("t", claim=-2, budget={"samples": 4}), adaptive())
    train(Cursor(plan, "g"))
    rows = {name: set(dealt_rows(plan, name).tolist()) for name in plan.stages}
    assert {name: len(part) for name, part in rows.items()} == {"g": 27, "s": 14, "x": 9, "y": 4, "t": 4}
    assert all(not rows[a] & rows[b] for a, b in combinations(rows, 2))
