"""Shipped files are complete; files and command line interpolate after merging; a misspelt key is named at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from earwitness.commands.cli import main
from earwitness.commands.labelling.job import load_job
from earwitness.commands.recipes.recipe import load_recipe, run_recipe
from earwitness.commands.training.lightning_cli import EarwitnessCLI
from earwitness.commands.training.trainer import check
from earwitness.errors import InputError
from earwitness.tests.places import ROOT

CONFIGS = ROOT / "configs"
COMMAND = {"sft": "fit", "grpo": "fit", "answer": "predict"}


def parsed(*arguments: str):
    """The configuration of `fit` after parsing; nothing is built."""
    return EarwitnessCLI(list(arguments), parse_only=True).config.fit


def test_the_shipped_labelling_job_is_checked_whole() -> None:
    job = load_job(str(CONFIGS / "label.yaml"))
    assert [voter.name for voter in job.voters] == ["kimi", "r1-aqa", "omni"]


@pytest.mark.parametrize("path", [CONFIGS / f"{name}.yaml" for name in COMMAND], ids=lambda p: p.stem)
def test_every_shipped_file_parses(path: Path) -> None:
    check([COMMAND[path.stem], "--config", str(path)])


@pytest.mark.parametrize("key", ["VllmEngine", "VllmServer", "correction"])
def test_what_the_grpo_file_shows_in_comments_works(key, tmp_path) -> None:
    """The line without its mark is a valid part of the file."""
    lines = (CONFIGS / "grpo.yaml").read_text().splitlines()
    (place,) = [n for n, line in enumerate(lines) if line.strip().startswith("# ") and key in line and "{" in line]
    lines[place] = lines[place].replace("# ", "", 1)
    (tmp_path / "grpo.yaml").write_text("\n".join(lines))
    check(["fit", "--config", str(tmp_path / "grpo.yaml")])
    init = parsed("fit", "--config", str(tmp_path / "grpo.yaml")).model.init_args
    assert init.engine is not None or init.objective.correction is not None


RECIPES = sorted((CONFIGS / "recipes").glob("*.yaml"))
OWN = [path for path in RECIPES if not path.stem.startswith(("rival_", "audiomcq"))]
RIVALS = [path for path in RECIPES if path.stem.startswith("rival_")]


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_every_shipped_recipe_is_checked_whole(path: Path, tmp_path, capsys) -> None:
    """With what it needs from elsewhere: a tar of recordings, or the corpus, labels and model of a demo."""
    for name in ("x.tar", "demo/shards/index.arrow", "demo/labels.arrow", "demo/corpus/planted.jsonl", "demo/tiny/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    more = {"spoken_digits": [f"data.source={tmp_path}/x.tar"], "grpo_alone": [f"demo={tmp_path}/demo"]}
    run_recipe(str(path), [f"out={tmp_path}/out", *more.get(path.stem, [])], dry_run=True)
    assert "report: build_report" in capsys.readouterr().out
    assert not (tmp_path / "out").exists(), "a dry run writes nothing"


@pytest.mark.parametrize("path", RIVALS, ids=lambda p: p.stem)
def test_every_rival_is_checked_whole(path: Path, tmp_path, capsys) -> None:
    """Without the voters, which are the demo's."""
    (tmp_path / "votes.arrow").touch()
    voters = [f"voter_{v}{step}: null" for v in "abc" for step in ("", "_start", "_votes")]
    steps = "\n  ".join([*voters, f"labels: {{votes: [{tmp_path}/votes.arrow]}}"])
    (tmp_path / "short.yaml").write_text(f"extends: {path}\nout: {tmp_path}/out\nsteps:\n  {steps}\n")
    run_recipe(str(tmp_path / "short.yaml"), dry_run=True)
    said = capsys.readouterr().out
    assert "grpo: fit" in said and "report: build_report" in said and not (tmp_path / "out").exists()
    spec, _ = load_recipe(str(path))
    assert spec["name"] == path.stem, "its folder is its own"


def test_a_base_file_an_override_file_and_the_command_line_interpolate_after_merging(tmp_path) -> None:
    """Resolved file by file, the index would keep the base's folder and the log the override's."""
    over = tmp_path / "over.yaml"
    over.write_text("paths: {data: /two}\n")
    words = ["fit", "--config", str(CONFIGS / "sft.yaml"), "--config", str(over)]
    config = parsed(*words)
    assert config.data.init_args.index == "/two/shards/index.arrow"
    config = parsed(*words, "--paths.data", "/three", "--paths.labels", "/four.arrow", "--paths.out", "/out")
    assert config.data.init_args.index == "/three/shards/index.arrow"
    assert config.data.init_args.labels == "/four.arrow"
    assert config.trainer.callbacks[0].init_args.folder == "/out/model"


def test_the_launcher_decides_the_number_of_devices(monkeypatch) -> None:
    words = ["fit", "--config", str(CONFIGS / "sft.yaml")]
    assert parsed(*words).trainer.devices == 1
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert parsed(*words).trainer.devices == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    assert (parsed(*words).trainer.devices, parsed(*words).trainer.num_nodes) == (2, 3)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("--model.init_args.schedule.warmup_stepz=1", "warmup_stepz"),
        ("--model.init_args.micro_batch_sise=1", "micro_batch_sise"),
        ("--data.init_args.training.stag=sft", "stag"),
        ("--trainer.max_step=1", "max_step"),
        ("--model.init_args.policy.init_args.lora.rnk=4", "rnk"),
    ],
)
def test_a_misspelt_key_is_named_before_anything_loads(override: str, key: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(CONFIGS / "sft.yaml"), override])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and f"unknown key {key!r}; did you mean" in error and error.count("\n") == 1


def test_a_misspelt_key_in_a_recipe_fails_before_the_first_step(tmp_path) -> None:
    with pytest.raises(InputError, match=r"step 'grpo': model\.init_args\.objective: unknown key 'betta'"):
        run_recipe("demo", [f"out={tmp_path / 'run'}", "steps.grpo.model.init_args.objective.betta=1"])
    assert not (tmp_path / "run" / "corpus").exists()


def test_a_missing_value_of_a_recipe_says_how_to_set_it() -> None:
    with pytest.raises(ValueError, match=r"data\.source"):
        load_recipe("spoken_digits")


def test_yaml_cannot_build_python_objects(tmp_path) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "evil.yaml"
    path.write_text(f"out: x\nsteps: !!python/object/apply:os.system ['touch {marker}']\n")
    code = f"from earwitness.commands.cli import main; main(['run', {str(path)!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and not marker.exists()
