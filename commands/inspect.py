"""`earwitness inspect`: what an index holds."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("index", help="index.arrow")
    parser.add_argument("--labels", help="label table, joined by uid")
    parser.add_argument("--out", help="folder for inspect.png and the sample's audio; default runs/inspect")
    parser.add_argument("--sample", metavar="KEY", help="prints this question (source/id) and writes its audio")
    parser.add_argument("--shards", help="where the shards lie, if not where the index says")


def run(args: argparse.Namespace) -> None:
    """Prints and draws; see `inspect_index`."""
    from .inspection.index import inspect_index

    inspect_index(args.index, args.labels, args.out, args.sample, args.shards)
