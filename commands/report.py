"""`earwitness report`: the HTML report of a finished run, written again."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("results", help="results.json of the run")
    parser.add_argument("--out", help="HTML file; default report.html beside the results")
    parser.add_argument("--embed-mb", type=float, default=40.0, help="megabytes of recordings inside the file (40)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the report; returns where it is. InputError for a file that no evaluation wrote."""
    from ..reports.run_page import build_report

    try:
        return build_report(args.results, args.out, args.embed_mb)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"{args.results}: not the results of an evaluation ({what}); evaluate again") from None
