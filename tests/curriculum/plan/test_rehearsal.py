"""Rehearsal: its share of every budget and block to a row, of rows that earlier stages had or that nobody has."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.online.curriculum_metrics import curriculum_metrics
from earwitness.curriculum.online.cursor import Cursor, fork
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.plan.stand_ins import stand_ins
from earwitness.curriculum.preview.preview import describe, lines
from earwitness.curriculum.schedule.feedback import Observations
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError


def table_of(weak=40, strong=60, seed=0):
    """Weak rows first in value, every second row of source a, durations of a second; in a random order."""
    codes = np.repeat(np.int32([0, 1]), [weak, strong])
    count = len(codes)
    columns = {
        "label": Categorical(codes, ("weak", "strong")),
        "source": Categorical(np.arange(count, dtype=np.int32) % 2, ("a", "b")),
        "clip": np.arange(count, dtype=np.uint64),
        "duration_s": np.where(codes == 0, 36.0, 72.0),
    }
    return Table(splitmix64(np.arange(count, dtype=np.uint64)), columns).take(
        np.random.default_rng(seed).permutation(count)
    )


SFT = {"name": "sft", "algorithm": "sft", "pool": {"label": "weak"}, "batch_size": 4, "budget": {"samples": 20}}
GRPO = {"name": "grpo", "algorithm": "grpo", "pool": {"label": "strong"}, "batch_size": 10, "budget": {"steps": 5}}
AGAIN = {"label": "weak", "share": 0.2}


def plan_of(*stages, table=None, used=None, **top):
    return Plan(parse_curriculum({"stages": list(stages), **top}), table or table_of(), used)


def rows_of(plan, stage):
    return plan.rows(stage, np.arange(plan.stage_plan(stage).rows))


def weak(plan, rows):
    text = plan.table.text("label")
    return text.codes[rows] == text.names.index("weak")


def test_a_fifth_of_every_batch_is_what_sft_had_first_and_the_rest_is_the_stage_s_own():
    plan = plan_of(SFT, GRPO | {"rehearse": AGAIN, "block": 10})
    batches = [plan.batch("grpo", step)[0] for step in range(5)]
    assert [int(weak(plan, rows).sum()) for rows in batches] == [2] * 5
    rows = np.concatenate(batches)
    assert len(set(rows.tolist())) == 50
    again, had = rows[weak(plan, rows)], rows_of(plan, "sft")
    assert set(again.tolist()) <= set(had.tolist())
    first = [row for row in plan.stage_plan("sft").deck.tolist() if row in set(had.tolist())][:10]
    assert sorted(again.tolist()) == sorted(first)  # those dealt first
    alone = plan_of(SFT, GRPO)
    assert rows_of(alone, "sft").tolist() == had.tolist()  # what others take does not change


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 50),
    st.sampled_from([0.1, 0.2, 1 / 3, 0.29, 0.5]),
    st.integers(1, 13),
    st.booleans(),
    st.sampled_from(["spread", "shuffle"]),
    st.integers(0, 5),
)
def test_budgets_are_exact_nothing_comes_twice_and_every_prefix_of_blocks_has_its_share(
    samples, share, block, seen, mix, seed
):
    rehearse = {"label": "weak", "share": share, "seen": seen}
    stage = GRPO | {"budget": {"samples": samples}, "rehearse": rehearse, "block": block, "mix": mix}
    plan = plan_of(SFT | {"budget": {"samples": 30 if seen else 15}}, stage, table=table_of(seed=seed))
    rows, part = rows_of(plan, "grpo"), plan.stage_plan("grpo")
    assert len(rows) == len(set(rows.tolist())) == samples
    for end in part.edges.tolist():
        assert int(weak(plan, rows[:end]).sum()) == int(Fraction(str(share)) * end)
    had = set(rows_of(plan, "sft").tolist())
    again = set(rows[weak(plan, rows)].tolist())
    assert again <= had if seen else not again & had


def test_claims_and_forks_do_not_change_what_was_seen():
    """A stage that claims first rehearses what the stage before it takes later; a fork what its run had used."""
    late = plan_of(SFT, GRPO | {"rehearse": AGAIN})
    first = plan_of(SFT, GRPO | {"rehearse": AGAIN, "claim": "first"})
    assert rows_of(first, "grpo").tolist() == rows_of(late, "grpo").tolist()
    whole = plan_of(SFT)
    cursor = Cursor(whole, "sft")
    cursor.trained(5)
    after = plan_of(GRPO | {"rehearse": AGAIN}, used=fork(json.loads(json.dumps(cursor.state())), whole.table))
    rows = rows_of(after, "grpo")
    assert set(rows[weak(after, rows)].tolist()) <= set(rows_of(whole, "sft").tolist())


def test_recordings_stay_apart_and_another_stage_keeps_off_what_is_rehearsed_unseen():
    third = {
        "name": "last",
        "algorithm": "sft",
        "pool": {"label": "weak"},
        "batch_size": 4,
        "budget": {"fraction": 0.25},
    }
    for seen, left in ((True, 20), (False, 10)):
        plan = plan_of(SFT, GRPO | {"rehearse": AGAIN | {"seen": seen}}, third, disjoint=["uid", "clip"])
        assert int(plan.stage_plan("last").left.sum() - plan.stage_plan("last").left[0]) == left  # cells: strong, weak
        taken = [set(rows_of(plan, name).tolist()) for name in ("sft", "grpo", "last")]
        assert not taken[2] & (taken[0] | taken[1])


REPEAT = {"on_short": "repeat", "budget": {"steps": 40}}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"rehearse": {"label": "weak"}}, "a pool and a share are needed"),
        ({"rehearse": {"share": 0.2}}, "says no questions"),
        ({"rehearse": {"label": "weak", "share": 1.0}}, "share is more than 0 and less than 1, as 0.2; got 1.0"),
        ({"rehearse": {"label": "week", "share": 0.2}}, "stage 'grpo': label is never 'week'"),
        ({"rehearse": {"label": "strong", "share": 0.2}}, "it rehearses label=strong, which its own pool has too"),
        ({"rehearse": AGAIN | {"share": 0.5}}, "rehearses 25 rows of label weak, the stages before it had 20; lower"),
        ({"rehearse": AGAIN | {"share": 0.5, "seen": False}}, "rehearses 25 rows of label weak, no stage takes 20; "),
        ({"rehearse": AGAIN, "budget": {"samples": 90}}, "wants 72 rows of label strong, 60 are left after sft"),
        ({"rehearse": AGAIN | {"weight": {"power": {"by": "live.p"}}}}, "what follows observations needs a `window`"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_with_the_way_out(stage, message):
    with pytest.raises(InputError) as caught:
        plan_of(SFT, GRPO | stage)
    assert message in str(caught.value)


def test_nothing_seen_is_said_also_where_a_pool_may_be_repeated():
    with pytest.raises(InputError, match="the stages before it had 0; lower the share, or say seen: false$"):
        plan_of(GRPO | REPEAT | {"rehearse": AGAIN})


def test_a_small_pool_is_repeated_with_its_rehearsal():
    """60 strong rows are 4/5 of 75; 400 presentations are 75 rows five times and 25 once more."""
    plan = plan_of(SFT, GRPO | REPEAT | {"rehearse": AGAIN})
    assert (plan.stage_plan("grpo").rows, plan.num_steps("grpo")) == (75, 40)
    rows = np.concatenate([plan.batch("grpo", step)[0] for step in range(40)])
    assert int(weak(plan, rows[:375]).sum()) == 75 and abs(int(weak(plan, rows).sum()) - 80) <= 1


def test_a_stage_that_stops_early_keeps_the_share():
    plan = plan_of(SFT, GRPO | {"budget": {"samples": 500}, "on_short": "stop", "rehearse": AGAIN})
    rows = rows_of(plan, "grpo")
    assert len(rows) == 75 and int(weak(plan, rows).sum()) == 15


def test_hours_pay_for_what_is_rehearsed():
    """Ten rows are eight of 72 s and two of 36 s: 648 s, .18 hours."""
    plan = plan_of(SFT, GRPO | {"budget": {"hours": 0.18}, "rehearse": AGAIN})
    rows = rows_of(plan, "grpo")
    assert len(rows) == 10 and int(weak(plan, rows).sum()) == 2


def test_the_preview_and_the_log_show_it():
    plan = plan_of(SFT, GRPO | {"rehearse": AGAIN})
    summary = describe(plan)
    text = "\n".join(lines(summary))
    assert "rehearses 10 rows (20.0%) of label weak, which the stages before it had" in text
    assert summary["overlaps"] == [{"stages": ["sft", "grpo"], "uid": 0, "clip": 0}]
    assert curriculum_metrics(plan, "grpo", 0)["data/planned/rehearsed"] == pytest.approx(0.2)


def test_a_row_that_is_seen_again_is_stood_in_for_by_another_that_was_seen():
    plan = plan_of(SFT, GRPO | {"rehearse": AGAIN})
    had, rows = set(rows_of(plan, "sft").tolist()), rows_of(plan, "grpo")
    row = int(rows[weak(plan, rows)][0])
    found = list(stand_ins(plan, "grpo", row))
    assert len(found) == 19 and set(found) == had - {row}


def adaptive():
    """Windows of 10 rows, of which 4 are rehearsed where the cell's accuracy fell."""
    again = {"label": "weak", "share": 0.4, "weight": {"power": {"by": "live.fallen"}}}
    return GRPO | {
        "window": 1,
        "lag": 1,
        "feedback": {"forgotten": {"least": 1, "margin": 0.1, "discount": 0.0}},
        "rehearse": again,
    }


def test_an_adaptive_stage_revisits_what_fell_and_goes_on_exactly_after_a_stop():
    """Weak rows of source a are right in the first window and wrong from then on: later windows rehearse them alone."""
    stages, cells = (SFT, adaptive()), ["label", "source"]

    def train(cursor, steps):
        dealt = []
        for _ in range(steps):
            rows = cursor.plan.batch("grpo", cursor.step)[0]
            source = cursor.plan.table.text("source")
            of_a = source.codes[rows] == source.names.index("a")
            right = np.where(of_a & weak(cursor.plan, rows), float(cursor.step == 0), 0.5)
            cursor.observe(Observations(cursor.plan.cell_of_row[rows], right))
            cursor.trained()
            dealt.append(
                (rows.tolist(), int(weak(cursor.plan, rows).sum()), int((of_a & weak(cursor.plan, rows)).sum()))
            )
        return dealt

    whole = Cursor(plan_of(*stages, cells=cells), "grpo")
    dealt = train(whole, 5)
    assert [again for _, again, _ in dealt] == [4] * 5
    assert [of_a for _, _, of_a in dealt[:3]] == [2, 2, 2] and dealt[3][2] == 4  # known after window 1, planned in 3
    stopped = Cursor(plan_of(*stages, cells=cells), "grpo")
    before = train(stopped, 2)
    resumed = Cursor(plan_of(*stages, cells=cells), "grpo")
    resumed.load(json.loads(json.dumps(stopped.state())))
    assert before + train(resumed, 3) == dealt


def test_turns_rehearse_too_and_a_stage_without_rehearsal_keeps_its_fingerprint():
    stages = [{k: v for k, v in one.items() if k != "budget"} for one in (SFT, GRPO)]
    stages[1]["rehearse"] = AGAIN | {"seen": False}
    group = {"name": "both", "interleave": {"steps": 6, "share": {"grpo": 0.5}}, "stages": stages}
    plan = plan_of(group)
    assert int(weak(plan, rows_of(plan, "grpo")).sum()) == 6
    plain = parse_curriculum({"stages": [SFT, GRPO]})
    assert "rehearse" not in plain.canonical()
    assert (
        '"rehearse": {"label": "weak", "share": 0.2}'
        in parse_curriculum({"stages": [SFT, GRPO | {"rehearse": AGAIN}]}).canonical()
    )
