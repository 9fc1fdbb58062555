"""`earwitness plan`: which questions a curriculum would train on, stage by stage; curricula side by side."""

from __future__ import annotations

import argparse

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "curricula",
        nargs="+",
        metavar="curriculum",
        help="YAML file with `curriculum` (a recipe will do) or with `arms`, or a shipped name (weak_to_strong)",
    )
    table = parser.add_mutually_exclusive_group(required=True)
    table.add_argument("--index", help="index.arrow, or any table with uid and the curriculum's columns")
    table.add_argument("--synthetic", action="store_true", help="a made-up table with AudioMCQ's published counts")
    parser.add_argument("--labels", help="label table, joined by uid")
    parser.add_argument("--out", help="folder for plan.json and plan.png; default runs/plans/NAME")
    parser.add_argument("--compare", action="store_true", help="compares curricula, or the arms of one, side by side")
    parser.add_argument(
        "--match",
        choices=("none", "samples", "steps", "tokens", "flops"),
        help="scales the budgets of compared arms until they cost the same in this",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the plans or their comparison; see `show_plan` and `show_comparison`."""
    from .planning import show_comparison, show_plan

    if args.compare:
        show_comparison(args.curricula, args.index, args.labels, args.out, args.match)
        return
    if args.match:
        raise InputError("--match equalises the arms of an experiment; add --compare")
    for curriculum in args.curricula:
        show_plan(curriculum, args.index, args.labels, args.out)
