"""Weights divided over processes train what one process trains."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from earwitness.tests.sharded_runs import CASES, launch, train


def differs(one: dict, two: dict) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory) -> dict:
    """What one process gives in every case, and where it exported it."""
    folder = tmp_path_factory.mktemp("alone")
    return {"folder": folder} | {case: train(case, small, folder) for case in CASES}


def same_as_alone(found: dict, alone: dict, folder) -> None:
    """Weights, exports, losses, norms, probes and validation, to 1e-5."""
    for case, result in found.items():
        wanted = alone[case]
        worst = differs(result["weights"], wanted["weights"])
        assert worst < 1e-5, (case, worst)
        files = (load_file(where / case / "model.safetensors") for where in (folder, alone["folder"]))
        exported = differs(*files)
        assert exported < 1e-5, (case, exported)
        assert len(result["logs"]) == len(wanted["logs"])
        for one, two in zip(result["logs"], wanted["logs"], strict=True):
            assert one == pytest.approx(two, abs=1e-5, nan_ok=True)
        assert result["validated"] == pytest.approx(wanted["validated"], abs=1e-6)
        print(case, f"weights {worst:.1e}, export {exported:.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("gather", ["layer", "step"])
def test_two_processes_train_what_one_trains(small, tmp_path, alone, gather):
    found = launch(small.root, tmp_path, 2, f"FSDP2(gather={gather!r})", *CASES)
    same_as_alone(found, alone, tmp_path)
