"""`earwitness show`: prints a shipped file, to read or to begin one of your own with."""

from __future__ import annotations

import argparse

from ..boundary.files import read_text
from ..boundary.words import one_line, say
from ..configs.files import shipped_file, shipped_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("name", nargs="?", help="such as sft, curricula/weak_to_strong or demo; none lists them all")


def run(args: argparse.Namespace) -> None:
    """Prints the file, or one line for each that there is."""
    if args.name is not None:
        say(read_text(shipped_file(args.name)), end="")
        return
    for name, path in shipped_files().items():
        lines = read_text(path).splitlines()
        told = (line for line in lines if line.startswith("# "))
        first = next(told, next((line for line in lines if line.strip(" -")), ""))
        say(f"{name:<32} {one_line(first.removeprefix('# '), 120)}")
