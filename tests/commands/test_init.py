"""A working folder: its commands, typed one after another as its README has them, end with a page of each stage."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from earwitness.commands.cli import main
from earwitness.commands.init import working_files
from earwitness.commands.training.trainer import check
from earwitness.curriculum.table import read_arrow
from earwitness.errors import InputError


def commands(readme: str) -> list[list[str]]:
    """The commands of the README's blocks, as words."""
    blocks = re.findall(r"```\n(.*?)```", readme, re.DOTALL)
    return [line.split()[1:] for block in blocks for line in block.strip().splitlines()]


@pytest.mark.slow
def test_the_readme_leads_from_own_questions_to_a_page_of_each_stage(small, tmp_path, monkeypatch, capsys):
    """A CSV with a column for every option and letters as answers; voters that guess, and a tiny model."""
    records = [json.loads(line) for line in Path(small.annotations).read_text().splitlines()]
    records = [record for record in records if record["source_dataset"] == "sounds" and record["split"] == "train"]
    with (tmp_path / "questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "source_dataset", "question", "audio_path", *"ABCD", "answer"])
        for record in records:
            letter = "ABCD"[record["choices"].index(record["answer"])]
            own = ("id", "source_dataset", "question")
            table.writerow([*(record[name] for name in own), record["audio_path"], *record["choices"], letter])
    monkeypatch.chdir(tmp_path)
    main(["init", "work", "--from", "../questions.csv", "--device", "cpu"])
    assert capsys.readouterr().out.endswith("next: cd work, and the commands of its README.md one by one\n")
    monkeypatch.chdir("work")
    words = commands(Path("README.md").read_text())
    assert [command[0] for command in words].count("fit") == 2
    for command in words:
        if command[0] == "shard":
            command += ["--column", "choices=A,B,C,D", "--audio-root", str(Path(small.annotations).parent)]
        if command[0] == "fit":
            command += ["--trainer.max_steps", "1"]
        main(command)
    labelled = read_arrow("runs/labels/labels.arrow")
    assert len(labelled) == len(records) and {"weak", "strong"} >= set(labelled.column("label").to_pylist())
    assert Path("runs/labels/report.html").exists()
    assert Path("runs/sft/model/model.safetensors").exists() and Path("runs/grpo/model/model.safetensors").exists()
    (held,) = json.loads(Path("runs/evaluation/grpo/results.json").read_text())["benchmarks"]
    assert {"labels of labels.arrow"} <= held["subsets"].keys() and Path("runs/evaluation/sft/report.html").exists()
    with pytest.raises(SystemExit) as ended:
        main(["init", "."])
    assert ended.value.code == 1 and "sft.yaml is there already" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_the_files_are_whole_configurations_that_share_places(tmp_path, monkeypatch, device):
    monkeypatch.chdir(tmp_path)
    for name, text in working_files("q.csv", device).items():
        Path(name).write_text(text)
    sft, grpo = (check(["fit", "--config", f"{name}.yaml"]) for name in ("sft", "grpo"))
    for found in (sft, grpo):
        data = found["data"]["init_args"]
        assert (data["index"], data["labels"]) == ("data/shards/index.arrow", "runs/labels/labels.arrow")
    assert sft["data"]["init_args"]["training"]["curriculum"] == "curriculum.yaml"
    exported = [one["init_args"]["folder"] for one in sft["trainer"]["callbacks"] if "Export" in one["class_path"]]
    assert grpo["paths"]["model"] == exported[0] == "runs/sft/model"
    assert "configs/" not in "".join(working_files("q.csv", device).values())


def test_functions_beside_the_users_files_are_found(tmp_path, monkeypatch, capsys):
    """Behind everything installed, so that no file there takes the place of a library."""
    (tmp_path / "torch.py").write_text("raise SystemExit('taken for the library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    main(["show", "weak_to_strong"])
    assert sys.path[-1] == str(tmp_path) and "curriculum:" in capsys.readouterr().out


def test_shipped_files_are_listed_printed_and_named(capsys, tmp_path):
    main(["show"])
    lines = capsys.readouterr().out.splitlines()
    assert {"sft", "curricula/weak_to_strong", "recipes/demo", "launch/slurm"} <= {line.split()[0] for line in lines}
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines), "each says what it is"
    with pytest.raises(SystemExit):
        main(["show", "stf"])
    assert "did you mean 'sft'?" in capsys.readouterr().err
    assert check(["fit", "--config", "sft"]) == check(["fit", "--config=sft"])
    with pytest.raises(InputError, match="stf: no such file; did you mean 'sft'"):
        check(["fit", "--config", "stf"])


def test_null_on_the_command_line_takes_an_object_away():
    policy = ["model", "init_args", "policy", "init_args"]

    def lora(*words: str):
        node = check(["fit", "--config", "sft", *words])
        for name in policy:
            node = node[name]
        return node["lora"]

    assert lora()["rank"] == 16
    for words in (["--model.init_args.policy.init_args.lora", "null"], ["--fresh", "--model.policy.lora=null"]):
        assert lora(*words) is None
