"""`earwitness compare`: the arms of an experiment, what they differ in, their runs, and what they brought."""

from __future__ import annotations

import argparse

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("experiment", help="YAML file, or the name of a shipped experiment (demo, digits, paper)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seed=2 seeds.train=[1,2,3] match=flops")
    parser.add_argument("--out", help="folder of the runs and the table; default runs/experiments/NAME")
    parser.add_argument("--dry-run", action="store_true", help="prints the control sheet and what would run and why")
    parser.add_argument("--synthetic", action="store_true", help="plans over a made-up table with AudioMCQ's counts")
    parser.add_argument("--jobs", type=int, default=1, help="steps that run at a time, where devices allow")
    parser.add_argument("--only", metavar="ARM", help="runs one arm, or `shared`: the steps that several arms need")
    parser.add_argument("--launch-files", metavar="DIR", help="writes a script per arm, and runs nothing")
    parser.add_argument("--submit", metavar="DIR", help="gives the arms to SLURM by submitit; its logs go to DIR")


def run(args: argparse.Namespace) -> None:
    """Prints the control sheet, runs or continues the arms, and writes their table; see `compare_arms`."""
    from .experiments.runs import compare_arms

    if args.jobs < 1:
        raise InputError(f"--jobs is at least 1, got {args.jobs}")
    compare_arms(args)
