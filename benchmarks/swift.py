"""SFT and GRPO steps beside ms-swift's: the same tiny Qwen2.5-Omni, questions, batches, learning rate and precision.

    python benchmarks/swift.py --peer-python PYTHON       an interpreter that has ms-swift, in an environment of its own
    python benchmarks/swift.py                            where it is installed beside earwitness
    python benchmarks/swift.py --out FILE                 also figures as JSON

Each trainer runs as its user starts it (`earwitness fit`, `swift sft`, `swift rlhf --rlhf_type grpo`), in turns, in a
process of its own, on one CPU thread in float32, all weights training. Time is the median CPU time of the steps after
the first two, memory the growth of the process's peak over that before the first step. The first SFT losses say whether
both learn the same: ms-swift's counts the line break after an answer, and placeholders in the softmax. A trainer that
ends by a fault is reported with its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BATCH, GROUP, TOKENS, WARM, RATE = 8, 8, 32, 2, 1e-3
STEPS = {"sft": 8, "grpo": 5}
PROBE = "from importlib.metadata import version as v; print(v('ms-swift'), v('torch'), v('transformers'))"
ABSENT = (
    "ms-swift is not installed, so nothing is compared; `pip install 'ms-swift==4.6.*' qwen-omni-utils torchvision "
    "decord msgspec` in an environment of its own, for it wants older packages than earwitness, and name that by "
    "--peer-python."
)
# Full fine-tuning in order, without what only one of the two does; the rest is as shipped.
SWIFT: dict[str, Any] = {
    "model_type": "qwen2_5_omni",
    "tuner_type": "full",
    "freeze_vit": "false",
    "freeze_aligner": "false",
    "torch_dtype": "float32",
    "attn_impl": "sdpa",
    "gradient_checkpointing": "false",
    "gradient_accumulation_steps": 1,
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "split_dataset_ratio": 0,
    "dataset_shuffle": "false",
    "train_dataloader_shuffle": "false",
    "dataset_num_proc": 1,
    "dataloader_num_workers": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "external_plugins": "clocks.py",
    "callbacks": "clock",
}
SWIFT_GRPO: dict[str, Any] = {
    "rlhf_type": "grpo",
    "num_generations": GROUP,
    "max_completion_length": TOKENS,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 1_000,  # more than there are words; without a number it is 50
    "beta": 0.01,
    "reward_funcs": "spread",
    "loss_type": "grpo",
    "use_vllm": "false",
}


def peer_versions(python: str) -> dict[str, str] | None:
    """Versions of ms-swift, torch and transformers that an interpreter has; None where it has no ms-swift."""
    try:
        asked = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"{python}: cannot be started ({error.strerror}); --peer-python names an interpreter")
    if asked.returncode:
        return None
    return dict(zip(("ms-swift", "torch", "transformers"), asked.stdout.split()[-3:], strict=True))


def prepared(folder: Path) -> None:
    """A corpus of generated sounds, a checkpoint, both trainers' clock, and for each algorithm both configurations."""
    import torch

    from earwitness.datamodules.corpora.sounds import build_sounds
    from earwitness.datamodules.shards.packing import shard
    from earwitness.lightning_modules.policy.tiny import build_tiny

    build_sounds(str(folder / "corpus"), train=BATCH * max(STEPS.values()), val=4, test=4, listening=4, reading=4)
    questions = str(folder / "corpus" / "questions.jsonl")
    shard(questions, str(folder / "shards"))
    build_tiny(questions, str(folder / "model"))
    torch.save({}, folder / "model" / "spk_dict.pt")  # speakers, without which the whole Omni is not loaded
    # Random weights would say what no trained ones do, and ms-swift stops at answers of placeholders or of nothing.
    said = {"suppress_tokens": unsaid(folder / "model"), "min_new_tokens": 1}
    (folder / "model" / "generation_config.json").write_text(json.dumps(said))
    shutil.copy(HERE / "clocks.py", folder)
    for name in STEPS:
        configuration(name, folder)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records(name, folder)))


def unsaid(checkpoint: Path) -> list[int]:
    """The tokens of a checkpoint that stand for recordings, pictures and films, or begin a turn."""
    from transformers import AutoTokenizer

    from earwitness.lightning_modules.policy.omni import PLACEHOLDERS

    ids: Any = AutoTokenizer.from_pretrained(checkpoint).convert_tokens_to_ids([*PLACEHOLDERS, "<|im_start|>"])
    return ids


def stage(name: str) -> dict[str, Any]:
    """The one stage of a curriculum: as many steps as there are, of BATCH questions."""
    return {"name": name, "algorithm": name, "batch_size": BATCH, "budget": {"steps": STEPS[name]}}


def curriculum(name: str) -> dict[str, Any]:
    """What both train on: the train split of the generated sounds, in an order set by the seed."""
    return {"seed": 1, "cells": ["source"], "stages": [stage(name)]}


POOL = {"split": "train", "source": "sounds"}


def configuration(name: str, folder: Path) -> None:
    """The shipped file with paths here, on a CPU in float32, all weights training at a constant rate."""
    from omegaconf import OmegaConf

    from earwitness.configs import files

    spec: Any = files.read_yaml(Path(files.__file__).parent / f"{name}.yaml")
    spec.paths = {"data": str(folder), "labels": None, "model": str(folder / "model"), "out": str(folder / name)}
    spec.trainer |= {"max_steps": STEPS[name], "limit_val_batches": 0, "val_check_interval": None}
    spec.trainer |= {"accelerator": "cpu", "precision": "32-true", "enable_checkpointing": False}
    spec.trainer.callbacks = [{"class_path": "clocks.LightningClock"}]
    module = spec.model.init_args
    module.policy.init_args |= {"dtype": "float32", "lora": None, "gradient_checkpointing": False}
    module.policy.init_args.train = ["audio_tower", "projector", "language_model"]
    module.optimizer.init_args.lr = RATE
    module.micro_batch_size = BATCH
    module.pop("schedule")
    if name == "grpo":
        module.rollout = {"group_size": GROUP, "temperature": 1.0, "max_new_tokens": TOKENS, "seed": 42}
        module.objective.beta = SWIFT_GRPO["beta"]
        module.rewards = {"clocks.spread": 1.0}
    data = spec.data.init_args
    data.labels, data.num_workers = None, 0
    data.training |= {"shuffle_options": False, "sort_by_length": False, "pool": POOL, "curriculum": curriculum(name)}
    OmegaConf.save(spec, folder / f"{name}.yaml")


def records(name: str, folder: Path) -> list[dict[str, Any]]:
    """ms-swift's lines of the questions that our batches hold, in their order and in the same words."""
    from types import SimpleNamespace

    from earwitness.datamodules.batches.requests import TrainingSpec
    from earwitness.datamodules.module import AudioQuestions
    from earwitness.datamodules.processors.omni import SYSTEM
    from earwitness.datamodules.questions.answers import target_text
    from earwitness.datamodules.questions.prompts import question_text

    index, model = str(folder / "shards" / "index.arrow"), str(folder / "model")
    data = AudioQuestions(index, model, training=TrainingSpec(curriculum(name), name, POOL))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    data.setup("fit")
    lines = []
    for batch in data.train_dataloader():
        for sample in batch.samples:
            question = sample.question
            asked = "<audio>" + question_text(question.question, sample.choices)
            turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]
            if name == "sft":
                turns.append({"role": "assistant", "content": target_text(question.answer)})
            sound = str(folder / "corpus" / "audio" / f"{question.id}.wav")
            lines.append({"messages": turns, "audios": [sound]})
    return lines


def words(trainer: str, name: str, folder: Path, peer_python: str) -> list[str]:
    """The command line of a trainer."""
    if trainer == "ours":
        return [sys.executable, "-m", "earwitness", "fit", "--config", str(folder / f"{name}.yaml"), "--fresh"]
    rows = BATCH * (GROUP if name == "grpo" else 1)
    own: dict[str, Any] = {
        "model": folder / "model",
        "dataset": folder / f"{name}.jsonl",
        "output_dir": folder / "peer",
    }
    own |= {"per_device_train_batch_size": rows, "max_steps": STEPS[name]}
    options = SWIFT | own | (SWIFT_GRPO if name == "grpo" else {})
    command = [peer_python, "-m", f"swift.cli.{'rlhf' if name == 'grpo' else 'sft'}"]
    return command + [word for key, value in options.items() for word in (f"--{key}", str(value))]


def trained(trainer: str, name: str, folder: Path, peer_python: str) -> dict[str, Any]:
    """Figures of one run in a process of its own; of one that failed its last line."""
    clock = folder / "clock.jsonl"
    clock.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    more = {"OMP_NUM_THREADS": "1", "STEP_CLOCK": str(clock), "PYTHONPATH": path}
    more |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = words(trainer, name, folder, peer_python)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | more)
    if done.returncode:
        return {"failed": last_line(done.stderr) or last_line(done.stdout) or f"it ended with {done.returncode}"}
    return figures_of([json.loads(line) for line in clock.read_text().splitlines()])


def last_line(text: str) -> str:
    """What a process said last, 300 letters of it: the line that names an error, else the last one without a bar."""
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    lines = [line for line in lines if line and "it/s]" not in line and "s/it]" not in line]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [""])[-1][:300]


def figures_of(lines: list[dict[str, float]]) -> dict[str, Any]:
    """CPU seconds a step, MiB grown, and what was logged, of a clock's lines; the first was written before step one."""
    seconds = [after["cpu_s"] - before["cpu_s"] for before, after in pairwise(lines)]
    found: dict[str, Any] = {"cpu_s": statistics.median(seconds[WARM:]), "steps": len(seconds)}
    found["mib"] = lines[-1]["peak_mib"] - lines[0]["peak_mib"]
    losses = [line.get("train/loss", line.get("loss")) for line in lines[1:]]
    tokens = [line.get("rollout/mean_tokens", line.get("completions/mean_length")) for line in lines[1:]]
    found["first loss"] = losses[0]
    if any(length is not None for length in tokens):
        found["tokens"] = statistics.median(length for length in tokens if length is not None)
    return found


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds of each trainer, and the peer's over ours; a failure stands for all of a trainer's."""
    found: dict[str, Any] = {}
    for trainer, results in runs.items():
        failed = [result for result in results if "failed" in result]
        found[trainer] = failed[0] if failed else {k: statistics.median(r[k] for r in results) for k in results[0]}
    if not any("failed" in result for result in found.values()):
        for name in ("cpu_s", "mib"):
            found[f"{name} ratio"] = round(found["ms-swift"][name] / found["ours"][name], 2)
    return found


def measure(rounds: int, peer_python: str) -> dict[str, Any]:
    """Both algorithms, the trainers in turns."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder)
        for algorithm in STEPS:
            runs: dict[str, list[dict[str, Any]]] = {"ours": [], "ms-swift": []}
            for _ in range(rounds):
                for trainer, results in runs.items():
                    results.append(trained(trainer, algorithm, folder, peer_python))
            found[algorithm] = compared(runs)
    return found


def main() -> None:
    """Measures and prints, where there is a peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has ms-swift")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    versions = peer_versions(given.peer_python)
    if versions is None:
        print(ABSENT)
        return
    with_ours = {"earwitness": version("earwitness")}
    found = {
        "machine": f"{platform.machine()}, one core",
        "versions": with_ours | versions,
        "batch": BATCH,
        "group": GROUP,
        "new_tokens": TOKENS,
        **measure(given.rounds, given.peer_python),
    }
    print(json.dumps(found, indent=1))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
