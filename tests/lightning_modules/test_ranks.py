"""Ranks that were not started alike stop, all of them; one that hangs is named; other numbers of ranks go on."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from earwitness.tests.commands.training.test_continuing import fit, names, rows, same, written
from earwitness.tests.forks import ended, forked, meeting

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


def together(config: str, log: Path, *more: list[str]) -> list[int]:
    """The exit codes of one rank per list of options."""
    places = meeting(len(more))
    words = ["--trainer.devices", str(len(more)), "--trainer.strategy", "ddp"]
    pids = [
        forked(lambda given=given: exited(fit(config, *words, *given)), log.with_suffix(f".{rank}"), place, None)
        for rank, (given, place) in enumerate(zip(more, places, strict=True))
    ]
    return [ended(pid) for pid in pids]


def exited(code: int | None) -> None:
    raise SystemExit(code)


@pytest.fixture
def config(small, tmp_path) -> str:
    return plain(small, tmp_path / "run")


def plain(small, out: Path) -> str:
    """By SGD, which neither hides nor amplifies a difference in the gradient."""
    path = Path(written(small, out))
    path.write_text(path.read_text().replace("AdamW, init_args: {lr: 0.001}", "SGD, init_args: {lr: 0.05}"))
    return str(path)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (["--data.init_args.seed", "7"], "another data.shown.seed than rank 0: 7, not 0"),
        (
            ["--model.init_args.optimizer.init_args.lr", "0.005"],
            "another configuration.model.init_args.optimizer.init_args.lr than rank 0: 0.005, not 0.05",
        ),
        (["--data.init_args.training.curriculum.seed", "4"], "another data.curriculum.seed than rank 0: 4, not None"),
    ],
    ids=["data", "learning rate", "plan"],
)
def test_a_rank_that_was_started_otherwise_is_named_and_all_stop(config, tmp_path, other, said):
    assert together(config, tmp_path / "log", [], other) == [1, 1]
    for rank in (0, 1):
        assert f"error: rank 1 has {said}; start all ranks with the same" in (tmp_path / f"log.{rank}").read_text()
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_a_rank_that_reads_other_files_is_named(config, tmp_path, monkeypatch):
    """The same command on two hosts, whose disks hold other recordings under the same names."""
    from earwitness.datamodules.module import AudioQuestions

    state = AudioQuestions.state_dict
    monkeypatch.setattr(AudioQuestions, "state_dict", lambda self: state(self) | {"content": self.trainer.global_rank})
    assert together(config, tmp_path / "log", [], []) == [1, 1]
    assert "error: rank 1 has another data.content than rank 0: 1, not 0;" in (tmp_path / "log.1").read_text()


def test_a_rank_with_other_weights_gets_those_of_rank_0(config, small, tmp_path, monkeypatch):
    """Not by the strategy: two ranks that start apart end alike, and as one rank alone."""
    from earwitness.lightning_modules.callbacks.position import PlanPosition

    start = PlanPosition.on_fit_start

    def apart(self, trainer, module) -> None:
        if trainer.global_rank == 1:
            for parameter in module.parameters():
                parameter.data += 1
        start(self, trainer, module)

    monkeypatch.setattr(PlanPosition, "on_fit_start", apart)
    assert together(config, tmp_path / "log", [], []) == [0, 0]
    assert fit(plain(small, tmp_path / "alone")) is None
    close(tmp_path / "run", tmp_path / "alone")


def close(a: Path, b: Path) -> None:
    ours, theirs = (load_file(at / "model" / "model.safetensors") for at in (a, b))
    worst = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    assert worst <= 1e-6, worst


def test_a_rank_that_sleeps_is_named_with_its_step_and_rows(config, tmp_path, monkeypatch):
    from earwitness.lightning_modules.sft import SFT

    inside = SFT.training_step

    def sleepy(self, batch, batch_idx) -> None:
        if batch.step == 1 and self.ranks.rank == 1:
            time.sleep(12)
        inside(self, batch, batch_idx)

    monkeypatch.setattr(SFT, "training_step", sleepy)
    watch = ["--trainer.callbacks+", "{class_path: earwitness.Watchdog, init_args: {stall_s: 3.0}}"]
    assert together(config, tmp_path / "log", watch, watch) == [0, 0], "it only says so"
    lines = (tmp_path / "log.0").read_text().splitlines()
    said = next(line for line in lines if line.startswith("no batch has ended"))
    zero, one = said.partition("rank 0: ")[2].split("; rank 1: ")
    assert zero.startswith("step 1, rows ") and one.startswith("step 1, rows ")
    assert "sleepy (test_ranks.py:" in one and "sleepy" not in zero
    assert "no batch" not in (tmp_path / "log.1").read_text()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_ranks(config, small, tmp_path, before, after):
    """The same batches; weights to rounding; one log without a step twice."""
    few = ["--trainer.limit_train_batches", "4"]
    for ranks, more in ((before, few), (after, [])):
        codes = [fit(config, *more)] if ranks == 1 else together(config, tmp_path / "log", *[more] * ranks)
        assert not any(codes)
    assert fit(plain(small, tmp_path / "alone")) is None
    close(tmp_path / "run", tmp_path / "alone")
    steps, expected = ([step for step, *_ in rows(tmp_path / at)] for at in ("run", "alone"))
    assert steps == expected


def test_three_ranks_continue_bitwise(small, tmp_path):
    """From three on, the order of a sum depends on where in DDP's buckets a gradient lies."""
    for name, parts in (("whole", [[]]), ("parts", [["--trainer.limit_train_batches", "2"], []])):
        config = written(small, tmp_path / name)
        for more in parts:
            assert together(config, tmp_path / "log", *[more] * 3) == [0, 0, 0]
    same(tmp_path / "parts", tmp_path / "whole")


def test_a_full_disk_ends_all_ranks(config, tmp_path, monkeypatch):
    """Rank 0 writes; the other one must not wait for it for ever."""
    from earwitness.lightning_modules.checkpoints import whole_file

    save = torch.save

    def full(content, file) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.torch, "save", full)
    assert together(config, tmp_path / "log", [], []) == [1, 1]
    for rank in (0, 1):
        said = (tmp_path / f"log.{rank}").read_text()
        assert "step-00000002 could not be written (No space left on device)" in said
    monkeypatch.setattr(whole_file.torch, "save", save)
    shutil.rmtree(tmp_path / "run")
    assert together(config, tmp_path / "log", [], []) == [0, 0]
    assert names(tmp_path / "run")[-1] == "step-00000006"
