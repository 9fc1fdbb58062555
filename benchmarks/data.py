"""What it costs to read, decode and prepare samples, beside webdataset, bare soundfile, padded features and peers.

    python benchmarks/data.py [--samples 20000] [--out FILE.json] [--peers-python PYTHON]

All in one process on one core, from the page cache; the unit is samples per CPU-second, and the ratios are what counts.
The corpus is made up: tones and noise of 10 s as flac (about 240 KB, speech compresses better), one question each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import io
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
import webdataset as wds
from kinds import cpu_rate, kinds  # the file beside this one
from transformers import WhisperFeatureExtractor

from earwitness.curriculum.identity import keyed, unit
from earwitness.datamodules.audio.waves import SAMPLE_RATE, decode
from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.datamodules.questions.prompts import question_text
from earwitness.datamodules.shards.index import build_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.shards.scan import clip_of
from earwitness.lightning_modules.policy.tiny import train_tokenizer

SELECTIVITIES = (1.0, 0.46, 0.05)
AUDIOMCQ = 571_118
NEED = 120  # samples per second that an 8-GPU node is expected to train, see below
WORKERS = 4


def recording(number: int) -> bytes:
    """Ten seconds of tones and noise as flac."""
    rng, t = np.random.default_rng(number), np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    tone = 0.3 * np.sin(2 * np.pi * (100 + 10 * number) * t) * np.sin(2 * np.pi * 3 * t)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone + 0.02 * rng.normal(size=len(t)), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def corpus(folder: Path, count: int) -> None:
    """Tars of 500 samples; 200 different recordings take turns, each question is its own."""
    recordings = [recording(n) for n in range(200)]
    for start in range(0, count, 500):
        with wds.TarWriter(str(folder / f"shard-{start // 500:06d}.tar"), encoder=False, mtime=0) as writer:
            for n in range(start, min(start + 500, count)):
                choices = ["a dog barks", "rain falls on a roof", "a door is closed", "two people are talking"]
                record = {"source_dataset": "made-up", "id": str(n), "question_type": "sound", "choices": choices}
                record |= {"question": f"What is heard at first in recording {n}?", "answer": choices[n % 4]}
                record |= {"split": "train"}
                writer.write({"__key__": f"{n:08d}", "json": json.dumps({"questions": [record]}).encode()})
                writer.write({"__key__": f"{n:08d}", "flac": recordings[n % 200]})


def best(job: Callable[[], int], runs: int = 3) -> float:
    """The highest of several rates."""
    return max(cpu_rate(job) for _ in range(runs))


def selection(reader: ShardReader, share: float) -> np.ndarray:
    """Rows by hash, in the order of another hash: a curriculum's choice."""
    uid = reader.numbers["uid"]
    rows = np.flatnonzero(unit(keyed(uid, "chosen")) < share)
    return rows[np.argsort(keyed(uid[rows], "order"))]


def by_index(reader: ShardReader, rows: Iterable[int]) -> Callable[[], int]:
    """Question and recording of rows in random order: text parsed and checked, checksum verified, decoded."""

    def job() -> int:
        count = 0
        for row in rows:
            reader.question(int(row))
            reader.wave(int(row))
            count += 1
        return count

    return job


def by_stream(shards: list[str], chosen: set[str], lazily: bool) -> Callable[[], int]:
    """webdataset with select: decoded first, or only what was chosen (json first, as our shards are)."""

    def sound(data: bytes) -> np.ndarray:
        return soundfile.read(io.BytesIO(data), dtype="float32")[0]

    def keep(sample: dict) -> bool:
        record = sample["json"] if isinstance(sample["json"], dict) else json.loads(sample["json"])
        return record["questions"][0]["id"] in chosen

    def job() -> int:
        data = wds.WebDataset(shards, shardshuffle=False, empty_check=False)
        decoders = [wds.handle_extension("flac", sound)]
        if lazily:
            data = data.select(keep).decode(*decoders, only=["json", "flac"])
        else:
            data = data.decode(*decoders, only=["json", "flac"]).select(keep)
        return sum(1 for _ in data)

    return job


def access(folder: Path, reader: ShardReader, peers: str | None) -> dict[str, Any]:
    """Decoded samples per CPU-second at each selectivity."""
    shards = sorted(map(str, folder.glob("*.tar")))
    found: dict[str, Any] = {}
    keys: dict[str, list[str]] = {}
    for share in SELECTIVITIES:
        rows = selection(reader, share)
        chosen = {reader.key(int(row)).partition("/")[2] for row in rows}
        keys[str(share)] = [f"{int(key):08d}" for key in chosen]
        found[str(share)] = {
            "samples": len(rows),
            "earwitness, random order": best(by_index(reader, rows), 2),
            "webdataset, select then decode": best(by_stream(shards, chosen, True), 2),
            "webdataset, decode then select": best(by_stream(shards, chosen, False), 1),
        }
    if peers:
        with tempfile.TemporaryDirectory() as work:
            (Path(work) / "selected.json").write_text(json.dumps(keys))
            command = [peers, str(Path(__file__).with_name("data_peers.py")), str(folder), work]
            ran = subprocess.run([*command, f"{work}/selected.json"], capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(f"the peers' run failed:\n{ran.stderr[-2000:]}")
            for name, result in json.loads(ran.stdout.splitlines()[-1]).items():
                for share in SELECTIVITIES:
                    rates = result.get("samples_per_cpu_s")
                    label = f"{name} {result['version']}" if rates else name
                    found[str(share)][label] = rates[str(share)] if rates else result["missing"]
    return found


def decoding(reader: ShardReader) -> dict[str, float]:
    """Our decoding with all its checks, and soundfile alone, over the same bytes in turns."""
    rows = range(min(200, len(reader)))
    sounds = [reader.sound(row) for row in rows]

    def ours() -> int:
        for row, data in zip(rows, sounds, strict=True):
            assert clip_of(data) == reader.clip(row)
            decode(data, "x", reader.num_samples(row))
        return len(sounds)

    def bare() -> int:
        for data in sounds:
            soundfile.read(io.BytesIO(data), dtype="float32")
        return len(sounds)

    pairs = [(cpu_rate(ours), cpu_rate(bare)) for _ in range(5)]
    return {"earwitness": max(a for a, _ in pairs), "soundfile": max(b for _, b in pairs)}


def features(reader: ShardReader, processor: OmniProcessor) -> dict[str, float]:
    """Exact log-mel features of single clips and of batches of 8, and the processor's default padding to 300 s."""
    clips = [reader.wave(row) for row in range(16)]
    padded = processor.feature_extractor

    def default(size: int) -> int:
        for start in range(0, 8, size):
            part = clips[start : start + size]
            padded(part, sampling_rate=SAMPLE_RATE, padding="max_length", return_attention_mask=True)
        return 8

    def exact(size: int) -> int:
        for start in range(0, 16, size):
            processor.features(clips[start : start + size])
        return 16

    jobs = {"one by one": 1, "batches of 8": 8}
    rounds = [
        {f"{kind}, {name}": cpu_rate(partial(job, size)) for name, size in jobs.items() for kind, job in both}
        for both in [(("exact", exact), ("padded to 300 s", default))] * 4
    ]
    return {name: max(rates[name] for rates in rounds) for name in rounds[0]}


def loader(folder: Path, checkpoint: Path, batches: int = 12) -> dict[str, float]:
    """Whole batches (read, checked, decoded, features, tokens) per CPU-second of one loader process."""
    stage = {"name": "sft", "algorithm": "sft", "batch_size": 32, "budget": {"steps": batches}}
    training = TrainingSpec({"seed": 1, "cells": ["question_type"], "stages": [stage]}, "sft", shuffle_options=True)
    data = AudioQuestions(str(folder / "index.arrow"), str(checkpoint), training=training)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    data.setup("fit")
    batches_of = iter(data.train_dataloader())
    next(batches_of)
    rate = cpu_rate(lambda: sum(len(batch) for batch in batches_of))
    return {"samples per CPU-second": rate, "of 4 processes": WORKERS * rate, "needed per node": NEED}


def main() -> None:
    """Prints and, where asked, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--out")
    parser.add_argument("--peers-python", help="an interpreter with litdata and mosaicml-streaming")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        folder = Path(scratch) / "shards"
        folder.mkdir()
        corpus(folder, args.samples)
        start = time.process_time()
        build_index(str(folder))
        indexing = time.process_time() - start
        choices = ["a dog barks", "rain falls on a roof", "a door is closed", "two people are talking"]
        checkpoint = Path(scratch) / "checkpoint"
        train_tokenizer([question_text("What is heard at first in recording 1?", choices)], 400).save_pretrained(
            checkpoint
        )
        WhisperFeatureExtractor(feature_size=128, chunk_length=300).save_pretrained(checkpoint)
        reader = ShardReader(folder / "index.arrow")
        few = ShardReader(folder / "index.arrow")
        found = {
            "machine": {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()},
            "samples": args.samples,
            "indexing": {"cpu_s": indexing, "cpu_s of 571,118": indexing / args.samples * AUDIOMCQ},
            "decode": decoding(few),
            "kinds": kinds(),
            "features": features(few, OmniProcessor.from_pretrained(checkpoint)),
            "loader": loader(folder, checkpoint),
            "access": access(folder, reader, args.peers_python),
        }
    show(found)
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


def show(found: dict[str, Any]) -> None:
    """The figures and their ratios."""
    index = found["indexing"]
    print(f"index: {index['cpu_s']:.1f} CPU-s for {found['samples']:,}, {index['cpu_s of 571,118']:.0f} for 571,118")
    rates = found["decode"]
    ratio = rates["earwitness"] / rates["soundfile"]
    print(f"decode: {rates['earwitness']:.0f}/s with all checks, {rates['soundfile']:.0f}/s bare: {ratio:.2f}")
    for kind, rates in found["kinds"].items():
        ours, bare = rates["earwitness"], rates["library alone"]
        print(f"  {kind:<12} {ours:5.0f}/s to 16 kHz mono with all checks, {bare:5.0f}/s bare: {ours / bare:.2f}")
    rates = found["features"]
    for kind in ("one by one", "batches of 8"):
        exact, padded = rates[f"exact, {kind}"], rates[f"padded to 300 s, {kind}"]
        print(f"features, {kind}: {exact:.0f}/s exact, {padded:.1f}/s padded to 300 s: {exact / padded:.0f} times")
    rates = found["loader"]
    print(f"loader: {rates['samples per CPU-second']:.0f}/s a core, {rates['of 4 processes']:.0f}/s by 4, 120/s needed")
    for share, rates in found["access"].items():
        print(f"access at {float(share):.0%}: {rates['samples']:,} samples")
        ours = rates["earwitness, random order"]
        for name, rate in rates.items():
            if name != "samples":
                print(f"  {name:<36} " + (f"{rate:8.0f}/s {rate / ours:6.2f}" if isinstance(rate, float) else rate))


if __name__ == "__main__":
    main()
