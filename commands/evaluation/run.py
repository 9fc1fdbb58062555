"""An evaluation from its job to its results: open, ask what is missing, judge, write.

RESULTS/job.json              what was asked for; `earwitness evaluate RESULTS` judges it again
RESULTS/results.json          every figure, with what it was made from
RESULTS/report.html           the page
RESULTS/answers/NAME.arrow    every answer as it was given, one by one in NAME.asked/ while they come
RESULTS/outcomes/NAME.arrow   every question's outcome under every rule, for `--compare`
RESULTS/predictions/          predictions in the benchmarks' own forms
RESULTS/missing/NAME.jsonl    what was not asked or not answered, and why
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ...boundary.files import alone_in, write_text
from ...boundary.words import say
from ...datamodules.batches.conditions import parse_condition
from ...datamodules.benchmarks.questions import OpenBenchmark, open_benchmark
from ...datamodules.questions.prompts import prompt_text
from ...datamodules.voting.answer_store import AnswerStore
from ...datamodules.voting.evaluation import EvaluationTasks
from ...datamodules.voting.tasks import NO_AUDIO
from ...errors import InputError
from ...lightning_modules.ranks import Ranks
from ...lightning_modules.voters.processes import together
from .asking import Asker, write_failures
from .job import JOB, EvaluationJob
from .results import Answered, write_results

_HEARD = ("audio", "fragment")  # kinds of conditions whose answers depend on the question's own recording


def run_evaluation(job: EvaluationJob, judge_only: bool = False) -> dict[str, Any] | None:
    """Asks what is missing, judges everything, and writes the folder of results; None on other ranks than the first.

    judge_only: nothing is asked. Returns the content of results.json. InputError where something cannot be read, or
    the answers in the folder were given to another question.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    folder = Path(job.to)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: --to must be a folder")
    with ended_by_signals(), together() as ranks, _alone(folder, ranks):
        opened = _open_all(job, ranks)
        source, facts = _model(job, judge_only)
        asker = Asker(job, ranks, source)
        answered = []
        for name, benchmark in opened.items():
            tasks = EvaluationTasks(benchmark.reader, job.prompting(), job.rotations, job.seed)
            store = AnswerStore(folder / "answers" / f"{name}.arrow")
            _check_store(store, name, job, benchmark, facts, ranks, judge_only)
            failures: list[dict[str, Any]] = []
            if not judge_only:
                wanted = tasks.tasks(range(len(benchmark.reader)), job.conditions)
                _refuse_without_recording(job, source)
                failures = [one for of_rank in ranks.gathered(asker.ask(name, tasks, store, wanted)) for one in of_rank]
            ranks.gathered(0)  # all answers are stored
            if not ranks.rank:
                if not judge_only:
                    write_failures(folder / "missing" / f"{name}.jsonl", failures)
                answered.append(Answered(benchmark, tasks, store))
        if ranks.rank:
            return None
        _write(folder / JOB, {key: value for key, value in job.record().items() if key != "to"})
        return write_results(job, answered, facts, folder)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, SIGTERM ends this process at once with 143: every answer that came is stored already."""

    def end(number: int, frame: FrameType | None) -> None:
        say("ended by SIGTERM; answers so far are kept, the same command continues", file=sys.stderr, flush=True)
        os._exit(143)  # nothing is half written: stores are appended to line by line, files renamed when whole

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Inside, no other evaluation writes into the folder; InputError on all ranks where one does."""
    if ranks.rank:
        if fault := ranks.gathered("")[0]:
            raise InputError(fault)
        yield
        return
    with ExitStack() as stack:
        fault = ""
        try:
            stack.enter_context(alone_in(folder, "evaluating"))
        except InputError as error:
            fault = str(error)
        ranks.gathered(fault)
        if fault:
            raise InputError(fault)
        yield


def _open_all(job: EvaluationJob, ranks: Ranks) -> dict[str, OpenBenchmark]:
    """The benchmarks by name; the first process packs, the others find it done."""
    heard = any(name != NO_AUDIO and _wants_recording(name) for name in job.conditions)
    cache = Path(job.cache or os.environ.get("EARWITNESS_CACHE") or Path.home() / ".cache" / "earwitness")

    def opened() -> dict[str, OpenBenchmark]:
        return {
            name: open_benchmark(
                name, job.benchmark(name), spec.file, spec.audio, cache, heard, job.workers, spec.split
            )
            for name, spec in job.benchmarks.items()
        }

    first: dict[str, OpenBenchmark] | None = None
    fault = ""
    if not ranks.rank:
        try:
            first = opened()
        except InputError as error:
            fault = str(error)
    if said := ranks.gathered(fault)[0]:  # which the others wait for
        raise InputError(said)
    return first if first is not None else opened()


def _wants_recording(condition: str) -> bool:
    """Whether a condition depends on recordings, if only on their length."""
    parsed = parse_condition(condition)
    return parsed.reads_audio or parsed.seconds is None


def _model(job: EvaluationJob, judge_only: bool) -> tuple[Any, dict[str, Any]]:
    """Where the model's weights are, and what answers depend on of model and prompt, as JSON."""
    words = prompt_text(job.prompt_style, "{question}", ("{first}", "{second}"))
    facts: dict[str, Any] = {"style": job.prompt_style, "prompt": words, "system": job.system}
    facts |= {"max_new_tokens": job.tokens, "temperature": job.temperature, "seed": job.seed}
    if job.served:
        return None, facts | {"model": job.model, "body": job.body}
    facts |= {"checkpoint": job.checkpoint, "dtype": job.dtype}
    if judge_only:
        return None, facts
    from ...lightning_modules.voters.loading import find_source

    source = find_source(job.checkpoint)
    facts |= {"weights": source.mark, "kind": source.kind, "base": source.base}
    if source.trained is not None and source.kind == "run":
        facts["step"] = source.trained.step
    return source, facts


def _refuse_without_recording(job: EvaluationJob, source: Any) -> None:
    if source is None or NO_AUDIO not in job.conditions:
        return
    from ...lightning_modules.voters.local import kind_of

    if kind_of(source.base) == "omni":
        raise InputError("conditions: Qwen2.5-Omni is asked with a recording here; use silence, or serve it for none")


def _check_store(
    store: AnswerStore,
    name: str,
    job: EvaluationJob,
    benchmark: OpenBenchmark,
    facts: dict[str, Any],
    ranks: Ranks,
    judge_only: bool,
) -> None:
    """InputError where stored answers were given to other words, by another model or to another recording.

    Where nothing is asked, the facts are completed by what was written down when it was.
    """
    described = facts | {"questions": benchmark.question_hash, "benchmark": benchmark.benchmark.name}
    if judge_only:
        before = store.described()
        if not before:
            raise InputError(f"{store.folder}: holds no answers to judge; ask first")
        facts |= {key: before[key] for key in ("weights", "kind", "base", "step") if key in before}
        described = facts | {key: described[key] for key in ("questions", "benchmark")}
    store.refuse_changed(name, described)
    _refuse_other_recordings(store, benchmark)
    ranks.gathered(0)  # all have looked
    if not ranks.rank and not judge_only:
        store.remember(described)


def _refuse_other_recordings(store: AnswerStore, benchmark: OpenBenchmark) -> None:
    reader = benchmark.reader
    clips = dict(zip(reader.numbers["uid"].tolist(), reader.numbers["clip"].tolist(), strict=True))
    packed = getattr(reader, "packed", reader) is not None
    for record in store.read() if packed else ():
        kind, _, _ = str(record["condition"]).partition(":")
        heard = (record.get("heard") or ["", 0])[1]
        if kind in _HEARD and heard and clips.get(int(record["uid"]), heard) != heard:
            raise InputError(
                f"{store.folder}: the recording of {record['key']} is another one than it was asked about; evaluate "
                "into another folder, or remove this one"
            )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
