"""Lines of progress in a log file."""

from __future__ import annotations

from earwitness.lightning_modules.callbacks.progress import LineProgress
from earwitness.tests.lightning_modules.test_grpo import data_of, module_of
from earwitness.tests.trainers import trainer_of


def test_a_batch_of_several_optimizer_steps_is_one_step_of_the_line(small, tmp_path, capsys) -> None:
    """Four optimizer steps, two on each rollout, are two batches: `step 2/2`, where `max_steps` says 4."""
    trainer = trainer_of(tmp_path, 4, callbacks=[LineProgress(0.0)], enable_progress_bar=True)
    trainer.fit(module_of(small, num_iterations=2), data_of(small, budget={"steps": 5}))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("  step")] == [["step", "1/2"], ["step", "2/2"]]
