"""A run, its adapters and its export answer as one model, and what is none of them gets a sentence."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from earwitness.errors import InputError
from earwitness.lightning_modules.policy.export import export_run
from earwitness.lightning_modules.voters.loading import find_source, load_voter
from earwitness.tests.lightning_modules.policy.test_export import LORA, run_of, trained


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> SimpleNamespace:
    """Runs with and without adapters, exported too; name -> path."""
    root = tmp_path_factory.mktemp("runs")
    paths = {"tiny": small.tiny}
    for name, lora in (("full", None), ("lora", LORA)):
        paths[name] = str(run_of(trained(small.tiny, lora), root / name, lora))
        paths[f"{name} merged"] = str(root / f"{name}-merged")
        export_run(paths[name], paths[f"{name} merged"])
    paths["adapter"] = str(root / "adapter")
    export_run(paths["lora"], paths["adapter"], "adapter")
    paths |= {f"adapter {part}": f"{paths['adapter']}/{part}" for part in ("nested", "thinker")}
    return SimpleNamespace(root=root, **{"paths": paths})


@cache
def weights(path: str) -> dict[str, torch.Tensor]:
    return load_voter(path, find_source(path), "paper").policy.thinker.state_dict()


@pytest.mark.parametrize("name", ["full", "lora", "adapter", "adapter nested", "adapter thinker"])
def test_every_form_of_a_trained_model_is_its_export(runs, name):
    exported = weights(runs.paths["full merged" if name == "full" else "lora merged"])
    found, before = weights(runs.paths[name]), weights(runs.paths["tiny"])
    assert found.keys() == exported.keys()
    assert all(torch.equal(found[key], exported[key]) for key in found)
    moved = [key for key in found if not torch.equal(found[key], before[key])]
    assert len(moved) == 2 * len(LORA["targets"]) if name != "full" else len(moved) > 20


def test_marks_tell_weights_apart_and_not_where_they_lie(runs):
    marks = [find_source(runs.paths[name]).mark for name in ("full", "lora", "adapter", "full merged", "tiny")]
    assert len(set(marks)) == 5 and all(len(mark) == 16 for mark in marks)
    assert find_source("some/hub-id").mark == ""


def test_adapters_that_cannot_be_merged_by_name_are_refused(runs, tmp_path):
    settings = json.loads(Path(runs.paths["adapter"], "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(InputError, match="only plain LoRA adapters are merged"):
        find_source(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="names no base_model_name_or_path"):
        find_source(str(tmp_path))
