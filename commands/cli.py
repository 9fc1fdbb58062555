"""The command line `earwitness`: a table of commands, one file each. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from .. import __version__
from ..boundary.words import plain, say
from . import build, compare, evaluate, export, index, init, inspect, label, plan, report, run, serve, shard, show, tiny
from .processes.ending import guarded
from .training.trainer_help import long_help, short_help

# The configuration of these is a complete file of LightningCLI's, whose parser is heavy and their own.
TRAINER_COMMANDS = {
    "fit": "train a model as a YAML file says (--config FILE)",
    "validate": "ask the validation questions of a YAML file, and log accuracies (--config FILE)",
    "test": "ask the evaluation questions of a YAML file, and log accuracies (--config FILE)",
    "predict": "write the answers to a YAML file's evaluation questions (--config FILE)",
}
# The help's order: a recipe runs all of it; the others are its steps, from a corpus to a report.
COMMANDS: dict[str, tuple[ModuleType | None, str]] = {
    "run": (run, "run a recipe: corpus, votes, labels, stages, evaluation, report"),
    **{name: (None, what) for name, what in TRAINER_COMMANDS.items()},
    "init": (init, "a working folder whose files fit together, from own questions to answers"),
    "build": (build, "questions from captions of public data sets, by language models, checked and graded"),
    "index": (index, "check WebDataset tars and write their index"),
    "shard": (shard, "pack annotations and recordings into shards, with their index"),
    "inspect": (inspect, "what an index holds: counts, hours, histograms; one sample of it"),
    "label": (label, "ask voters, and make weak/strong labels of their answers without the audio"),
    "evaluate": (evaluate, "ask a model the questions of benchmarks, with and without the audio, and judge it"),
    "plan": (plan, "show which questions a curriculum would train on, and compare curricula; no model, no GPU"),
    "compare": (compare, "show what the arms of an experiment differ in, run them, and compare what they brought"),
    "export": (export, "write a run's policy as a folder that transformers, peft and vLLM load"),
    "serve": (serve, "a vLLM that samples completions; training processes send it their weights"),
    "show": (show, "print a shipped file, or list them"),
    "tiny": (tiny, "a tiny random model in the published layout, to try a chain of commands without a GPU"),
    "report": (report, "write the HTML report of a finished run again"),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose refusals are one line."""

    def error(self, message: str) -> NoReturn:
        """Ends with 2 and says what was wrong, and where all arguments are listed."""
        self.exit(2, f"error: {plain(message)}; see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("earwitness", description="Post-training that knows whether the audio mattered.")
    parser.add_argument("--version", action="version", version=f"earwitness {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, what) in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what, add_help=module is not None)
        if module is not None:
            module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; bad input ends in one line on stderr and exit code 1, a wrong command line in 2.

    Where whoever reads the output leaves, it ends without a word and with 141.

    argv: the words after `earwitness`; those of this process by default. With the environment variable
    EARWITNESS_TRACEBACK bad input ends in its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if os.getcwd() not in sys.path:  # functions of the user's, beside his files; behind everything that is installed
        sys.path.append(os.getcwd())
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by whoever started this
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    guarded(lambda: _run(argv))


def _run(argv: list[str]) -> None:
    """Runs the command that the words name."""
    if argv[:1] and argv[0] in TRAINER_COMMANDS:
        if (text := short_help(argv, TRAINER_COMMANDS)) is not None:
            say(text, end="")
            return
        from .training.trainer import main as trainer_main

        trainer_main(long_help(argv))
    else:
        _run_command(argv)


def _run_command(argv: list[str]) -> None:
    """Parses the words and runs the command they name; what it returns is printed as one line."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    more = {"run": "overrides", "compare": "overrides", "plan": "curricula", "evaluate": "words"}.get(args.command)
    if rest and (more is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}{' (values are changed by key=value)' if more else ''}")
    if more and rest:  # argparse ends a list of positionals at the first option; `run demo --dry-run seed=2` is fine
        setattr(args, more, getattr(args, more) + rest)
    module = COMMANDS[args.command][0]
    assert module is not None
    counts = module.run(args)
    if counts is not None:
        say(", ".join(f"{name} {value}" for name, value in counts.items()))
    sys.stdout.flush()  # whoever reads it may be gone
    if (hint := getattr(module, "following", lambda _: None)(args)) is not None:
        say(f"next: {hint}", file=sys.stderr)
