"""What is wrong in a curriculum is said with its file and its stage, wherever the curriculum is read."""

from __future__ import annotations

import pytest
import yaml

from earwitness.commands.checks.trainer import checked_curriculum
from earwitness.commands.inspection.plan import show_plan
from earwitness.curriculum.schedule.named import curriculum_of
from earwitness.errors import InputError

SFT = {"name": "sft", "algorithm": "sft", "pool": {"label": "weak"}, "batch_size": 4, "budget": {"samples": 20}}
GRPO = {"name": "grpo", "algorithm": "grpo", "pool": {"label": "strong"}, "batch_size": 10, "budget": {"steps": 5}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rehearse": {"label": "weak", "share": 1.5}}, ": stage 'grpo': rehearse: share is more than 0 and less than"),
        ({"rehearse": {"share": 0.5}}, ": stage 'grpo': rehearse: says no questions"),
        ({"rehearse": {"label": "weak", "share": "x"}}, ".rehearse.share must be a number"),
        ({"window": 5, "feedback": {"contribution": {"strength": -1}}}, ".feedback: feedback contribution: strength >"),
        ({"window": 5, "feedback": {"adarft": {"initial": 2}}}, ".feedback: feedback adarft: initial 2 lies outside"),
        ({"batch_size": 0}, ": stage 'grpo': batch_size must be"),
    ],
)
def test_a_wrong_value_is_said_with_its_file_and_its_stage(tmp_path, more, message):
    """As a name, with overrides behind it, under a key of a trainer's file, on the command line, and written out."""
    spec, file = {"stages": [SFT, GRPO | more]}, tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(spec))
    said = f"curriculum.stages[1]{message}"
    for act, before in (
        (lambda: curriculum_of(str(file)), f"{file}: "),
        (lambda: curriculum_of(f"{file} seed=3"), f"{file}: "),
        (lambda: checked_curriculum(str(file), "data.curriculum"), f"data.curriculum: {file}: "),
        (lambda: show_plan(str(file), None), f"{file}: "),
        (lambda: curriculum_of(spec), ""),
    ):
        with pytest.raises(InputError) as refused:
            act()
        assert str(refused.value).startswith(before + said)


def test_a_file_that_is_not_there_is_named_once():
    with pytest.raises(InputError, match="^nosuch: no such file"):
        curriculum_of("nosuch")
