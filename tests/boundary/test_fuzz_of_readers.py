"""Whatever is done to a table, a record, a recipe, a checkpoint or a message, what comes is a named error or a result.

As in tests/datamodules/shards/test_fuzz.py, in forked processes that may take a gigabyte. `EARWITNESS_FUZZ=10000` runs
all of them, by default a few hundred run.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from earwitness.commands import report
from earwitness.commands.recipes.recipe import run_recipe
from earwitness.configs.files import read_curriculum, read_yaml
from earwitness.curriculum.contribution.accuracy import read_answers
from earwitness.curriculum.contribution.labels import read_about
from earwitness.curriculum.contribution.verdicts import read_verdicts
from earwitness.curriculum.contribution.votes import read_tallies
from earwitness.curriculum.online.cursor import read_state
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import read_table, write_arrow
from earwitness.datamodules.asking.chat import MALFORMED, parse_completion
from earwitness.datamodules.batches.quarantine import read_quarantine
from earwitness.datamodules.processors.model_files import check_model_files
from earwitness.datamodules.voting.answer_store import AnswerStore, write_answers
from earwitness.errors import InputError
from earwitness.lightning_modules.checkpoints.run_record import read_record
from earwitness.lightning_modules.policy.files import headers, read_weights
from earwitness.lightning_modules.rollout.connections import RolloutServer
from earwitness.lightning_modules.rollout.server import ServedEngine
from earwitness.lightning_modules.rollout.wire import pack
from earwitness.tests.datamodules.shards.test_fuzz import Dice, bent, bent_text, supervised, tree
from earwitness.tests.lightning_modules.rollout.test_hostile import SHAPES, Stub, prompts, request, weights

TOTAL = int(os.environ.get("EARWITNESS_FUZZ", 400))
GB = 1 << 30
ROWS = 40
UIDS = np.arange(ROWS, dtype=np.uint64) * 7 + 1


def refused(act) -> None:
    """Runs what must succeed or be an InputError in a few words."""
    try:
        act()
    except InputError as error:
        assert len(str(error)) < 8_100


def stored(dice: Dice, table: pa.Table, path: Path) -> Path:
    """The table in one of its formats, bent."""
    path = path.with_suffix(dice.pick([".arrow", ".arrow", ".parquet"]))
    if path.suffix == ".parquet":
        pq.write_table(table, path, compression=dice.pick(["snappy", "none", "zstd"]))
    else:
        write_arrow(table, path, dice.pick([None, "zstd", "lz4"]))
    data = path.read_bytes()
    tail = max(0, len(data) - dice.pick([200, 1_000, 1 << 30]))  # layouts stand at the end
    path.write_bytes(data[:tail] + bent(dice, data[tail:]))
    return path


LABELS = pa.table(
    {
        "uid": UIDS,
        "label": pa.array(["weak", "strong", None, "weak"] * (ROWS // 4)).dictionary_encode(),
        "votes": pa.array([1, 2, 3, None] * (ROWS // 4), pa.int8()),
        "ac_vote": np.linspace(0, 1, ROWS).astype(np.float32),
        "note": ["Bär", "a\n", "", "x" * 50] * (ROWS // 4),
    }
).replace_schema_metadata({"earwitness": json.dumps({"format": 2, "rule": "majority"})})
INDEX = pa.table({"uid": UIDS, "split": ["train"] * ROWS, "clip": UIDS, "duration_s": np.ones(ROWS, np.float32)})


def one_label_table(dice: Dice, folder: Path) -> None:
    write_arrow(INDEX, folder / "index.arrow")
    path = stored(dice, LABELS, folder / "labels.arrow")
    refused(lambda: read_about(path))

    def act() -> None:
        table = read_table(folder / "index.arrow", path)
        assert len(table) == ROWS
        for name in list(table.columns):
            if name in ("label", "note"):
                table.where({name: list(table.text(name).names)}) if hasattr(table.columns[name], "names") else None

    refused(act)


def records() -> list[dict]:
    made = []
    for uid in UIDS[:12].tolist():
        for condition in ("audio", "silence"):
            made.append({"uid": uid, "key": f"k/{uid}", "condition": condition, "raw": "A", "answer": "A"})
            made[-1] |= {"correct": uid % 3 == 0, "finished": True, "scores": [0.1, 0.9], "p_right": 0.5}
            made[-1] |= {"right_option": 0, "num_tokens": 3}
    return made


def one_answer_table(dice: Dice, folder: Path) -> None:
    write_answers(records(), folder / "good.arrow")
    with pa.memory_map(str(folder / "good.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    if dice.below(3) == 0:  # a column of another kind
        name = dice.pick(table.column_names)
        kinds = [pa.array(["x"] * len(table)), pa.array([None] * len(table)), pa.array([-5] * len(table), pa.int64())]
        kinds += [pa.array([1 << 62] * len(table)), pa.array([[1]] * len(table)), pa.array([float("nan")] * len(table))]
        table = table.set_column(table.column_names.index(name), name, dice.pick(kinds))
    path = stored(dice, table, folder / "answers.arrow") if dice.below(2) else folder / "good.arrow"
    if path.name == "good.arrow":
        write_arrow(table, path)
    for read in (read_tallies, read_verdicts, read_answers):
        refused(lambda read=read: read(path))


def one_store(dice: Dice, folder: Path) -> None:
    store = AnswerStore(folder / "voter.arrow")
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records())
    store.folder.mkdir(exist_ok=True)
    (store.folder / "rank0.jsonl").write_bytes(bent_text(dice, lines))
    (store.folder / "asked.json").write_bytes(bent_text(dice, b'{"model": "m", "rotations": 1, "system": null}'))
    refused(lambda: store.refuse_changed("voter", {"model": "m"}))
    refused(lambda: store.append([{"uid": 1, "condition": "audio", "raw": "A"}]))
    refused(store.finish)


RECIPE = b"""\
name: small
seed: 1
out: OUT
base: &base {index: "${out}/index.arrow", out: "${out}/labels.arrow"}
steps:
  labels: {do: label, votes: ["${out}/v.arrow"], <<: *base}
  report: {do: build_report, results: "${out}/results.json"}
"""
CURRICULUM = b"""\
curriculum:
  seed: 1
  cells: {label: label, ac: {column: ac_vote, bins: 4}}
  stages:
    - {name: sft, algorithm: sft, pool: {label: weak}, batch_size: 4, budget: {fraction: 1.0, epochs: 2}}
    - name: grpo
      algorithm: grpo
      batch_size: 8
      budget: {steps: 9, at_most: 0.5}
      weight: {product: [{softmax: {by: ac, temperature: {geometric: {from: 1.0, to: 0.05}}}}], floor: 0.05}
"""


def one_recipe(dice: Dice, folder: Path) -> None:
    path = folder / "r.yaml"
    path.write_bytes(bent_text(dice, RECIPE).replace(b"OUT", str(folder / "out").encode()))
    refused(lambda: run_recipe(str(path), dry_run=True))
    path.write_bytes(bent_text(dice, CURRICULUM))
    refused(lambda: read_yaml(path))
    refused(lambda: parse_curriculum(read_curriculum(str(path))))


def one_record(dice: Dice, folder: Path) -> None:
    """Results, the record of a run, the state of a curriculum, and what was quarantined."""
    share = [0.5, 0.4, 0.6]
    group = {"questions": 4, "audio": share, "silence": share, "contribution": share, "silence_only": 1}
    gains = [{"group": "all", "from": "a", "to": "b", "difference": share, "gained": 1, "lost": 0, "p": 0.5}]
    results = {"title": "t", "models": {"a": {"all": group}, "b": {"all": group}}, "gains": gains}
    (folder / "results.json").write_bytes(bent_text(dice, json.dumps(results).encode()))
    refused(lambda: report.run(Namespace(results=str(folder / "results.json"), out=str(folder / "report.html"))))
    record = {"configuration": {"model": {"init_args": {}}}, "model": None, "logs": {}}
    (folder / "run.json").write_bytes(bent_text(dice, json.dumps(record).encode()))
    refused(lambda: read_record(folder))
    (folder / "state.json").write_bytes(bent_text(dice, b'{"curriculum": {}, "stage": "sft", "step": 3}'))
    refused(lambda: read_state(folder / "state.json"))
    bad = {"key": "k", "uid": 1, "reason": "r", "served": "", "stage": "sft", "step": 3}
    (folder / "quarantine-rank0.jsonl").write_bytes(bent_text(dice, json.dumps(bad).encode() + b"\n"))
    refused(lambda: read_quarantine(folder))


CONFIG = {"model_type": "qwen2_5_omni", "thinker_config": {"text_config": {"num_hidden_layers": 2, "hidden_size": 64}}}


def one_checkpoint(dice: Dice, folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    single = folder / "model.safetensors"
    save_file({name: torch.zeros(3, 4) for name in ("a.weight", "b.weight", "c")}, single, {"format": "pt"})
    data = single.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    single.write_bytes(bent(dice, data[:header]) + data[header:] if dice.below(2) else bent(dice, data))
    (folder / "config.json").write_bytes(bent_text(dice, json.dumps(CONFIG).encode()))
    if dice.below(3) == 0:
        single.rename(folder / "model-00001-of-00002.safetensors")
        places = {"a.weight": "model-00001-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}
        content = json.dumps({"metadata": {"total_size": 9}, "weight_map": places}).encode()
        (folder / "model.safetensors.index.json").write_bytes(bent_text(dice, content))

    def act() -> None:
        known = headers(folder)
        for name, tensor in read_weights(folder):
            assert list(tensor.shape) == known[name][0]

    refused(act)
    refused(lambda: check_model_files(folder))


BODY = {
    "choices": [
        {
            "message": {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "A", "top_logprobs": [{"token": " A", "logprob": -0.1}]}]},
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1},
}


def one_reply(dice: Dice, folder: Path) -> None:
    try:
        reply = parse_completion(bent_text(dice, json.dumps(BODY).encode()), bool(dice.below(2)))
    except MALFORMED:
        return
    assert isinstance(reply.text, str) and isinstance(reply.finished, bool)
    assert all(isinstance(value, float) for value in reply.letters.values())


SERVERS: dict[int, RolloutServer] = {}


def server_here() -> RolloutServer:
    """A server of this process, with the weights of a run."""
    if os.getpid() not in SERVERS:
        served = ServedEngine(Stub(), {"vocabulary": "v", "architecture": "a"}, SHAPES)
        server = RolloutServer(served, ("127.0.0.1", 0), "")
        server.header_s = server.body_s = 2.0
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        SERVERS[os.getpid()] = server
    server = SERVERS[os.getpid()]
    server.served._update, server.served.version = None, "r.1"
    return server


def messages() -> dict[str, bytes]:
    asked = request(prompts())
    return {
        "complete": pack(asked["header"], asked["tensors"]),
        "begin": pack({"version": "r.2", "kind": "merged"}),
        "part": pack({"version": "r.2", "number": 0}, weights()),
        "commit": pack({"version": "r.2", "parts": 1}),
    }


def one_request(dice: Dice, folder: Path) -> None:
    """Headers or bodies bent; the server answers, refuses or closes, and goes on serving; nothing is its own fault."""
    server, sent = server_here(), messages()
    for name in dice.pick([["complete"], ["begin"], ["begin", "part", "commit"], ["begin", "begin", "commit"]]):
        body = sent[name]
        if dice.below(2):
            length = 8 + int.from_bytes(body[:8], "little")
            body = body[:8] + bent_text(dice, body[8:length]) + body[length:] if dice.below(2) else bent(dice, body)
            if dice.below(2):
                body = (len(body) - (len(sent[name]) - length)).to_bytes(8, "little", signed=True)[:8] + body[8:]
        head = f"POST /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        data = (bent(dice, head) if dice.below(4) == 0 else head) + body
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as line:
            answer = b""
            try:
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
                while part := line.recv(1 << 16):
                    answer += part
            except OSError:
                pass
        status = answer.split(b" ")[1] if answer.startswith(b"HTTP/1.") else b""
        assert status in (b"", b"200", b"400", b"404", b"405", b"409", b"411", b"413", b"414", b"431", b"501", b"505")
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as line:
        line.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        assert b" 200 " in line.recv(1 << 12)


WORK = {
    "labels": (one_label_table, 0.2),
    "answers": (one_answer_table, 0.15),
    "store": (one_store, 0.1),
    "recipe": (one_recipe, 0.1),
    "record": (one_record, 0.1),
    "checkpoint": (one_checkpoint, 0.15),
    "reply": (one_reply, 0.1),
    "request": (one_request, 0.1),
}


@pytest.mark.parametrize("name", WORK)
@pytest.mark.timeout(3_600)
def test_bent_input_is_a_named_error_and_costs_no_more(tmp_path, name):
    """Nothing crashes, hangs, takes a gigabyte, or writes outside the folder it works in."""
    work, part = WORK[name]
    folder = tmp_path / "in" / "files"
    folder.mkdir(parents=True)
    before = tree(tmp_path.parent)
    failures = supervised(work, name, range(max(1, round(TOTAL * part))), folder, memory=GB)
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failure[-1_500:] for failure in failures[:5])
    inside = str(folder.relative_to(tmp_path.parent))
    strangers = {path for path in tree(tmp_path.parent) - before if not path.startswith(inside)}
    assert strangers <= {str((tmp_path / "in" / "progress").relative_to(tmp_path.parent))}
