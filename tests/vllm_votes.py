"""A real OpenAI-compatible server votes with real audio; killed in the middle, nothing is lost and nothing asked twice.

Run by `make test-vllm`, which sets VLLM_PYTHON to the interpreter of vLLM's own environment.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earwitness.commands.cli import main
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.processors.omni import SYSTEM
from earwitness.datamodules.questions.prompts import question_text
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.voting.tasks import PromptingSpec, VoterTasks
from earwitness.lightning_modules.voters.endpoint import Endpoint
from earwitness.lightning_modules.voters.local import OmniVoter
from earwitness.tests.vllm_server import serving

PYTHON = os.environ.get("VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no interpreter with vLLM; use make test-vllm")


@pytest.fixture(scope="module")
def server(small, tmp_path_factory):
    with serving(PYTHON, small.tiny, tmp_path_factory.mktemp("vllm")) as running:
        yield running


def questions(small) -> tuple[ShardReader, list[int]]:
    reader = ShardReader(small.index)
    return reader, [row for row in range(len(reader)) if reader.text("split", row) == "test"]


def asked_here(small, count: int) -> tuple[OmniVoter, list]:
    """A voter on the served checkpoint, and what it is asked: real recordings and silence."""
    reader, rows = questions(small)
    ballot = VoterTasks(reader, PromptingSpec(rotations=1))
    asks = [ballot.ask(task) for task in ballot.tasks(rows[:count], ["audio", "silence:1"])]
    return OmniVoter(small.tiny, dtype="float32", max_new_tokens=6), asks


def test_the_server_says_what_the_same_checkpoint_says_here(server, small):
    """Greedy answers, token for token those of our own policy; the server is told never to say a placeholder."""
    voter, asks = asked_here(small, 6)
    here = {reply.task: reply.text for reply in voter.replies(asks)}
    body = {"skip_special_tokens": False, "logit_bias": {int(i): -100 for i in voter.policy.suppressed}}
    there: dict = {}
    endpoint = Endpoint(server.url, "tiny", system=SYSTEM, max_tokens=6, body=body)
    endpoint.ask_all(asks, lambda ask, reply: there.update({ask.task: reply}))
    assert {task: reply.error for task, reply in there.items()} == dict.fromkeys(here, "")
    assert all(reply.prompt_tokens > 25 for reply in there.values()), "the recording is in the prompt"
    cut = {task: text.rstrip("\ufffd") for task, text in here.items()}  # half a letter at the end is not sent
    assert {task: reply.text.removesuffix("<|im_end|>").rstrip("\ufffd") for task, reply in there.items()} == cut


def test_the_request_of_the_documentation_is_answered(server, small):
    """The JSON of docs/deploy.md, with a recording and the served name in it; its words are those of training."""
    page = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
    request = json.loads(page.split("```json")[1].split("```")[0])
    system, (sound, text) = request["messages"][0]["content"], request["messages"][1]["content"]
    assert system == SYSTEM and text["text"] == question_text("Which sound is it?", ["rain", "a dog", "a train"])
    _, asks = asked_here(small, 1)
    file = io.BytesIO()
    soundfile.write(file, asks[0].wave, 16_000, format="WAV")
    sound["input_audio"]["data"] = base64.b64encode(file.getvalue()).decode()
    body = json.dumps(request | {"model": "tiny", "max_tokens": 6}).encode()
    asked = urllib.request.Request(f"{server.url}/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as answer:
        found = json.load(answer)
    assert 1 <= found["usage"]["completion_tokens"] <= 6
    assert found["usage"]["prompt_tokens"] > len(asks[0].wave) / 16_000 * 25, "the recording is in the prompt"


def test_an_evaluation_of_the_server_is_that_of_the_checkpoint(server, small, tmp_path):
    """From the command line, greedy: the same answers question by question, and so the same figures."""
    suppressed = OmniVoter(small.tiny).policy.suppressed
    body = {"skip_special_tokens": False, "logit_bias": {str(int(i)): -100 for i in suppressed}}
    job = {"benchmarks": {"mine": {"benchmark": "index", "file": small.index}}, "conditions": ["audio", "silence:1"]}
    job |= {"max_new_tokens": 6, "system": SYSTEM, "dtype": "float32", "concurrency": 4, "title": "t"}
    answers = {}
    for name, asked in (
        ("here", {"checkpoint": small.tiny}),
        ("there", {"checkpoint": server.url, "model": "tiny", "body": body}),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(job | asked | {"to": str(tmp_path / name)}))
        main(["evaluate", str(path)])
        table = read_arrow(tmp_path / name / "answers" / "mine.arrow").to_pylist()
        answers[name] = {(row["uid"], row["condition"]): row for row in table}
    assert answers["here"].keys() == answers["there"].keys() and len(answers["here"]) > 100
    same = [row["raw"].rstrip("\ufffd") for row in answers["here"].values()]
    said = [answers["there"][key]["raw"].removesuffix("<|im_end|>").rstrip("\ufffd") for key in answers["here"]]
    assert said == same
    found = [json.loads((tmp_path / name / "results.json").read_text())["benchmarks"][0] for name in answers]
    assert found[0]["scores"] == found[1]["scores"]


def test_the_servers_log_probs_are_those_of_the_policy(server, small):
    """The 20 likeliest first tokens: their log-probs differ among each other as ours do, to 1e-3."""
    voter, asks = asked_here(small, 3)
    ours = voter.policy.logits(voter.policy.read(voter._prompts(asks)).last).double()
    endpoint = Endpoint(server.url, "tiny", system=SYSTEM, letter_logprobs=True, max_tokens=1)
    endpoint.body = {"return_tokens_as_token_ids": True}
    for ask, logits in zip(asks, ours, strict=True):
        body = json.dumps(endpoint.request(ask)).encode()
        request = urllib.request.Request(f"{server.url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            top = json.load(answer)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = {int(each["token"].removeprefix("token_id:")): each["logprob"] for each in top}
        kept = [token for token in found if token not in voter.policy.suppressed.tolist()]
        theirs = np.array([found[token] for token in kept])
        assert len(kept) >= 12
        np.testing.assert_allclose(theirs - theirs[0], (logits[kept] - logits[kept[0]]).detach().numpy(), atol=1e-3)


def job_file(folder: Path, small, url: str) -> Path:
    path = folder / "job.yaml"
    voter = {"name": "served", "style": "letters", "rule": "letter", "rotations": 1, "max_unreadable": 1.0}
    endpoint = {"url": url, "model": "tiny", "max_tokens": 24, "concurrency": 2, "retries": 1, "patience_s": 5}
    job = {"index": small.index, "out": str(folder / "out"), "pool": {"split": ["test", "val"]}, "bootstrap": 200}
    job |= {"conditions": ["audio", "silence"], "voters": [{**voter, "endpoint": endpoint}]}
    path.write_text(json.dumps(job))
    return path


def lines(folder: Path) -> list[dict]:
    """The answers that are kept so far."""
    found = []
    for path in (folder / "out" / "answers" / "served.asked").glob("rank*.jsonl"):
        found += [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return found


def begin(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "earwitness", "label", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_job_and_a_server_killed_in_the_middle_lose_and_repeat_nothing(server, small, tmp_path):
    path = job_file(tmp_path, small, server.url)
    reader = ShardReader(small.index)
    wanted = 2 * sum(reader.text("split", row) in ("test", "val") for row in range(len(reader)))
    job = begin(path)
    wait_for(lambda: len(lines(tmp_path)) >= 5, job)
    job.send_signal(signal.SIGKILL)
    job.wait()
    kept = lines(tmp_path)
    assert 5 <= len(kept) < wanted
    server.kill()
    job = begin(path)
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 1 and "no answer within patience_s" in said and "the same command continues" in said
    assert lines(tmp_path) == kept, "what was answered stays, and nothing is made up"
    server.start()
    job = begin(path)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    answers = lines(tmp_path)
    assert answers[: len(kept)] == kept and f"asked {wanted - len(kept)}" in said
    counts = Counter((a["uid"], a["condition"], a["rotation"], a["draw"]) for a in answers)
    assert len(counts) == wanted and set(counts.values()) == {1}
    table = read_arrow(tmp_path / "out" / "labels.arrow")
    assert len(table) == wanted // 2 and set(table.column("label").to_pylist()) <= {"weak", "strong", None}
    again = begin(path)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and "asked 0, failed 0" in said


def wait_for(true, job: subprocess.Popen, limit_s: float = 120.0) -> None:
    until = time.monotonic() + limit_s
    while not true():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)
