"""`earwitness tiny`: a tiny random Qwen2.5-Omni in the published layout, to try a chain of commands without a GPU."""

from __future__ import annotations

import argparse

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("out", help="folder of the checkpoint")
    parser.add_argument("--index", help="whose questions train its tokenizer")
    parser.add_argument("--from", dest="processor_from", help="a checkpoint whose tokenizer it takes instead")
    parser.add_argument("--seed", type=int, default=0, help="of its weights")


def run(args: argparse.Namespace) -> dict[str, int]:
    """Writes the checkpoint; returns its number of parameters and the size of its vocabulary."""
    if bool(args.index) == bool(args.processor_from):
        raise InputError("give --index, or --from and another checkpoint's folder")
    from ..lightning_modules.policy.tiny import build_tiny

    return build_tiny(args.index or "", args.out, seed=args.seed, processor_from=args.processor_from)
