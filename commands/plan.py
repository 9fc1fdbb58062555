"""`earwitness plan`: which questions a curriculum would train on, stage by stage; curricula side by side."""

from __future__ import annotations

import argparse

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "curricula",
        nargs="+",
        metavar="curriculum|key=value",
        help="YAML files with `curriculum` (a recipe will do) or with `arms`, or shipped names (weak_to_strong); and "
        "values to change in all of them: seed=3 stages.0.batch_size=16 stages.grpo.budget.steps=50; in one of them: "
        '"weak_to_strong seed=3" in quotes, and with --compare ARM.seed=3',
    )
    table = parser.add_mutually_exclusive_group()
    table.add_argument("--index", help="index.arrow, or any table with uid and the curriculum's columns")
    table.add_argument("--synthetic", action="store_true", help="a made-up table with AudioMCQ's published counts")
    parser.add_argument("--labels", action="append", help="label table, or grades, joined by uid; may be given again")
    parser.add_argument("--out", help="folder for plan.json and plan.png; default runs/plans/NAME")
    parser.add_argument("--compare", action="store_true", help="compares curricula, or the arms of one, side by side")
    parser.add_argument(
        "--match",
        choices=("none", "samples", "steps", "tokens", "flops"),
        help="scales the budgets of compared arms until they cost the same in this",
    )
    memory = parser.add_argument_group("memory", "what a configuration of `fit` needs of each GPU; no weights, no GPU")
    memory.add_argument("--memory", action="store_true", help="shows that instead of a plan; takes one file of `fit`")
    memory.add_argument("--gpus", type=int, default=8, help="GPUs of the run")
    memory.add_argument("--strategy", action="append", choices=("ddp", "fsdp2"), help="default: both")
    memory.add_argument("--seconds", type=float, default=30.0, help="length of the recordings")
    memory.add_argument("--room-gb", type=float, default=80.0, help="memory of one GPU, in 1e9 bytes")


def run(args: argparse.Namespace) -> None:
    """Prints the plans or their comparison; see `show_plan` and `show_comparison`."""
    from ..configs.overrides import is_override
    from .inspection.plan import show_comparison, show_plan

    overrides = [word for word in args.curricula if is_override(word)]
    curricula = [word for word in args.curricula if not is_override(word)]
    if not curricula:
        raise InputError(f"{overrides[0]} changes a curriculum, and none is named; e.g. weak_to_strong {overrides[0]}")
    if args.memory:
        from .training.memory_table import known, show_memory

        if len(curricula) != 1 or args.gpus < 1 or args.seconds <= 0:
            raise InputError("--memory takes one configuration of `fit`, at least one GPU and more than 0 seconds")
        show_memory(curricula[0], overrides, args.gpus, known(args.strategy), args.seconds, args.room_gb)
        return
    if args.index is None and not args.synthetic:
        from .training.explain import UsageError

        raise UsageError("one of the arguments --index --synthetic is required; see `earwitness plan --help`")
    if args.compare:
        show_comparison(curricula, args.index, args.labels, args.out, args.match, overrides)
        return
    if args.match:
        raise InputError("--match equalises the arms of an experiment; add --compare")
    for curriculum in curricula:
        try:
            show_plan(curriculum, args.index, args.labels, args.out, overrides)
        except InputError as error:
            if len(curricula) == 1 or str(error).startswith(curriculum):
                raise
            raise InputError(f"{curriculum}: {error}") from error


def following(args: argparse.Namespace) -> str | None:
    """The command that comes after this one."""
    if args.memory or args.compare or args.synthetic:
        return None
    labels = f" --paths.labels {args.labels[0]}" if args.labels else ""
    return f"earwitness fit --config sft{labels} (earwitness show sft is the file)"
