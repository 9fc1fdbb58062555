"""`earwitness report`: the HTML report of a finished run, written again."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("results", help="results.json of the run")
    parser.add_argument("--out", help="HTML file; default report.html beside the results")
    parser.add_argument("--embed-mb", type=float, default=40.0, help="megabytes of recordings inside the file (40)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the report; returns where it is."""
    from ..reports.run_page import build_report

    return build_report(args.results, args.out, args.embed_mb)
