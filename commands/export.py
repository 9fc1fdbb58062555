"""`earwitness export`: a run's policy as a folder that transformers, peft, vLLM and other trainers load."""

from __future__ import annotations

import argparse
import os
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run's folder, or one checkpoint of it")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to write; a model that is there is replaced")
    form = parser.add_mutually_exclusive_group()
    for name, what in (
        ("merged", "the thinker with its adapters merged, in the published layout (the default)"),
        ("full-omni", "the same, with the talker and token2wav of the model it started from, bit for bit"),
        ("adapter", "the adapters alone, for peft: DIR for Qwen2_5OmniForConditionalGeneration and vLLM, DIR/nested "
         "for that class from transformers 5.21 on, DIR/thinker for Qwen2_5OmniThinkerForConditionalGeneration"),
    ):  # fmt: skip
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=what)
    parser.set_defaults(form="merged")
    parser.add_argument("--config", metavar="FILE", help="the run's YAML file, where none lies beside the checkpoint")
    parser.add_argument("--source", metavar="MODEL", help="the model it started from, where that lies elsewhere now")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the folder; returns what was written."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ..lightning_modules.policy.export import export_run

    return export_run(args.run, args.to, args.form, args.config, args.source)


def following(args: argparse.Namespace) -> str | None:
    """The command that comes after this one."""
    return None if args.form == "adapter" else f"vllm serve {args.to}, or transformers: docs/deploy.md"
