"""The benchmark beside ms-swift: what it does where there is none, what it makes of clocks, and what both are given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from earwitness.benchmarks import swift
from earwitness.tests.places import ROOT

SCRIPT = ROOT / "benchmarks" / "swift.py"


def interpreter(path: Path, body: str) -> str:
    """A program that stands for a Python with or without ms-swift."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_without_ms_swift_it_says_how_to_install_it(tmp_path):
    peer = interpreter(tmp_path / "python", "echo 'No module named swift' >&2; exit 1")
    words = [sys.executable, str(SCRIPT), "--peer-python", peer, "--out", str(tmp_path / "swift.json")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [swift.ABSENT]
    assert "pip install" in swift.ABSENT and "--peer-python" in swift.ABSENT
    assert not (tmp_path / "swift.json").exists()


def test_the_versions_of_a_peer_are_read(tmp_path):
    peer = interpreter(tmp_path / "python", "echo 'a warning'; echo 4.6.0 2.13.0 5.19.0")
    assert swift.peer_versions(peer) == {"ms-swift": "4.6.0", "torch": "2.13.0", "transformers": "5.19.0"}
    with pytest.raises(SystemExit, match=r"none: cannot be started \(No such file or directory\); --peer-python names"):
        swift.peer_versions(str(tmp_path / "none"))


def test_a_step_is_the_median_after_the_first_two():
    """Steps take 9, 7, 1, 2 and 6 seconds: the median of the last three is 2; memory grows from 100 to 130."""
    seconds, peaks = [5, 14, 21, 22, 24, 30], [100, 120, 120, 120, 130, 130]
    lines = [{"cpu_s": float(s), "peak_mib": float(m)} for s, m in zip(seconds, peaks, strict=True)]
    for line, loss, length in zip(lines[1:], (7.2, 4.0, 3.0, 2.0, 1.0), (30.0, 28.0, 32.0, 31.0, 30.0), strict=True):
        line |= {"loss": loss, "completions/mean_length": length}
    expected = {"cpu_s": 2.0, "steps": 5, "mib": 30.0, "first loss": 7.2, "tokens": 30.0}
    assert swift.figures_of(lines) == expected
    ours = [line | {"train/loss": line["loss"] + 1} if "loss" in line else line for line in lines]
    assert swift.figures_of(ours) == expected | {"first loss": 8.2}


def test_rounds_are_medians_and_a_failure_stands_for_all():
    runs = {
        "ours": [{"cpu_s": 1.0, "mib": 10.0}, {"cpu_s": 3.0, "mib": 30.0}],
        "ms-swift": [{"cpu_s": 9.0, "mib": 5.0}],
    }
    found = swift.compared(runs)
    assert found["ours"] == {"cpu_s": 2.0, "mib": 20.0}
    assert (found["cpu_s ratio"], found["mib ratio"]) == (4.5, 0.25)
    found = swift.compared(runs | {"ms-swift": [{"failed": "ValueError: no"}, {"cpu_s": 9.0, "mib": 5.0}]})
    assert found == {"ours": {"cpu_s": 2.0, "mib": 20.0}, "ms-swift": {"failed": "ValueError: no"}}


def test_the_last_line_names_the_error_and_no_bar():
    bar = "Train:  83%|████▏ | 5/6 [04:16<00:51, 51.30s/it]"
    said = f"Traceback\n  File 'x'\ntorch.OutOfMemoryError: none is left\n\nsome farewell\n{bar}\n"
    assert swift.last_line(said) == "torch.OutOfMemoryError: none is left"
    assert swift.last_line(f"one\ntwo\n{bar}\n") == "two"
    assert swift.last_line(" \n") == ""
    assert len(swift.last_line("x" * 1_000)) == 300


def test_both_trainers_are_given_the_same_rate_and_sizes(tmp_path):
    words = swift.words("ms-swift", "grpo", tmp_path, "python")
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[:3] == ["python", "-m", "swift.cli.rlhf"] and given["--rlhf_type"] == "grpo"
    assert int(given["--per_device_train_batch_size"]) == swift.BATCH * int(given["--num_generations"])
    assert float(given["--learning_rate"]) == swift.RATE and given["--torch_dtype"] == "float32"
    words = swift.words("ms-swift", "sft", tmp_path, "python")
    assert words[2] == "swift.cli.sft" and "--rlhf_type" not in words
    assert dict(zip(words[3::2], words[4::2], strict=True))["--per_device_train_batch_size"] == str(swift.BATCH)


@pytest.mark.slow
def test_ours_runs_and_a_peer_that_fails_is_told(tmp_path):
    """Eight steps of SFT by `earwitness fit`, over the questions that the peer's file holds, in its words."""
    swift.prepared(tmp_path)
    found = swift.trained("ours", "sft", tmp_path, sys.executable)
    assert found.get("failed") is None and found["steps"] == swift.STEPS["sft"]
    assert 0 < found["cpu_s"] < 60 and 1 < found["first loss"] < 20
    lines = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["audios"][0] for line in lines}) == swift.BATCH * swift.STEPS["sft"]
    for line in lines:
        assert Path(line["audios"][0]).is_file()
        assert [turn["role"] for turn in line["messages"]] == ["system", "user", "assistant"]
        assert line["messages"][2]["content"].startswith("<answer>")
    peer = interpreter(tmp_path / "python", "echo 'ValueError: no such model' >&2; exit 3")
    assert swift.trained("ms-swift", "grpo", tmp_path, peer) == {"failed": "ValueError: no such model"}
    silent = interpreter(tmp_path / "silent", "exit 3")
    assert swift.trained("ms-swift", "sft", tmp_path, silent) == {"failed": "it ended with 3"}
