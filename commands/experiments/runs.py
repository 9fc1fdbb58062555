"""The runs of an experiment: here, arm by arm in other processes, or by launch files; then its table."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...boundary.files import alone_in, write_text
from ...boundary.words import say
from ...configs.plugins import nearest
from ...errors import InputError
from ..recipes.graph import Graph
from .comparing import SHARED, Prepared, prepare, show_sheet, table_steps, words_of, write_table
from .lines import table_lines


def compare_arms(args: argparse.Namespace) -> None:
    """The control sheet; then, unless it is a dry run, launch files or the arms' runs and their table.

    args: of the command line. Raises InputError where arms differ unintentionally, and what a step of a run raises.
    """
    prepared = prepare(args.experiment, args.overrides, args.out, args.synthetic)
    if args.only not in (None, SHARED, *prepared.arms):
        raise InputError(f"--only {args.only}: {nearest(args.only, [SHARED, *prepared.arms], 'there are')}")
    _announce(prepared)
    show_sheet(prepared)
    if args.dry_run:
        _explain(prepared)
        return
    if args.launch_files:
        say(f"written: {', '.join(map(str, write_launch_files(prepared, args)))}")
        return
    if args.submit:
        from .submitting import submit

        submit(prepared, args)
        return
    if prepared.sheet is None or prepared.stood_in:
        if args.only not in (None, SHARED):
            raise InputError(f"{prepared.out}: the labels that arms share are not there; run --only shared first")
        say("\nthe questions that arms share are not known before the labels are there; these steps first")
        _run(prepared, table_steps(prepared), SHARED, args.jobs)
        prepared = prepare(args.experiment, args.overrides, args.out)
        show_sheet(prepared)
    write_text(prepared.file("arms.json"), _arms_json(prepared))
    if args.only:
        _run_only(prepared, args.only, args.jobs)
        return
    _run(prepared, prepared.expansion.steps, None, args.jobs)
    _show_table(prepared)


def _announce(prepared: Prepared) -> None:
    expansion, pairs = prepared.expansion, prepared.experiment.pairs
    runs = ", ".join(f"train {train} draw {draw}" for train, draw in pairs)
    say(f"{prepared.path}: {len(prepared.arms)} arms, {len(pairs)} runs of each ({runs}), into {prepared.out}/")
    say(f"{len(expansion.steps)} steps, {len(expansion.shared)} of them shared by arms", flush=True)


def _explain(prepared: Prepared) -> None:
    """Prints which steps are done and which run, and why, those of all arms first."""
    graph = Graph(prepared.expansion.steps, prepared.out, str(prepared.path))
    say("")
    counts: Counter[str] = Counter()
    lacking: dict[str, str] = {}
    for name, state, why in graph.explain(lacking if prepared.stood_in else None):
        users = prepared.expansion.users(name)
        arms = list(dict.fromkeys(run.arm for run in users))
        whose = (
            "all arms" if len(arms) == len(prepared.arms) > 1 else users[0].name if len(users) == 1 else ", ".join(arms)
        )
        counts[state] += 1
        say(f"  {name:<28} {state:<5} {why or 'done before'}   ({whose})")
    say(", ".join(f"{count} {state}" for state, count in counts.items()))
    for path, reader in lacking.items():
        say(f"  not there yet: {path} ({reader})")
    from ..recipes.costs import cost_lines

    recipe = next(iter(prepared.arms.values())).recipe
    if lines := cost_lines(recipe | {"steps": prepared.expansion.steps}):
        say("\n".join(["", *lines]))


def _run_only(prepared: Prepared, only: str, jobs: int) -> None:
    """Runs the shared steps, or those of one arm alone, whose shared ones must be done."""
    expansion = prepared.expansion
    if only == SHARED:
        _run(prepared, {name: expansion.steps[name] for name in expansion.shared}, SHARED, jobs)
        return
    steps = expansion.of_arm(only)
    shared = set(expansion.shared)
    states = {name: state for name, state, _ in Graph(steps, prepared.out, str(prepared.path)).explain()}
    if missing := [name for name in steps if name in shared and states[name] != "done"]:
        raise InputError(
            f"{prepared.out}: {missing[0]} is needed by several arms and not done; run --only shared first"
        )
    _run(prepared, {name: step for name, step in steps.items() if name not in shared}, only, jobs)
    say("the table of all arms: the same command without --only")


def _run(prepared: Prepared, steps: Mapping[str, Any], part: str | None, jobs: int) -> None:
    """Runs steps; part: an arm or `shared` that others may run beside, None for everything."""
    graph = Graph(steps, prepared.out, str(prepared.path))
    with ExitStack() as alone:
        for name in [SHARED, *prepared.arms] if part is None else [part]:
            alone.enter_context(alone_in(prepared.out, f"running-{name}"))
        graph.run(jobs, alone=part is None)


def _show_table(prepared: Prepared) -> None:
    whole = write_table(prepared)
    say("\n".join(table_lines(whole)))
    say(
        f"\npage: {prepared.file('html')}; numbers: {prepared.file('json').name}, {prepared.file('csv').name} beside it"
    )


def _arms_json(prepared: Prepared) -> str:
    runs = [{**run._asdict(), "steps": places} for run, places in prepared.expansion.places.items()]
    return json.dumps({"experiment": str(prepared.path), "runs": runs}, indent=1) + "\n"


def write_launch_files(prepared: Prepared, args: argparse.Namespace) -> list[Path]:
    """A shell script for the shared steps, which comes first, and one per arm; returns where they are."""
    folder = Path(args.launch_files)
    written = []
    for number, part in enumerate([SHARED, *prepared.arms]):
        path = folder / (f"0_{SHARED}.sh" if number == 0 else f"{part}.sh")
        say_first = "comes first" if number == 0 else f"after 0_{SHARED}.sh; arms may run at the same time"
        command = shlex.join(words_of(prepared, args.experiment, args.overrides, part))
        lines = ["#!/usr/bin/env bash", f"# {part}: {say_first}", "set -euo pipefail", f"cd {shlex.quote(os.getcwd())}"]
        write_text(path, "\n".join([*lines, f"exec {command}"]) + "\n")
        path.chmod(0o755)
        written.append(path)
    return written
