"""Sharding is asked for on the command line or in the file, by name, with its options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from earwitness.commands.training.lightning_cli import EarwitnessCLI
from earwitness.errors import InputError
from earwitness.lightning_modules.strategies.fsdp2 import FSDP2
from earwitness.tests.commands.test_launch import run, same_weights, write_config

IN_A_FILE = "trainer: {strategy: {class_path: earwitness.FSDP2, init_args: {gather: step, recompute: true}}}\n"
WAYS = {
    "name": ["--trainer.strategy", "earwitness.FSDP2"],
    "options": ["--trainer.strategy", "earwitness.FSDP2", "--trainer.strategy.gather", "step"],
    "init_args": ["--trainer.strategy=earwitness.FSDP2", "--trainer.strategy.init_args.shard_over", "1"],
    "file": ["--config", "FILE"],
}


@pytest.fixture
def words(small, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")

    def of(way: str) -> list[str]:
        (tmp_path / "more.yaml").write_text(IN_A_FILE)
        more = [str(tmp_path / "more.yaml") if word == "FILE" else word for word in WAYS[way]]
        return ["fit", "--config", write_config(small, tmp_path / "out"), *more]

    return of


@pytest.mark.parametrize("way", WAYS)
def test_the_strategy_and_its_options(words, way, monkeypatch):
    made = []
    monkeypatch.setattr(EarwitnessCLI, "_run_subcommand", lambda self, _: made.append(self.trainer.strategy))
    EarwitnessCLI(words(way))
    (strategy,) = made
    assert type(strategy) is FSDP2
    assert strategy.gather == ("step" if way in ("options", "file") else "auto")
    assert strategy.shard_over == (1 if way == "init_args" else 0) and strategy.recompute == (way == "file")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["SFT", "GRPO"])
def test_two_processes_from_the_command_line(small, tmp_path, module):
    """As one process trains, exports and resumes; the launcher is Lightning's own."""
    one, two = tmp_path / "one", tmp_path / "two"
    start = [sys.executable, "-m", "earwitness", "fit", "--config"]
    run(*start, write_config(small, one, module))
    run(*start, write_config(small, two, module), *WAYS["name"], "--trainer.devices", "2")
    same_weights(one, two)
    weights = load_file(two / "model" / "model.safetensors")
    before = load_file(Path(small.tiny) / "model.safetensors")
    assert max(float((weights[name] - before[name]).abs().max()) for name in before) > 1e-4


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"gather": "never"}, "trainer.strategy.gather: auto, layer or step, got 'never'"),
        ({"shard_over": -1}, "trainer.strategy.shard_over: a number of processes, or 0 for all, got -1"),
    ],
)
def test_wrong_options_are_named(option, says):
    with pytest.raises(InputError, match=says):
        FSDP2(**option)
