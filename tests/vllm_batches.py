"""The real `vllm run-batch` answers exported parts; what it was cut off at is asked again, and the build is whole.

Run by `make test-vllm`, which sets VLLM_PYTHON to the interpreter of vLLM's own environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from earwitness.commands.cli import main
from earwitness.tests.build_parts import lines_of, many_clips, write_job
from earwitness.tests.vllm_server import environment, write_shim

PYTHON = os.environ.get("VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.timeout(1_500),
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no interpreter with vLLM; use make test-vllm"),
]


def run_batch(part: Path, results: Path, checkpoint: str, folder: Path) -> None:
    """`vllm run-batch` as a node of a cluster runs it."""
    command = [PYTHON, "-m", "vllm.entrypoints.cli.main", "run-batch", "-i", str(part), "-o", str(results)]
    command += ["--model", checkpoint, "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "2048"]
    command += ["--limit-mm-per-prompt", '{"audio": 0, "image": 0, "video": 0}', "--enforce-eager"]
    env = environment(write_shim(folder / "shim"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1_200)
    assert done.returncode == 0 and results.is_file(), done.stderr[-3_000:]


def exported(job: Path, capsys, *more: str) -> list[Path]:
    main(["build", str(job), "--export", "--part-lines", "4", *more])
    found = re.search(r"parts (\d+), folder (\S+)", said := capsys.readouterr().out)
    assert found, said
    return sorted(Path(found[2]).glob("part-*.jsonl"))


def test_run_batch_completes_the_ledger(small, tmp_path, capsys):
    """A model of random weights under a schema of ours: every line it writes is stored, and the schema holds it."""
    models = {name: {"model": "tiny", "attempts": 1} for name in ("writer", "grader")}
    job = write_job(tmp_path, "http://127.0.0.1:1/v1", many_clips(tmp_path, 6), **models)
    parts = exported(job, capsys)
    assert [len(lines_of(part)) for part in parts] == [4, 2]
    asked = [line["custom_id"] for part in parts for line in lines_of(part)]
    whole = tmp_path / "parts.jsonl"
    whole.write_text("".join(part.read_text() for part in parts))
    results = tmp_path / "results.jsonl"
    run_batch(whole, results, small.tiny, tmp_path)
    assert sorted(line["custom_id"] for line in lines_of(results)) == sorted(asked)
    assert {line["response"]["status_code"] for line in lines_of(results)} == {200}
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(results.read_bytes()[:-50])
    main(["build", str(job), "--import", str(cut)])
    said = capsys.readouterr().out
    assert "stored 5, cut off 1" in said
    again = exported(job, capsys)
    last = lines_of(results)[-1]["custom_id"]
    assert [line["custom_id"] for part in again for line in lines_of(part)] == [last]
    main(["build", str(job), "--import", str(results)])
    assert "stored before 5, stored 1" in capsys.readouterr().out
    answers = lines_of(tmp_path / "out" / "ledger" / "writer" / "answers.jsonl")
    assert len(answers) == 6 and all(line["out"] > 0 and line["in"] > 100 for line in answers)
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    question = next(stage for stage in funnel["stages"] if stage["stage"] == "question")
    assert question["in"] == 6
