"""`earwitness run`: a recipe from its first step to its report."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("recipe", help="YAML file, or a shipped one (demo, spoken_digits, audiomcq, rival_sari, ...)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seed=2 steps.grpo.threads=1")
    parser.add_argument("--dry-run", action="store_true", help="says which steps would run and why, and runs nothing")
    parser.add_argument("--synthetic", action="store_true", help="with --dry-run: lists data that are not there yet")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="steps that may run side by side (1)")


def run(args: argparse.Namespace) -> None:
    """Runs the recipe; see `run_recipe`."""
    from .recipes.recipe import run_recipe

    run_recipe(args.recipe, args.overrides, dry_run=args.dry_run, jobs=args.jobs, synthetic=args.synthetic)
