"""`earwitness build`: questions from captions of public data sets, by language models, checked and graded."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("job", help="YAML file of the job, see configs/build.yaml")
    parser.add_argument("--dry-run", action="store_true", help="requests, tokens, money and hours; asks nothing")
    parser.add_argument("--export", action="store_true", help="writes what is to be asked next as OpenAI batch files")
    parser.add_argument("--import", dest="results", nargs="+", metavar="FILE", help="adds result files of such batches")
    parser.add_argument("--part-lines", type=int, default=5_000, help="requests in a batch file")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Builds, or prices, exports, imports; returns counts."""
    from .building.job import load_build
    from .building.run import price_build, run_build

    if args.part_lines < 1:
        raise InputError(f"--part-lines must be 1 or more, got {args.part_lines}")
    job = load_build(args.job)
    if args.dry_run:
        return price_build(job)
    return run_build(job, args.results, args.part_lines if args.export else None)
