"""Lines of progress in a log file."""

from __future__ import annotations

import re

from earwitness.lightning_modules.callbacks.progress import LineProgress, LiveProgress
from earwitness.lightning_modules.callbacks.throughput import Throughput
from earwitness.tests.lightning_modules.test_grpo import data_of, module_of
from earwitness.tests.trainers import trainer_of


def test_a_batch_of_several_optimizer_steps_is_one_step_of_the_line(small, tmp_path, capsys) -> None:
    """Four optimizer steps, two on each rollout, are two batches: `step 2/2`, where `max_steps` says 4."""
    trainer = trainer_of(tmp_path, 4, callbacks=[LineProgress(0.0)], enable_progress_bar=True)
    trainer.fit(module_of(small, num_iterations=2), data_of(small, budget={"steps": 5}))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("  step")] == [["step", "1/2"], ["step", "2/2"]]


def test_a_log_file_says_how_fast_and_how_long(small, tmp_path, capsys) -> None:
    """Without a terminal too: rates, memory and the time left; the last line has none left."""
    trainer = trainer_of(tmp_path, 3, callbacks=[LineProgress(0.0), Throughput(1e-3)], enable_progress_bar=True)
    trainer.fit(module_of(small), data_of(small, budget={"steps": 3}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  step")]
    number = r"[\d,]+(?:\.\d+)?"
    pattern = rf"samples/s {number} tokens/s {number} audio_h/s {number} MFU {number}% memory {number}GB left (\S+)$"
    left = [re.search(pattern, line) for line in lines]
    assert len(left) == 3 and all(left), lines
    assert left[2][1] == "0:00:00"


def test_a_terminal_shows_the_same_beside_the_metrics(small, tmp_path) -> None:
    """Rich's bar asks for its metrics; what Throughput says is among them."""
    bar, watch = LiveProgress(), Throughput()
    watch.shown = {"tokens/s": "1,234", "left": "0:00:07"}
    trainer = trainer_of(tmp_path, 1, callbacks=[bar, watch], enable_progress_bar=True)
    assert bar.get_metrics(trainer, None) == {"tokens/s": "1,234", "left": "0:00:07"}
