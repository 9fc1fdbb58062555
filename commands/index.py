"""`earwitness index`: the index of WebDataset tars that are there already. Also the options it shares with `shard`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "shards", help="folder of *.tar, one tar, or a pattern like s3://lab/train-{000000..000099}.tar"
    )
    parser.add_argument("--out", help="index file; default index.arrow beside local shards")
    parser.add_argument("--ignore", nargs="+", default=(), metavar="EXT", help="members that are no part of a sample")
    parser.add_argument("--decode", action="store_true", help="decodes every recording whole, to find damage inside")
    add_indexing(parser)


def add_indexing(parser: argparse.ArgumentParser) -> None:
    """Adds what every command that writes an index takes."""
    parser.add_argument(
        "--on-bad",
        choices=("stop", "quarantine"),
        default="stop",
        help="stop at the first fault, or leave out what is faulty and list it",
    )
    parser.add_argument(
        "--holdout",
        nargs="+",
        default=(),
        metavar="SPLIT=SHARE",
        help="shares of the recordings for questions that name no split, e.g. val=0.02 test=0.02",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; default one per CPU")


def indexing(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_indexing` as those of `build_index` and `shard`."""
    return {"on_bad": args.on_bad, "holdout": _shares(args.holdout), "workers": args.workers}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the index; returns counts."""
    from ..datamodules.shards.index import build_index

    return build_index(args.shards, args.out, ignore=args.ignore, decode=args.decode, **indexing(args))


def pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """(NAME, VALUE) of words like NAME=VALUE; any other word is an InputError."""
    for word in words:
        if "=" not in word:
            raise InputError(f"{word!r} must be written NAME=VALUE")
    return [(name, value) for name, _, value in (word.partition("=") for word in words)]


def _shares(words: Sequence[str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in pairs(words)}
    except ValueError as error:
        raise InputError(f"--holdout: {error}") from None
