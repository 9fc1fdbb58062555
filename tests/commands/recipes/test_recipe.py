"""A recipe is refused before its first step for what would stop its last; a lab's functions are verbs like ours."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from earwitness.commands.cli import main
from earwitness.commands.recipes.recipe import run_recipe
from earwitness.errors import InputError

TRAINING = """
name: small
seed: 1
out: OUT
curriculum:
  seed: ${seed}
  cells: [label]
  stages:
    - {name: sft, algorithm: sft, pool: {label: weak}, batch_size: 16, budget: {fraction: 0.85}}
    - {name: grpo, algorithm: grpo, pool: {label: strong}, batch_size: 16, budget: {steps: 60}}
data: &data {index: "${out}/shards/index.arrow", checkpoint: "${out}/tiny", labels: "${out}/labels.arrow"}
steps:
  corpus: {do: build_sounds, out: "${out}/corpus", train: 64}
  shards: {do: shard, annotations: "${out}/corpus/questions.jsonl", out: "${out}/shards"}
  tiny: {do: build_tiny, annotations: "${out}/corpus/questions.jsonl", out: "${out}/tiny"}
  labels: {do: label, votes: ["VOTES"], out: "${out}/labels.arrow"}
  grpo:
    do: fit
    trainer:
      logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: "${out}/grpo", name: log}}
      callbacks: [{class_path: earwitness.ExportPolicy, init_args: {folder: "${out}/grpo/model"}}]
    model:
      class_path: earwitness.GRPO
      init_args:
        policy: {class_path: earwitness.OmniPolicy, init_args: {checkpoint: "${out}/tiny"}}
        rollout: {group_size: 8, temperature: 1.0}
        objective: {kl: k3}
        rewards: {accuracy: 2.0}
    data:
      class_path: earwitness.AudioQuestions
      init_args:
        <<: *data
        training: {curriculum: "${curriculum}", stage: grpo}
        evaluation: {conditions: [audio]}
  answers:
    do: predict
    trainer: {callbacks: [{class_path: earwitness.AnswerTable, init_args: {file: "${out}/answers/grpo.arrow"}}]}
    model:
      class_path: earwitness.PolicyModule
      init_args: {policy: {class_path: earwitness.OmniPolicy, init_args: {checkpoint: "${out}/grpo/model"}}}
    data: {class_path: earwitness.AudioQuestions, init_args: *data}
  evaluation:
    do: evaluate
    answers: {GRPO: "${out}/answers/grpo.arrow"}
    index: ${out}/shards/index.arrow
    labels: ${out}/labels.arrow
    planted: ${out}/corpus/planted.jsonl
    logs: {GRPO: "${out}/grpo/log"}
    curriculum: ${curriculum}
    out: ${out}/results.json
  report: {do: build_report, results: "${out}/results.json"}
"""
GRPO = "steps.grpo.model.init_args"
QUESTIONS = "steps.grpo.data.init_args"
POLICY = "policy.init_args.checkpoint"
NOT_WRITTEN = "and no step that is still to be done before writes it"
# What is set, the step that is named, and what is said of it.
WRONG = [
    (f"{GRPO}.objective.kl=k9", "grpo", "model.init_args.objective.kl: unknown name 'k9'; there are k1, k2, k3, k3+"),
    (f"{GRPO}.objective.loss=grpoo", "grpo", "model.init_args.objective.loss: unknown name 'grpoo'; did you mean"),
    (f"{GRPO}.objective.loss=my_lab.loss", "grpo", "model.init_args.objective.loss: cannot import 'my_lab.loss'"),
    (f"{GRPO}.objective.correction.level=tokn", "grpo", "objective.correction: no level 'tokn'"),
    (f"{GRPO}.rollout.temperature=0", "grpo", "model.init_args.rollout.temperature: 0 is greedy"),
    (f"{GRPO}.rewards.acuracy=1.0", "grpo", "model.init_args.rewards: unknown name 'acuracy'; did you mean"),
    (f"{GRPO}.schedule.warmup=1", "grpo", "model.init_args.schedule: unknown key 'warmup'; did you mean 'warmup_s"),
    (f"{GRPO}.policy.init_args.lora.rank=x", "grpo", "policy.init_args.lora.rank must be a whole number, got 'x'"),
    (f"{GRPO}.{POLICY}=OUT/tinny", "grpo", f"{POLICY}: OUT/tinny is neither a folder here nor a hub id like"),
    (f"{QUESTIONS}.training.stage=nosuch", "grpo", "data.init_args.training.stage: no stage 'nosuch'"),
    (f"{QUESTIONS}.training.stage=sft", "grpo", "'sft' is for the algorithm 'sft', GRPO trains grpo"),
    (f"{QUESTIONS}.training.curriculum=nosuch", "grpo", "training.curriculum: nosuch: no such file; shipped curricula"),
    (f"{QUESTIONS}.training.replan=OUT/no.json", "grpo", f"training.replan: OUT/no.json is not there, {NOT_WRITTEN}"),
    (f"{QUESTIONS}.evaluation.conditions=[audi]", "grpo", "data.init_args.evaluation.conditions[0]: condition 'audi'"),
    (f"{QUESTIONS}.reading.in_flight=0", "grpo", "data.init_args.reading.in_flight must be positive, got 0"),
    (f"{QUESTIONS}.index=OUT/shard/index.arrow", "grpo", "index: OUT/shard/index.arrow is not there"),
    (f"{QUESTIONS}.labels=OUT/label.arrow", "grpo", "init_args.labels: OUT/label.arrow is not there"),
    (f"{QUESTIONS}.checkpoint=OUT/grpo/model", "grpo", "data.init_args.checkpoint: OUT/grpo/model is neither a folder"),
    ("curriculum.seed=x", "grpo", "data.init_args.training.curriculum.seed must be a whole number, got 'x'"),
    (f"steps.answers.model.init_args.{POLICY}=OUT/grpo/modell", "answers", "OUT/grpo/modell is neither a folder here"),
    ("steps.evaluation.answers.GRPO=OUT/grpo.arrow", "evaluation", "answers.GRPO: OUT/grpo.arrow is not there"),
    ("steps.evaluation.logs.GRPO=OUT/grpo/lgo", "evaluation", "logs.GRPO: OUT/grpo/lgo is not there"),
    ("steps.evaluation.curriculum={sead: 1}", "evaluation", "curriculum: unknown key 'sead'; did you mean 'seed'?"),
    ("steps.report.results=OUT/result.json", "report", "results: OUT/result.json is not there"),
    ("steps.labels.votes=[OUT/v.arrow]", "labels", "votes[0]: OUT/v.arrow is not there"),
    ("steps.shards.annotation=x", "shards", "unknown key 'annotation'; did you mean 'annotations'?"),
    ("steps.shards.workers=many", "shards", "workers must be a whole number, got 'many'"),
    ("steps.shards.annotations=OUT/corpus/question.jsonl", "shards", "OUT/corpus/question.jsonl is not there"),
    ("steps.corpus.do=build_sound", "corpus", "do: unknown name 'build_sound'; did you mean 'build_sounds'?"),
    ("steps.corpus.do=my_lab.sounds", "corpus", "do: cannot import 'my_lab.sounds' (No module named 'my_lab')"),
    ("steps.corpus=null", "corpus", "must be a mapping, got None"),
    ("steps.corpus.do=null", "corpus", "`do` must name a verb, got None"),
]


@pytest.fixture
def recipe(tmp_path) -> Path:
    """The small recipe; its only path from elsewhere is there."""
    (tmp_path / "votes.arrow").touch()
    path = tmp_path / "small.yaml"
    path.write_text(TRAINING.replace("OUT", f"{tmp_path}/out").replace("VOTES", f"{tmp_path}/votes.arrow"))
    return path


@pytest.mark.parametrize(("setting", "step", "said"), WRONG, ids=[setting[:60] for setting, *_ in WRONG])
def test_what_would_stop_a_later_step_is_told_before_the_first(recipe, setting, step, said, capsys) -> None:
    """By a dry run; a start makes the same checks, as the next test shows."""
    setting, said = (text.replace("OUT", f"{recipe.parent}/out") for text in (setting, said))
    with pytest.raises(SystemExit) as end:
        main(["run", str(recipe), "--dry-run", setting])
    error = capsys.readouterr().err
    assert end.value.code in (1, 2) and error.count("\n") == 1
    assert error.startswith(f"error: {recipe}: step {step!r}") and said in error


@pytest.mark.parametrize("setting", [f"{GRPO}.objective.kl=k9", f"{GRPO}.kl=k3", "steps.report.results=nosuch.json"])
def test_a_start_refuses_what_a_dry_run_refuses(recipe, setting) -> None:
    with pytest.raises(InputError, match=r"step '(grpo|report)': "):
        run_recipe(str(recipe), [setting])
    assert not (recipe.parent / "out").exists()


def test_a_recipe_without_a_fault_is_listed_within_seconds_and_nothing_is_written(recipe, capsys) -> None:
    run_recipe(str(recipe), [f"{GRPO}.{POLICY}=Qwen/Qwen2.5-Omni-7B"], dry_run=True)
    begin = time.perf_counter()
    run_recipe(str(recipe), dry_run=True)
    assert time.perf_counter() - begin < 10
    assert capsys.readouterr().out.count("evaluation: evaluate") == 2 and not (recipe.parent / "out").exists()


def test_a_folder_that_is_written_into_makes_no_hub_id(recipe, tmp_path, monkeypatch) -> None:
    """`out/model` could be somebody's model on the hub, but the recipe writes into `out`."""
    monkeypatch.chdir(tmp_path)
    words = ["out=out", f"steps.answers.model.init_args.{POLICY}=out/model"]
    with pytest.raises(InputError, match="out/model is neither a folder here nor a hub id"):
        run_recipe(str(recipe), words, dry_run=True)
    (tmp_path / "out" / "model").mkdir(parents=True)
    run_recipe(str(recipe), words, dry_run=True)


def test_a_path_that_only_a_later_step_writes_is_refused(recipe) -> None:
    text = recipe.read_text()
    first, rest = text.split("  corpus:")
    report = '  report: {do: build_report, results: "${out}/results.json"}\n'
    recipe.write_text(first + report + "  corpus:" + rest.replace(report, ""))
    with pytest.raises(InputError, match=r"step 'report': results: .*/results\.json is not there"):
        run_recipe(str(recipe), dry_run=True)


# A lab's own steps.

CLEANING = """
name: cleaning
out: {out}
steps:
  clean: {{do: earwitness.tests.commands.lab_parts.clean, source: {source}, out: {out}/clean, least: 2}}
  again: {{do: earwitness.tests.commands.lab_parts.clean, source: {out}/clean/questions.jsonl, out: {out}/again}}
  shards: {{do: shard, annotations: {out}/again/questions.jsonl, out: {out}/shards}}
"""


@pytest.fixture
def cleaning(tmp_path) -> Path:
    (tmp_path / "lines.txt").write_text("one\ntwo words\nand three words\n")
    path = tmp_path / "cleaning.yaml"
    path.write_text(CLEANING.format(out=tmp_path / "out", source=tmp_path / "lines.txt"))
    return path


def test_a_labs_function_is_a_step_and_what_it_writes_is_there_for_later_ones(cleaning, capsys) -> None:
    """The lines it leaves are no annotations, so the third step is the one that stops."""
    with pytest.raises(InputError, match=r"again/questions\.jsonl"):
        run_recipe(str(cleaning))
    out = cleaning.parent / "out"
    assert (out / "again" / "questions.jsonl").read_text() == "two words\nand three words"
    assert json.loads((out / ".steps" / "clean.json").read_text())["result"] == {"lines": 2, "folder": f"{out}/clean"}
    said = capsys.readouterr().out
    assert "[ 1/3] clean" in said and f"lines 2, folder {out}/clean" in said


def test_what_a_done_step_read_may_be_gone_and_what_it_wrote_is_written_again(cleaning, capsys) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match=r"again/questions\.jsonl"):
            run_recipe(str(cleaning))
        (cleaning.parent / "lines.txt").unlink(missing_ok=True)
    (cleaning.parent / "out" / "again" / "questions.jsonl").unlink()
    with pytest.raises(InputError, match=r"again/questions\.jsonl:1: not JSON"):
        run_recipe(str(cleaning))
    said = capsys.readouterr().out
    assert "again/questions.jsonl is missing)" in said and said.count("] clean              done before ") == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps.clean.leest=3", "step 'clean': unknown key 'leest'; did you mean 'least'?"),
        ("steps.clean.least=few", "step 'clean': least must be a whole number, got 'few'"),
        (
            "steps.clean.do=earwitness.tests.commands.lab_parts.cleen",
            "has no attribute 'cleen'); did you mean 'clean'?",
        ),
        ("steps.clean.out=null", "step 'clean': out must be a text, got None"),
        ("steps.shards.out=3", "step 'shards': out must be a text, got 3"),
    ],
)
def test_the_arguments_of_a_labs_function_are_checked_by_its_signature(cleaning, setting, said) -> None:
    with pytest.raises(InputError) as error:
        run_recipe(str(cleaning), [setting], dry_run=True)
    assert said in str(error.value)


def packing_of(tmp_path: Path, more: str) -> Path:
    """A recipe that packs two questions whose file has names of its own."""
    import numpy as np
    import soundfile

    record = {"source_dataset": "s", "question": "Which?", "choices": ["a", "b"], "audio_path": "a.wav"}
    lines = [json.dumps(record | {"id": str(number), "gold": answer}) for number, answer in enumerate("ab")]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    step = f'{{do: shard, annotations: "{tmp_path}/questions.jsonl", out: "${{out}}/shards", {more}}}'
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"out: {tmp_path}/run\nsteps:\n  shards: {step}\n")
    return recipe


@pytest.mark.parametrize("more", ["fields: {columns: {answer: gold}}", "column_map: {answer: gold}, layout: audiomcq"])
def test_columns_are_named_in_the_present_and_in_the_earlier_spelling(tmp_path, more) -> None:
    run_recipe(str(packing_of(tmp_path, more)))
    assert json.loads((tmp_path / "run/.steps/shards.json").read_text())["result"]["questions"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("fields: {colums: {answer: gold}}", "fields: unknown key 'colums'; did you mean 'columns'"),
        ("fields: {answer: lettre}", "answer: did you mean 'letter'"),
        ("column_map: {anser: gold}", "columns: unknown field 'anser'"),
    ],
)
def test_a_dry_run_finds_what_is_wrong_with_the_fields(tmp_path, more, message) -> None:
    with pytest.raises(InputError, match=message):
        run_recipe(str(packing_of(tmp_path, more)), dry_run=True)
