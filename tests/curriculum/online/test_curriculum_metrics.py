"""What is logged of a curriculum at a step: its progress, its moving numbers, the planned mix, what was observed."""

from __future__ import annotations

import numpy as np
import pytest

from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.online.curriculum_metrics import curriculum_metrics, shares
from earwitness.curriculum.online.cursor import Cursor
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table


def plan_of(*stages: dict, rows: int = 80, cells=("label",), **more) -> Plan:
    codes = (np.arange(rows) % 2).astype(np.int32)
    columns = {"label": Categorical(codes, ("weak", "strong")), "ac": np.arange(rows) / rows}
    columns["fine"] = Categorical((np.arange(rows) % 20).astype(np.int32), tuple(f"v{n}" for n in range(20)))
    table = Table(splitmix64(np.arange(rows, dtype=np.uint64)), columns)
    return Plan(parse_curriculum({"seed": 1, "cells": list(cells), "stages": list(stages), **more}), table)


def stage(**more) -> dict:
    return {"name": "s", "algorithm": "sft", "batch_size": 4, "budget": {"samples": 40}, "block": 8} | more


def test_numbers_move_with_the_blocks():
    """Ten steps in five blocks of two: the temperature is that of the middle of the block, 0.9, 0.7, ..., 0.1."""
    weight = {"power": {"by": "ac", "gamma": {"linear": {"from": 1.0, "to": 0.0}}}}
    plan = plan_of(stage(weight=weight), cells=("label", "ac"))
    found = [curriculum_metrics(plan, "s", step) for step in range(10)]
    assert [each["curriculum/progress"] for each in found] == pytest.approx([n / 10 for n in range(10)])
    assert [each["curriculum/gamma"] for each in found] == pytest.approx(
        [0.9, 0.9, 0.7, 0.7, 0.5, 0.5, 0.3, 0.3, 0.1, 0.1]
    )


def test_the_planned_mix_is_the_blocks_and_sums_to_one():
    plan = plan_of(stage(weight={"shares": {"weak": 0.25, "strong": 0.75}}))
    found = curriculum_metrics(plan, "s", 3)
    assert found["data/planned/label/strong"] == 0.75 and found["data/planned/label/weak"] == 0.25
    for step in range(10):
        rows, _ = plan.batch("s", step)
        actual = shares(plan, np.bincount(plan.cell_of_row[rows], minlength=len(plan.cells)).astype(float), "x")
        assert actual["x/label/strong"] == 0.75


def test_an_axis_of_many_values_is_left_to_the_report():
    plan = plan_of(stage(), cells=("label", "fine"))
    assert {key.split("/")[2] for key in curriculum_metrics(plan, "s", 0) if key.startswith("data/planned")} == {
        "label"
    }


def test_a_second_epoch_is_again_at_the_first_block():
    plan = plan_of(stage(budget={"samples": 16, "epochs": 2}, weight={"shares": {"weak": 0.5, "strong": 0.5}}))
    assert curriculum_metrics(plan, "s", 4)["curriculum/progress"] == 0.5
    assert (
        curriculum_metrics(plan, "s", 4)["data/planned/label/weak"]
        == curriculum_metrics(plan, "s", 0)["data/planned/label/weak"]
        == 0.5
    )


def test_what_was_observed_is_told_by_value():
    """Weak questions always right, strong ones never; strength 2 pulls both to the prior 1/2 by 2 of 12."""
    follow = {
        "window": 1,
        "feedback": {"contribution": {"strength": 2.0, "audio": 0.5, "silence": 0.5, "discount": 1.0}},
    }
    plan = plan_of(stage(algorithm="grpo", budget={"steps": 5}, block=None, **follow))
    cursor = Cursor(plan, "s")
    sums = np.zeros((8, 2))
    weak = plan.cells.values("label").tolist().index("weak")
    sums[0], sums[1, weak] = 10.0, 10.0
    cursor.observe(sums)
    cursor.trained()
    found = curriculum_metrics(plan, "s", 1, cursor)
    assert found["live/ac/label/weak"] == pytest.approx(11 / 12 - 0.5)
    assert found["live/ac/label/strong"] == pytest.approx(1 / 12 - 0.5)
    assert found["live/necessity/label/strong"] == 0.0


def test_an_interleave_is_at_the_member_whose_turn_it_is():
    members = [stage(name="x", budget={}), stage(name="y", algorithm="grpo", batch_size=2, budget={})]
    for one in members:
        del one["budget"], one["block"]
    entry = {"name": "both", "interleave": {"steps": 8, "share": {"y": 0.5}}, "stages": members}
    plan = plan_of(entry)
    assert [curriculum_metrics(plan, "both", n)["curriculum/progress"] for n in range(4)] == [0.0, 0.0, 0.25, 0.25]
