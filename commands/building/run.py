"""A building job: sources to items, models to questions, chains and grades, all of it to files, funnel and page."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ...boundary.files import JSON_BYTES, read_bytes, read_json, write_text
from ...boundary.words import say
from ...datamodules.asking.batches import export_requests, import_results
from ...datamodules.asking.ledger import Ledger
from ...datamodules.asking.runner import Asker
from ...datamodules.audio.waves import Cut, wav_bytes, whole
from ...datamodules.building import probe
from ...datamodules.building.asking import Prompts
from ...datamodules.building.balance import Placed, placed
from ...datamodules.building.card import write_card
from ...datamodules.building.draft import Draft
from ...datamodules.building.funnel import Composition, cost_of, funnel_of
from ...datamodules.building.outputs import write_all
from ...datamodules.building.pipeline import GRADER, PROBE, WRITER, Pipeline, Step, stage_folder
from ...datamodules.building.pricing import prices
from ...datamodules.building.reading import Sources
from ...datamodules.building.stages import Stages
from ...errors import InputError
from ...progress import counter
from .job import BuildJob


class _Exported(Exception):
    """A stage's requests were written out; the build goes on when they are answered."""


def run_build(job: BuildJob, results: list[str] | None = None, part_lines: int | None = None) -> dict[str, Any]:
    """Builds as far as it can; returns counts.

    results: files of answers to add first. part_lines: requests in a batch file, where they are exported and not asked.
    InputError where it cannot go on; everything until then is kept.
    """
    out = Path(job.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: out must be a folder")
    with _opened(job, out, stage_folder(out)) as pipeline:
        counts: dict[str, Any] = {}
        if results:
            ledgers = {role: asker.ledger for role, asker in pipeline.askers.items()}
            counts |= import_results(map(Path, results), ledgers)
        exported: dict[str, Any] = {}

        def before(step: Step) -> None:
            missing = pipeline.askers[step.role].missing(pipeline.wants(step)())
            if part_lines is None:
                if results is None or pipeline.askers[step.role].model.url:
                    _ask(pipeline, step)
                elif count := sum(1 for _ in missing):  # whoever imports without an address goes on by --export
                    exported.update(stage=step.name, open=count)
                    raise _Exported
                return
            parts = export_requests(missing, out / "export" / step.role, step.role, part_lines)
            if parts:
                exported.update(stage=step.name, parts=len(parts), folder=str(parts[0].parent))
                raise _Exported

        try:
            pipeline.run(before)
        except _Exported:
            return counts | exported
        return counts | _finish(job, pipeline, out)


def price_build(job: BuildJob) -> dict[str, Any]:
    """Prints what each stage would take, and returns the sums; nothing is written into the job's folder."""
    out = Path(job.out)
    with tempfile.TemporaryDirectory() as scratch, _opened(job, out, Path(scratch), write=False) as pipeline:
        for path in stage_folder(out).glob("*.json*"):
            (Path(scratch) / path.name).symlink_to(path.resolve())
        pipeline.stages = Stages(Path(scratch))
        rows = prices(pipeline)
        spent = sum(role["money"] for role in cost_of(pipeline.askers).values())
    for row in rows:
        say(
            f"{row['stage']} ({row['role']}): {row['requests']:,} requests, about {row['input_tokens']:,} tokens in, "
            f"{row['output_tokens']:,} out, {row['money']:,} in money, {row['hours']:,} hours"
        )
    names = ("requests", "input_tokens", "output_tokens", "money", "hours")
    total: dict[str, Any] = {name: round(sum(row[name] for row in rows), 2) for name in names}
    return total | {"spent": round(spent, 4)}


@contextmanager
def _opened(job: BuildJob, out: Path, folder: Path, write: bool = True) -> Iterator[Pipeline]:
    """The pipeline of a job with its ledgers, which are closed at the end."""
    models = {WRITER: job.writer, GRADER: job.grader} | ({PROBE: job.probe} if job.probe else {})
    with ExitStack() as stack:
        askers: dict[str, Asker] = {}

        def spend() -> bool:
            money = sum(role["money"] for role in cost_of(askers).values())
            return job.limit.money is None or money < job.limit.money

        for role, model in models.items():
            ledger = Ledger(out / "ledger" / role, write)
            stack.callback(ledger.close)
            askers[role] = Asker(model, ledger, spend)
        sources = Sources(job.sources, job.audio_root, job.deny, job.on_bad == "quarantine")
        prompts = Prompts(job.prompts)
        yield Pipeline(sources, Stages(folder), askers, prompts, job.rules, job.exclude)


def _ask(pipeline: Pipeline, step: Step) -> None:
    """Completes what a stage asks, and says on stderr what it cost."""
    asker, wants = pipeline.askers[step.role], pipeline.wants(step)
    open_ = sum(1 for _ in asker.missing(wants()))
    if not open_:
        return
    with counter(f"{step.name}: asking the {step.role}", open_) as advance:
        asker.ask(wants, _at_most(advance, open_))
    money = sum(role["money"] for role in cost_of(pipeline.askers).values())
    told = f"{step.name}: {len(asker.ledger):,} answers of the {step.role}, {money:,.2f} in money so far"
    say(told, file=sys.stderr)


def _at_most(advance: Callable[[], None], count: int) -> Callable[[], None]:
    """Calls `advance` no more than so often: further attempts are no progress."""
    left = iter(range(count))

    def once() -> None:
        if next(left, None) is not None:
            advance()

    return once


def _finish(job: BuildJob, pipeline: Pipeline, out: Path) -> dict[str, Any]:
    """Writes questions, tables, hub folder, funnel and page; returns counts."""
    from ...reports.build_page import build_page

    stages, composition, licenses = pipeline.stages, Composition(), Counter[str]()
    examples: list[dict[str, Any]] = []

    def watched() -> Iterator[Placed]:
        path = stages.path(stages.last)
        for one in composition.counted(placed(path, stages.drafts(), job.rules.seed)):
            licenses[one.draft.item.license] += 1
            if len(examples) < job.examples:
                examples.append(_example(one.draft, one.choices, "kept", job))
            yield one

    hashes = pipeline.prompts.hashes()
    about = {"writer": job.writer.model, "grader": job.grader.model, "prompts": json.dumps(hashes)}
    splits = write_all(watched(), out, about, job.rules.closed_tags)
    last_probe = "probe again" if "probe again" in stages.done else PROBE
    funnel: dict[str, Any] = {
        "stages": funnel_of(stages),
        "composition": composition.record(),
        "canaries": pipeline.caught(),
        "probe": probe.summary(stages.drafts(last_probe), job.rules.falls_at) if last_probe in stages.done else {},
        "cost": cost_of(pipeline.askers),
        "prompts": hashes,
        "sources": read_json(stages.folder / "sources.json"),
    }
    write_text(out / "funnel.json", json.dumps(funnel, indent=1))
    write_card(out / "hub", funnel, splits, licenses)
    page = build_page(funnel, [*examples, *_dropped(stages, job)], out / "report.html")
    if not composition.count:
        say("no question is left; the report says which stage dropped them and why", file=sys.stderr)
    found = funnel["sources"]
    counts = {"items": funnel["stages"][0]["in"], "malformed": len(found["faults"]), "missing": found["missing"]}
    files = {"funnel": str(out / "funnel.json"), "report": str(page)}
    return {**{name: count for name, count in counts.items() if count}, "questions": composition.count, **files}


def _dropped(stages: Stages, job: BuildJob) -> Iterator[dict[str, Any]]:
    """Up to two examples for every reason for which a question was dropped."""
    for name in stages.done:
        shown: Counter[str] = Counter()
        for draft, reason in stages.dropped(name) if stages.path(name, dropped=True).is_file() else ():
            shown[reason] += 1
            if draft.question and shown[reason] <= 2:
                yield _example(draft, sorted(draft.options), f"{name}: {reason}", job)


def _example(draft: Draft, choices: list[str], why: str, job: BuildJob) -> dict[str, Any]:
    """A question for the page, with at most 15 s of its recording where it can be read."""
    item, sound = draft.item, ""
    path = Path(job.audio_root) / item.audio
    if item.audio and path.is_file():
        start = item.at[0] if item.cut and item.at else 0.0
        try:
            wave = whole(read_bytes(path, JSON_BYTES), str(path), Cut(start=start, max_s=15.0, too_long="first")).wave
            sound = f"data:audio/wav;base64,{base64.b64encode(wav_bytes(wave)).decode()}"
        except InputError:
            sound = ""  # packing says what is wrong with it
    about = {"question": draft.question, "choices": choices, "answer": draft.answer}
    return about | {"why": why, "key": f"{item.source}/{item.id}", "sound": sound}
