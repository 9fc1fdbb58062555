"""What a plan says before training: every number of a small plan by hand, every doubt once, the arms, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.commands.cli import main
from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.online.cursor import Cursor
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.compare import arms_of, compare, comparison_lines
from earwitness.curriculum.preview.preview import describe, lines, overlaps, short, stage_rows
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table, write_arrow
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)


def text(*values, missing=""):
    names = tuple(sorted({value for value in values if value != missing}))
    return Categorical(np.array([names.index(v) if v in names else -1 for v in values], np.int32), names)


def table_of(**columns):
    count = len(next(iter(columns.values())).codes)
    return Table(splitmix64(np.arange(count, dtype=np.uint64)), columns)


# Six weak rows of 36 s and four strong ones of 72 s. Recordings: weak 0 0 1 1 2 3, strong 3 3 4 5.
HAND = table_of(
    label=text(*["weak"] * 6, *["strong"] * 4),
    source=text(*"aabbab", *"abab"),
    question=text("what", "who", "what", "when", "why", "how", "what", "who", "which", "whose"),
    clip=np.array([0, 0, 1, 1, 2, 3, 3, 3, 4, 5], np.uint64),
    duration_s=np.array([36.0] * 6 + [72.0] * 4),
)
SFT = {"name": "sft", "algorithm": "sft", "batch_size": 4, "pool": {"label": "weak"}}
SFT |= {"budget": {"samples": 6, "epochs": 2}}
GRPO = {"name": "grpo", "algorithm": "grpo", "batch_size": 3, "pool": {"label": "strong"}, "budget": {"samples": 4}}
ONE = {"cost": {"parameters": 1.0}}


def plan_of(*stages, table=HAND, **top):
    return Plan(parse_curriculum({"stages": list(stages), **top}), table)


def adaptive(**more):
    stage = {"name": "g", "algorithm": "grpo", "batch_size": 2, "budget": {"steps": 5}, "window": 1}
    return stage | {"feedback": {"contribution": {"silence": 0.25}}, "weight": "useful"} | more


def doubts(*stages, table=HAND, **top):
    return describe(plan_of(*stages, table=table, **top))["doubts"]


def test_the_counts_of_a_description_by_hand():
    """SFT: 6 rows twice in 3 steps of 4. GRPO: 4 rows in 2 steps of 3, the last one with 2 fewer."""
    plan = plan_of(SFT, GRPO)
    found = describe(plan)
    assert found["fingerprint"] == plan.fingerprint
    assert (found["rows"], found["outside"], found["cells"]) == (10, 0, 2)
    assert found["mix"] == {"label": {"strong": 4, "weak": 6}, "source": {"a": 5, "b": 5}}
    sft, grpo = found["stages"]["sft"], found["stages"]["grpo"]
    names = ("algorithm", "rows", "presented", "passes", "steps", "batch_size", "padding", "pool", "windows")
    assert [sft[name] for name in names] == ["sft", 6, 12, 2.0, 3, 4, 0, 6, None]
    assert [grpo[name] for name in names] == ["grpo", 4, 4, 1.0, 2, 3, 2, 4, None]
    assert sft["mix"] == {"label": {"weak": 6}, "source": {"a": 3, "b": 3}}
    assert grpo["mix"] == {"label": {"strong": 4}, "source": {"a": 2, "b": 2}}
    uids = [f"{uid:016x}" for uid in HAND.uid[stage_rows(plan, "sft")].tolist()]
    assert sft["first"] == uids[:3] and sft["last"] == uids[-3:] and len(set(uids)) == 6
    assert found["turns"] == {} and json.loads(json.dumps(found)) == found


def test_hours_tokens_and_flops_by_hand():
    """25 tokens a second, 110 of prompt; 12 of answer, or 8 x 16 of completions; one parameter.

    SFT: 36 x 25 + 110 = 1,010 of prompt, 12 x (1,010 + 12) tokens, 6 FLOPs each. GRPO: 72 x 25 + 110 = 1,910, 4 x
    (1,910 + 128) tokens, 2 FLOPs each to sample, 2 for the reference and 6 to train.
    """
    found = describe(plan_of(SFT, GRPO, **ONE))["stages"]
    assert found["sft"]["hours"] == pytest.approx(12 * 36 / 3600) and found["grpo"]["hours"] == pytest.approx(0.08)
    assert found["sft"]["tokens"] == 12 * 1_022 == 12_264 and found["grpo"]["tokens"] == 4 * 2_038 == 8_152
    assert found["sft"]["flops"] == 6 * 12_264 == 73_584 and found["grpo"]["flops"] == 10 * 8_152 == 81_520
    priced = describe(plan_of(SFT, GRPO))["stages"]
    assert priced["sft"]["flops"] == pytest.approx(7.6e9 * 73_584)


def test_without_lengths_there_are_no_hours():
    bare = Table(HAND.uid, {"label": HAND.columns["label"]})
    found = describe(plan_of(SFT, table=bare))
    assert [found["stages"]["sft"][name] for name in ("hours", "tokens", "flops")] == [None] * 3
    assert not any("hours" in line for line in lines(found)) and found["mix"] == {"label": {"strong": 4, "weak": 6}}


def test_a_row_without_a_length_adds_none():
    duration = np.array([np.nan] + [36.0] * 9)
    found = describe(plan_of(SFT, table=Table(HAND.uid, HAND.columns | {"duration_s": duration})))
    assert found["stages"]["sft"]["hours"] == pytest.approx(10 * 36 / 3600)


def test_overlaps_by_hand():
    """Two strong rows have the recording 3 of a weak one; "what" and "who" are asked in both stages."""
    plan = plan_of(SFT, GRPO)
    assert describe(plan)["overlaps"] == [{"stages": ["sft", "grpo"], "uid": 0, "clip": 2, "question": 2}]
    rows = {"sft": np.array([0, 5, 5]), "grpo": np.array([0, 6, 7, 8])}
    # Rows 0, 6 and 7 share a recording with row 0 or 5; "what" (0 and 6) is asked in both.
    assert overlaps(plan, rows) == [{"stages": ["sft", "grpo"], "uid": 1, "clip": 3, "question": 2}]


def test_the_mix_over_time_by_hand():
    """Ten rows in blocks of two, strong rows in the first half as far as they go: 4 strong, then 6 weak."""
    stage = SFT | {
        "pool": {},
        "budget": {"samples": 10},
        "block": 2,
        "weight": {"shares": {"strong": 1.0, "weak": 1e-9}},
    }
    found = describe(plan_of(stage, cells={"what": "label"}))["stages"]["sft"]["over_time"]
    assert found == {
        "edges": [0, 2, 4, 6, 8, 10],
        "axes": {"what": {"strong": [2, 2, 0, 0, 0], "weak": [0, 0, 2, 2, 2]}},
    }


@LAW
@given(st.integers(1, 200), st.integers(1, 9), st.integers(0, 99))
def test_the_mix_over_time_adds_up_to_the_rows(rows, block, seed):
    """In at most 60 parts, over every axis."""
    draw = np.random.default_rng(seed)
    label = Categorical(draw.integers(0, 2, 200).astype(np.int32), ("strong", "weak"))
    table = Table(splitmix64(np.arange(200, dtype=np.uint64)), {"label": label, "ac": draw.random(200)})
    stage = SFT | {"pool": {}, "budget": {"samples": rows}, "block": block}
    plan = plan_of(stage, table=table, cells={"label": "label", "ac": {"column": "ac", "bins": 4}})
    found = describe(plan)["stages"]["sft"]["over_time"]
    edges = found["edges"]
    assert edges[0] == 0 and edges[-1] == rows and len(edges) - 1 == min(60, -(-rows // block))
    for values in found["axes"].values():
        assert np.sum(list(values.values()), axis=0).tolist() == np.diff(edges).tolist()
    weak = label.codes[stage_rows(plan, "sft")] == 1
    shown = found["axes"]["label"].get("weak", [0] * (len(edges) - 1))
    assert shown == [int(weak[a:b].sum()) for a, b in pairwise(edges)]


def test_bins_that_look_alike_are_not_lost():
    """1234.51 ... 1234.54 are four bins; with four digits all of them would be [1235, 1235)."""
    table = table_of(label=text(*["weak"] * 8), x=np.array([1234.51, 1234.52, 1234.53, 1234.54] * 2))
    found = describe(plan_of(SFT | {"pool": {}, "budget": {"samples": 8}}, table=table, cells=["x"]))
    shown = found["stages"]["sft"]["over_time"]["axes"]["x"]
    assert len(shown) == 4 and list(map(sum, shown.values())) == [2, 2, 2, 2]


def test_a_number_column_named_clip_does_not_stop_a_description():
    """Small whole numbers are read as numbers; a plan that does not ask for disjoint recordings compiles over them."""
    table = Table(HAND.uid, HAND.columns | {"clip": np.arange(10.0)})
    found = describe(plan_of(SFT, GRPO, table=table))
    assert found["rows"] == 10 and found["overlaps"] == [{"stages": ["sft", "grpo"], "uid": 0, "question": 2}]


def test_an_adaptive_stage_is_described_by_the_windows_that_are_planned():
    """5 windows of 2 rows of 54 s; two are planned, and the others are taken to be like them."""
    seconds = np.full(10, 54.0)
    columns = {"label": HAND.columns["label"], "num_choices": np.full(10, 4.0), "duration_s": seconds}
    plan = plan_of(adaptive(), table=Table(HAND.uid, columns))
    assert plan.stage_plan("g").planned == 0
    found = describe(plan)
    stage = found["stages"]["g"]
    assert stage["windows"] == [2, 5] and stage["rows"] == 10 and sum(stage["mix"]["label"].values()) == 4
    assert stage["hours"] == pytest.approx(10 * 54 / 3600) and stage["over_time"]["edges"] == [0, 2, 4]
    assert "  adaptive: 2 of 5 windows are planned before anything is observed" in lines(found)
    assert found["doubts"] == []
    assert plan.stage_plan("g").planned == 0, "looking plans nothing"
    # A plan that a run has filled in is described as far as it is.
    filled = plan_of(adaptive(), table=Table(HAND.uid, columns))
    Cursor(filled, "g").trained(2)
    assert describe(filled)["stages"]["g"]["windows"] == [4, 5]


def test_turns_are_listed_and_counted():
    members = [{k: v for k, v in stage.items() if k != "budget"} for stage in (SFT, GRPO)]
    members[0]["batch_size"] = members[1]["batch_size"] = 1
    group = {"name": "both", "interleave": {"steps": 5, "share": {"grpo": 0.4}}, "stages": members}
    found = describe(plan_of(group))
    assert found["turns"] == {"both": ["sft", "grpo", "sft", "grpo", "sft"]}
    assert "both: sft has 3 of 5 steps, grpo has 2 of 5 steps" in lines(found)


def test_the_lines_hold_the_numbers():
    found = describe(plan_of(SFT, GRPO, **ONE))
    shown = lines(found)
    for line in (
        f"plan {found['fingerprint']}: 10 rows in 2 cells",
        "  label: strong 4 (40.0%), weak 6 (60.0%)",
        "sft (sft): 6 of 6 rows, 2.00 times each, in 3 steps of 4",
        "  0.1 hours, 12.26k tokens, 73.58k FLOPs",
        "grpo (grpo): 4 of 4 rows, 1.00 times each, in 2 steps of 3",
        "  0.1 hours, 8.152k tokens, 81.52k FLOPs",
        "  label: strong 4 (100.0%)",
        "shared by sft and grpo: 0 by uid, 2 by clip, 2 by question",
        f"  first {' '.join(found['stages']['sft']['first'])} ... last {' '.join(found['stages']['sft']['last'])}",
    ):
        assert line in shown, line
    assert [line for line in shown if line.startswith("note: ")] == [f"note: {doubt}" for doubt in found["doubts"]]


def test_the_lines_draw_the_mix_over_time():
    """Strong first: its line is dark in the first two fifths of 50 characters and empty afterwards."""
    stage = SFT | {
        "pool": {},
        "budget": {"samples": 10},
        "block": 2,
        "weight": {"shares": {"strong": 1.0, "weak": 1e-9}},
    }
    shown = lines(describe(plan_of(stage)))
    place = shown.index("  label over the stage:")
    assert shown[place + 1 : place + 3] == [
        f"    strong |{'@' * 20}{' ' * 30}|         4",
        f"      weak |{' ' * 20}{'@' * 30}|         6",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "unknown"), (0.0, "0"), (999, "999"), (1000, "1k"), (12_264, "12.26k"), (7.6e9, "7.6G"), (2.5e14, "250T")]
    + [(3.2e17, "320P"), (1.043e19, "1.043e+19")],
)
def test_large_numbers_are_short(value, said):
    assert short(value) == said


# Doubts: each is provoked once; a plan that deals the whole table in full batches has none.


def test_a_plan_of_everything_has_no_doubts():
    stage = SFT | {"pool": {}, "budget": {"fraction": 1.0}, "batch_size": 5}
    assert doubts(stage) == []


def test_rows_outside_of_all_cells_are_doubted():
    label = text("weak", "", "weak", "", "weak", "strong", "strong", "weak", "weak", "weak")
    table = Table(HAND.uid, HAND.columns | {"label": label})
    said = doubts(SFT | {"pool": {}, "budget": {"samples": 8}}, table=table)
    assert said == ["2 of 10 rows lack a value that `cells` asks for; no stage has them"]


def large(**columns):
    """300 rows, every second one weak, sources a and b in turns of two."""
    base = {"label": text(*["weak", "strong"] * 150), "source": text(*"aabb" * 75)}
    return table_of(**base, **columns)


def test_a_small_part_of_a_pool_is_doubted():
    """2 of 300 are less than a hundredth, 3 are one."""
    stage = SFT | {"pool": {}, "budget": {"samples": 2}, "batch_size": 1, "weight": "uniform"}
    said = [one for one in doubts(stage, table=large()) if "variance" in one]
    assert said == [
        "sft takes 2 of the 300 rows of its pool (0.67%): which ones is a source of variance; "
        "`claim: first` gives every arm the same"
    ]
    assert not [one for one in doubts(stage | {"budget": {"samples": 3}}, table=large()) if "variance" in one]


def test_another_mix_of_sources_is_doubted():
    """All of source a: the variation from 50 : 50 is half of |1 - 0.5| + |0 - 0.5|. `matched` sets it right."""
    top = {"cells": ["label", "source"]}
    stage = SFT | {"budget": {"samples": 60}, "pool": {"source": "a"}, "batch_size": 1}
    said = doubts(stage, table=large(), **top)
    assert said == [
        "sft has another mix of sources than the table (total variation 50%): label and source are confounded; "
        "`{matched: {by: source}}` in its weight holds the mix"
    ]
    for share, found in ((0.59, False), (0.62, True)):
        mixed = stage | {"pool": {}, "weight": {"shares": {"a": share, "b": 1 - share}}, "budget": {"samples": 100}}
        assert any("another mix of sources" in one for one in doubts(mixed, table=large(), **top)) == found


def test_padding_is_doubted():
    stage = SFT | {"pool": {}, "budget": {"samples": 10}}
    assert doubts(stage) == ["sft: the last batch has 2 questions fewer than the others"]
    assert doubts(stage | {"batch_size": 5}) == []


def test_cells_that_are_never_dealt_are_doubted():
    """Four of ten rows are strong; the weight wants none of them though the pool has them."""
    stage = SFT | {"pool": {}, "budget": {"samples": 6}, "weight": {"shares": {"weak": 1.0}}, "batch_size": 6}
    assert doubts(stage) == ["sft takes no row of 1 of the 2 cells of its pool (4 rows)"]


def test_cells_that_run_dry_in_the_first_half_are_doubted():
    """All strong rows come in the first two of five blocks; in one block there is no first half."""
    stage = SFT | {"pool": {}, "budget": {"samples": 10}, "batch_size": 5, "block": 2}
    stage["weight"] = {"shares": {"strong": 1.0, "weak": 1e-9}}
    assert doubts(stage) == ["sft: 1 of 2 cells have no row left after its first half; use fewer bins"]
    assert doubts(stage | {"block": 10}) == [] == doubts(stage | {"weight": "uniform"})


def test_groups_without_an_advantage_are_expected():
    """All alike with p^2 + (1 - p)^2: 0.5 for p = 0.5 and 0.82 for p = 0.9; the row without a value does not count."""
    p = np.array([0.1] * 6 + [0.5, 0.9, 0.9, np.nan])
    table = Table(HAND.uid, {n: v for n, v in HAND.columns.items() if n in ("label", "source")} | {"p_audio": p})
    said = doubts(SFT | {"batch_size": 6}, GRPO | {"batch_size": 4}, table=table, cost={"group_size": 2})
    assert said == ["grpo: 71% of its groups of 2 are expected to have no advantage"]  # (0.5 + 2 x 0.82) / 3


def test_shared_recordings_are_doubted_unless_they_are_forbidden():
    wanted = "2 rows of grpo share their recording with sft; `disjoint: [uid, clip]` forbids it"
    full = [SFT | {"batch_size": 6}, GRPO | {"batch_size": 2}]
    assert doubts(*full) == [wanted]
    full[1] |= {"budget": {"samples": 2}}
    assert doubts(*full, disjoint=["uid", "clip"]) == []


# Curricula side by side.

BASE = {"stages": [SFT, GRPO]}


def test_jaccard_by_hand():
    """All six weak rows, and all ten rows: 6 / 10. Strong rows against strong rows: the same four."""
    other = {"stages": [SFT | {"pool": {}, "budget": {"samples": 10}}]}
    sheet = compare({"weak": BASE, "all": other, "again": BASE}, HAND)
    assert sheet["overlap"] == [
        {"arms": ["weak", "all"], "stage": "sft", "jaccard": 0.6, "shared": 6},
        {"arms": ["weak", "again"], "stage": "sft", "jaccard": 1.0, "shared": 6},
        {"arms": ["weak", "again"], "stage": "grpo", "jaccard": 1.0, "shared": 4},
        {"arms": ["all", "again"], "stage": "sft", "jaccard": 0.6, "shared": 6},
    ]
    assert "  sft: weak and all: 0.600 (6 rows)" in comparison_lines(sheet)


def test_arms_that_share_no_row_have_jaccard_0():
    strong = {"stages": [SFT | {"pool": {"label": "strong"}, "budget": {"samples": 3}}]}
    sheet = compare({"weak": {"stages": [SFT]}, "strong": strong}, HAND)
    assert sheet["overlap"] == [{"arms": ["weak", "strong"], "stage": "sft", "jaccard": 0.0, "shared": 0}]


def test_differences_name_the_keys_and_both_values():
    """Stages are told apart by their names, not their places; what is the same is not listed."""
    other = {"stages": [GRPO | {"batch_size": 2}], "seed": 4, "disjoint": ["clip", "uid"]}
    sheet = compare({"base": BASE, "other": other, "same": dict(BASE)}, HAND)
    assert sheet["differences"]["same"] == []
    found = dict(line.split(": ", 1) for line in sheet["differences"]["other"])
    assert found == {
        "seed": "0 -> 4",
        "disjoint": "uid -> clip, uid",
        "stages.grpo.batch_size": "3 -> 2",
        "stages.sft": "there -> none",
    }
    shown = comparison_lines(sheet)
    assert "other differs from base in" in shown and "  stages.grpo.batch_size: 3 -> 2" in shown
    assert shown[shown.index("same differs from base in") + 1] == "  nothing"


def test_differences_name_what_one_arm_lacks_and_not_what_is_the_same_in_other_words():
    """A pool that is gone, a weight in place of the default one, a stage more; defaults that are written out."""
    wider = SFT | {"pool": {}, "weight": {"power": "duration_s"}}
    more = GRPO | {"name": "more", "budget": {"samples": 2}}
    spelt = {"seed": 0, "cells": {"label": {"column": "label"}}, "stages": [SFT | {"mix": "spread", "claim": 0}, GRPO]}
    arms = {"base": BASE, "wider": {"stages": [wider]}, "more": {"stages": [SFT, GRPO | {"budget": {"steps": 1}}]}}
    arms["more"]["stages"].append(more | {"budget": {"samples": 1}})
    sheet = compare(arms | {"spelt": spelt}, HAND)
    assert sheet["differences"] == {
        "wider": [
            "stages.grpo: there -> none",
            "stages.sft.pool.label: weak -> none",
            "stages.sft.weight: uniform -> {'power': 'duration_s'}",
        ],
        "more": [
            "stages.grpo.budget.samples: 4 -> none",
            "stages.grpo.budget.steps: none -> 1",
            "stages.more: none -> there",
        ],
        "spelt": [],
    }


def test_totals_add_the_stages_up():
    """16 presentations in 5 steps; tokens and FLOPs as worked above."""
    sheet = compare({"a": BASE | ONE, "b": {"stages": [SFT]} | ONE}, HAND)
    assert sheet["totals"]["a"] == {"samples": 16, "steps": 5, "tokens": 12_264 + 8_152, "flops": 73_584 + 81_520}
    assert sheet["totals"]["b"] == {"samples": 12, "steps": 3, "tokens": 12_264, "flops": 73_584}
    shown = comparison_lines(sheet)
    assert "budgets as written, not matched" in shown
    assert f"  b: samples x0.750, steps x0.600, tokens x{12_264 / 20_416:.3f}, flops x{73_584 / 155_104:.3f}" in shown


def sized(samples, steps):
    """Weak rows for SFT in batches of 10, strong ones for GRPO in batches of 2, over 3,000 rows."""
    sft = SFT | {"budget": {"samples": samples}, "batch_size": 10}
    return {"stages": [sft, GRPO | {"budget": {"steps": steps}, "batch_size": 2}]}


@pytest.fixture(scope="module")
def longer():
    """3,000 rows of 10 s: 372 tokens of SFT and 488 of GRPO each; 6 x 372 and 10 x 488 FLOPs per parameter."""
    label = Categorical(np.arange(3000, dtype=np.int32) % 2, ("strong", "weak"))
    columns = {"label": label, "duration_s": np.full(3000, 10.0)}
    return Table(splitmix64(np.arange(3000, dtype=np.uint64)), columns)


ROUNDING = {"samples": 1 + 1, "steps": 1.1 + 0.5, "tokens": 372 + 488, "flops": 7.6e9 * (6 * 372 + 10 * 488)}


@pytest.mark.parametrize("match", ROUNDING)
def test_matched_arms_have_the_first_arm_s_total(match, longer):
    """Within rounding: half a row of SFT, presented twice, and half a step of two rows of GRPO."""
    arms = {"first": sized(600, 80), "more": sized(1400, 20), "fewer": sized(120, 160)}
    free, sheet = compare(arms, longer), compare(arms, longer, match)
    before, after = ({name: total[match] for name, total in one["totals"].items()} for one in (free, sheet))
    assert after["first"] == before["first"] and sheet["match"] == match
    for name in ("more", "fewer"):
        assert abs(before[name] - after["first"]) > 8 * ROUNDING[match], "the guard: they differ without matching"
        assert abs(after[name] - after["first"]) <= ROUNDING[match]
        # Both stages are scaled alike.
        for stage in ("sft", "grpo"):
            wanted = free["arms"][name]["stages"][stage]["presented"] * after["first"] / before[name]
            assert abs(sheet["arms"][name]["stages"][stage]["presented"] - wanted) <= 1
    assert f"budgets matched by {match}" in comparison_lines(sheet)


@pytest.mark.parametrize("match", ["tokens", "flops"])
def test_matched_arms_over_recordings_of_all_lengths_are_close(match, longer):
    """Other rows have other lengths: 2 to 18 s here, a few hundred rows, so two in a hundred."""
    table = Table(longer.uid, longer.columns | {"duration_s": 2.0 + np.arange(3000) % 17})
    sheet = compare({"first": sized(600, 80), "more": sized(1400, 20), "fewer": sized(120, 160)}, table, match)
    wanted = sheet["totals"]["first"][match]
    assert [sheet["totals"][name][match] for name in ("more", "fewer")] == pytest.approx([wanted] * 2, rel=0.02)


def test_matching_scales_turns_and_fractions(longer):
    members = [{"name": n, "algorithm": "sft", "batch_size": 4} for n in ("x", "y")]
    group = {"stages": [{"name": "both", "interleave": {"steps": 60, "share": {"y": 0.5}}, "stages": members}]}
    part = {"stages": [SFT | {"budget": {"fraction": 0.4}}]}
    arms = {"first": {"stages": [SFT | {"budget": {"samples": 300, "epochs": 2}}]}, "turns": group, "part": part}
    sheet = compare(arms, longer, "samples")
    # 240 and 600 presentations become 600: 150 steps of 4, and 40 % as they are.
    assert [one["samples"] for one in sheet["totals"].values()] == [600, 600, 600]
    assert len(sheet["arms"]["turns"]["turns"]["both"]) == 150
    assert sheet["arms"]["part"]["stages"]["sft"]["rows"] == 600


def test_a_matched_arm_has_a_fingerprint_of_its_own(longer):
    sheet = compare({"first": sized(600, 80), "more": sized(1400, 20)}, longer, "samples")
    assert sheet["arms"]["more"]["stages"]["sft"]["rows"] != 1400
    assert sheet["arms"]["more"]["fingerprint"] != plan_of(*sized(1400, 20)["stages"], table=longer).fingerprint


def test_what_cannot_be_compared_is_refused_with_the_arm_s_name(longer):
    bare = Table(HAND.uid, {"label": HAND.columns["label"]})
    for arms, table, match, message in (
        ({"a": BASE, "b": BASE}, HAND, "rows", "match must be one of none, samples, steps, tokens, flops, got 'rows'"),
        ({"a": BASE, "b": BASE}, bare, "flops", "match flops: the table has no duration_s, so flops are not known"),
        (
            {"a": BASE, "b": {"stages": [SFT | {"batchsize": 2}]}},
            HAND,
            "none",
            "arm 'b': curriculum.stages[0]: unknown",
        ),
        (
            {"a": BASE, "b": {"stages": [GRPO | {"budget": {"samples": 5}}]}},
            HAND,
            "none",
            "arm 'b': stage 'grpo' wants 5",
        ),
    ):
        with pytest.raises(InputError) as caught:
            compare(arms, table, match)
        assert str(caught.value).startswith(message)
    assert compare({"a": BASE, "b": BASE}, bare, "steps")["totals"]["b"]["tokens"] is None


def test_arms_are_matched_to_the_smallest_where_a_pool_has_too_little_for_the_first():
    """Four strong rows: 2 rows of GRPO cannot become the 16 presentations of the base, which therefore shrinks."""
    free, sheet = (compare({"a": BASE, "b": {"stages": [GRPO]}}, HAND, match) for match in ("none", "samples"))
    assert [one["samples"] for one in free["totals"].values()] == [16, 4] and free["matched_to"] is None
    assert sheet["totals"]["b"] == free["totals"]["b"] and sheet["matched_to"] == "b"
    assert sheet["totals"]["a"]["samples"] == pytest.approx(4, abs=1)
    said = "budgets matched by samples to b, the smallest arm: not every pool has enough for more"
    assert said in comparison_lines(sheet)


def cut(budget, **more):
    """A stage whose budget may be more than its pool holds."""
    return {"stages": [{"name": "s", "algorithm": "sft", "batch_size": 2, "budget": budget, **more}]}


def test_what_at_most_cuts_is_scaled_as_it_is(longer):
    """1,500 of 3,000 rows where 9,000 are named: a half is 750 rows, not a half of what was named, cut again."""
    arms = {"few": cut({"samples": 750}), "cut": cut({"samples": 9000, "at_most": 0.5})}
    sheet = compare(arms, longer, "samples")
    assert [one["samples"] for one in sheet["totals"].values()] == [750, 750] and sheet["matched_to"] == "few"
    # The other way round 750 become 1,500; where the pool has but 1,000 of them, all are matched to that arm.
    assert compare(dict(reversed(arms.items())), longer, "samples")["totals"]["few"]["samples"] == 1500
    arms = {"all": cut({"samples": 2000}), "third": cut({"samples": 900, "at_most": 1 / 3})}
    sheet = compare(arms, longer, "samples")
    assert [one["samples"] for one in sheet["totals"].values()] == [900, 900] and sheet["matched_to"] == "third"


@pytest.mark.parametrize("more", [{"budget": {"samples": 9, "at_most": 0.5}}, {"on_short": "stop"}])
def test_a_stage_that_takes_less_than_its_budget_is_noted(more):
    stage = {"name": "s", "algorithm": "sft", "batch_size": 2, "budget": {"samples": 11}} | more
    (noted,) = [one for one in describe(plan_of(stage))["doubts"] if "budget names" in one]
    assert noted == ("s takes 5 of the 9 rows" if "budget" in more else "s takes 10 of the 11 rows") + (
        " that its budget names"
    )
    repeated = describe(plan_of(stage | {"on_short": "repeat"} if "on_short" in more else stage))["doubts"]
    assert any("budget names" in one for one in repeated) == ("budget" in more)


def shelf(name):
    """Files that an arms file may name."""
    return {"base": {"seed": 1, **BASE}, "other": {"stages": [GRPO], "seed": 9}}[name]


def test_arms_are_a_base_with_changes():
    """An include, one value of a named stage (its parents are made), a whole key; neither base nor arms share parts."""
    spec = {
        "base": "base",
        "arms": {
            "plain": None,
            "empty": {},
            "included": {"include": "other", "seed": 3},
            "one": {"stages.grpo.budget.samples": 2, "stages.sft.loss_weight.power.by": "ac"},
            "whole": {"stages": [SFT], "columns": {"label": {"permute": {}}}},
        },
    }
    arms = arms_of(spec, shelf)
    assert list(arms) == ["plain", "empty", "included", "one", "whole"]
    assert arms["plain"] == arms["empty"] == {"seed": 1, "stages": [SFT, GRPO]}
    assert arms["included"] == {"stages": [GRPO], "seed": 3}
    assert arms["one"]["stages"] == [
        SFT | {"loss_weight": {"power": {"by": "ac"}}},
        GRPO | {"budget": {"samples": 2}},
    ]
    assert arms["whole"] == {"seed": 1, "stages": [SFT], "columns": {"label": {"permute": {}}}}
    arms["one"]["stages"][0]["budget"]["samples"] = 1
    assert arms["plain"]["stages"][0]["budget"]["samples"] == 6 == SFT["budget"]["samples"]


def test_an_arm_changes_values_as_words_do():
    """An amount takes the place of the one before, a place in a list is one, and other keys have paths too."""
    base = {"cells": {"ac": {"column": "a"}}, "stages": [SFT | {"budget": {"fraction": 1.0, "epochs": 2}}]}
    change = {"stages.sft.budget.samples": 3, "stages.0.batch_size": 2, "cells.ac.column": "b"}
    (arm,) = arms_of({"base": base, "arms": {"a": change}}, shelf).values()
    budget = {"samples": 3, "epochs": 2}
    assert arm == {"cells": {"ac": {"column": "b"}}, "stages": [SFT | {"budget": budget, "batch_size": 2}]}
    assert base["stages"][0]["budget"] == {"fraction": 1.0, "epochs": 2}


def test_a_base_may_be_written_out_in_the_arms_file():
    assert arms_of({"base": BASE, "arms": {"a": {"seed": 2}}}, shelf) == {"a": {"seed": 2, **BASE}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"base": BASE}, "an arms file has base, arms and match; got base"),
        ({"base": BASE, "arms": {}}, "an arms file has base, arms and match; got base, arms"),
        ({"base": BASE, "arms": ["a"]}, "an arms file has base, arms and match"),
        ({"bas": BASE, "arms": {"a": {}}}, "an arms file has base, arms and match; got bas, arms"),
        (
            {"base": BASE, "arms": {"a": {"stages.dpo.seed": 1}}},
            "arm 'a': override stages.dpo.seed: no stage 'dpo'; there are sft, grpo",
        ),
        ({"base": 3, "arms": {"a": {}}}, "an arms file's base is a curriculum or the name of one, got 3"),
    ],
)
def test_an_arms_file_that_cannot_be_is_refused(spec, message):
    with pytest.raises(InputError) as caught:
        arms_of(spec, shelf)
    assert message in str(caught.value)


@pytest.mark.parametrize("change", ["other", 3, ["other"], {"stages.sft.budget.samples.more": 1}])
def test_a_change_that_is_no_mapping_is_refused(change):
    """E.g. `mixed: other` in place of `mixed: {include: other}`."""
    with pytest.raises(InputError) as caught:
        arms_of({"base": BASE, "arms": {"a": change}}, shelf)
    if isinstance(change, dict):
        assert str(caught.value) == (
            "arm 'a': override stages.sft.budget.samples.more: stages.sft.budget.samples is 6 and holds no keys"
        )
    else:
        assert str(caught.value) == f"arm 'a': a mapping of changes is needed, got {change!r}"


# The command line.


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An index of 100 rows, curricula and an arms file beside it, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    count = 100
    columns = {
        "label": ["weak", "strong"] * 50,
        "source": ["a", "b", "c", "d"] * 25,
        "split": ["train"] * 80 + ["test"] * 20,
    }
    seconds = np.full(count, 9.0, np.float32)
    write_arrow(
        pa.table({"uid": splitmix64(np.arange(count, dtype=np.uint64)), **columns, "duration_s": seconds}), "a.arrow"
    )
    stages = [
        {"name": "sft", "algorithm": "sft", "batch_size": 4, "budget": {"samples": 20}},
        {"name": "grpo", "algorithm": "grpo", "batch_size": 2, "pool": {"label": "strong"}, "budget": {"steps": 5}},
    ]
    # JSON is YAML.
    (tmp_path / "mine.yaml").write_text(json.dumps({"curriculum": {"stages": stages}}))
    (tmp_path / "arms.yaml").write_text(
        json.dumps({"base": "mine", "arms": {"a": {}, "b": {"seed": 2}}, "match": "samples"})
    )
    (tmp_path / "broken.yaml").write_text("curriculum: [1\n")
    (tmp_path / "listed.yaml").write_text("curriculum: [1]\n")
    (tmp_path / "short.yaml").write_text(json.dumps({"stages": [stages[0] | {"budget": {"samples": 81}}]}))
    return tmp_path


def painted(path):
    """Of a PNG that is not blank: the shares of its pixels in the colours of weak and of strong questions."""
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    from earwitness.reports.figures import COLOURS

    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = imread(path)[..., :3]
    assert float(np.std(pixels)) > 0.02
    return [float((np.abs(pixels - to_rgb(COLOURS[name])) < 0.01).all(-1).mean()) for name in ("weak", "strong")]


def test_plan_prints_the_description_and_writes_it_with_a_picture(files, capsys):
    """Over the rows of the split `train`: 80 of 100. 20 + 10 rows of 9 s."""
    main(["plan", "mine.yaml", "--index", "a.arrow"])
    said = capsys.readouterr().out
    folder = files / "runs" / "plans" / "mine"
    found = json.loads((folder / "plan.json").read_text())
    assert found["rows"] == 80 and found["stages"]["sft"]["rows"] == 20
    assert found["stages"]["grpo"]["mix"]["label"] == {"strong": 10}
    assert found["stages"]["sft"]["hours"] == pytest.approx(20 * 9 / 3600)
    assert said.startswith("\n".join(lines(found))) and "written: runs/plans/mine/plan.json" in said
    # SFT is half weak, GRPO all strong: a quarter of the coloured area, which is most of the picture.
    weak, strong = painted(folder / "plan.png")
    assert weak + strong > 0.4 and weak / (weak + strong) == pytest.approx(0.25, abs=0.03)


def test_plan_of_a_made_up_table(files, capsys):
    main(["plan", "weak_to_strong", "--synthetic", "--out", "here"])
    found = json.loads((files / "here" / "plan.json").read_text())
    assert found["rows"] == 571_118 and found["stages"]["sft"]["rows"] == 313_177
    assert "sft (sft): 313,177 of 313,177 rows, 2.00 times each, in 3,915 steps of 160" in capsys.readouterr().out
    weak, strong = painted(files / "here" / "plan.png")
    assert weak + strong > 0.4 and weak / (weak + strong) == pytest.approx(0.5, abs=0.03)


def test_plan_compares_the_arms_of_a_file_and_matches_as_it_says(files, capsys):
    main(["plan", "arms.yaml", "--compare", "--index", "a.arrow", "--out", "there"])
    sheet = json.loads((files / "there" / "compare.json").read_text())
    assert list(sheet["arms"]) == ["a", "b"] and sheet["match"] == "samples"
    assert sheet["differences"] == {"b": ["seed: 0 -> 2"]}
    assert capsys.readouterr().out.startswith("\n".join(comparison_lines(sheet)))
    main(["plan", "arms.yaml", "--compare", "--match", "none", "--index", "a.arrow", "--out", "there"])
    assert json.loads((files / "there" / "compare.json").read_text())["match"] == "none"


def test_plan_compares_several_files(files, capsys):
    main(["plan", "mine.yaml", "arms.yaml", "--compare", "--index", "a.arrow"])
    sheet = json.loads((files / "runs" / "plans" / "mine-arms" / "compare.json").read_text())
    assert list(sheet["arms"]) == ["mine", "a", "b"] and sheet["overlap"][0]["jaccard"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such"], "error: no_such: no such file; shipped curricula are"),
        (["broken.yaml"], "error: broken.yaml: not a YAML mapping"),
        (["listed.yaml"], "error: listed.yaml: `curriculum` must be a mapping"),
        (["arms.yaml"], "error: arms.yaml: holds arms of an experiment; show them with --compare"),
        (["short.yaml"], "error: stage 'sft' wants 81 rows of all rows, 80 are left; lower the budget"),
        (["mine.yaml", "--compare"], "error: --compare needs at least two curricula, or a file with `arms`"),
        (
            ["mine.yaml", "mine.yaml", "--compare"],
            "error: mine.yaml: there are two arms 'mine'; rename one of the files",
        ),
        (["mine.yaml", "--labels", "no.arrow"], "error: no.arrow: not found"),
        (
            ["online"],
            "error: cells: no column 'ac_vote' in the table; there are duration_s, label, source, split; `ear",
        ),
        (["controls", "--compare"], "error: arm 'jury_leave_one': columns.label: no votes 'vote_2'; there are none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_planned_is_one_line_and_exit_code_1(files, words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", *words, "--index", "a.arrow"])
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.startswith(message) and error.count("\n") == 1
    assert not (files / "runs").exists(), "nothing is written where nothing can be shown"


def test_a_table_that_is_none_is_named_with_the_way_out(files, capsys):
    """A folder, annotations, a table without training rows, and labels for the made-up one."""
    (files / "shards").mkdir()
    (files / "notes.json").write_text("[{}, {}, {}, {}, {}]")
    columns = {"uid": splitmix64(np.arange(2, dtype=np.uint64)), "split": ["test", "val"], "label": ["weak", "weak"]}
    write_arrow(pa.table(columns), "bench.arrow")
    for words, message in (
        (["--index", "shards"], "shards: a folder; name the table in it, such as shards/index.arrow"),
        (
            ["--index", "notes.json"],
            "notes.json: not a readable table (no Arrow file, or cut off); `earwitness shard` an",
        ),
        (
            ["--index", "bench.arrow"],
            "bench.arrow: a plan is over the split 'train', which no question has; there are test, val",
        ),
        (["--synthetic", "--labels", "a.arrow"], "a.arrow: the made-up table has labels of its own; give --index, or"),
    ):
        with pytest.raises(SystemExit):
            main(["plan", "mine.yaml", *words])
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_wrong_command_line_is_one_line(files, capsys):
    for words, message in (
        (["mine.yaml"], "one of the arguments --index --synthetic is required; see `earwitness plan --help`"),
        (
            ["mine.yaml", "--synthetic", "--seed", "3"],
            "unrecognized arguments: --seed 3 (values are changed by key=value); see `earwitness --help`",
        ),
    ):
        with pytest.raises(SystemExit) as end:
            main(["plan", *words])
        assert end.value.code == 2 and capsys.readouterr().err == f"error: {message}\n"


def test_a_table_is_needed_and_only_one(files, capsys):
    for words in (["mine.yaml"], ["mine.yaml", "--synthetic", "--index", "a.arrow"]):
        with pytest.raises(SystemExit) as end:
            main(["plan", *words])
        assert end.value.code == 2


WRONG = {
    "disjoint: 3": {"disjoint": 3},
    "pool: {label: 3}": {"stages": [SFT | {"pool": {"label": 3}}]},
    "name: [sft]": {"stages": [SFT | {"name": ["sft"]}]},
    "edges: 3": {"stages": [SFT], "cells": {"duration_s": {"edges": 3}}},
    "edges: [a]": {"stages": [SFT], "cells": {"duration_s": {"edges": ["a"]}}},
}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("disjoint: 3", "wrong.yaml: curriculum: disjoint is a list of uid, clip, got 3"),
        ("pool: {label: 3}", "stage 'sft': label is never 3; it is one of ['strong', 'weak']"),
        ("name: [sft]", "wrong.yaml: curriculum.stages[0].name must be a text, got ['sft']"),
        ("edges: 3", "wrong.yaml: cells.duration_s: edges must be a list of numbers, got 3"),
        ("edges: [a]", "wrong.yaml: cells.duration_s: edges must be a list of numbers, got ['a']"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line_and_exit_code_1(files, what, message, capsys):
    (files / "wrong.yaml").write_text(json.dumps({"stages": [SFT], **WRONG[what]}))
    with pytest.raises(SystemExit) as end:
        main(["plan", "wrong.yaml", "--index", "a.arrow"])
    assert end.value.code == 1 and capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("uid", ["none", "words"])
def test_a_table_without_whole_numbers_as_uid_is_one_line_and_exit_code_1(files, uid, capsys):
    table = pa.table({"label": ["weak", "strong"]} | ({"uid": ["x", "y"]} if uid == "words" else {}))
    write_arrow(table, "bad.arrow")
    with pytest.raises(SystemExit) as end:
        main(["plan", "mine.yaml", "--index", "bad.arrow"])
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.count("\n") == 1
    assert error.startswith("error: bad.arrow: needs a column `uid` of whole numbers; it has label")


def test_a_plan_with_its_picture_never_imports_torch(files):
    """A laptop without a GPU shows a plan in a second; in a process of its own, for torch is here already."""
    code = (
        "import sys\nfrom earwitness.commands.cli import main\n"
        "main(['plan', 'mine.yaml', '--index', 'a.arrow'])\n"
        "main(['plan', 'arms.yaml', '--compare', '--index', 'a.arrow'])\n"
        "heavy = {'torch', 'transformers', 'lightning'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (files / "runs" / "plans" / "mine" / "plan.png").exists()
