"""Every shipped configuration runs as it is shipped, on a tiny model: only paths and the number of steps are given."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from earwitness.commands.recipes.recipe import TRAINER_VERBS, load_recipe
from earwitness.commands.training.trainer import main
from earwitness.curriculum.table import read_arrow
from earwitness.lightning_modules.checkpoints.folders import checkpoint_at
from earwitness.tests.places import ROOT

CONFIGS = ROOT / "configs"


def ran(small, verb: str, file: Path, out: Path, *more: str) -> None:
    """Runs a shipped file in this process, as the command line does."""
    paths = [
        "--paths.data",
        str(small.root),
        "--paths.labels",
        small.labels,
        "--paths.model",
        small.tiny,
        "--paths.out",
        str(out),
    ]
    main([verb, "--config", str(file), *paths, *more])


def logged(out: Path) -> list[dict[str, str]]:
    with next(out.glob("log/version_0/metrics.csv")).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_training_file_trains_as_shipped(small, tmp_path, name) -> None:
    """In bf16-true: the frozen weights of its checkpoint are bfloat16, the adapters float32, and they move."""
    ran(small, "fit", CONFIGS / f"{name}.yaml", tmp_path, "--trainer.max_steps", "2", "--trainer.accelerator", "cpu")
    rows = [row for row in logged(tmp_path) if row.get("train/loss")]
    assert rows and all(float(row["train/moved_share"]) > 0.4 for row in rows)
    kept = torch.load(checkpoint_at(tmp_path), weights_only=True)["state_dict"]
    adapters = {name for name in kept if ".lora_" in name}
    assert adapters and {kept[name].dtype for name in adapters} == {torch.float32}
    assert {kept[name].dtype for name in kept.keys() - adapters} == {torch.bfloat16}
    exported = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}


def test_the_answering_file_answers_as_shipped(small, tmp_path) -> None:
    ran(small, "predict", CONFIGS / "answer.yaml", tmp_path, "--trainer.accelerator", "cpu")
    answers = read_arrow(tmp_path / "answers.arrow")
    assert len(answers) == 2 * 16  # with the audio and with silence


def test_full_fine_tuning_runs_as_the_file_says_it_does(small, tmp_path) -> None:
    """`lora: null` in the place of the adapters, the paper's learning rate; the audio tower trains too."""
    text = (CONFIGS / "sft.yaml").read_text().replace("lora: {rank: 16, alpha: 32}", "lora: null")
    (tmp_path / "full.yaml").write_text(
        text.replace("lr: 1.0e-4", "lr: 1.0e-6").replace("warmup_steps: 50", "warmup_steps: 0")
    )
    ran(small, "fit", tmp_path / "full.yaml", tmp_path, "--trainer.max_steps", "1", "--trainer.accelerator", "cpu")
    kept = torch.load(checkpoint_at(tmp_path), weights_only=True)["state_dict"]
    types = {name: kept[name].dtype for name in kept if "audio_bos_eos" not in name}
    assert all(kind == (torch.bfloat16 if ".visual" in name else torch.float32) for name, kind in types.items())
    first = next(row for row in logged(tmp_path) if row["train/moved_share"])  # before it stands a validation
    assert float(first["train/moved_share"]) > 0.8


def trainer_steps() -> list:
    """Every trainer step of every shipped recipe, those that differ by their paths or seeds alone once.

    The audiomcq recipes want GPUs; `test_audiomcq.py` runs them on a small corpus.
    """
    found: dict[str, object] = {}
    seen: set[str] = set()
    for path in sorted((CONFIGS / "recipes").glob("[!a]*.yaml")):
        spec, _ = load_recipe(str(path), ["data.source=x.tar"] if path.stem == "spoken_digits" else [])
        for name, step in spec["steps"].items():
            if step["do"] in TRAINER_VERBS and not name.startswith(("voter_b", "voter_c")):
                text = json.dumps(step).replace(spec["out"], "OUT")
                asks = step["do"] != "fit" and path.stem.startswith("rival_")
                if text in seen or asks or "pass_rate" in text:  # a column that ours does not have
                    continue
                seen.add(text)
                found[f"{path.stem}-{name}"] = pytest.param(step, id=f"{path.stem}-{name}")
    return list(found.values())


def moved(node, small, out: Path):
    """The step with its paths here, the sources of its corpus by the name of ours, and few tokens to sample."""
    if isinstance(node, list):
        return [moved(one, small, out) for one in node]
    if not isinstance(node, dict):
        logged = isinstance(node, str) and node.startswith("val/")
        return f"{out}/{node}" if isinstance(node, str) and os.sep in node and not logged else node
    ours = {"index": small.index, "checkpoint": small.tiny, "labels": small.labels, "max_new_tokens": 4}
    given = {key: moved(value, small, out) for key, value in node.items()}
    given |= {key: value for key, value in ours.items() if isinstance(node.get(key), str | int)}
    if isinstance(node.get("reasoning"), str):
        given["reasoning"] = "given"  # where there are thoughts; ours has none
    if isinstance(node.get("source"), str) and node["source"] not in ("reading-a", "listening"):
        given["source"] = "sounds"
    return given


@pytest.mark.slow
@pytest.mark.parametrize("step", trainer_steps())
def test_a_trainer_step_of_a_recipe_runs(small, tmp_path, step) -> None:
    spec = moved(step, small, tmp_path)
    verb = spec.pop("do")
    if verb == "fit":
        spec["trainer"]["max_steps"] = 1
        for stage in spec["data"]["init_args"]["training"]["curriculum"]["stages"]:
            stage["on_short"] = "repeat"
            stage.pop("weight", None)  # weight and pool by columns that our corpus does not have
            stage["pool"] = {key: kept for key, kept in stage.get("pool", {}).items() if key in ("label", "source")}
    OmegaConf.save(OmegaConf.create(spec), tmp_path / "step.yaml")
    main([verb, "--config", str(tmp_path / "step.yaml"), "--trainer.accelerator", "cpu"])
    assert any(path.is_file() for path in tmp_path.rglob("*") if path.name != "step.yaml")
