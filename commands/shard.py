"""`earwitness shard`: annotations and recordings become tars with an index."""

from __future__ import annotations

import argparse
from typing import Any

from .index import add_indexing, indexing, pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("annotations", help="JSON list, JSONL or CSV in the AudioMCQ layout, or a saved HF dataset")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--audio-root", help="folder the audio paths are relative to; default the annotations' own")
    parser.add_argument("--samples-per-shard", type=int, default=1_000, help="recordings per tar")
    parser.add_argument("--column", nargs="+", default=(), metavar="OURS=THEIRS", help="e.g. structured_cot=cot")
    parser.add_argument("--layout", default="audiomcq", help="audiomcq, or a benchmark's file: mmau, mmar, mmsu")
    parser.add_argument("--original", action="store_true", help="keeps the files' bytes; default 16 kHz mono flac")
    add_indexing(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Packs the corpus; returns counts."""
    from ..datamodules.shards.packing import shard

    columns: dict[str, Any] = {name: v.split(",") if "," in v else v for name, v in pairs(args.column)}
    return shard(
        args.annotations,
        args.out,
        args.audio_root,
        args.samples_per_shard,
        columns,
        "original" if args.original else "flac",
        layout=args.layout,
        **indexing(args),
    )
