"""Values of a curriculum changed by words: on the command line, and behind its name in any file."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
import yaml

from earwitness.commands.checks.trainer import checked_curriculum
from earwitness.commands.cli import main
from earwitness.configs.files import read_curriculum
from earwitness.configs.overrides import AMOUNTS, is_override, overridden, split_name
from earwitness.curriculum.online.cursor import read_state
from earwitness.curriculum.schedule.budget import UNITS
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.errors import InputError
from earwitness.tests.places import ROOT, TESTS

STORED = TESTS / "stored"
INDEX, LABELS = str(STORED / "shards" / "index.arrow"), str(STORED / "labels.arrow")
SPEC = {
    "seed": 1,
    "cells": {"ac": {"column": "ac_vote", "bins": 8}},
    "stages": [
        {"name": "sft", "algorithm": "sft", "batch_size": 4, "budget": {"fraction": 1.0, "epochs": 2, "at_most": 0.5}},
        {
            "name": "both",
            "interleave": {"steps": 9, "share": {"b": 0.5}},
            "stages": [{"name": "a", "weight": {"product": [{"power": "ac"}, "uniform"]}}, {"name": "b"}],
        },
    ],
}


def at(spec, *path):
    for part in path:
        spec = spec[part]
    return spec


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("seed=3", ["seed"], 3),
        ("curriculum.seed=3", ["seed"], 3),
        ("disjoint=[uid, clip]", ["disjoint"], ["uid", "clip"]),
        ("cells.ac.column=ac_p", ["cells", "ac", "column"], "ac_p"),
        ("cells.ac.edges=[1e-3, .5]", ["cells", "ac", "edges"], [0.001, 0.5]),
        ("stages.0.batch_size=16", ["stages", 0, "batch_size"], 16),
        ("stages[0].batch_size=16", ["stages", 0, "batch_size"], 16),
        ("curriculum.stages[0].batch_size=16", ["stages", 0, "batch_size"], 16),
        ("stages.sft.batch_size=16", ["stages", 0, "batch_size"], 16),
        ("stages.sft.pool.label=weak", ["stages", 0, "pool"], {"label": "weak"}),
        ("stages.sft.weight={softmax: {by: ac}}", ["stages", 0, "weight"], {"softmax": {"by": "ac"}}),
        ("stages.both.interleave.steps=5", ["stages", 1, "interleave", "steps"], 5),
        ("stages.b.batch_size=2", ["stages", 1, "stages", 1, "batch_size"], 2),
        ("stages.both.stages.b.batch_size=2", ["stages", 1, "stages", 1, "batch_size"], 2),
        (
            "stages.a.weight.product.0.power=live.p",
            ["stages", 1, "stages", 0, "weight", "product", 0, "power"],
            "live.p",
        ),
        ("stages.sft={name: other}", ["stages", 0], {"name": "other"}),
        ("stages.b={name: other}", ["stages", 1, "stages", 1], {"name": "other"}),
        ("stages.0={name: other}", ["stages", 0], {"name": "other"}),
        ("stages.sft.budget.at_most=null", ["stages", 0, "budget", "at_most"], None),
        ("stages.sft.name=a=b", ["stages", 0, "name"], "a=b"),
        ("seed=[1", ["seed"], "[1"),  # whoever reads it says what belongs there
    ],
)
def test_a_word_changes_the_value_at_the_end_of_its_path_and_no_other(word, path, value):
    before = deepcopy(SPEC)
    changed = overridden(SPEC, [word])
    assert at(changed, *path) == value and before == SPEC
    if isinstance(path[-1], int) or path[-1] in at(SPEC, *path[:-1]):
        at(changed, *path[:-1])[path[-1]] = at(SPEC, *path)
        assert changed == SPEC


@pytest.mark.parametrize(
    ("words", "budget"),
    [
        (["samples=9"], {"samples": 9, "epochs": 2}),
        (["steps=9"], {"steps": 9}),
        (["hours=0.5"], {"hours": 0.5}),
        (["fraction=0.5"], {"fraction": 0.5, "epochs": 2}),
        (["epochs=3"], {"fraction": 1.0, "epochs": 3, "at_most": 0.5}),
        (["at_most=1"], {"fraction": 1.0, "epochs": 2, "at_most": 1}),
        (["samples=9", "at_most=0.2"], {"samples": 9, "at_most": 0.2, "epochs": 2}),
        (["at_most=0.2", "samples=9"], {"samples": 9, "at_most": 0.2, "epochs": 2}),
        (["steps=9", "epochs=4"], {"steps": 9, "epochs": 4}),  # refused by the reader of budgets
        (["samples=9", "steps=3"], {"samples": 9, "steps": 3}),
    ],
)
def test_an_amount_takes_the_place_of_the_one_before(words, budget):
    changed = overridden(SPEC, [f"stages.sft.budget.{word}" for word in words])
    assert changed["stages"][0]["budget"] == budget
    assert AMOUNTS == UNITS


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed", "override 'seed' is not of the form key=value"),
        ("=3", "override '=3' is not of the form key=value"),
        ("seed.x=3", "override seed.x: seed is 1 and holds no keys"),
        ("stages.2.name=x", "override stages.2.name: '2' is no place in that list; there are 0 to 1"),
        ("stages.2=x", "override stages.2: '2' is no place in that list; there are 0 to 1"),
        ("stages.sfft.name=x", "override stages.sfft.name: no stage 'sfft'; did you mean 'sft'?"),
        ("stages.grpo.name=x", "override stages.grpo.name: no stage 'grpo'; there are sft, both, a, b"),
        ("stages.grpo={}", "override stages.grpo: no stage 'grpo'; there are sft, both, a, b"),
        (
            "stages.a.weight.product.x.power=1",
            "override stages.a.weight.product.x.power: 'x' is no place in that list; there are 0 to 1",
        ),
        (
            "stages.sft.batch_size.x.y=3",
            "override stages.sft.batch_size.x.y: stages.sft.batch_size is 4 and holds no keys",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(word, message):
    with pytest.raises(InputError) as caught:
        overridden(SPEC, [word])
    assert str(caught.value) == message


def test_an_empty_list_has_no_places():
    with pytest.raises(InputError, match=r"'0' is no place in that list; there are none, it is empty"):
        overridden({"stages": []}, ["stages.0.name=x"])


def test_words_are_told_from_names_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [
        is_override(word) for word in ("seed=3", "a.b[0]=", "weak_to_strong", "online seed=3", "=3", "runs/a=b.yaml")
    ] == [*(True, True, False, False, False, False)]
    for name in ("lr=1.yaml", "two words a=1.yaml"):
        (tmp_path / name).write_text("stages: []")
        assert not is_override(name) and split_name(name) == (name, [])
    assert split_name(" online  seed=3\nstages.grpo.weight={power: {by: ac}} cells=[a, b]") == (
        "online",
        ["seed=3", "stages.grpo.weight={power: {by: ac}}", "cells=[a, b]"],
    )
    assert split_name("my curriculum.yaml") == ("my curriculum.yaml", [])


# In files.


def test_overrides_stand_behind_the_name_of_a_curriculum():
    changed = read_curriculum("weak_to_strong stages.grpo.budget.steps=50 seed=3")
    wanted = read_curriculum("weak_to_strong")
    wanted["seed"], wanted["stages"][1]["budget"] = 3, {"steps": 50}
    assert changed == wanted


def test_training_takes_a_name_with_overrides():
    """Twelve training rows, seven of them weak: two steps of four rows where the file has one of 160."""
    words = "weak_to_strong stages.sft.batch_size=4 stages.sft.budget.epochs=1 seed=11"
    data = AudioQuestions(INDEX, labels=LABELS, checkpoint=str(STORED / "tiny"), training=TrainingSpec(words, "sft"))
    data.setup("fit")
    assert data.plan.curriculum.seed == 11 and data.plan.num_steps("sft") == 2
    assert len(next(iter(data.train_dataloader())).samples) == 4


@pytest.mark.parametrize("run", ["SFT", "GRPO"])
def test_the_record_of_a_run_is_its_curriculum(run):
    """Whatever becomes of the shipped file that it was started with."""
    record = STORED / run / "curriculum.json"
    stored = read_state(record)
    assert parse_curriculum(read_curriculum(str(record))).described() == stored["described"]
    spec = TrainingSpec(str(record), stored["stage"])
    data = AudioQuestions(INDEX, labels=LABELS, checkpoint=str(STORED / "tiny"), training=spec)
    data.setup("fit")
    assert data.plan.fingerprint == stored["fingerprint"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "weak_to_strong stages.sftt.batch_size=4",
            "at: override stages.sftt.batch_size: no stage 'sftt'; did you mean 'sft'?",
        ),
        (
            "weak_to_strong stages.sft.budget.fraction=2",
            "at: weak_to_strong: curriculum.stages[0].budget: budget fraction must be positive (a",
        ),
        ("weak_to_strnog seed=3", "at: weak_to_strnog: no such file; did you mean 'weak_to_strong'?"),
        # What a trainer's command line makes of `--....curriculum.stages.0.batch_size 7`, which has no list to go into.
        (
            {"stages": {"0": {"batch_size": 7}}},
            "at needs `stages`, a list; a value of a curriculum that has a file is chan",
        ),
        (
            {"seed": 3},
            "at needs `stages`, a list; a value of a curriculum that has a file is changed behind its name: ",
        ),
    ],
)
def test_a_wrong_curriculum_of_a_configuration_is_named(words, message):
    with pytest.raises(InputError) as caught:
        checked_curriculum(words, "at")
    assert str(caught.value).startswith(message)


def test_the_curriculum_of_a_trainer_s_configuration_is_found(tmp_path):
    """A mapping, or a name that stands there; not a name that leads to another."""
    whole = yaml.safe_load((ROOT / "configs" / "sft.yaml").read_text())
    there = whole["data"]["init_args"]["training"]["curriculum"]
    assert read_curriculum(str(ROOT / "configs" / "sft.yaml")) == there
    named = tmp_path / "named.yaml"
    named.write_text("data: {init_args: {training: {curriculum: weak_to_strong seed=5}}}\nmodel: ${missing}\n")
    assert read_curriculum(f"{named} stages.sft.batch_size=2") == read_curriculum(
        "weak_to_strong seed=5 stages.sft.batch_size=2"
    )
    for names in (["one.yaml"], ["two.yaml", "one.yaml"]):
        for name, other in zip(["one.yaml", "two.yaml"], names, strict=False):
            (tmp_path / name).write_text(f"curriculum: {tmp_path / other}")
        with pytest.raises(InputError, match=r"one|two.yaml: `curriculum` must be a mapping"):
            read_curriculum(str(tmp_path / "one.yaml"))
    named.write_text("curriculum: ${nowhere}")
    with pytest.raises(InputError, match="named.yaml: Interpolation key 'nowhere' not found"):
        read_curriculum(str(named))


# On the command line.


def planned(tmp_path, *words):
    main(["plan", *words, "--index", INDEX, "--labels", LABELS, "--out", str(tmp_path)])
    name = "compare.json" if "--compare" in words else "plan.json"
    return json.loads((tmp_path / name).read_text())


def test_plan_takes_overrides_before_and_after_its_options(tmp_path, capsys):
    """Seven weak rows and five strong ones."""
    found = planned(tmp_path, "weak_to_strong", "stages.0.budget.samples=5", "seed=3")
    assert [stage["rows"] for stage in found["stages"].values()] == [5, 5]
    main(
        [
            "plan",
            "weak_to_strong",
            "--index",
            INDEX,
            "--labels",
            LABELS,
            "--out",
            str(tmp_path),
            "stages.sft.batch_size=2",
        ]
    )
    assert json.loads((tmp_path / "plan.json").read_text())["stages"]["sft"]["steps"] == 7
    assert "in 7 steps of 2" in capsys.readouterr().out


def test_compared_curricula_take_overrides_together_or_one_by_one(tmp_path):
    words = ["weak_to_strong", "weak_to_strong seed=3", "strong_to_weak", "--compare", "stages.sft.batch_size=2"]
    sheet = planned(tmp_path, *words, "strong_to_weak.stages.sft.budget.samples=2")
    assert list(sheet["arms"]) == ["weak_to_strong", "weak_to_strong seed=3", "strong_to_weak"]
    assert [arm["stages"]["sft"]["steps"] for arm in sheet["arms"].values()] == [7, 7, 2]
    assert sheet["differences"]["weak_to_strong seed=3"] == ["seed: 20260925 -> 3"]


def test_overrides_reach_the_arms_of_a_file(tmp_path):
    plain, changed = (planned(tmp_path, "controls", "--compare", "--match", "none", *more) for more in ([], ["seed=4"]))
    assert all(a["fingerprint"] != changed["arms"][n]["fingerprint"] for n, a in plain["arms"].items())
    sheet = planned(
        tmp_path, "controls seed=4", "--compare", "--match", "none", "source_matched.stages.sft.batch_size=1"
    )
    same = [name for name, arm in sheet["arms"].items() if arm["fingerprint"] == changed["arms"][name]["fingerprint"]]
    assert same == ["weak_to_strong", "label_permuted", "jury_leave_one"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weak_to_strong", "sed=3"], "weak_to_strong: curriculum: unknown key 'sed'; did you mean 'seed'?"),
        (
            ["weak_to_strong", "stages.grpo.bugdet.steps=3"],
            "weak_to_strong: curriculum.stages[1]: unknown key 'bugdet'; did you mean 'budget'?",
        ),
        (["weak_to_strong", "seed=abc"], "weak_to_strong: curriculum.seed must be a whole number, got 'abc'"),
        (["seed=3"], "seed=3 changes a curriculum, and none is named; e.g. weak_to_strong seed=3"),
        (
            ["all_grpo", "weak_to_strong", "--compare", "stages.sft.batch_size=8"],
            "arm 'all_grpo': override stages.sft.batch_size: no stage 'sft'; there are grpo; ARM.key=value changes",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_override_of_plan_is_one_line(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        planned(tmp_path, *words)
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.startswith(f"error: {message}") and error.count("\n") == 1


def test_trained_rows_follow_the_override(tmp_path):
    """The order of the plan is that of the seed that the words name."""
    rows = []
    for seed in (3, 4, 3):
        data = AudioQuestions(
            INDEX,
            labels=LABELS,
            checkpoint=str(STORED / "tiny"),
            training=TrainingSpec(f"weak_to_strong seed={seed} stages.sft.batch_size=7", "sft"),
        )
        data.setup("fit")
        rows.append(data.plan.batch("sft", 0)[0].tolist())
    assert rows[0] == rows[2] != rows[1] and np.unique(rows[0]).size == 7
