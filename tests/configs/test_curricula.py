"""The shipped curricula over a table with AudioMCQ's published counts: they compile, and the paper's arms stay put.

`python tests/test_curricula.py` writes the golden file anew; do so only where another order of rows is wanted.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from earwitness.configs.files import SHIPPED, find_file, read_curriculum, read_yaml, resolved
from earwitness.curriculum.online.cursor import Cursor
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.plan.pools import rehearsed
from earwitness.curriculum.preview.compare import arms_of, compare
from earwitness.curriculum.preview.synthetic import SOURCES, audiomcq_table
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.errors import InputError
from earwitness.tests.places import GOLDEN

GOLDEN_FILE = GOLDEN / "paper_arms.json"
FILES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
ARMS = [name for name in FILES if "arms" in read_yaml(find_file(name))]
CURRICULA = [name for name in FILES if name not in ARMS]
PAPER = ["weak_to_strong", "mixed_to_strong", "mixed_to_mixed"]
SINGLE = ["all_sft", "all_grpo"]
WEAK, STRONG = 313_177, 257_941


def first_uids(table, arms=(*PAPER, *SINGLE), count=64):
    """Arm -> stage -> its first uids, in hexadecimal."""
    plans = {name: Plan(parse_curriculum(read_curriculum(name)), table) for name in arms}
    return {
        name: {stage: [f"{uid:016x}" for uid in table.uid[plan.rows(stage, np.arange(count))]] for stage in plan.stages}
        for name, plan in plans.items()
    }


def write_golden():
    """The golden file from the plans of this day."""
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(first_uids(audiomcq_table()), indent=1) + "\n")


@pytest.fixture(scope="module")
def table():
    return audiomcq_table()


@pytest.fixture(scope="module")
def paper(table):
    """The paper's arms, compiled once."""
    return {name: Plan(parse_curriculum(read_curriculum(name)), table) for name in (*PAPER, *SINGLE)}


def dealt_rows(plan, stage):
    return plan.rows(stage, np.arange(plan.stage_plan(stage).rows))


def counts(table, column):
    text = table.text(column)
    return dict(zip(text.names, np.bincount(text.codes, minlength=len(text.names)).tolist(), strict=True))


def test_the_made_up_table_has_the_published_counts(table):
    assert len(table) == len(np.unique(table.uid)) == 571_118
    assert counts(table, "label") == {"weak": WEAK, "strong": STRONG}
    assert counts(table, "question_type") == {"speech": 268_299, "sound": 223_126, "music": 46_373, "temporal": 33_320}
    sources = {"AudioCaps": 90_549, "Clotho": 3_801, "CompA-R": 197_218, "LP-MusicCaps-MTT": 15_560}
    sources |= {"MusicCaps": 2_637, "SpeechCraft": 228_033, "TACOS": 33_320}
    assert counts(table, "source") == sources == SOURCES and sum(sources.values()) == 571_118


def test_its_labels_have_the_published_shares_of_two_sources_and_the_common_one_of_the_others(table):
    """TACOS 73.3 % strong, CompA-R 75.5 % weak; the other five share the rest: 155,381 of 340,580 are weak, 45.6 %."""
    weak = table.text("label").codes == 0
    share = {name: weak[table.where({"source": name})].mean() for name in SOURCES}
    assert round(100 * (1 - share.pop("TACOS")), 1) == 73.3 and round(100 * share.pop("CompA-R"), 1) == 75.5
    assert all(value == pytest.approx(155_381 / 340_580, abs=0.001) for value in share.values())


def test_its_columns_hang_together(table):
    """Votes give the labels (two of three right is weak), contributions follow them, three questions a recording."""
    weak = table.text("label").codes == 0
    votes = sum(table.columns[f"vote_{k}"] for k in range(3))
    assert ((votes >= 2) == weak).all()
    ac = table.columns["ac_vote"]
    assert ac[weak].min() >= 0 and ac[weak].max() <= 0.5 and ac[~weak].min() >= 0.25 and ac[~weak].max() <= 1
    compa = table.where({"source": "CompA-R"})
    assert len(np.unique(table.columns["clip"][compa])) == pytest.approx(197_218 / 3, abs=2)
    assert len(np.unique(table.columns["clip"])) == pytest.approx(571_118 - 2 * 197_218 / 3, abs=3)
    again = audiomcq_table()
    assert again.columns["clip"].tobytes() == table.columns["clip"].tobytes(), "made up, but always the same"


def test_there_are_curricula_and_arms_to_try():
    assert {*PAPER, *SINGLE, "strong_to_weak", "online", "bandit", "adarft", "interleaved"} <= set(CURRICULA)
    assert {"paper", "paper_matched", "controls"} == set(ARMS)


def turned(value):
    """The same mapping with all keys in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return [turned(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CURRICULA)
def test_every_shipped_curriculum_compiles_and_deals_no_row_twice(name, table):
    """Of an adaptive stage the windows that are planned before anything is observed: its lag and one."""
    plan = Plan(parse_curriculum(read_curriculum(name)), table)
    taken = np.zeros(len(table), np.int64)
    for stage, dealt in plan.stages.items():
        if dealt.stage.window:
            Cursor(plan, stage)
        shown = plan.rows(stage, np.arange(int(dealt.edges[dealt.planned])))
        assert dealt.planned == (1 + dealt.stage.lag if dealt.stage.window else len(dealt.matrix))
        assert len(shown) == dealt.matrix[: dealt.planned].sum() > 0
        assert plan.batch(stage, 0)[0].tolist() == shown[: dealt.stage.batch_size].tolist()
        again = rehearsed(dealt.stage, plan.cells)[plan.cell_of_row[shown]]
        assert again.mean() == (0.0 if dealt.stage.rehearse is None else 0.2) and (taken[shown[again]] == 1).all()
        np.add.at(taken, shown[~again], 1)
    assert taken.max() == 1


@pytest.mark.parametrize("name", CURRICULA)
def test_a_curriculum_written_as_yaml_and_read_again_is_the_same_plan(name, table):
    mapping = read_curriculum(name)
    rewritten = yaml.safe_load(yaml.safe_dump(mapping))
    plans = [Plan(parse_curriculum(one), table) for one in (mapping, rewritten)]
    assert plans[0].fingerprint == plans[1].fingerprint
    first = next(iter(plans[0].stages))
    if not plans[0].stage_plan(first).stage.window:
        assert dealt_rows(plans[0], first).tobytes() == dealt_rows(plans[1], first).tobytes()


@pytest.mark.parametrize("name", CURRICULA)
def test_the_order_of_keys_in_a_file_does_not_matter(name, table):
    """Every mapping of the file turned round, the list of stages as it is."""
    mapping = read_curriculum(name)
    assert list(turned(mapping)) == list(mapping)[::-1]
    one, other = (Plan(parse_curriculum(m), table) for m in (mapping, turned(mapping)))
    assert one.fingerprint == other.fingerprint
    assert one.curriculum.canonical() == other.curriculum.canonical()


def small(stage, **top):
    base = {"name": "s", "algorithm": "sft", "batch_size": 8, "budget": {"samples": 80}}
    return parse_curriculum({"stages": [base | stage], **top}).canonical()


def test_shorthands_and_what_they_stand_for_are_the_same_curriculum():
    """One recording rule, one axis and no seed, in all their spellings; another axis or rule is another curriculum."""
    same = [{}, {"seed": 0}, {"cells": ["label"]}, {"cells": {"label": "label"}}, {"disjoint": "uid"}, {"disjoint": []}]
    same += [{"cells": {"label": {"column": "label", "bins": 32}}}, {"disjoint": ["uid"]}, {"cost": {"group_size": 4}}]
    assert len({small({}, **top) for top in same}) == 1
    both = [{"disjoint": "clip"}, {"disjoint": ["uid", "clip"]}, {"disjoint": ["clip", "uid"]}]
    assert len({small({}, **top) for top in both}) == 1
    others = [{}, {"seed": 1}, {"disjoint": "clip"}, {"cells": ["source"]}, {"cells": {"l": "label"}}]
    assert len({small({}, **top) for top in others}) == len(others)
    # What a token costs matters to a budget in FLOPs alone.
    flops = {"budget": {"flops": 1e15}}
    assert small(flops) != small(flops, cost={"group_size": 4})


@pytest.mark.parametrize(
    "default",
    [
        *({"mix": "spread"}, {"weight": "uniform"}, {"claim": 0}, {"pool": {}}, {"on_short": "error"}, {"lag": 1}),
        *({"mass": None}, {"loss_weight": None}, {"block": None}, {"window": None, "feedback": None, "probe": None}),
        *({"budget": {"samples": 80, "epochs": 1}}, {"on_zero_advantage": "keep"}),
    ],
)
def test_a_default_that_is_spelt_out_is_the_same_curriculum(default):
    """Otherwise a run is not resumed although nothing changed."""
    assert small(default) == small({})


def test_a_description_holds_every_default():
    """All keys of a stage and of the top; the cost where a budget is in FLOPs, interleaves where there are any.

    `objective` is the older name of `algorithm`, kept here since the fingerprints of earlier runs are made of it.
    """
    described = json.loads(small({}))
    assert described == {
        "seed": 0,
        "cells": [{"name": "label", "column": "label", "bins": 32, "by": "quantile", "edges": None}],
        "disjoint": "uid",
        "columns": {},
        "stages": [
            {
                **{"name": "s", "objective": "sft", "batch_size": 8, "budget": {"samples": 80, "epochs": 1}},
                **{"pool": {}, "weight": "uniform", "mass": None, "loss_weight": None, "block": None, "mix": "spread"},
                **{"claim": 0, "on_short": "error", "window": None, "lag": 1, "feedback": None, "probe": None},
                "on_zero_advantage": "keep",
            }
        ],
    }
    assert json.loads(small({"claim": "first"}))["stages"][0]["claim"] == -1
    asked = {"window": 5, "feedback": "contribution", "probe": {}}
    assert small(asked) == small(asked | {"probe": {"rate": 0.25, "condition": "silence", "how": "option_logprob"}})


def test_plans_with_the_same_fingerprint_deal_the_same_rows(table):
    """Modifiers in one order or the other: `matched` comes before `floor` in both."""
    few = table.take(np.arange(0, len(table), 100))
    stage = {"name": "s", "algorithm": "sft", "batch_size": 8, "budget": {"samples": 800}}
    parts = {"softmax": {"by": "ac", "temperature": 0.1}, "matched": {"by": "source"}, "floor": 0.5}
    cells = {"ac": {"column": "ac_prob", "bins": 4}, "source": "source"}
    one, other = (
        Plan(parse_curriculum({"cells": cells, "stages": [stage | {"weight": weight}]}), few)
        for weight in (parts, turned(parts))
    )
    assert dealt_rows(one, "s").tolist() == dealt_rows(other, "s").tolist()
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_arm_deals_as_much_sft_as_there_are_weak_questions_and_shares_nothing(name, paper, table):
    plan = paper[name]
    sft, grpo = (dealt_rows(plan, stage) for stage in ("sft", "grpo"))
    assert len(sft) == len(np.unique(sft)) == WEAK and plan.stage_plan("sft").presented == 2 * WEAK
    assert plan.num_steps("sft") == 3_915  # 626,354 / 160 = 3,914.7
    assert not np.isin(grpo, sft).any()
    steps = {"weak_to_strong": 100, "mixed_to_strong": 900, "mixed_to_mixed": 400}[name]
    assert plan.num_steps("grpo") == steps and len(np.unique(grpo)) == 8 * steps


def test_weak_to_strong_keeps_the_labels_apart(paper):
    plan = paper["weak_to_strong"]
    assert plan.composition("sft", "label") == {"weak": WEAK}
    assert plan.composition("grpo", "label") == {"strong": 800}


def test_mixed_arms_have_the_pool_s_mix(paper, table):
    """Within one row.

    mixed_to_mixed: 313,177 x 313,177 / 571,118 = 171,733.0 weak; 141,444 weak and 116,497 strong are left, of which
    3,200 x 141,444 / 257,941 = 1,754.7 are dealt. Alone: 320,000 and 9,600 x 0.548358 = 175,474.6 and 5,264.2.
    """
    mixed = paper["mixed_to_mixed"]
    wanted = [(mixed, "sft", 171_733.0), (mixed, "grpo", 1_754.7)]
    wanted += [(paper["all_sft"], "sft", 175_474.6), (paper["all_grpo"], "grpo", 5_264.2)]
    for plan, stage, weak in wanted:
        assert plan.composition(stage, "label")["weak"] == pytest.approx(weak, abs=1)
    assert [paper[name].stage_plan(name[4:]).rows for name in SINGLE] == [320_000, 9_600]


def test_mixed_to_strong_mixes_what_grpo_leaves(paper, table):
    """GRPO has its 7,200 strong rows first; those, and the rows of their recordings, are not in the pool of SFT."""
    plan = paper["mixed_to_strong"]
    grpo, sft = dealt_rows(plan, "grpo"), dealt_rows(plan, "sft")
    assert plan.composition("grpo", "label") == {"strong": 7_200}
    clip, weak = table.columns["clip"], table.text("label").codes == 0
    free = ~np.isin(clip, clip[grpo])
    assert plan.stage_plan("sft").left.sum() == free.sum() < 571_118 - 7_200
    assert not np.isin(clip[sft], clip[grpo]).any()
    expected = WEAK * int((free & weak).sum()) / int(free.sum())
    assert int(weak[sft].sum()) == pytest.approx(expected, abs=1)
    # About 313,177 x 313,177 / 563,918 = 173,926 if no recording were shared.
    assert expected == pytest.approx(173_926, rel=0.005)


def test_grpo_rows_of_weak_to_strong_are_among_those_of_mixed_to_strong(paper):
    """The first 800 strong cards of the same deck, whichever arm deals them: what the claim is for."""
    short, long = (set(dealt_rows(paper[name], "grpo").tolist()) for name in ("weak_to_strong", "mixed_to_strong"))
    assert len(short) == 800 and short < long


@pytest.mark.parametrize("name", ARMS)
def test_the_arms_of_an_experiment_compile_side_by_side(name, table):
    """Every arm of the file, its budgets matched as the file says, and the differences that it names are the only."""
    path = find_file(name)
    content = resolved(read_yaml(path), path)
    sheet = compare(arms_of(content, read_curriculum), table, content["match"])
    assert list(sheet["arms"]) == list(content["arms"]) and sheet["match"] == content["match"]
    first = next(iter(sheet["arms"]))
    for arm, total in sheet["totals"].items():
        if content["match"] != "none":
            assert total[content["match"]] == pytest.approx(sheet["totals"][first][content["match"]], rel=0.001)
        for stage in sheet["arms"][arm]["stages"].values():
            assert 0 < stage["rows"] <= stage["pool"]
        assert all(entry["uid"] == 0 for entry in sheet["arms"][arm]["overlaps"])


def test_the_paper_s_arms_differ_in_what_their_files_say(table):
    path = find_file("controls")
    content = resolved(read_yaml(path), path)
    arms = arms_of(content, read_curriculum)
    base = read_curriculum("weak_to_strong")
    base["stages"][0]["budget"] = {"samples": 150_000, "at_most": 1.0, "epochs": 2}
    assert arms["weak_to_strong"] == base
    assert arms["label_permuted"] == base | {"columns": {"label": {"permute": {"within": "source"}}}}
    assert arms["jury_leave_one"] == base | {"columns": {"label": {"votes": {"drop": ["vote_2"]}}}}
    assert arms["source_matched"] == read_curriculum("source_matched")


def test_the_first_rows_of_the_paper_s_arms_are_the_golden_ones(table):
    """What was trained yesterday is what a plan says today; 64 uids of every stage."""
    found, golden = first_uids(table), json.loads(GOLDEN_FILE.read_text())
    assert {arm: list(stages) for arm, stages in found.items()} == {arm: list(s) for arm, s in golden.items()}
    for arm, stages in found.items():
        for stage, uids in stages.items():
            assert len(set(uids)) == 64
            assert uids == golden[arm][stage], f"{arm}, {stage}"


def test_a_shortage_names_what_is_wanted_and_what_is_left(table):
    """Mixed SFT takes 141,444 of the 257,941 strong rows: 116,497 are left."""
    mapping = read_curriculum("mixed_to_mixed")
    mapping["stages"][1] |= {"pool": {"label": "strong"}, "budget": {"samples": 300_000}}
    with pytest.raises(InputError) as caught:
        Plan(parse_curriculum(mapping), table)
    assert str(caught.value) == (
        "stage 'grpo' wants 300,000 rows of label strong, 116,497 are left after sft; "
        "lower the budget, or set on_short to stop or repeat"
    )


def test_a_curriculum_is_found_by_its_name_its_path_or_in_a_recipe(tmp_path):
    """Under the key `curriculum`, or as the whole file; interpolated values are resolved."""
    plain = read_curriculum("weak_to_strong")
    assert read_curriculum("weak_to_strong.yaml") == plain == read_curriculum(str(SHIPPED / "weak_to_strong.yaml"))
    whole, recipe = tmp_path / "whole.yaml", tmp_path / "recipe.yaml"
    whole.write_text(yaml.safe_dump(plain))
    recipe.write_text("name: x\nlr: ???\nsize: 20260925\ncurriculum:\n  seed: ${size}\n  stages: []\n")
    assert read_curriculum(str(whole)) == plain
    assert read_curriculum(str(recipe)) == {"seed": 20260925, "stages": []}
    with pytest.raises(InputError, match="no_such: no such file; shipped curricula are adarft, all_grpo"):
        read_curriculum("no_such")


if __name__ == "__main__":
    write_golden()
