"""The example folders do what their READMEs say, command by command, on a tiny model."""

from __future__ import annotations

import csv
import re
import runpy
import shlex
import shutil
import sys

import pytest

from earwitness.commands.cli import main
from earwitness.curriculum.table import read_arrow
from earwitness.tests.places import ROOT

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


@pytest.fixture
def done(tmp_path, monkeypatch, request):
    """The folder after all of its commands."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    folder = tmp_path / "examples" / request.param
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (commands,) = re.findall(r"^```\n(.*?)^```$", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        if program == "python":
            runpy.run_path(words[0], run_name="__main__")
        else:
            assert program == "earwitness"
            main(words)
    yield folder
    sys.modules.pop("mine", None)


def logged(folder, run: str) -> list[dict[str, str]]:
    with (folder / "runs" / run / "log" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_there_are_three() -> None:
    assert NAMES == ["benchmark", "labels_and_curriculum", "reward_and_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("done", ["labels_and_curriculum"], indirect=True)
def test_labels_and_a_curriculum_of_ones_own_are_trained_on(done) -> None:
    labels = read_arrow(done / "labels.arrow").to_pylist()
    assert {row["label"] for row in labels} == {"weak", "strong"}
    assert all((row["effort"] > 0) <= (row["label"] == "strong") for row in labels)
    sft, grpo = logged(done, "sft"), logged(done, "grpo")
    assert [row["train/loss"] != "" for row in sft if row.get("train/loss")] == [True, True]
    assert [bool(row["reward/strong"]) for row in grpo if row["reward/all"]] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("done", ["reward_and_loss"], indirect=True)
def test_rewards_and_a_loss_of_ones_own_are_what_is_trained_with(done) -> None:
    rows = logged(done, "grpo")
    assert any(name.startswith("reward/") and "mine.brief" in name for name in rows[0]), sorted(rows[0])
    assert (done / "runs" / "grpo" / "model" / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("done", ["benchmark"], indirect=True)
def test_a_benchmark_of_ones_own_is_asked_and_judged_again(done) -> None:
    page = (done / "results" / "report.html").read_text()
    assert "sounds of ours" in page and "mine.last_word" in page
    assert len(read_arrow(done / "results" / "answers" / "sounds.arrow")) == 2 * 8
