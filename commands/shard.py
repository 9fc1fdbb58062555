"""`earwitness shard`: annotations and recordings become tars with an index."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from .index import add_indexing, indexing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("annotations", help="JSON, JSONL, CSV, TSV or Parquet; a folder of a hub; a saved HF dataset")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--audio-root", help="folder the audio paths are relative to; default the annotations' own")
    parser.add_argument("--samples-per-shard", type=int, default=1_000, help="recordings per tar")
    parser.add_argument("--original", action="store_true", help="keeps the files' bytes; default 16 kHz mono flac")
    parser.add_argument("--encoding", default="", help="of a text file that is not UTF-8, e.g. cp1252 or utf-16")
    parser.add_argument("--too-long", choices=("refuse", "first", "middle"), default="refuse", help="long recordings")
    parser.add_argument("--max-seconds", type=float, default=300.0, help="the longest recording, at most 300")
    parser.add_argument("--mix", choices=("mean", "loudest"), default="mean", help="how channels become one")
    add_indexing(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Packs the corpus; returns counts."""
    from ..datamodules.shards.packing import shard

    kind: Literal["flac", "original"] = "original" if args.original else "flac"
    places = (args.annotations, args.out, args.audio_root, args.samples_per_shard)
    cut = {"max_s": args.max_seconds, "too_long": args.too_long, "mix": args.mix}
    return shard(*places, audio=kind, cut=cut, **indexing(args))


def following(args: argparse.Namespace) -> str:
    """The command that comes after this one."""
    return f"earwitness inspect {args.out}/index.arrow, then earwitness label (earwitness show label is a job's file)"
