"""`earwitness init`: a working folder whose files fit together, from own questions to the pages of two stages."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from ..boundary.files import made_folder, read_text, write_text
from ..boundary.words import say
from ..configs.files import shipped_file
from ..errors import InputError

# What is changed in the shipped files, pattern -> replacement; each pattern is there exactly once.
_DATA = {r"(?m)^  data: data/audiomcq.*$": "  data: data"}
_TRAINS = _DATA | {r"(?m)^      curriculum: .*\n(?:        .*\n)+": "      curriculum: curriculum.yaml\n"}
_CHANGES: dict[str, dict[str, str]] = {
    "sft": _TRAINS,
    "grpo": _TRAINS,
    "label": {
        r"(?m)^index: data/audiomcq/": "index: data/",
        r"(?m)^pool: .*$": "pool: {}   # every split: what is evaluated is shown by label too",
    },
}
_CPU = {
    r"accelerator: auto": "accelerator: cpu",
    r"precision: bf16-true": "precision: 32-true",
    r"dtype: bfloat16": "dtype: float32",
    r"num_workers: 4": "num_workers: 2",
}
_CPU_FULL = {r"lora: \{rank: 16, alpha: 32\}": "lora: null", r"lr: 1.0e-[45]": "lr: 1.0e-3"}
_TINY_VOTERS = "voters:   # random models that score the options: labels by chance, to see the way\n" + "".join(
    f"  - {{name: {name}, checkpoint: tiny-{name}, scoring: options}}\n" for name in "abc"
)
_CPU_CHANGES: dict[str, dict[str, str]] = {
    "sft": _CPU | _CPU_FULL | {r"Qwen/Qwen2.5-Omni-7B ": "tiny ", r"warmup_steps: 50": "warmup_steps: 2"},
    "grpo": _CPU | _CPU_FULL | {r"max_new_tokens: 128": "max_new_tokens: 16", r"warmup_steps: 5": "warmup_steps: 1"},
    "label": {r"(?sm)^voters:\n.*?(?=^# judge:)": _TINY_VOTERS},
}
_BATCHES = {"gpu": (160, 32), "cpu": (8, 4)}
_CURRICULUM = """\
# What is trained when: SFT on weak questions, GRPO on strong ones. Both sft.yaml and grpo.yaml read this file, so the
# stages share no question. `earwitness plan curriculum.yaml --index {index} --labels {labels}` shows it;
# other curricula: `earwitness show`, names that begin with curricula/.
curriculum:
  seed: 1
  cells: [label]
  stages:
    - {{name: sft, algorithm: sft, pool: {{label: weak}}, batch_size: {sft}, budget: {{fraction: 1.0, epochs: 2}}}}
    - {{name: grpo, algorithm: grpo, pool: {{label: strong}}, batch_size: {grpo}, budget: {{steps: 100, at_most: 1.0}}}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder", help="the working folder; it is made, and no file in it is replaced")
    parser.add_argument("--from", dest="annotations", help="your questions, for the first command of its README")
    parser.add_argument(
        "--device",
        choices=("gpu", "cpu"),
        default="gpu",
        help="gpu: Qwen2.5-Omni-7B with LoRA in bf16; cpu: a tiny random model, to try the whole chain in minutes",
    )


def run(args: argparse.Namespace) -> None:
    """Writes the files; InputError where one of them is there already."""
    folder = Path(args.folder)
    files = working_files(args.annotations or "questions.csv", args.device)
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise InputError(f"{folder / there[0]} is there already; give another folder, or move it away")
    made_folder(folder)
    for name, text in files.items():
        write_text(folder / name, text)
    say(f"{folder}: {', '.join(files)}")
    say(f"next: cd {folder}, and the commands of its README.md one by one")


def working_files(annotations: str, device: str) -> dict[str, str]:
    """Name -> text of the files of a working folder. device: "gpu" or "cpu"."""
    files = {f"{name}.yaml": _changed(name, changes) for name, changes in _CHANGES.items()}
    if device == "cpu":
        for name, changes in _CPU_CHANGES.items():
            files[f"{name}.yaml"] = _replaced(files[f"{name}.yaml"], changes, name)
    sft, grpo = _BATCHES[device]
    places = {"index": "data/shards/index.arrow", "labels": "runs/labels/labels.arrow"}
    files["curriculum.yaml"] = _CURRICULUM.format(sft=sft, grpo=grpo, **places)
    files["README.md"] = _readme(annotations, device)
    return files


def _changed(name: str, changes: Mapping[str, str]) -> str:
    """A shipped file with its places changed, and its own comments' paths to shipped files too."""
    text = read_text(shipped_file(name, ""))
    return _replaced(text, changes, name).replace("configs/", "")


def _replaced(text: str, changes: Mapping[str, str], name: str) -> str:
    for pattern, new in changes.items():
        text, count = re.subn(pattern, lambda _, new=new: new, text)  # type: ignore[misc]
        assert count == 1, f"{name}: {pattern!r} is there {count} times"
    return text


def _readme(annotations: str, device: str) -> str:
    """The commands from the questions to the answers, in order."""
    asked = "--benchmark index=data/shards/index.arrow --split test --labels runs/labels/labels.arrow"
    tiny = [("a tiny random model to try it with", "earwitness tiny tiny --index data/shards/index.arrow")]
    voters = (f"earwitness tiny tiny-{name} --from tiny --seed {seed}" for seed, name in enumerate("abc", 1))
    tiny += [("three tiny voters", "\n   ".join(voters))]
    steps = [
        (
            "pack questions and recordings; a fifth of the recordings is kept for validation and test",
            f"earwitness shard {annotations} data/shards --holdout val=0.1 test=0.1",
        ),
        ("look at it", "earwitness inspect data/shards/index.arrow"),
        *(tiny if device == "cpu" else []),
        ("what asking the voters of label.yaml would take", "earwitness label label.yaml --dry-run"),
        ("weak or strong: writes runs/labels/ with its page report.html", "earwitness label label.yaml"),
        (
            "what each stage will train on",
            "earwitness plan curriculum.yaml --index data/shards/index.arrow --labels runs/labels/labels.arrow",
        ),
        ("SFT on the weak questions", "earwitness fit --config sft.yaml"),
        ("GRPO on the strong ones, from there", "earwitness fit --config grpo.yaml"),
        *(
            (
                f"ask {stage} the questions of the test split; its page is runs/evaluation/{stage}/report.html",
                f"earwitness evaluate runs/{stage}/model {asked} --to runs/evaluation/{stage}",
            )
            for stage in ("sft", "grpo")
        ),
        ("what GRPO changed", "earwitness evaluate --compare runs/evaluation/sft runs/evaluation/grpo"),
    ]
    lines = ["# Own questions, from files to answers", ""]
    lines += ["Every command can be stopped and typed again: it goes on where it was.", ""]
    for number, (what, command) in enumerate(steps, 1):
        lines += [f"{number}. {what[0].upper()}{what[1:]}:", "", "   ```", f"   {command}", "   ```", ""]
    lines += [
        "Columns with other names: `--column answer=gold choices=A,B,C,D`, see `earwitness shard --help`.",
        "On several GPUs: `lightning run --devices 8 -- fit --config sft.yaml --trainer.strategy ddp`.",
        "",
    ]
    return "\n".join(lines)
