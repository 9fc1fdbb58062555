"""Names that a picture shows are text, whatever is written in them: as formulas the first could not be read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.preview import describe
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import read_table, write_arrow
from earwitness.reports.corpus_figure import corpus
from earwitness.reports.figures import composition_over_time

NAMES = ["$\\frac{$", "costs $5 or $6", "a\\b_{c"]


def test_the_picture_of_a_corpus():
    png = corpus(np.array([1.0, 2.0]), {"source": dict.fromkeys(NAMES, 3)}, {"peak_db": np.array([-3.0, -6.0])})
    assert png.startswith(b"\x89PNG")


def test_the_picture_of_a_plan(tmp_path):
    columns = {"uid": splitmix64(np.arange(12, dtype=np.uint64)), "split": ["train"] * 12, "source": NAMES * 4}
    write_arrow(pa.table(columns), tmp_path / "table.arrow")
    stage = {"name": "sft", "algorithm": "sft", "batch_size": 3, "budget": {"steps": 4}}
    plan = Plan(parse_curriculum({"cells": ["source"], "stages": [stage]}), read_table(tmp_path / "table.arrow"))
    assert composition_over_time(describe(plan)).startswith(b"\x89PNG")
