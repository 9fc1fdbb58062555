"""One thread: with tiny tensors, waiting threads cost ten times what they bring."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)

from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> SimpleNamespace:
    """A small corpus, its shards and index, planted labels, and a tiny checkpoint; paths as text."""
    import json

    import pyarrow as pa

    from earwitness.curriculum.table import read_arrow, write_arrow
    from earwitness.datamodules.corpora.sounds import build_sounds
    from earwitness.datamodules.shards.packing import shard
    from earwitness.lightning_modules.policy.tiny import build_tiny

    root: Path = tmp_path_factory.mktemp("small")
    build_sounds(str(root / "corpus"), train=48, val=8, test=16, listening=32, reading=8)
    annotations = str(root / "corpus" / "questions.jsonl")
    shard(annotations, str(root / "shards"))
    build_tiny(annotations, str(root / "tiny"), hidden=64, layers=2, audio_hidden=32, audio_layers=1)
    lines = (root / "corpus" / "planted.jsonl").read_text().splitlines()
    planted = {r["key"]: r["planted"] for r in map(json.loads, lines)}
    index = read_arrow(root / "shards" / "index.arrow")
    labels = ["strong" if planted[key] == "heard" else "weak" for key in index.column("key").to_pylist()]
    write_arrow(pa.table({"uid": index.column("uid"), "label": labels}), root / "labels.arrow")
    return SimpleNamespace(
        root=root,
        annotations=annotations,
        planted=str(root / "corpus" / "planted.jsonl"),
        index=str(root / "shards" / "index.arrow"),
        labels=str(root / "labels.arrow"),
        tiny=str(root / "tiny"),
    )


@pytest.fixture(autouse=True)
def same_environment():
    """What starts ranks sets RANK, LOCAL_RANK and MASTER_PORT; a later test's launcher would take them for its own."""
    from earwitness.boundary import environment

    before = dict(os.environ)
    yield
    environment._KNOWN.clear()
    os.environ.clear()
    os.environ.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests fork come first, for a child may wait for ever for a thread of another test; then slow ones."""
    texts = {path: path.read_text(encoding="utf-8") for path in {item.path for item in items}}
    order = {path: 0 if "ddp_fork" in t or "forked" in t else 1 - ("mark.slow" in t) + 1 for path, t in texts.items()}
    items.sort(key=lambda item: order[item.path])
