"""The real run: what its dry run says on made-up tables of the real size, and the whole of it on a small corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from earwitness.commands.cli import main
from earwitness.commands.recipes import costs
from earwitness.commands.recipes.recipe import load_recipe, run_recipe
from earwitness.commands.training.architectures import architecture_of
from earwitness.commands.training.memory_table import Needs
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.preview import stage_rows
from earwitness.curriculum.preview.synthetic import audiomcq_table
from earwitness.curriculum.schedule.budget import Cost
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.memory import Memory
from earwitness.tests.commands.evaluation.evaluation_parts import write_benchmarks

BOTH = ("audiomcq", "audiomcq_lora")


@pytest.fixture(scope="module")
def takes():
    """Recipe -> what it takes, without the dry run of a micro-batch, which has tests of its own."""
    held = pytest.MonkeyPatch()
    held.setattr(costs, "memory_needs", lambda *_: needs(50e9))
    found = {name: costs.Takes(load_recipe(name)[0]) for name in BOTH}
    held.undo()
    return found


def needs(total: float) -> Needs:
    memory = Memory(*[0.0] * 7, total)
    return Needs("", {"ddp": memory, "fsdp2": memory})


def step(of: costs.Takes, name: str) -> costs.StepCost:
    return next(one for one in of.steps if one.name == name)


def test_the_budgets_are_the_reported_ones(takes):
    """750 batches of 160 weak questions, 100 of 8 strong ones, on the published counts."""
    for of in takes.values():
        assert [step(of, stage)[1:3] for stage in ("sft", "grpo")] == [(750, 120_000), (100, 800)]
        assert "571,118, 313,177 of them weak" in of.lines()[-1]


def test_operations_are_those_of_the_textbook(takes):
    """6 per weight and token, the audio tower's beside them; of frozen weights 4; at 35 % of 311.9e12 a second."""
    plan = Plan(parse_curriculum(load_recipe("audiomcq")[0]["curriculum"]), table := audiomcq_table())
    textbook = float(Cost().flops("sft", table.columns["duration_s"][stage_rows(plan, "sft")]).sum())
    full, adapted = (step(takes[name], "sft") for name in BOTH)
    assert 0.9 < full.flops / textbook < 1.2 and adapted.flops / full.flops == pytest.approx(4 / 6, abs=0.06)
    assert full.gpu_hours == pytest.approx(full.flops / (0.35 * 311.9e12) / 3600)
    grpo = step(takes["audiomcq"], "grpo")
    waiting = 8 * 100 * 128 * 0.04 / 3600  # 8 GPUs, 100 rollouts of 128 positions
    assert grpo.gpu_hours == pytest.approx(grpo.flops / (0.35 * 311.9e12) / 3600 + waiting)


def test_storage_by_hand(takes):
    """Flac at 55 % of 32,000 bytes a second; two checkpoints of 12 bytes a weight; a model of 2 bytes a weight."""
    stored, table = takes["audiomcq"].stored, audiomcq_table()
    clips = dict(zip(table.columns["clip"].tolist(), table.columns["duration_s"].tolist(), strict=True))
    assert stored["recordings as flac"] == pytest.approx(sum(clips.values()) * 32_000 * 0.55, rel=0.01)
    config = architecture_of("Qwen/Qwen2.5-Omni-7B").get_text_config()
    layer = config.hidden_size * (config.hidden_size * 2 + 1024 + 3 * config.intermediate_size)
    language = config.num_hidden_layers * layer + 2 * config.vocab_size * config.hidden_size
    assert stored["sft: 2 checkpoints"] == pytest.approx(2 * 12 * (language + 0.64e9), rel=0.01)
    assert stored["sft: the model"] == pytest.approx(2 * (language + 0.64e9 + 0.68e9), rel=0.02)


def test_what_does_not_fit_is_said(monkeypatch):
    monkeypatch.setattr(costs, "memory_needs", lambda *_: needs(81e9))
    spec, _ = load_recipe("audiomcq_lora", ["costs.gpu=H100"])
    lines = costs.cost_lines(spec)
    assert sum(line.endswith("81   more than there is") for line in lines) == 2 and "of 989.4 TFLOPs" in lines[0]
    for wrong in ({"gpu": "Q100"}, {"mfu": 2.0}, {"gpus": 8}):
        with pytest.raises(InputError, match="costs: "):
            costs.cost_lines(spec | {"costs": wrong})
    assert costs.cost_lines(load_recipe("demo")[0]) == []


def test_a_synthetic_dry_run_lists_what_is_not_there_and_refuses_what_is_wrong(tmp_path, monkeypatch, capsys):
    """Data from elsewhere are listed; a path within the run that nothing writes is a fault; nothing is written."""
    monkeypatch.chdir(tmp_path)
    gone = (
        "grpo",
        "backbone_answers",
        "sft_answers",
        "grpo_answers",
        "evaluation",
        "report",
        "grpo_benchmarks",
        "table",
    )
    steps = "".join(f"  {name}: null\n" for name in gone)
    (tmp_path / "short.yaml").write_text(f"extends: audiomcq_voters\ncosts: null\nout: runs/x\nsteps:\n{steps}")
    main(["run", "short.yaml", "--dry-run", "--synthetic"])
    said = capsys.readouterr().out
    assert "5 of 5 steps would run" in said and said.count("not there yet") == 9
    assert "not there yet: data/benchmarks/mmar/MMAR-meta.jsonl (backbone_benchmarks: benchmarks.mmar.file)" in said
    faults = {
        "steps.sft.data.init_args.labels=runs/x/labels.arrow": "'sft': .*labels: runs/x/labels.arrow is not there",
        "steps.labels.rule=most": "step 'labels': rule: ",
        "steps.sft_benchmarks.conditions=[audi]": "step 'sft_benchmarks': condition 'audi'",
    }
    for word, said in faults.items():
        with pytest.raises(InputError, match=said):
            run_recipe("short.yaml", [word], dry_run=True, synthetic=True)
    with pytest.raises(InputError, match="annotations: data/audiomcq/datasets is not there"):
        run_recipe("short.yaml", dry_run=True)
    with pytest.raises(InputError, match="--synthetic is for a --dry-run"):
        run_recipe("short.yaml", synthetic=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.yaml"]


SMALL = """
extends: audiomcq
out: {root}/out
gpus: 1
checkpoint: {tiny}
data: {{annotations: {root}/published.jsonl, audio: {audio}, workers: 1}}
curriculum:
  stages:
    - {{name: sft, algorithm: sft, pool: {{label: weak}}, batch_size: 4, budget: {{steps: 2, at_most: 1.0}}}}
    - {{name: grpo, algorithm: grpo, pool: {{label: strong}}, batch_size: 2, budget: {{steps: 2, at_most: 1.0}}}}
benchmarks:
  {{mmau: {{file: {mmau}, audio: {audio}}}, mmsu: {{file: {mmsu}, audio: {audio}}}, mmar: null, dcase2025: null}}
steps:
  shards: {{holdout: {{val: 0.2, test: 0.2}}}}
  sft: {{trainer: {{accelerator: cpu, strategy: auto}}, data: {{init_args: {{num_workers: 0}}}}}}
  grpo:
    trainer: {{accelerator: cpu, strategy: auto}}
    model: {{init_args: {{rollout: {{max_new_tokens: 4}}}}}}
    data: {{init_args: {{num_workers: 0}}}}
  backbone_answers: {cpu}
  sft_answers: {cpu}
  grpo_answers: {cpu}
"""


@pytest.mark.slow
def test_the_whole_run_on_a_small_corpus(small, tmp_path, monkeypatch):
    """From annotations with published labels to the table: every step as shipped, but for devices, sizes and paths."""
    monkeypatch.setenv("EARWITNESS_CACHE", str(tmp_path / "cache"))
    planted = {r["key"]: r["planted"] for r in map(json.loads, Path(small.planted).read_text().splitlines())}
    records = [json.loads(line) for line in Path(small.annotations).read_text().splitlines()]
    lines = []
    for record in records:
        label = "strong" if planted[f"{record['source_dataset']}/{record['id']}"] == "heard" else "weak"
        lines.append(json.dumps({k: v for k, v in record.items() if k != "split"} | {"audio-contribution": label}))
    (tmp_path / "published.jsonl").write_text("\n".join(lines) + "\n")
    files = write_benchmarks(small.annotations)
    cpu = "{trainer: {accelerator: cpu, strategy: auto}, data: {init_args: {num_workers: 0}}}"
    audio = str(Path(small.annotations).parent)
    where = {"root": tmp_path, "tiny": small.tiny, "audio": audio, "mmau": files["mmau"], "mmsu": files["mmsu"]}
    (tmp_path / "small.yaml").write_text(SMALL.format(cpu=cpu, **where))
    run_recipe(str(tmp_path / "small.yaml"))
    table = json.loads((tmp_path / "out" / "table" / "table.json").read_text())
    assert list(table["scores"]) == ["backbone", "SFT", "GRPO"] and list(table["scores"]["SFT"]) == ["mmau", "mmsu"]
    assert {(one["from"], one["to"]) for one in table["changes"]} == {
        ("backbone", "SFT"),
        ("SFT", "GRPO"),
        ("backbone", "GRPO"),
    }
    text = (tmp_path / "out" / "table" / "table.md").read_text()
    assert "| weak to strong (published) | 78.2 % | 69.3 % |" in text
    results = json.loads((tmp_path / "out" / "benchmarks" / "sft" / "results.json").read_text())
    share = results["benchmarks"][0]["scores"]["audio"]["strict"]["accuracy"]
    assert table["scores"]["SFT"]["mmau"]["audio"]["strict"] == share
    assert OmegaConf.load(tmp_path / "out" / "sft" / "config.yaml").trainer.precision == "bf16-true"
