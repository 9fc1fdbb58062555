"""`earwitness evaluate`: a model on benchmarks, with and without the audio; two results compared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..boundary.words import say
from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CHECKPOINT|EVAL.yaml|RESULTS",
        help="a checkpoint folder, hub id, folder of adapters, run, or server (http://host/v1); or a YAML file, with "
        "key=value behind it; or a folder of results, to judge its answers again; with --compare two such folders",
    )
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME=FILE[:AUDIO_ROOT]", help="mmau, "
        "mmar, mmsu, dcase2025, dcase2026, mmau-pro, trea, rulistening, index (an index.arrow), or an import path; "
        "may be repeated")  # fmt: skip
    parser.add_argument("--to", metavar="DIR", help="folder of the results; default runs/evaluation/MODEL")
    parser.add_argument("--model", help="name of the model on a server")
    parser.add_argument("--key-env", help="environment variable that holds the server's key")
    parser.add_argument("--conditions", help="comma-separated: audio, silence, silence:clip, mismatched, none, noise, "
                        "fragment:first, fragment:0.1; default audio,silence")  # fmt: skip
    parser.add_argument("--rotations", help="orders of the options: a number, or all; default 1, that of the file")
    parser.add_argument("--reasoning", action="store_true", default=None, help="asks for the thinking first")
    parser.add_argument("--style", help="of the prompt: paper (default), letters, inline, lines, think, or yours")
    parser.add_argument("--rule", help="judges by one more rule: letter, mmau, contains, mmsu, or yours; asks nothing")
    parser.add_argument("--max-new-tokens", type=int, help="of an answer; default 64, 1,024 with --reasoning")
    parser.add_argument("--temperature", type=float, help="default 0: greedy")
    parser.add_argument("--system", help="system turn")
    parser.add_argument("--seed", type=int, help="of mismatched recordings, noise and draws")
    parser.add_argument("--dtype", help="of the weights; default the checkpoint's")
    parser.add_argument("--batch-size", type=int, help="questions at a time and device, default 16")
    parser.add_argument("--concurrency", type=int, help="requests at a time, default 16")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default auto")
    parser.add_argument("--workers", type=int, help="processes that pack recordings")
    parser.add_argument("--cache", help="where packed recordings are kept; default ~/.cache/earwitness")
    parser.add_argument(
        "--labels", action="append", default=[], metavar="[NAME=]FILE", help="label table of a benchmark"
    )
    parser.add_argument("--split", help="asks only this split of own indexes: train, val or test; default all of it")
    parser.add_argument("--strong", action="append", default=[], metavar="[NAME=]FILE", help="ids that need the audio")
    parser.add_argument("--weak", action="append", default=[], metavar="[NAME=]FILE", help="ids that do not")
    parser.add_argument("--train-index", action="append", help="index that was trained on, to look for overlap in")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--compare", action="store_true", help="compares two folders of results, question by question")


_VALUES = (
    *("to", "model", "key_env", "conditions", "reasoning", "style", "rule", "max_new_tokens", "temperature", "system"),
    *("seed", "dtype", "batch_size", "concurrency", "device", "workers", "cache", "train_index", "title"),
)


def run(args: argparse.Namespace) -> None:
    """Runs and prints the evaluation, or compares two; see `run_evaluation` and `compare_results`."""
    from ..configs.overrides import is_override
    from .evaluation.text import comparison_text, evaluation_text

    words = list(args.words)
    if args.compare:
        from .evaluation.comparison import compare_results

        if len(words) != 2:
            raise InputError(f"--compare takes two folders of results, got {len(words)}")
        say(comparison_text(compare_results(*words)))
        return
    given = [word for word in words if not is_override(word)]
    overrides = [word for word in words if is_override(word)]
    if len(given) != 1:
        named = f": {', '.join(given)}" if given else ""
        raise InputError(f"name one model, YAML file or folder of results, got {len(given)}{named}")
    from .evaluation.job import JOB, job_of, load_evaluation, named_benchmarks
    from .evaluation.run import run_evaluation

    options = _options(args)
    judged = (Path(given[0]) / JOB).is_file() and not args.benchmark
    if judged or given[0].endswith((".yaml", ".yml")):
        if args.benchmark:
            options["benchmarks"] = named_benchmarks(args.benchmark)
        if judged:
            options["to"] = given[0]
        job = load_evaluation(given[0], overrides, options)
    else:
        if overrides:
            raise InputError(f"{overrides[0]} changes a YAML file, and none is named; use the options")
        job = job_of({"checkpoint": given[0], "benchmarks": named_benchmarks(args.benchmark), **options}, "")
    for name, spec in job.benchmarks.items():
        if args.split and (spec.benchmark or name) == "index":
            spec.split = args.split
    for kind in ("labels", "strong", "weak"):
        _put_files(job.benchmarks, kind, getattr(args, kind))
    results = run_evaluation(job, judge_only=judged)
    if results is not None:
        say(evaluation_text(results))
        say(f"\nresults: {Path(job.to) / 'results.json'}, page: {Path(job.to) / 'report.html'}")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The values that the command line gives, under the names of a job."""
    options = {name: getattr(args, name) for name in _VALUES if getattr(args, name) is not None}
    if args.rotations is not None:
        options["rotations"] = int(args.rotations) if args.rotations.isdigit() else args.rotations
    return options


def _put_files(benchmarks: Any, kind: str, words: Sequence[str]) -> None:
    """Puts [NAME=]FILE words into the benchmarks that they are of; without a name into all. InputError for another."""
    for word in words:
        name, equals, file = word.partition("=")
        if equals and name not in benchmarks:
            raise InputError(f"--{kind} {word}: no benchmark {name!r}; there are {', '.join(benchmarks)}")
        for one in [name] if equals else benchmarks:
            setattr(benchmarks[one], kind, file if equals else word)
    for one in benchmarks.values():
        if (path := getattr(one, kind)) and not Path(path).is_file():
            raise InputError(f"--{kind}: {path}: no such file")
