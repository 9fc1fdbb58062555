"""`earwitness label`: labels from a whole job of voters, from answer tables, or as they were published."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("votes", nargs="*", help="one YAML file of a whole job, or one answer table per voter")
    parser.add_argument("--dry-run", action="store_true", help="counts requests, audio minutes and tokens, and stops")
    parser.add_argument("--published", action="store_true", help="takes the labels the corpus was published with")
    parser.add_argument("--out", help="label table to write")
    parser.add_argument("--index", help="index whose questions must all be labelled")
    parser.add_argument("--at-least", type=int, help="right voters that make a question weak; default the majority")
    parser.add_argument(
        "--max-unreadable",
        type=float,
        default=0.2,
        help="share of a table's answers that may be unfinished or unreadable, default 0.2",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the label table; returns counts."""
    if len(args.votes) == 1 and (args.votes[0].endswith((".yaml", ".yml")) or args.votes[0] == "label"):
        from ..configs.files import shipped_file
        from .labelling.job import load_job
        from .labelling.run import run_job

        return run_job(load_job(str(shipped_file(args.votes[0], ""))), args.dry_run)
    from ..curriculum.contribution.labels import label, published_labels

    if args.dry_run or not args.out or bool(args.votes) == args.published or (args.published and not args.index):
        raise InputError("give a job's YAML file; or answer tables and --out; or --published with --index and --out")
    if args.published:
        return published_labels(args.index, args.out)
    return label(args.votes, args.out, args.at_least, args.index, max_unreadable=args.max_unreadable)


def following(args: argparse.Namespace) -> str | None:
    """The command that comes after this one."""
    if args.dry_run:
        return None
    if len(args.votes) == 1 and args.votes[0].endswith((".yaml", ".yml")):
        from .labelling.job import load_job

        job = load_job(args.votes[0])
        index, labels = job.index, f"{job.out}/labels.arrow"
    else:
        index, labels = args.index or "INDEX", args.out
    return f"earwitness plan weak_to_strong --index {index} --labels {labels}"
