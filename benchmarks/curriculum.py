"""What planning costs: ten million rows, the paper's arms over AudioMCQ's sizes, batches, and the command itself.

    python benchmarks/curriculum.py [--out FILE.json]

One thread. Times are the least of three runs; memory is the process's peak. They depend on the machine: compare them
with the sort of as many 64-bit numbers, which is printed beside them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from earwitness.configs.files import read_curriculum
from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.synthetic import audiomcq_table
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table, write_arrow

ARMS = ("weak_to_strong", "mixed_to_strong", "mixed_to_mixed", "all_sft", "all_grpo")


def least(job: Callable[[], Any], runs: int = 3, forget: Table | None = None) -> tuple[float, Any]:
    """Seconds of the fastest run, and what it made; what the table keeps for further plans is forgotten before each."""
    best, made = float("inf"), None
    for _ in range(runs):
        del made
        if forget is not None:
            forget.kept.clear()
        start = time.perf_counter()
        made = job()
        best = min(best, time.perf_counter() - start)
    return best, made


def large_plan(rows: int) -> tuple[Any, Table]:
    """128 cells of label and contribution; 300 and 400 blocks under a moving temperature."""
    uid = splitmix64(np.arange(rows, dtype=np.uint64))
    ac = (splitmix64(uid) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    label = (uid & np.uint64(1)).astype(np.int32)
    softmax = {"softmax": {"by": "ac", "temperature": {"geometric": {"from": 1.0, "to": 0.05}}}}
    stages = [
        {"name": "sft", "algorithm": "sft", "batch_size": 512, "block": rows // 600, "weight": softmax},
        {"name": "grpo", "algorithm": "grpo", "batch_size": 512, "block": rows // 1600, "weight": softmax},
    ]
    stages[0]["budget"], stages[1]["budget"] = {"samples": rows // 600 * 300}, {"samples": rows // 1600 * 400}
    cells = {"label": "label", "ac": {"column": "ac", "bins": 64}}
    table = Table(uid, {"label": Categorical(label, ("weak", "strong")), "ac": ac})
    return parse_curriculum({"seed": 1, "cells": cells, "stages": stages}), table


def batches(plan: Plan) -> dict[str, float]:
    """Milliseconds per batch of 512: in order, and at random places (each orders another block of 8,192 rows)."""
    steps = plan.stage_plan("sft").presented // 512
    start = time.perf_counter()
    for step in range(steps):
        plan.batch("sft", step, 512)
    in_order = (time.perf_counter() - start) / steps
    places = np.random.default_rng(0).permutation(steps)[:200]
    start = time.perf_counter()
    for step in places.tolist():
        plan.batch("sft", step, 512)
    return {"in order": 1e3 * in_order, "at random": 1e3 * (time.perf_counter() - start) / len(places)}


def command(table: Table) -> float:
    """Seconds of `earwitness plan` from start to finish, picture included."""
    with tempfile.TemporaryDirectory() as folder:
        columns: dict[str, Any] = {"uid": table.uid}
        for name, value in table.columns.items():
            if isinstance(value, Categorical):
                codes = pa.array(value.codes, pa.int32())
                columns[name] = pa.DictionaryArray.from_arrays(codes, pa.array(value.names))
            else:
                columns[name] = value
        write_arrow(pa.table(columns), Path(folder) / "index.arrow")
        words = ["plan", "weak_to_strong", "--index", f"{folder}/index.arrow", "--out", f"{folder}/plan"]
        call = lambda: subprocess.run([sys.executable, "-m", "earwitness", *words], check=True, capture_output=True)  # noqa: E731
        return least(call)[0]


def main() -> None:
    """Measures and prints; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "numpy": np.__version__}
    table = audiomcq_table()
    arms = [parse_curriculum(read_curriculum(name)) for name in ARMS]
    seconds, plans = least(lambda: [Plan(arm, table) for arm in arms], forget=table)
    found["five arms over 571,118 rows, s"] = seconds
    found |= {f"batch of 512 {how}, ms": ms for how, ms in batches(plans[0]).items()}
    found["earwitness plan on 571,118 rows, s"] = command(table)
    del plans
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    curriculum, large = large_plan(options.rows)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, plan = least(lambda: Plan(curriculum, large), forget=large)
    blocks = sum(len(dealt.matrix) for dealt in plan.stages.values())
    found[f"{options.rows:,} rows x {len(plan.cells)} cells x {blocks} blocks, s"] = seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak memory of the process, GiB"] = peak / (1 << 20)
    found["of it before the large table, and with it, GiB"] = [before / (1 << 20), held / (1 << 20)]
    found["for comparison: sorting as many uint64, s"] = least(lambda: np.sort(large.uid))[0]
    for name, value in found.items():
        print(f"{name:<55} {value if isinstance(value, str) else np.round(value, 3)}")
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
