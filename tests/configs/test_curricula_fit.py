"""The shipped curricula over tables of other sizes and kinds than AudioMCQ's: a plan, or one true sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest

from earwitness.configs.files import SHIPPED, find_file, read_curriculum, read_yaml, resolved
from earwitness.curriculum.identity import keyed, splitmix64, unit
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.compare import arms_of, compare, comparison_lines
from earwitness.curriculum.preview.preview import describe, lines
from earwitness.curriculum.preview.synthetic import audiomcq_table
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError

FILES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
ARMS = [name for name in FILES if "arms" in read_yaml(find_file(name))]
CURRICULA = [name for name in FILES if name not in ARMS]


def made(rows, weak=0.55, sources=3, a_clip=3, without=()):
    """Columns as `earwitness index` and `earwitness label` with three voters write them.

    weak: share of the rows. sources: how many. a_clip: questions about a recording. without: columns that are left out.
    """
    uid = splitmix64(np.arange(rows, dtype=np.uint64))
    draw = {name: unit(keyed(uid, "made", name)) for name in ("label", "ac", "source", "type", "vote")}
    is_weak = draw["label"] < weak
    columns = {
        "label": Categorical((~is_weak).astype(np.int32), ("weak", "strong")),
        "source": Categorical((draw["source"] * sources).astype(np.int32), tuple(f"s{k}" for k in range(sources))),
        "question_type": Categorical((draw["type"] * 2).astype(np.int32), ("sound", "speech")),
        "clip": splitmix64(np.arange(rows, dtype=np.uint64) // np.uint64(a_clip)),
        "duration_s": 2 + 10 * draw["type"],
        "num_choices": np.full(rows, 4.0),
        # Latent classes of three voters give few values.
        "ac_vote": np.where(is_weak, 0.03, 0.8).astype(np.float32) + np.round(draw["ac"], 1).astype(np.float32) / 6,
        "pass_rate": np.floor(9 * draw["vote"]) / 8,
        **{f"vote_{k}": (is_weak ^ (draw["vote"] < 0.1 * k)).astype(float) for k in range(3)},
    }
    return Table(uid, {name: column for name, column in columns.items() if name not in without})


SIZES = {str(rows): made(rows) for rows in (12, 100, 480, 2000)}
KINDS = {
    "few weak": made(480, weak=0.1),
    "few strong": made(480, weak=0.9),
    "one source": made(480, sources=1),
    "many questions a recording": made(480, a_clip=24),
    "one question a recording": made(480, a_clip=1),
}


def plan_of(name, table):
    return Plan(parse_curriculum(read_curriculum(name)), table)


def compared(name, table):
    content = resolved(read_yaml(find_file(name)), find_file(name))
    return compare(arms_of(content, read_curriculum), table, content["match"])


def refusal(name, table):
    """The sentence that refuses a shipped curriculum over the table, "" where it fits."""
    try:
        _ = compared(name, table) if name in ARMS else plan_of(name, table)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("table", [*SIZES, *KINDS])
@pytest.mark.parametrize("name", CURRICULA)
def test_every_shipped_curriculum_fits_every_table(name, table):
    """Each stage takes rows, none twice, and the page says what is less than the budget names."""
    rows = (SIZES | KINDS)[table]
    if name == "interleaved" and len(rows) < 336:  # twice a batch of 160 of SFT and one of 8 of GRPO
        assert re.fullmatch(
            r"interleave 'both': at_most 0\.5 of the \d+ rows left is less than one batch of each, 160 of sft and 8 of "
            r"grpo; make their batch_size smaller",
            refusal(name, rows),
        )
        return
    described = describe(plan_of(name, rows))
    assert all(stage["rows"] > 0 and stage["steps"] > 0 for stage in described["stages"].values())
    assert all(entry["uid"] == 0 for entry in described["overlaps"])
    shown = "\n".join(lines(described))
    for stage, taken in plan_of(name, rows).stages.items():
        assert (f"note: {stage} takes {taken.rows:,} of the {taken.wanted:,} rows" in shown) == taken.cut


@pytest.mark.parametrize("table", [*SIZES, *KINDS])
@pytest.mark.parametrize("name", ARMS)
def test_the_arms_of_every_experiment_fit_every_table(name, table):
    """Matched arms have the same total within a step of SFT, or a row of it where samples are counted."""
    rows = (SIZES | KINDS)[table]
    sheet = compared(name, rows)
    assert comparison_lines(sheet)
    if sheet["match"] == "samples":
        totals = [total["samples"] for total in sheet["totals"].values()]
        assert max(totals) - min(totals) <= 4
    elif sheet["match"] == "flops" and len(rows) >= 480:
        totals = [total["flops"] for total in sheet["totals"].values()]
        assert max(totals) / min(totals) < 1.1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("label", ["weak", "strong"])
def test_a_label_that_no_question_has_is_named(name, label):
    """Where a stage is for that label, or for contributions that only its questions have; the others are planned."""
    table = made(480, weak={"weak": 0.0, "strong": 1.0}[label])
    said, needs = (
        refusal(name, table),
        ["weak_to_strong", "strong_to_weak", "source_matched", "online", "rehearsed", *ARMS],
    )
    needs += ["mixed_to_strong", "competence"] if label == "strong" else ["softmax"]
    assert bool(said) == (name in needs)
    if name in ("competence", "softmax") and said:
        assert said in (
            "stage 'grpo': the cells that its weight wants have no row left; widen the weight",
            "stage 'sft': the table has no row with ac max 0.5; give it another pool, or leave it out",
        )
    elif name == "online" and label == "strong":  # GRPO takes what SFT leaves
        assert said.startswith(
            "stage 'grpo' wants 7,200 rows of all rows, 0 are left after sft; lower the budget of the"
        )
    elif said:
        assert f"the table has no row with label {label}; give it another pool, or leave it out" in said


MADE_BY = {
    "label": "; `earwitness label` makes it: give its table with --labels (`labels` in a file)",
    "ac_vote": "; `earwitness label` makes it: give its table with --labels (`labels` in a file)",
    "vote_2": "columns.label: no votes 'vote_2'; there are vote_0, vote_1",  # the jury had two
    "pass_rate": "; `earwitness predict` with the callback PassRateTable makes it: give its table with --labels",
    "source": "; `earwitness shard` and `earwitness index` write it into an index",
    "clip": "; `earwitness shard` and `earwitness index` write it into an index",
    "num_choices": "; `earwitness shard` and `earwitness index` write it into an index",
}
NEEDED = {
    "label": {*ARMS, "all_grpo", "all_sft", "mixed_to_mixed", "mixed_to_strong", "online", "rehearsed", "shares"}
    | {"source_matched", "strong_to_weak", "weak_to_strong"},
    "ac_vote": {"adarft", "bandit", "competence", "gaussian", "interleaved", "online", "power", "softmax"},
    "vote_2": {"controls"},
    "pass_rate": {"pass_rate"},
    "source": {"bandit", "controls", "pass_rate", "softmax", "source_matched"},
    "clip": {"mixed_to_strong", "paper", "paper_matched"},
    "num_choices": {"adarft", "bandit", "online"},
}


@pytest.mark.parametrize("column", NEEDED)
def test_a_missing_column_is_named_with_the_command_that_makes_it(column):
    table = made(480, without=(column,))
    said = {name: refusal(name, table) for name in FILES}
    assert {name for name in said if said[name]} == NEEDED[column]
    for name in NEEDED[column]:
        assert f"'{column}'" in said[name] and said[name].endswith(MADE_BY[column]), said[name]
        assert "\n" not in said[name]


def test_a_larger_table_gets_fractions_of_sft_and_the_paper_s_steps_of_grpo():
    """Ten times 2,000 rows: all weak ones, and 100 steps."""
    table = made(20_000)
    weak = int((table.text("label").codes == 0).sum())
    plan = plan_of("weak_to_strong", table)
    assert plan.stage_plan("sft").rows == weak and plan.num_steps("grpo") == 100


BEFORE = {
    "all_grpo": {"grpo": (9_600, 1_200)},
    "all_sft": {"sft": (320_000, 2_000)},
    "competence": {"sft": (313_177, 1_958), "grpo": (7_200, 900)},
    "gaussian": {"grpo": (76_800, 1_200)},
    "interleaved": {"sft": (144_000, 900), "grpo": (7_200, 900)},
    "mixed_to_mixed": {"sft": (313_177, 3_915), "grpo": (3_200, 400)},
    "mixed_to_strong": {"sft": (313_177, 3_915), "grpo": (7_200, 900)},
    "online": {"sft": (313_177, 1_958), "grpo": (7_200, 900)},
    "pass_rate": {"grpo": (76_800, 1_200)},
    "rehearsed": {"sft": (313_177, 3_915), "grpo": (800, 100)},
    "shares": {"sft": (313_177, 1_958), "grpo": (3_200, 400)},
    "softmax": {"sft": (240_000, 1_500), "grpo": (7_200, 900)},
    "source_matched": {"sft": (150_000, 1_875), "grpo": (800, 100)},
    "strong_to_weak": {"sft": (257_941, 3_225), "grpo": (800, 100)},
    "weak_to_strong": {"sft": (313_177, 3_915), "grpo": (800, 100)},
}


def test_on_audiomcq_the_budgets_are_the_reported_numbers():
    """Rows and steps: 313,177 weak questions are 0.548358 of all, 150,000 are 0.478963 of them, and so on."""
    table = audiomcq_table()
    for name, stages in BEFORE.items():
        plan = plan_of(name, table)
        assert {s: (plan.stage_plan(s).rows, plan.num_steps(s)) for s in plan.stages} == stages, name
        assert not any(taken.cut for taken in plan.stages.values()), name
    paper = compared("paper", table)["arms"]
    assert {arm: [s["rows"] for s in sheet["stages"].values()] for arm, sheet in paper.items()} == {
        arm: [rows for rows, _ in BEFORE[arm].values()] for arm in paper
    }
    controls = compared("controls", table)["arms"]
    assert {tuple(s["rows"] for s in sheet["stages"].values()) for sheet in controls.values()} == {(150_000, 800)}


def test_the_paper_s_numbers_stay_numbers_on_a_corpus_that_is_larger():
    table = audiomcq_table()
    twice = Table(
        splitmix64(np.arange(2 * len(table), dtype=np.uint64)),
        {
            name: Categorical(np.tile(value.codes, 2), value.names)
            if isinstance(value, Categorical)
            else np.tile(value, 2)
            for name, value in table.columns.items()
        },
    )
    sheet = compared("paper", twice)["arms"]
    assert [s["rows"] for s in sheet["weak_to_strong"]["stages"].values()] == [313_177, 800]
    assert plan_of("weak_to_strong", twice).stage_plan("sft").rows == 2 * 313_177
