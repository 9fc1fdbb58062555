"""Files that earlier code wrote are read and continued: indexes, labels, checkpoints, records, configurations."""

from __future__ import annotations

import json
import pickletools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from earwitness.commands.recipes.recipe import run_recipe
from earwitness.commands.training.trainer import main
from earwitness.curriculum.contribution.labels import label
from earwitness.curriculum.online.cursor import fork, read_state
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import read_arrow, read_table
from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.lightning_modules.policy.parts import bare
from earwitness.tests.places import TESTS

STORED = TESTS / "stored"
INDEX, LABELS = str(STORED / "shards" / "index.arrow"), str(STORED / "labels.arrow")


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """The stored files in a folder that may be written to; it is the working directory."""
    shutil.copytree(STORED, tmp_path / "stored")
    monkeypatch.chdir(tmp_path / "stored")
    return tmp_path / "stored"


def trained_rows() -> np.ndarray:
    """Row numbers of the index that the stored curricula were compiled over."""
    return read_table(INDEX, LABELS).where({"split": "train"})


def test_stored_labels_join_the_stored_index():
    table = read_table(INDEX, LABELS)
    counts = dict(zip(table.text("label").names, np.bincount(table.text("label").codes).tolist(), strict=True))
    assert len(table) == 16 and counts == {"weak": 9, "strong": 7}
    assert len(table.where({"label": "weak", "split": "train"})) == 7
    assert np.unique(table.columns["votes"], return_counts=True)[1].tolist() == [3, 4, 6, 3]


def test_stored_votes_give_the_stored_labels(tmp_path):
    votes = [str(STORED / "votes" / f"{voter}.arrow") for voter in range(3)]
    assert label(votes, str(tmp_path / "labels.arrow"), index=INDEX) == {"weak": 9, "strong": 7}
    assert read_arrow(tmp_path / "labels.arrow").equals(read_arrow(LABELS))


@pytest.mark.parametrize("run", ["SFT", "GRPO"])
def test_a_checkpoint_names_no_class_of_this_package(run):
    """Lightning's own numbers, tensors and texts alone: modules may move without making a checkpoint unreadable."""
    with zipfile.ZipFile(STORED / run / "step=2.ckpt") as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/data.pkl")]
        operations = list(pickletools.genops(archive.read(name)))
    assert not [code.name for code, _, _ in operations if code.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ")]
    classes = {argument for code, argument, _ in operations if code.name == "GLOBAL"}
    assert classes == {"collections OrderedDict", "torch FloatStorage", "torch._utils _rebuild_tensor_v2"}
    assert torch.load(STORED / run / "step=2.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("run", ["SFT", "GRPO"])
def test_a_stored_run_is_continued(run, copied):
    """From step 2 of a configuration in the old spelling: two steps later the run is where it was then.

    The weights of GRPO are not compared: a rounding that differs between machines may change a sampled token, and then
    everything after it. What its stage observed comes from those tokens, too; how many windows it closed does not.
    """
    before = torch.load(f"{run}/step=2.ckpt", weights_only=True)
    main(["fit", "--config", f"{run}.yaml", "--ckpt_path", f"{run}/step=2.ckpt"])
    after = torch.load(f"{run}/step=4.ckpt", weights_only=True)
    expected = json.loads((copied / run / "step=4.json").read_text())
    state = after["AudioQuestions"]
    assert after["global_step"] == 4
    assert {name: state[name] for name in expected["data"]} == expected["data"]
    assert before["AudioQuestions"]["fingerprint"] == expected["data"]["fingerprint"]
    named = {bare(name.removeprefix("policy.thinker.")): tensor for name, tensor in after["state_dict"].items()}
    for name, weights in expected.get("weights", {}).items():
        now = named[bare(name.removeprefix("policy.thinker."))]
        assert torch.allclose(now, torch.tensor(weights), rtol=0, atol=1e-5), name
        assert (now - before["state_dict"][name]).abs().max() > 1e-3, f"{name} was not trained"
    record = read_state(f"{run}/curriculum.json")
    assert record["fingerprint"] == expected["data"]["fingerprint"]
    assert record["step"] == {"SFT": 5, "GRPO": 4}[run], "the run ends with its plan"
    if run == "GRPO":
        assert record["adaptive"]["closed"] == 4 and np.sum(record["adaptive"]["matrix"], 1).tolist() == [2] * 4


@pytest.mark.parametrize(("run", "used"), [("SFT", 10), ("GRPO", 12)])
def test_a_stored_record_says_which_rows_were_used(run, used):
    """SFT dealt five batches of two; GRPO two of its first stage, and its own four."""
    record = read_state(STORED / run / "curriculum.json")
    table = read_table(INDEX, LABELS).take(trained_rows())
    assert int(fork(record, table).sum()) == used and len(table) == 12


def test_a_stored_record_is_forked():
    """The one batch of another curriculum is the two rows that the stored run left."""
    record = STORED / "SFT" / "curriculum.json"
    rest = {"seed": 8, "stages": [{"name": "rest", "algorithm": "sft", "batch_size": 2, "budget": {"steps": 1}}]}
    training = TrainingSpec(rest, "rest", replan=str(record))
    data = AudioQuestions(index=INDEX, labels=LABELS, checkpoint=str(STORED / "tiny"), training=training)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    table = read_table(INDEX, LABELS).take(trained_rows())
    stored = Plan(parse_curriculum(json.loads(record.read_text())["curriculum"]), table)
    dealt = np.concatenate([stored.batch("sft", step)[0] for step in range(5)])
    left = set(table.uid.tolist()) - set(table.uid[dealt].tolist())
    assert {sample.question.uid for sample in batch.samples} == left and len(left) == 2


def test_a_recipe_in_the_old_spelling_runs(copied, capsys):
    run_recipe("recipe.yaml")
    assert "stored: 2 steps into out/" in capsys.readouterr().out
    assert read_arrow("out/labels.arrow").equals(read_arrow("labels.arrow"))
    record = read_state("out/curriculum.json")
    assert (record["stage"], record["step"]) == ("sft", 1)
