"""Experiments from their file to their table: what arms share, what must not differ, and that nothing runs twice."""

from __future__ import annotations

import csv
import json
import os
import sys
import types
from functools import cache
from pathlib import Path

import pytest
import yaml

from earwitness.commands.cli import main
from earwitness.commands.experiments.comparing import prepare
from earwitness.commands.experiments.expansion import Owners, RunOf
from earwitness.configs.files import read_yaml, shipped_files
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.synthetic import audiomcq_table
from earwitness.curriculum.schedule.prefix import decided_by
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.errors import InputError

LAB = "earwitness.tests.commands.experiments.lab_trainer"
RECIPE = f"""
name: lab
seed: 1
out: runs/lab
curriculum:
  seed: ${{seed}}
  cells: [label]
  stages:
    - {{name: sft, algorithm: sft, pool: {{label: weak}}, batch_size: 8, budget: {{fraction: 0.5}}}}
    - {{name: grpo, algorithm: grpo, pool: {{label: strong}}, batch_size: 8, budget: {{steps: 10}}}}
read: &read {{index: "${{out}}/corpus/index.arrow", labels: "${{out}}/corpus/labels.arrow"}}
steps:
  corpus:
    do: {LAB}.corpus
    out: ${{out}}/corpus
    inputs: []
    outputs: ["${{out}}/corpus/index.arrow", "${{out}}/corpus/labels.arrow"]
  backbone:
    do: {LAB}.start
    out: ${{out}}/backbone/model.json
    inputs: []
    outputs: ["${{out}}/backbone/model.json"]
"""
STAGE = """  {name}:
    do: {lab}.train
    <<: *read
    checkpoint: ${{out}}/{start}/model.json
    curriculum: ${{curriculum}}
    stage: {name}
    lr: 1.0
    out: ${{out}}/{name}/model.json
    inputs: ["${{out}}/corpus/index.arrow", "${{out}}/corpus/labels.arrow", "${{out}}/{start}/model.json"]
    outputs: ["${{out}}/{name}/model.json"]
"""
ASKED = """  {name}_answers:
    do: {lab}.ask
    <<: *read
    checkpoint: ${{out}}/{name}/model.json
    out: ${{out}}/answers/{name}.arrow
    inputs: ["${{out}}/corpus/index.arrow", "${{out}}/corpus/labels.arrow", "${{out}}/{name}/model.json"]
    outputs: ["${{out}}/answers/{name}.arrow"]
"""
END = """  evaluation:
    do: evaluate
    <<: *read
    title: lab
    answers:
      backbone: ${out}/answers/backbone.arrow
      SFT: ${out}/answers/sft.arrow
      GRPO: ${out}/answers/grpo.arrow
    curriculum: ${curriculum}
    out: ${out}/results.json
  report: {do: build_report, results: "${out}/results.json"}
"""
RECIPE += STAGE.format(name="sft", start="backbone", lab=LAB) + STAGE.format(name="grpo", start="sft", lab=LAB)
RECIPE += "".join(ASKED.format(name=name, lab=LAB) for name in ("backbone", "sft", "grpo")) + END
ARMS = {
    "weak_to_strong": {},
    "mixed_to_strong": {"stages.sft.pool": {}, "stages.sft.budget": {"fraction": 0.3}},
    "mixed_to_mixed": {"stages.sft.pool": {}, "stages.sft.budget": {"fraction": 0.3}, "stages.grpo.pool": {}},
    "all_grpo": {"stages": [{"name": "grpo", "algorithm": "grpo", "batch_size": 8, "budget": {"steps": 20}}]},
}
DIFFERS = {
    "all": ["curriculum.stages.*.pool", "curriculum.stages.*.budget", "totals"],
    "mixed_to_strong": ["rows.grpo"],
    "all_grpo": ["curriculum.stages.sft"],
}


SEEDED = "the seeds of a stage that is trained are those of `seeds.train`"
SEEDS = (
    {"steps.sft.seed": 9},
    {"steps.sft": {"do": f"{LAB}.train", "curriculum": r"\${curriculum}", "stage": "sft", "seed": 9}},
    {"steps.sft.seed": r"\${name}"},
)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes an experiment over the lab's recipe, some of its keys replaced; gives the file's path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(RECIPE)

    def write(**keys) -> str:
        spec = {"recipe": "lab.yaml", "out": "out", "seeds": {"train": [1, 2]}, "differs": DIFFERS, "arms": ARMS} | keys
        (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        return "experiment.yaml"

    return write


def said(words, capsys) -> str:
    main(["compare", *words])
    return capsys.readouterr().out


def refused(words, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["compare", *words])
    return end.value.code, capsys.readouterr().err


def steps_of(prepared, arm, train=1, draw=1):
    return prepared.expansion.places[RunOf(arm, train, draw)]


def test_what_arms_have_in_common_is_one_step(lab):
    """Corpus, backbone and its answers of all; of each seed the mixed SFT and its answers of two arms."""
    prepared = prepare(lab())
    expansion = prepared.expansion
    assert len(expansion.steps) == 3 + 2 * (2 * 2 + 2 * 4 + 4)
    mixed, other = (steps_of(prepared, arm) for arm in ("mixed_to_strong", "mixed_to_mixed"))
    assert mixed["sft"] == other["sft"] and mixed["grpo"] != other["grpo"]
    assert mixed["sft"] != steps_of(prepared, "mixed_to_strong", 2)["sft"]
    assert sorted(name.rpartition("-")[0] for name in expansion.shared) == sorted(
        ["corpus", "backbone", "backbone_answers", *["sft", "sft_answers"] * 2]
    )


def test_an_arm_that_is_added_or_edited_moves_no_other(lab):
    before = prepare(lab()).expansion
    arms = {"new": {"steps.grpo.lr": 2.0}, **ARMS, "all_grpo": {"stages": ARMS["all_grpo"]["stages"], "columns": {}}}
    after = prepare(lab(arms=arms)).expansion
    for run, places in before.places.items():
        assert run.arm == "all_grpo" or after.places[run] == places
    assert after.places[RunOf("new", 1, 1)]["sft"] == before.places[RunOf("weak_to_strong", 1, 1)]["sft"]


def test_a_stage_that_an_arm_lacks_is_left_out_with_what_asks_its_model(lab):
    prepared = prepare(lab())
    places = steps_of(prepared, "all_grpo")
    assert list(places) == ["corpus", "backbone", "grpo", "backbone_answers", "grpo_answers", "evaluation"]
    grpo, evaluation = (prepared.expansion.steps[places[name]] for name in ("grpo", "evaluation"))
    assert grpo["checkpoint"] == f"out/{places['backbone']}/model.json" and grpo["checkpoint"] in grpo["inputs"]
    assert list(evaluation["answers"]) == ["backbone", "GRPO"] and evaluation["title"] == "all_grpo, train 1, draw 1"


def test_seeds_go_where_they_belong(lab):
    prepared = prepare(lab(seeds={"train": [1, 2], "draw": [5, 6], "cross": True}))
    assert prepared.experiment.pairs == [(1, 5), (1, 6), (2, 5), (2, 6)]
    sft = prepared.expansion.steps[steps_of(prepared, "weak_to_strong", 2, 6)["sft"]]
    assert sft["seed"] == 2 and sft["curriculum"]["seed"] == 6
    assert prepare(lab(seeds={"train": [1, 2], "draw": [5, 6]})).experiment.pairs == [(1, 5), (2, 6)]
    with pytest.raises(InputError, match="3 of train and 2 of draw make no pairs"):
        prepare(lab(seeds={"train": [1, 2, 3], "draw": [5, 6]}))


def test_a_stage_is_dealt_the_same_by_the_part_of_its_curriculum_that_decides_it():
    stages = [
        {"name": "a", "algorithm": "sft", "batch_size": 160, "budget": {"samples": 2_000}},
        {"name": "b", "algorithm": "grpo", "batch_size": 8, "budget": {"steps": 90}, "pool": {"source": ["TACOS"]}},
        {"name": "c", "algorithm": "grpo", "batch_size": 8, "budget": {"steps": 50}, "claim": "first"},
    ]
    whole, table = {"seed": 3, "stages": stages}, audiomcq_table()
    plan = Plan(parse_curriculum(whole), table)
    for stage, kept in (("a", ["a", "c"]), ("b", ["a", "b", "c"]), ("c", ["c"])):
        part = decided_by(whole, stage)
        assert [one["name"] for one in part["stages"]] == kept
        rows = [p.rows(stage, range(300)).tolist() for p in (plan, Plan(parse_curriculum(part), table))]
        assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ({}, {"rehearse": {"label": "weak", "source": "TACOS", "share": 0.02}}),
        ({}, {"rehearse": {"label": "weak", "duration_s": {"min": 8.0}, "share": 0.02}}),
        ({}, {"window": 10, "feedback": {"contribution": {}}, "claim": "first", "pool": {}}),
    ],
    ids=["cells of what is rehearsed", "bounds of what is rehearsed", "what adapts claims last"],
)
def test_stages_that_are_dealt_apart_share_no_more_rows_than_together(first, last):
    two = {"algorithm": "grpo", "pool": {"label": "strong"}, "batch_size": 16, "budget": {"steps": 40}}
    stages = [two | {"name": "a", "pool": {"label": "weak"}} | first, two | {"name": "b"} | last]
    whole, table = {"seed": 1, "cells": ["label"], "stages": stages}, audiomcq_table()
    plan = Plan(parse_curriculum(whole), table)
    for stage in "ab":
        part = Plan(parse_curriculum(decided_by(whole, stage)), table)
        dealt = [p.stages[stage] for p in (plan, part)]
        if "window" in last and stage == "b":  # of which nothing is planned yet
            assert len({int(one.first.sum()) for one in dealt}) == 1
        else:
            assert len({one.row_set().tobytes() for one in dealt}) == 1


HIDDEN = [
    ({"steps.grpo.lr": 1.5}, "steps.grpo.lr: 1 -> 1.5"),
    ({"stages.sft.batch_size": 4}, "curriculum.stages.sft.batch_size: 8 -> 4"),
    ({"stages.sft.mix": "shuffle"}, "curriculum.stages.sft.mix: none -> shuffle"),
    ({"disjoint": ["uid", "clip"]}, "curriculum.disjoint: none -> ['uid', 'clip']"),
    ({"steps.grpo.checkpoint": "other.json"}, "steps.grpo.checkpoint"),
    ({"steps.sft": None}, "steps.sft: there -> none"),
]


@pytest.mark.parametrize(("change", "words"), HIDDEN, ids=[next(iter(change)) for change, _ in HIDDEN])
def test_a_difference_that_is_not_declared_is_an_error(lab, capsys, change, words):
    """Another learning rate, another order of the batches, another number of questions in one."""
    arms = ARMS | {"mixed_to_strong": ARMS["mixed_to_strong"] | change}
    if "steps.grpo.checkpoint" in change:
        Path("other.json").touch()
    code, error = refused([lab(arms=arms), "--dry-run"], capsys)
    assert code == 2 and error.count("\n") == 1 and words in error
    assert "arm 'mixed_to_strong' differs from 'weak_to_strong'" in error and "`differs`" in error
    key = words.partition(":")[0]
    said([lab(arms=arms, differs={**DIFFERS, "mixed_to_strong": [key, "rows.grpo"]}), "--dry-run"], capsys)


def test_rows_that_another_stage_took_away_are_seen_in_the_numbers(lab, capsys):
    """`claim` is declared, and what it does to the other stage of another arm is not."""
    first = [dict(stage, pool={}) for stage in yaml.safe_load(RECIPE.replace("${seed}", "1"))["curriculum"]["stages"]]
    arms = {"plain": {"stages": first}, "claimed": {"stages": [first[0], first[1] | {"claim": "first"}]}}
    name = lab(arms=arms, differs=["curriculum.stages.grpo.claim"], seeds={})
    code, error = refused([name], capsys)
    assert code == 2 and "differs from 'plain' in rows.sft: 200 questions -> " in error


def test_budgets_are_matched_before_anything_is_trained(lab, capsys):
    """To the samples of the first arm; all of it is in the steps that run."""
    name = lab(match="samples", seeds={})
    out = said([name], capsys)
    sheet = json.loads(Path("out/experiment.json").read_text())["sheet"]
    totals = [total["samples"] for total in sheet["totals"].values()]
    assert "budgets matched by samples" in out and max(totals) <= 1.05 * min(totals)
    prepared = prepare(name)
    step = prepared.expansion.steps[steps_of(prepared, "all_grpo")["grpo"]]
    assert step["curriculum"]["stages"][0]["budget"]["steps"] == round(20 * totals[0] / 160)


@pytest.fixture
def finished(lab, capsys):
    name = lab()
    return name, said([name], capsys)


def test_the_table_the_page_and_the_numbers(finished):
    """The lab's model learns what it is shown: weak-to-strong gains on both, and the numbers agree in all places."""
    _, out = finished
    whole = json.loads(Path("out/experiment.json").read_text())
    (row,) = [r for r in whole["results"]["accuracy"] if (r["arm"], r["label"]) == ("weak_to_strong", "weak")]
    assert row["benchmark"] == "held-out questions" and row["gain"][0] > 0 and len(row["runs"]) == 2
    assert f"{100 * row['after'][0]:.1f} %" in out and "change of strong minus change of weak" in out
    with open("out/experiment.csv") as file:
        lines = list(csv.DictReader(file))
    (line,) = [x for x in lines if (x["what"], x["arm"], x["label"]) == ("after", "weak_to_strong", "weak")]
    assert float(line["value"]) == row["after"][0]
    page = Path("out/experiment.html").read_text()
    for words in ("What was lost?", "Against weak_to_strong", "Strong minus weak", "Control sheet", "sampling error"):
        assert words in page
    assert f"{100 * row['after'][0]:.1f} %" in page and "declared by" in page


def test_a_finished_experiment_runs_nothing_again_and_an_edited_arm_alone(finished, lab, capsys):
    ran = Path("out/ran.txt").read_text()
    assert len(ran.splitlines()) == len(set(ran.splitlines())) == 1 + 2 * (2 + 1 + 3)
    name, out = finished
    again = said([name], capsys)
    assert Path("out/ran.txt").read_text() == ran
    assert again.splitlines()[-30:] == out.splitlines()[-30:]
    edited = ARMS | {"all_grpo": {"stages": [ARMS["all_grpo"]["stages"][0] | {"budget": {"steps": 15}}]}}
    said([lab(arms=edited)], capsys)
    assert [line.split()[0] for line in Path("out/ran.txt").read_text().removeprefix(ran).splitlines()] == ["grpo"] * 2


def test_arms_run_apart_and_are_one_experiment(lab, capsys):
    """As launch files do it: shared steps first, then each arm, then the table, which runs nothing."""
    name = lab(seeds={})
    said([name, "--launch-files", "jobs"], capsys)
    assert not Path("out").exists()
    code, error = refused([name, "--only", "all_grpo"], capsys)
    assert code == 1 and "run --only shared first" in error
    said([name, "--only", "shared"], capsys)
    assert sorted(os.listdir("jobs")) == ["0_shared.sh", *(f"{arm}.sh" for arm in sorted(ARMS))]
    script = Path("jobs/all_grpo.sh").read_text()
    assert (
        f"cd {os.getcwd()}\n" in script
        and "--out out --only all_grpo" in script
        and os.access("jobs/all_grpo.sh", os.X_OK)
    )
    for arm in ARMS:
        said([name, "--only", arm], capsys)
    ran = Path("out/ran.txt").read_text()
    said([name], capsys)
    assert Path("out/ran.txt").read_text() == ran and Path("out/experiment.html").is_file()


def test_slurm_gets_the_shared_steps_and_then_the_arms(lab, capsys, monkeypatch):
    """By a stand-in of submitit: every arm waits for the first job, and runs itself alone."""
    jobs: list[tuple[dict, list[str]]] = []

    class Executor:
        def __init__(self, folder):
            self.folder, self.parameters = folder, {}

        def update_parameters(self, **parameters):
            self.parameters |= parameters

        def submit(self, call, words):
            jobs.append((dict(self.parameters), words))
            return types.SimpleNamespace(job_id=40 + len(jobs))

    name = lab(seeds={})
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, error = refused([name, "--submit", "logs"], capsys)
    assert code == 1 and "pip install 'earwitness[slurm]'" in error
    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=Executor))
    assert "all_grpo: job 45" in said([name, "--submit", "logs"], capsys)
    assert [words[-1] for _, words in jobs] == ["shared", *ARMS]
    after = [parameters.get("slurm_additional_parameters") for parameters, _ in jobs]
    assert after == [None, *[{"dependency": "afterok:41"}] * 4]


def test_an_arm_alone_waits_for_what_it_shares(lab, capsys):
    name = lab(seeds={})
    said([name, "--only", "shared"], capsys)
    for file in Path("out").glob("backbone-*/model.json"):
        file.unlink()
    code, error = refused([name, "--only", "all_grpo"], capsys)
    assert code == 1 and "backbone-" in error and "run --only shared first" in error


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"arms": {"a": {"stage": []}}}, "arm 'a': no key 'stage' in"),
        ({"arms": {"a": {"steps.stf.lr": 1}}}, "no step 'stf'; did you mean 'sft'"),
        ({"arms": {"a": {"curriculum.seed": 1}}}, "curriculum.seed is the same for all arms"),
        ({"arms": {"a/b": {}}}, "an arm's name is letters"),
        ({"controls": ["label_permutet"]}, "no control 'label_permutet'; did you mean 'label_permuted'"),
        ({"controls": ["jury_leave_one_out"]}, "jury_leave_one_out: {voters: 3}"),
        ({"differs": {"al_grpo": []}}, "differs: unknown key 'al_grpo'; did you mean 'all_grpo'"),
        ({"reference": "nobody"}, "reference: no arm 'nobody'"),
        ({"match": "hours"}, "match must be"),
        ({"recipe": "nosuch"}, "nosuch: no such file"),
        ({"set": {"lr": 1}}, "set: no key 'lr'"),
        ({"set": {"out": "elsewhere"}}, "set: out is not the recipe's in an experiment; `out`, beside `set`"),
        ({"set": {"curriculum.seed": 5}}, "set: curriculum.seed is not the recipe's in an experiment; say seeds.draw"),
        *(({"set": change}, f"set: steps.sft.seed: {SEEDED}") for change in SEEDS[:2]),
        *(({"arms": {"a": {}, "b": change}}, f"arm 'b': steps.sft.seed: {SEEDED}") for change in SEEDS),
        *(({"arms": {"a": change}, "differs": ["steps"]}, f"arm 'a': steps.sft.seed: {SEEDED}") for change in SEEDS),
        ({"name": "../../x"}, "an experiment's name is letters"),
        ({"arms": {"shared": {}}}, "`shared` is no name for an arm"),
        ({"arms": {"a": {"steps": [1]}}}, "arm 'a': steps must be a mapping"),
        ({"arms": {"a": {"steps.sft": [1]}}}, "arm 'a': steps.sft must be a mapping"),
        ({"arms": {"a": {"stages": {"sft": 1}}}}, "arm 'a': curriculum: `stages` must be a list"),
        ({"arms": {"a": {"stages.grpo": 3}}}, "arm 'a': curriculum.stages[1] must be a mapping, got 3"),
        ({"arms": {"a": {"stages.sft.bugdet": {}}}}, "unknown key 'bugdet'; did you mean 'budget'"),
        ({"arms": {"a": {"include": [1]}}}, "arm 'a': include must be a text"),
        ({"controls": {"jury_leave_one_out": {"voters": 0}}}, "of 0 voters none can be left out"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(lab, capsys, keys, words):
    code, error = refused([lab(**keys), "--dry-run"], capsys)
    assert code == 1 and error.count("\n") == 1 and words in error


@pytest.mark.parametrize("key", ["seed_everything", "data.init_args.seed", "model.init_args.rollout.seed"])
def test_a_seed_of_a_trainers_step_in_an_arm_is_refused_and_the_recipe_s_own_is_none(tmp_path, key):
    """One that an arm repeats is no difference; neither is that of a step which trains nothing of the curriculum."""
    arms = {"a": {}, "b": {f"steps.grpo.{key}": 7}}
    path = tmp_path / "e.yaml"

    def prepared(**change):
        path.write_text(yaml.safe_dump({"recipe": "demo", "differs": ["steps"], "arms": arms | change}))
        return prepare(str(path), out=str(tmp_path / "out"))

    with pytest.raises(InputError, match=rf"e.yaml: arm 'b': steps.grpo.{key}: {SEEDED}$"):
        prepared()
    for same in (1, r"\${seed}"):
        assert prepared(b={f"steps.grpo.{key}": same}).expansion.steps
    assert prepared(b={f"steps.backbone.{key}": 7}).expansion.steps
    path.write_text(yaml.safe_dump({"recipe": "demo", "set": {"seed": 3}, "arms": {"a": {}}}))
    assert prepare(str(path), out=str(tmp_path / "out")).expansion.steps


def test_the_command_line_changes_the_recipe_and_the_experiment(lab):
    words = ["seeds.train=[4,5,6]", "match=steps", "steps.sft.lr=0.5", "curriculum.stages.0.budget.fraction=0.25"]
    prepared = prepare(lab(), words)
    assert prepared.experiment.pairs == [(4, 1), (5, 1), (6, 1)] and prepared.experiment.match == "steps"
    sft = prepared.expansion.steps[steps_of(prepared, "weak_to_strong", 5)["sft"]]
    assert sft["lr"] == 0.5 and sft["curriculum"]["stages"][0]["budget"] == {"fraction": 0.25}


def test_a_recipe_that_judges_nothing_has_no_table(lab, capsys):
    name = lab(seeds={}, set={"steps.evaluation": None})
    code, error = refused([name], capsys)
    assert code == 1 and "no step `evaluate` or `score_table` says what its models answered" in error


def test_controls_are_arms_that_declare_what_they_break(lab, capsys):
    """The split at random has stages of the same sizes, and other questions."""
    name = lab(arms={"weak_to_strong": {}}, differs=[], controls=["label_permuted", "random_split"], seeds={})
    said([name], capsys)
    sheet = json.loads(Path("out/experiment.json").read_text())["sheet"]
    rows = [[stage["rows"] for stage in arm["stages"].values()] for arm in sheet["arms"].values()]
    assert rows[0] == rows[1] == rows[2]
    assert all(one["jaccard"] < 0.9 for one in sheet["overlap"] if "weak_to_strong" in one["arms"])


COLUMNS = [
    ({"controls": {"label_permuted": {"within": "sauce"}}}, "'label_permuted': no text column 'sauce' in the table"),
    ({"controls": {"label_permuted": {"within": "duration_s"}}}, "'label_permuted': no text column 'duration_s' in"),
    ({"controls": {"source_matched": {"by": "sauce"}}}, "'source_matched': cells: no column 'sauce' in the table"),
    ({"controls": {"jury_leave_one_out": {"voters": 9}}}, "'without_voter_3': columns.label: no votes 'vote_3'"),
    ({"arms": {"a": {"stages.sft.pool": {"sauce": "x"}}}}, "'a': stage 'sft': pool column 'sauce' is neither"),
    ({"arms": {"a": {"cells": ["label", "clip"]}}}, "'a': cells: column 'clip' is an identity"),
    ({"arms": {"a": {"stages.grpo.weight": {"power": {"by": "ac_p2"}}}}}, "weight.power: no column 'ac_p2' in the"),
]


@pytest.mark.parametrize(("keys", "words"), COLUMNS, ids=[words.split(":")[0] for _, words in COLUMNS])
@pytest.mark.parametrize("there", ["nothing", "the index"])
def test_a_column_that_no_table_will_have_is_refused_before_anything_runs(tmp_path, small, capsys, keys, words, there):
    """As `shard` and `label` will write them, and as an index that is there has them; also beside a made-up table."""
    spec = {"recipe": "demo", "out": str(tmp_path / "out"), "arms": {"weak_to_strong": {}}} | keys
    if there == "the index":
        spec["set"] = {f"steps.{name}.data.init_args.index": small.index for name in ("sft", "grpo")}
    path = tmp_path / "e.yaml"
    for stand_in in ({}, {"stand_in": "audiomcq"}):
        path.write_text(yaml.safe_dump(spec | stand_in))
        for given in ([str(path), "--dry-run"], [str(path)]):
            code, error = refused(given, capsys)
            assert code == 1 and error.count("\n") == 1 and words in error and f"error: {path}: arm" in error
    assert not (tmp_path / "out").exists()


def test_columns_that_may_still_come_are_left_to_the_table(lab, tmp_path):
    """Those that a lab's function may write, and those that are kept of the questions."""
    assert prepare(lab(controls={"label_permuted": {"within": "sauce"}}, differs=[])).sheet is None
    kept = {"set": {"steps.shards.fields": {"keep": ["sauce"]}}, "controls": {"label_permuted": {"within": "sauce"}}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"recipe": "demo", "arms": {"a": {}}} | kept))
    assert prepare(str(tmp_path / "e.yaml"), out=str(tmp_path / "out")).sheet is None
    for name in ("demo_controls", "controls_jury"):
        assert prepare(name, out=str(tmp_path / "out")).expansion.steps


def test_what_does_not_fit_the_made_up_table_is_said_to_be_planned_over_it(tmp_path, capsys):
    """By an option, by the file, in a plan, in a comparison of curricula; but not of a curriculum that is wrong."""
    made_up = "; this is planned over a made-up table, whose columns and values are AudioMCQ's: "
    code, error = refused(["demo", "--synthetic", "--dry-run", "--out", str(tmp_path / "out")], capsys)
    assert code == 1 and error.count("\n") == 1 and "stage 'sft': source is never 'sounds'" in error
    assert f"{made_up}leave out --synthetic, and the recipe's own questions are planned over once they" in error
    stage = {"name": "sft", "algorithm": "sft", "pool": {"source": "sounds"}, "batch_size": 4, "budget": {"steps": 2}}
    spec = {"recipe": "demo", "stand_in": "audiomcq", "arms": {"a": {"stages": [stage]}}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(spec))
    code, error = refused([str(tmp_path / "e.yaml"), "--dry-run", "--out", str(tmp_path / "out")], capsys)
    assert code == 1 and f"{made_up}leave out stand_in, and" in error
    plan = tmp_path / "c.yaml"
    for words, fits in (([str(plan)], True), ([str(plan), "weak_to_strong", "--compare"], True), ([str(plan)], False)):
        plan.write_text(yaml.safe_dump({"stages": [stage | ({} if fits else {"mix": "x"})]}))
        with pytest.raises(SystemExit):
            main(["plan", *words, "--synthetic", "--out", str(tmp_path / "plan")])
        error = capsys.readouterr().err
        assert (f"{made_up}plan over your own with --index and --labels" in error) == fits and error.count("\n") == 1


def test_a_folder_in_which_several_steps_write_is_no_input():
    owners = Owners()
    assert [owners.of(rest, step) for rest, step in (("/a/x", "one"), ("/a/y", "two"), ("/a/x/z", "three"))] == [
        "one",
        "two",
        "one",
    ]
    with pytest.raises(InputError, match="folder a, in which one and two write"):
        owners.of("/a", "three")


SHIPPED_EXPERIMENTS = sorted(name.rpartition("/")[2] for name in shipped_files("experiments"))


@cache
def shipped(name):
    return prepare(name, ["data.source=recordings.tar"] if name == "digits" else [])


@pytest.mark.parametrize("name", SHIPPED_EXPERIMENTS)
def test_shipped_experiments_have_no_unintended_difference(name):
    prepared = shipped(name)
    assert [one for one in prepared.found if one.by is None] == []
    made_up = read_yaml(prepared.path)["recipe"].startswith("audiomcq")
    assert prepared.stood_in == (prepared.sheet is not None) == made_up


def test_the_papers_budgets_are_those_that_it_reports():
    steps = {
        arm: [stage["steps"] for stage in one["stages"].values()]
        for name in ("paper", "paper_variants")
        for arm, one in shipped(name).sheet["arms"].items()
    }
    assert steps == {
        "mixed_to_mixed": [1000, 400],
        "weak_to_strong": [750, 100],
        "mixed_to_strong": [1000, 900],
        "all_sft": [2000],
        "all_grpo": [1200],
        "weak_to_strong_1000": [1000, 100],
        "mixed_to_strong_500": [1000, 500],
    }


def test_at_equal_cost_every_arm_takes_as_many_flops():
    totals = [total["flops"] for total in shipped("paper_matched").sheet["totals"].values()]
    assert max(totals) < 1.02 * min(totals)
