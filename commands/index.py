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
    _add_fields(parser)


def _add_fields(parser: argparse.ArgumentParser) -> None:
    """Adds how the columns of annotations, or of the json in foreign tars, are read."""
    for name, shape, what in (
        ("--column", "OURS=THEIRS", "e.g. answer=gold choices=A,B,C,D"),
        ("--constant", "OURS=VALUE", "e.g. source_dataset=lab"),
        ("--keep", "COLUMN", "columns for pools, cells and reports; NEW=OLD renames"),
        ("--split-map", "NAME=SPLIT", "e.g. extra=train; NAME=skip leaves it out"),
    ):
        parser.add_argument(name, nargs="+", default=(), metavar=shape, help=what)
    parser.set_defaults(encoding="")  # of text files, which only `shard` reads
    parser.add_argument("--answer", help="how answers are written: text, letter, index (from 0), index1, none")
    parser.add_argument("--layout", default="audiomcq", help="a benchmark's: mmau, mmar, mmsu, dcase2025, ...")


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Fields` that were given."""
    fields: dict[str, Any] = {"layout": args.layout}
    fields["columns"] = {name: value.split(",") if "," in value else value for name, value in pairs(args.column)}
    fields["constants"], fields["splits"] = dict(pairs(args.constant)), dict(pairs(args.split_map))
    fields["keep"] = {new: old or new for new, _, old in (word.partition("=") for word in args.keep)}
    fields["encoding"] = args.encoding
    return fields | ({"answer": args.answer} if args.answer else {})


def indexing(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_indexing` as those of `build_index` and `shard`."""
    from ..datamodules.questions.fields import Fields

    shared = {"on_bad": args.on_bad, "holdout": _shares(args.holdout), "workers": args.workers}
    return shared | {"fields": Fields(**_fields(args))}


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


def following(args: argparse.Namespace) -> str | None:
    """The command that comes after this one."""
    where = args.out or (f"{args.shards}/index.arrow" if os.path.isdir(args.shards) else None)
    return where and f"earwitness inspect {where}"
