"""Weights divided over processes train what one process trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from earwitness.tests.sharded_runs import CASES, CONTINUED, MORE, launch, train


def differs(one: dict, two: dict) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory) -> dict:
    """What one process gives in every case, and where it exported it."""
    folder = tmp_path_factory.mktemp("alone")
    return {"folder": folder} | {case: train(case, small, folder) for case in (*CASES, *MORE)}


def same_as_alone(found: dict, alone: dict, folder) -> None:
    """Weights, exports, losses, norms, probes and validation, to 1e-5."""
    for case, result in found.items():
        wanted = alone[case]
        worst = differs(result["weights"], wanted["weights"])
        assert worst < 1e-5, (case, worst)
        assert wanted["moved"] > 1e-4, (case, "something was learnt")
        files = (load_file(where / case / "model.safetensors") for where in (folder, alone["folder"]))
        exported = differs(*files)
        assert exported < 1e-5, (case, exported)
        assert len(result["logs"]) == len(wanted["logs"])
        for one, two in zip(result["logs"], wanted["logs"], strict=True):
            assert set(one) == set(two)
            same = [name for name in two if not name.startswith(("time/", "speed/", "memory/", "train/moved"))]
            assert [one[name] for name in same] == pytest.approx([two[name] for name in same], abs=1e-5, nan_ok=True)
        assert result["validated"] == pytest.approx(wanted["validated"], abs=1e-6)
        print(case, f"weights {worst:.1e}, export {exported:.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("gather", ["layer", "step"])
def test_two_processes_train_what_one_trains(small, tmp_path, alone, gather):
    found = launch(small.root, tmp_path, 2, f"FSDP2(gather={gather!r})", *CASES)
    same_as_alone(found, alone, tmp_path)


@pytest.mark.slow
def test_engines_get_gathered_weights_and_stages_observe_the_same(small, tmp_path, alone):
    """Completions come from an engine that was sent the weights; the policy's log-probs are those of the engine's."""
    assert max(log["rollout/logprob_gap"] for log in alone["mirror-lora"]["logs"]) < 1e-4
    same_as_alone(launch(small.root, tmp_path, 2, "FSDP2(recompute=True, cpu_offload=True)", *MORE), alone, tmp_path)


@pytest.mark.slow
def test_four_processes_that_hold_two_copies(small, tmp_path, alone):
    found = launch(small.root, tmp_path, 4, "FSDP2(shard_over=2)", "sft-full", "grpo-full", "grpo-lora")
    same_as_alone(found, alone, tmp_path)


FSDP, DDP = "FSDP2()", "DDPStrategy()"
# AdamW divides by the size of a gradient; where it is small, the rounding of other numbers of ranks counts for more.
ROUNDING = {"groups-full": 1e-6, "momentum-lora": 1e-6, "adam-lora": 2e-5}


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory) -> dict[str, Path]:
    """Runs of four steps, saved after two: alone, by two processes of DDP, by two of FSDP2."""
    folder = tmp_path_factory.mktemp("saved")
    made = {}
    for name, strategy in (("alone", None), ("ddp", DDP), ("fsdp2", FSDP)):
        out = folder / name
        cases = [f"{case}@save={out}/{case}/step-00000002/trainer.ckpt" for case in CONTINUED]
        if strategy is None:
            made[name] = {case: train(with_path, small, out) for case, with_path in zip(CONTINUED, cases, strict=True)}
        else:
            made[name] = launch(small.root, out, 2, strategy, *cases)
    for case in CONTINUED:
        for name in ("ddp", "fsdp2"):
            assert differs(made[name][case]["weights"], made["alone"][case]["weights"]) < ROUNDING[case]
            assert made[name][case]["rows"] == made["alone"][case]["rows"]
    return {"folder": folder, "made": made}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writer", "reader", "world"),
    [
        pytest.param("fsdp2", FSDP, 2, marks=pytest.mark.long),
        ("fsdp2", FSDP, 4),
        ("fsdp2", DDP, 2),
        pytest.param("ddp", FSDP, 4, marks=pytest.mark.long),
        ("alone", FSDP, 2),
        pytest.param("alone", DDP, 4, marks=pytest.mark.long),
        ("fsdp2", None, 1),
        ("ddp", None, 1),
    ],
)
def test_a_run_goes_on_under_another_strategy_and_number_of_processes(small, tmp_path, saved, writer, reader, world):
    """As if it had not: the same rows in the same order, weights to rounding, by SGD with momentum to 1e-6."""
    cases = [f"{case}@load={saved['folder']}/{writer}/{case}/step-00000002/trainer.ckpt" for case in CONTINUED]
    if reader is None:
        found = {case: train(with_path, small, tmp_path) for case, with_path in zip(CONTINUED, cases, strict=True)}
    else:
        found = launch(small.root, tmp_path, world, reader, *cases)
    for case, result in found.items():
        wanted = saved["made"][writer][case]
        assert result["rows"] == wanted["rows"][2:], "the two steps that were left"
        worst = differs(result["weights"], wanted["weights"])
        print(writer, reader, world, case, f"{worst:.1e}")
        assert worst < ROUNDING[case] and result["moved"] > 1e-3
        assert result["logs"][-1]["train/loss"] == pytest.approx(wanted["logs"][-1]["train/loss"], abs=1e-5)
