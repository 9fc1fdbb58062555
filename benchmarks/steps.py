"""Whole steps as a user runs them: `earwitness fit` with the shipped SFT and GRPO files on a random Qwen2.5-Omni.

    python benchmarks/steps.py                 on a GPU 1 billion parameters, else a small model in the same files
    python benchmarks/steps.py --out FILE      also figures as JSON

For each file: the median seconds of a step after the first two, samples and tokens a second, the share of the GPU's
peak, the most memory, and beside it what `earwitness plan --memory` says without running anything. Then the audio
tower beside transformers' own, window by window, on the same clips.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from grpo_step import widened  # the file beside this one
from omegaconf import OmegaConf

from earwitness.configs import files
from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.datamodules.corpora.sounds import build_sounds
from earwitness.datamodules.shards.packing import shard
from earwitness.lightning_modules.policy.hearing import encode
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny

STEPS, WARM = 6, 2
LARGE = {"hidden": 2_048, "layers": 10, "audio_hidden": 512, "audio_layers": 12}
SMALL = {"hidden": 64, "layers": 2, "audio_hidden": 32, "audio_layers": 1}
VOCABULARY = 151_936
LOGGED = ("speed/samples_per_s", "speed/tokens_per_s", "speed/mfu", "memory/peak_gb")


def prepared(folder: Path, large: bool) -> None:
    """A corpus of generated sounds, its labels as planted, and a checkpoint."""
    import pyarrow as pa

    build_sounds(str(folder / "corpus"), train=192, val=8, test=8, listening=8, reading=8)
    questions = str(folder / "corpus" / "questions.jsonl")
    shard(questions, str(folder / "shards"))
    index = read_arrow(folder / "shards" / "index.arrow")
    labels = ["weak" if number % 2 else "strong" for number in range(len(index))]
    write_arrow(pa.table({"uid": index.column("uid"), "label": labels}), folder / "labels.arrow")
    build_tiny(questions, str(folder / "model"), **(LARGE if large else SMALL))
    if large:
        widened(folder / "model", VOCABULARY)


def configuration(name: str, folder: Path, large: bool) -> Path:
    """The shipped file with paths here, a few steps of 16 questions, and nothing but training."""
    spec: Any = files.read_yaml(Path(files.__file__).parent / f"{name}.yaml")
    spec.paths = {
        "data": str(folder),
        "labels": str(folder / "labels.arrow"),
        "model": str(folder / "model"),
        "out": str(folder / name),
    }
    spec.trainer |= {"max_steps": STEPS, "limit_val_batches": 0, "val_check_interval": None}
    spec.trainer.callbacks = []
    spec.trainer.enable_checkpointing = False
    training = spec.data.init_args.training
    stages = training.curriculum.stages
    few = {"batch_size": 16, "budget": {"steps": STEPS}, "on_short": "repeat"}
    training.curriculum.stages = [dict(stage) | few for stage in stages if stage.name == name]
    if not large:
        spec.trainer.accelerator = "cpu"
    path = folder / f"{name}.yaml"
    OmegaConf.save(spec, path)
    return path


def trained(name: str, folder: Path, large: bool) -> dict[str, Any]:
    """What `fit` logged of its steps, and the memory that was foretold."""
    config = configuration(name, folder, large)
    words = [sys.executable, "-m", "earwitness"]
    done = subprocess.run([*words, "fit", "--config", str(config)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:300]}
    with (folder / name / "log" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("speed/samples_per_s")][WARM:]
    found = {key: statistics.median(float(row[key]) for row in rows) for key in LOGGED if rows[0].get(key)}
    found["seconds"] = 16 / found["speed/samples_per_s"]
    if large:
        plan = [*words, "plan", str(config), "--memory", "--seconds", "2", "--gpus", "1"]
        foretold = subprocess.run(plan, capture_output=True, text=True, check=True).stdout.splitlines()
        found["memory/foretold_gb"] = next(float(line.split()[8]) for line in foretold if line.startswith("ddp"))
    return found


def tower(folder: Path, device: str) -> list[dict[str, Any]]:
    """Milliseconds of reading clips, ours and transformers' own, in turns; the median of five after one."""
    policy = OmniPolicy(str(folder / "model"), dtype="bfloat16" if device == "cuda" else "float32").to(device)
    ours = policy.tower
    own = copy.deepcopy(ours)
    del own.forward
    for layer in own.layers:
        del layer.self_attn.forward
    found = []
    for clips, seconds in ((8, 10), (1, 300)):
        frames = [100 * seconds] * clips
        sound = torch.randn(clips, 128, frames[0], device=device, dtype=policy.dtype)
        lengths = torch.tensor(frames, device=device)
        after = own._get_feat_extract_output_lengths(lengths)[0]
        flat = sound.transpose(0, 1).flatten(1)
        jobs: dict[str, Callable[[], Any]] = {
            "ours": lambda s=sound, f=frames: encode(ours, s, f),
            "transformers": lambda s=flat, n=lengths, a=after: own(s, feature_lens=n, aftercnn_lens=a),
        }
        with torch.no_grad():
            found.append({"clips": clips, "seconds": seconds} | turns(jobs, device))
    return found


def turns(jobs: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Milliseconds of every job, and the second's over the first's."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(6):
        for name, job in jobs.items():
            wait(device)
            start = time.perf_counter()
            job()
            wait(device)
            if turn:
                taken[name].append(1e3 * (time.perf_counter() - start))
    middle = {name: round(statistics.median(values), 3) for name, values in taken.items()}
    first, second = middle.values()
    return middle | {"ratio": round(second / first, 2)}


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    large = torch.cuda.is_available()
    device = "cuda" if large else "cpu"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if large else f"{platform.machine()}, one thread",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    if not large:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder, large)
        figures |= {"sft": trained("sft", folder, large), "grpo": trained("grpo", folder, large)}
        figures["tower"] = tower(folder, device)
    print(json.dumps(figures, indent=1))
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
