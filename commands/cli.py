"""The command line. Nothing heavy is imported before it is known to be needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

from .. import __version__

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("earwitness", description="Post-training that knows whether the audio mattered.")
    parser.add_argument("--version", action="version", version=f"earwitness {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="run a recipe: corpus, votes, labels, stages, evaluation, report")
    run.add_argument("recipe", help="YAML file, or the name of a shipped recipe (demo, spoken_digits)")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seed=2 steps.grpo.threads=1")
    run.add_argument("--dry-run", action="store_true", help="check everything and list the steps, run nothing")
    for name, what in zip(TRAINER_COMMANDS, ("train", "validate", "test", "write the answers of"), strict=True):
        commands.add_parser(name, help=f"{what} a model as a YAML file says (--config FILE)", add_help=False)
    index = commands.add_parser("index", help="check WebDataset tars and write their index")
    index.add_argument("shards", help="folder of *.tar, one tar, or a pattern like s3://lab/train-{000000..000099}.tar")
    index.add_argument("--out", help="index file; default index.arrow beside local shards")
    index.add_argument("--ignore", nargs="+", default=(), metavar="EXT", help="members that are no part of a sample")
    index.add_argument("--decode", action="store_true", help="decode every recording, not only its end")
    shard = commands.add_parser("shard", help="pack annotations and recordings into shards, with their index")
    shard.add_argument("annotations", help="JSON, JSONL, CSV, TSV or Parquet; a folder of a hub; a saved HF dataset")
    shard.add_argument("out", help="folder to write")
    shard.add_argument("--audio-root", help="folder the audio paths are relative to")
    shard.add_argument("--samples-per-shard", type=int, default=1_000, help="recordings per tar")
    shard.add_argument("--original", action="store_true", help="keep the files' bytes instead of 16 kHz mono flac")
    shard.add_argument("--encoding", default="", help="of a text file that is not UTF-8, e.g. cp1252 or utf-16")
    for part in (index, shard):
        _add_fields(part)
        part.add_argument("--on-bad", choices=("stop", "quarantine"), default="stop", help="what a fault does")
        part.add_argument("--holdout", nargs="+", default=(), metavar="SPLIT=SHARE", help="e.g. val=0.02 test=0.02")
        part.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    inspect = commands.add_parser("inspect", help="what an index holds: counts, hours, histograms; one sample of it")
    inspect.add_argument("index", help="index.arrow")
    inspect.add_argument("--labels", help="label table, joined by uid")
    inspect.add_argument("--out", help="folder for inspect.png and the sample's audio; default runs/inspect")
    inspect.add_argument("--sample", metavar="KEY", help="print this question (source/id) and write its audio")
    inspect.add_argument("--shards", help="where the shards lie, if not where the index says")
    label = commands.add_parser("label", help="ask voters and turn their silent answers into weak/strong labels")
    label.add_argument("votes", nargs="*", help="one YAML file of a whole job, or one answer table per voter")
    label.add_argument("--dry-run", action="store_true", help="tell what asking would take, and ask nothing")
    label.add_argument("--published", action="store_true", help="take the labels the corpus was published with")
    label.add_argument("--out", help="label table to write")
    label.add_argument("--index", help="index whose questions must all be labelled")
    label.add_argument("--at-least", type=int, help="right voters that make a question weak; default the majority")
    plan = commands.add_parser("plan", help="show what a curriculum deals from a table; no model, no GPU")
    plan.add_argument(
        "curricula",
        nargs="+",
        metavar="curriculum",
        help="YAML file with `curriculum` (a recipe will do) or with `arms`, or a shipped name (weak_to_strong)",
    )
    table = plan.add_mutually_exclusive_group(required=True)
    table.add_argument("--index", help="index.arrow, or any table with uid and the curriculum's columns")
    table.add_argument("--synthetic", action="store_true", help="a made-up table with AudioMCQ's published counts")
    plan.add_argument("--labels", help="label table, joined by uid")
    plan.add_argument("--out", help="folder for plan.json and plan.png; default runs/plans/NAME")
    plan.add_argument("--compare", action="store_true", help="the control sheet of several curricula, or of one's arms")
    plan.add_argument("--match", choices=("none", "samples", "steps", "tokens", "flops"), help="equal budgets of arms")
    _add_serve(commands)
    report = commands.add_parser("report", help="write the HTML report of a finished run again")
    report.add_argument("results", help="results.json of the run")
    report.add_argument("--out", help="HTML file; default report.html beside the results")
    return parser


def _add_fields(part: argparse.ArgumentParser) -> None:
    """How the columns of annotations, or of the json in foreign tars, are read."""
    for name, shape, what in (
        ("--column", "OURS=THEIRS", "e.g. answer=gold choices=A,B,C,D"),
        ("--constant", "OURS=VALUE", "e.g. source_dataset=lab"),
        ("--keep", "COLUMN", "columns for pools, cells and reports; NEW=OLD renames"),
        ("--split-map", "NAME=SPLIT", "e.g. extra=train; NAME=skip leaves it out"),
    ):
        part.add_argument(name, nargs="+", default=(), metavar=shape, help=what)
    part.add_argument("--answer", help="how answers are written: text, letter, index (from 0), index1, none")
    part.add_argument("--layout", default="audiomcq", help="a benchmark's: mmau, mmar, mmsu, dcase2025, dcase2026")


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Fields` that were given."""
    fields: dict[str, Any] = {"layout": args.layout, "encoding": getattr(args, "encoding", "")}
    fields["columns"] = {name: v.split(",") if "," in v else v for name, v in _pairs(args.column)}
    fields["constants"], fields["splits"] = dict(_pairs(args.constant)), dict(_pairs(args.split_map))
    fields["keep"] = {new: old or new for new, _, old in (word.partition("=") for word in args.keep)}
    return fields | ({"answer": args.answer} if args.answer else {})


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="a vLLM that samples for training processes on other nodes")
    serve.add_argument("checkpoint", help="folder or hub id; the weights are replaced by the policy's")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for other nodes")
    serve.add_argument("--port", type=int, default=8437, help="0 for a free one")
    serve.add_argument("--gpu-memory-utilization", type=float, default=0.9, help="share of the GPU's memory")
    serve.add_argument("--max-model-len", type=int, default=4096, help="positions of a prompt and its completion")
    serve.add_argument("--tensor-parallel-size", type=int, default=1, help="GPUs")
    serve.add_argument("--dtype", default="auto", help="of vLLM's weights, e.g. bfloat16; auto: vLLM decides")
    serve.add_argument("--enforce-eager", action="store_true", help="no CUDA graphs: slower, starts sooner")
    serve.add_argument("--max-num-seqs", type=int, default=256, help="completions sampled at once")
    serve.add_argument("--sync", choices=("merged", "adapter"), default="merged", help="what an update brings")
    serve.add_argument("--seed", type=int, default=0, help="of the draws")
    serve.add_argument("--options", default="{}", metavar="JSON", help="more of vLLM's: '{\"max_lora_rank\": 32}'")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; bad input ends in one line on stderr and exit code 1, a wrong command line in 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    from ..errors import InputError

    try:
        if argv[:1] and argv[0] in TRAINER_COMMANDS:
            from .trainer import main as trainer_main

            trainer_main(argv)
        else:
            parser = _parser()
            args, rest = parser.parse_known_args(argv)
            if rest and (args.command != "run" or any(word.startswith("-") for word in rest)):
                parser.error(f"unrecognized arguments: {' '.join(rest)}")
            if rest:  # argparse ends a list of positionals at the first option; `run demo --dry-run seed=2` is fine
                args.overrides += rest
            _dispatch(args)
        sys.stdout.flush()
    except InputError as error:
        if os.environ.get("EARWITNESS_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever reads the output, such as `head`, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def _dispatch(args: argparse.Namespace) -> None:
    options: dict[str, Any] = {}
    if args.command in ("index", "shard"):
        options = {"on_bad": args.on_bad, "holdout": _shares(args.holdout), "workers": args.workers}
    if args.command == "run":
        from .recipe import run_recipe

        run_recipe(args.recipe, args.overrides, dry_run=args.dry_run)
    elif args.command == "index":
        from ..datamodules.shards.index import build_index

        options |= {"fields": _fields(args), "ignore": args.ignore, "decode": args.decode}
        _print(build_index(args.shards, args.out, **options))
    elif args.command == "shard":
        from ..datamodules.shards.packing import shard

        kind: Literal["flac", "original"] = "original" if args.original else "flac"
        options |= {"fields": _fields(args), "audio": kind}
        _print(shard(args.annotations, args.out, args.audio_root, args.samples_per_shard, **options))
    elif args.command == "inspect":
        from .inspection import inspect_index

        inspect_index(args.index, args.labels, args.out, args.sample, args.shards)
    elif args.command == "label":
        _label(args)
    elif args.command == "plan":
        from .plan import show_comparison, show_plan

        if args.compare:
            show_comparison(args.curricula, args.index, args.labels, args.out, args.match)
        elif args.match:
            from ..errors import InputError

            raise InputError("--match equalises the arms of an experiment; add --compare")
        for curriculum in () if args.compare else args.curricula:
            show_plan(curriculum, args.index, args.labels, args.out)
    elif args.command == "serve":
        _serve(args)
    elif args.command == "report":
        from ..reports.run_page import build_report

        _print(build_report(args.results, args.out))


def _serve(args: argparse.Namespace) -> None:
    import json

    from ..errors import InputError
    from ..lightning_modules.rollout.server import serve
    from ..lightning_modules.rollout.vllm_engine import VllmEngine

    try:
        options = json.loads(args.options)
    except ValueError as error:
        raise InputError(f"--options: not JSON ({error})") from None
    if not isinstance(options, dict):
        raise InputError("--options: a JSON object of vLLM's argument names is needed")
    named = {name: value for name, value in vars(args).items() if name not in ("command", "checkpoint", "host", "port")}
    engine = VllmEngine(**named | {"options": options})
    serve(args.checkpoint, engine, args.host, args.port)


def _label(args: argparse.Namespace) -> None:
    from ..errors import InputError

    if len(args.votes) == 1 and args.votes[0].endswith((".yaml", ".yml")):
        from .labelling import load_job, run_job

        _print(run_job(load_job(args.votes[0]), args.dry_run))
        return
    from ..curriculum.contribution.labels import label, published_labels

    if args.dry_run or not args.out or bool(args.votes) == args.published or (args.published and not args.index):
        raise InputError("give a job's YAML file; or answer tables and --out; or --published with --index and --out")
    if args.published:
        _print(published_labels(args.index, args.out))
    else:
        _print(label(args.votes, args.out, args.at_least, args.index))


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    from ..errors import InputError

    for word in words:
        if "=" not in word:
            raise InputError(f"{word!r} must be written NAME=VALUE")
    return [(name, value) for name, _, value in (word.partition("=") for word in words)]


def _shares(words: Sequence[str]) -> dict[str, float]:
    from ..errors import InputError

    try:
        return {name: float(value) for name, value in _pairs(words)}
    except ValueError as error:
        raise InputError(f"--holdout: {error}") from None


def _print(result: dict) -> None:
    print(", ".join(f"{name} {value}" for name, value in result.items()))
