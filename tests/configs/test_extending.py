"""A recipe that extends another is that one with what it names changed: worked by hand on a small one."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from earwitness.configs.files import read_curriculum, read_extended
from earwitness.errors import InputError

BASE = """
name: base
out: runs/${name}
curriculum: {seed: 1, stages: [{name: a, algorithm: sft, batch_size: 4, budget: {epochs: 1}}]}
shared: &made {class_path: lab.A, init_args: {x: 1, y: [1, 2]}}
steps:
  one: {do: fit, model: *made, data: {index: "${out}/index", labels: l}}
  two: {do: predict, model: *made}
  three: {do: evaluate, answers: {a: 1, b: 2}}
"""


@pytest.fixture
def extended(tmp_path):
    """What comes of the base with this change, resolved."""
    (tmp_path / "base.yaml").write_text(BASE)

    def of(change: str) -> dict:
        (tmp_path / "change.yaml").write_text(f"extends: base\n{change}")
        return OmegaConf.to_container(read_extended(tmp_path / "change.yaml"), resolve=True)

    return of


def test_mappings_are_merged_and_everything_else_is_replaced(extended):
    """What is interpolated in the base follows the changed key; the other uses of a YAML anchor stay as they were."""
    found = extended("name: mine\nsteps: {one: {model: {init_args: {x: null, y: [3]}}, data: {labels: other}}}")
    model = {"class_path": "lab.A", "init_args": {"x": None, "y": [3]}}
    assert found["steps"]["one"] == {
        "do": "fit",
        "model": model,
        "data": {"index": "runs/mine/index", "labels": "other"},
    }
    assert found["steps"]["two"]["model"]["init_args"] == {"x": 1, "y": [1, 2]} and "extends" not in found


def test_steps_are_left_out_replaced_copied_and_put_behind_the_one_before(extended):
    found = extended("""
steps:
  two: null
  one: {model: {class_path: lab.B}}
  more: {do: label, votes: [v]}
  twin: {like: one, data: {labels: k}}
  three: {do: evaluate, answers: {b: 3}}
""")["steps"]
    assert list(found) == ["one", "more", "twin", "three"]
    assert found["one"]["model"] == {"class_path": "lab.B"}, "an object of another class takes nothing of the old one"
    assert found["twin"] == found["one"] | {"data": {"index": "runs/base/index", "labels": "k"}}
    assert found["three"] == {"do": "evaluate", "answers": {"b": 3}} and found["more"]["do"] == "label"


def test_a_change_may_be_changed_and_holds_the_curriculum(tmp_path, extended):
    extended("curriculum: {seed: 2}")
    (tmp_path / "last.yaml").write_text("extends: change.yaml\ncurriculum: {cells: [label]}\n")
    stage = {"name": "a", "algorithm": "sft", "batch_size": 4, "budget": {"epochs": 1}}
    assert read_curriculum(str(tmp_path / "last.yaml")) == {"seed": 2, "stages": [stage], "cells": ["label"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: base\nsteps: {tow: null}", "no step 'tow' to change or leave out; did you mean 'two'?"),
        ("extends: base\nsteps: {x: {like: fore}}", "no step 'fore' to change or leave out"),
        ("extends: base\nsteps: {x: {like: [two]}}", "step 'x': like must be the name of a step"),
        ("extends: change", "change.yaml: extends itself, by way of"),
        ("extends: nowhere", "change.yaml: extends: nowhere: no such file"),
        ("extends: [base]", "extends must be the name of one file"),
    ],
)
def test_a_change_that_cannot_be_is_named(tmp_path, text, said):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "change.yaml").write_text(text)
    with pytest.raises(InputError, match="change.yaml") as caught:
        read_extended(Path(tmp_path / "change.yaml"))
    assert said in str(caught.value)
