"""Knows `earwitness label FILE.yaml`: asks every voter what it was not asked yet, then labels, statistics and a report.

A file of this kind:
    index: data/shards/index.arrow
    out: runs/labels
    conditions: [audio, silence]
    rule: majority
    voters:
      - name: kimi
        endpoint: {url: "http://host:8000/v1", model: moonshotai/Kimi-Audio-7B-Instruct}
        style: letters
        rule: letter
      - {name: r1-aqa, checkpoint: mispeech/r1-aqa, scoring: generate}
      - {name: omni, checkpoint: Qwen/Qwen2.5-Omni-7B, scoring: options, rotations: all}
      - {name: earlier, answers: runs/votes/earlier.arrow}
Answers are kept one by one, so an interrupted job goes on where it stopped and asks nothing twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .curriculum.identity import hash64
from .curriculum.jury import parse_rule
from .curriculum.jury_report import describe_jury
from .curriculum.labels import label, read_about
from .curriculum.table import read_table
from .curriculum.votes import read_tallies
from .datamodules.answer_store import AnswerStore
from .datamodules.curriculum_file import read_yaml, resolved
from .datamodules.reader import ShardReader
from .datamodules.storage import Reading
from .datamodules.voting import Ask, Ballot, Manner, Reply, Task, price
from .errors import InputError
from .lightning_modules.voters.endpoint import Endpoint
from .progress import counter

_MANNER = tuple(f.name for f in fields(Manner))


@dataclass
class LocalVoter:
    """A voter that is loaded here.

    Args:
        checkpoint: folder or hub id of a Qwen2.5-Omni, Qwen2-Audio or Audio Flamingo 3.
        dtype, attention, system, max_new_tokens, temperature: as of `OmniVoter`.
        batch_size: asks at a time and device. num_workers: loader processes.
        devices, num_nodes, strategy, accelerator: as of Lightning's trainer.
    """

    checkpoint: str
    dtype: str = "auto"
    attention: str = "sdpa"
    system: str | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    batch_size: int = 16
    num_workers: int = 0
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"


@dataclass
class VoterSpec:
    """One voter: behind an endpoint, loaded here, or with answers of before; and how it is asked."""

    name: str
    manner: Manner
    endpoint: Endpoint | None = None
    local: LocalVoter | None = None
    answers: str | None = None
    price: dict[str, float] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What makes its answers comparable; never a key, which is no part of it."""
        how: dict[str, Any] = {"name": self.name, **asdict(self.manner)}
        if self.endpoint is not None:
            asked = asdict(self.endpoint)
            how |= {name: asked[name] for name in ("model", "system", "temperature", "max_tokens", "body")}
        if self.local is not None:
            asked = asdict(self.local)
            how |= {name: asked[name] for name in ("checkpoint", "dtype", "system", "max_new_tokens", "temperature")}
        return how


@dataclass
class LabelJob:
    """What is labelled, by whom.

    Args:
        index: the questions. out: folder of the answers, labels.arrow, jury.json and report.html.
        voters: see `VoterSpec`. pool: text columns -> values, the questions that are asked; all by default.
        shards: where the shards lie, if not where the index says.
        conditions: what is heard; `condition` is the one without the audio that makes the label.
        rule: see `Rule`. allow_missing: leave questions without enough votes unlabelled instead of refusing.
        seed: of noise, mismatches and draws. bootstrap: resamplings of an interval. title: of the report.
    """

    index: str
    out: str
    voters: list[VoterSpec]
    pool: dict[str, Any] = field(default_factory=dict)
    shards: str | None = None
    conditions: list[str] = field(default_factory=lambda: ["silence"])
    condition: str = "silence"
    rule: Any = "majority"
    allow_missing: bool = False
    seed: int = 0
    bootstrap: int = 10_000
    title: str = "Audio contribution"


def load_job(path: str) -> LabelJob:
    """The job in a YAML file; an InputError names the key that is wrong."""
    spec = resolved(read_yaml(Path(path)), Path(path))
    voters = spec.pop("voters", None)
    if not isinstance(voters, list) or not voters:
        raise InputError(f"{path}: `voters` must be a list of voters")
    made = [_voter(voter, f"{path}: voters[{number}]") for number, voter in enumerate(voters)]
    if len({voter.name for voter in made}) < len(made):
        raise InputError(f"{path}: two voters have one name")
    job = _made(LabelJob, spec | {"voters": made}, path)
    if job.condition not in job.conditions:
        raise InputError(f"{path}: condition {job.condition!r} must be among the conditions {job.conditions}")
    parse_rule(job.rule)
    return job


def _voter(spec: Any, where: str) -> VoterSpec:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise InputError(f"{where}: a voter is a mapping with a `name`")
    spec = dict(spec)
    name = spec.pop("name")
    if not name or any(not (letter.isalnum() or letter in "-_.") for letter in name):
        raise InputError(f"{where}: the name {name!r} may hold letters, digits, - _ and .")
    kinds = [kind for kind in ("endpoint", "checkpoint", "answers") if kind in spec]
    if len(kinds) != 1:
        raise InputError(f"{where} ({name}): give one of endpoint, checkpoint, answers")
    manner = _made(Manner, {k: spec.pop(k) for k in _MANNER if k in spec}, where)
    rates = spec.pop("price", {})
    if kinds == ["answers"]:
        answers = spec.pop("answers")
        if spec:
            raise InputError(f"{where} ({name}): {sorted(spec)[0]!r} means nothing beside answers")
        return VoterSpec(name, manner, answers=answers)
    if kinds == ["endpoint"]:
        endpoint = spec.pop("endpoint")
        if spec:
            raise InputError(f"{where} ({name}): unknown key {sorted(spec)[0]!r}")
        asked = dict(endpoint) | ({"letter_logprobs": True} if manner.scoring == "letters" else {})
        if manner.scoring == "options":
            raise InputError(f"{where} ({name}): chat endpoints give no log-probs of whole options; score by letters")
        return VoterSpec(name, manner, endpoint=_made(Endpoint, asked, where), price=rates)
    return VoterSpec(name, manner, local=_made(LocalVoter, spec, where), price=rates)


def _made(kind: Any, spec: Mapping[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(spec) - known)
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}")
    try:
        return kind(**spec)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).rpartition('__init__() ')[2]}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def run_job(job: LabelJob, dry_run: bool = False) -> dict[str, Any]:
    """Asks, labels and reports; with dry_run only tells what asking would take."""
    table = read_table(job.index)
    rows = table.where(job.pool).tolist()
    if not rows:
        raise InputError(f"no question in the pool {job.pool}")
    reader = ShardReader(job.index, Reading(shards=job.shards))
    folder = Path(job.out)
    answers: dict[str, str] = {}
    totals: dict[str, Any] = {}
    for voter in job.voters:
        if voter.answers is not None:
            answers[voter.name] = voter.answers
            continue
        ballot = Ballot(reader, voter.manner, job.seed)
        store = AnswerStore(folder / "answers" / f"{voter.name}.arrow")
        tasks = ballot.tasks(rows, job.conditions)
        todo = _todo(store, tasks, voter, reader.content())
        if dry_run:
            print(f"{voter.name}: {_priced(price(ballot, todo, voter.price), len(tasks) - len(todo))}")
            continue
        totals[voter.name] = _ask(voter, ballot, store, todo, len(tasks))
        answers[voter.name] = str(store.file)
    if dry_run or _rank():
        return {}
    return totals_line(totals) | finish_job(job, answers)


def _priced(found: Mapping[str, Any], done: int) -> str:
    text = f"{found['requests']:,} requests, {found['audio_minutes']:,} minutes of audio, "
    text += f"about {found['input_tokens']:,} input tokens"
    if "cost" in found:
        text += f", about {found['cost']:,} in money"
    return text + (f" ({done:,} are answered already)" if done else "")


def _todo(store: AnswerStore, tasks: Sequence[Task], voter: VoterSpec, content: str) -> list[Task]:
    """The tasks without an answer; answers that were given to other words or recordings are refused, not mixed in."""
    how = store.folder / "asked.json"
    described = json.loads(json.dumps(voter.described() | {"content": content}))
    if how.is_file():
        before = json.loads(how.read_text())
        changed = sorted(k for k in {*before, *described} if before.get(k) != described.get(k))
        if changed:
            key = changed[0]
            raise InputError(
                f"{store.folder}: {voter.name} was asked with {key} {before.get(key)!r}, now it is "
                f"{described.get(key)!r}; remove the folder to ask anew, or give the voter another name"
            )
    else:
        store.folder.mkdir(parents=True, exist_ok=True)
        how.write_text(json.dumps(described, indent=1))
    missing = set(store.missing([task.id for task in tasks]))
    return [task for task in tasks if task.id in missing]


def _ask(voter: VoterSpec, ballot: Ballot, store: AnswerStore, todo: list[Task], total: int) -> dict[str, Any]:
    found = {"asked": len(todo), "failed": 0, "input_tokens": 0, "output_tokens": 0}
    if voter.endpoint is not None and todo and not _rank():
        failures: list[dict[str, Any]] = []
        with counter(f"asking {voter.name}", total, total - len(todo)) as advance:

            def take(ask: Ask, reply: Reply) -> None:
                if reply.error:
                    failures.append({**ask.task.id._asdict(), "error": reply.error})
                else:
                    store.append([ballot.record(ask, reply)])
                found["input_tokens"] += reply.prompt_tokens
                found["output_tokens"] += reply.completion_tokens
                advance()

            voter.endpoint.ask_all(map(ballot.ask, todo), take)
        _tell_failures(store.file.with_suffix(".failed.jsonl"), failures)
        found["failed"] = len(failures)
    elif voter.local is not None and todo:
        _ask_local(voter, voter.local, ballot, store, todo)
    if not _rank():
        store.finish()
    return found


def _rank() -> int:
    """This process's number where a launcher started several: only the first talks to servers and writes tables."""
    return next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0)


def _tell_failures(path: Path, failures: Iterable[Mapping[str, Any]]) -> None:
    lines = "".join(json.dumps(failure) + "\n" for failure in failures)
    if lines:
        path.write_text(lines)
    else:
        path.unlink(missing_ok=True)


def _ask_local(voter: VoterSpec, local: LocalVoter, ballot: Ballot, store: AnswerStore, todo: list[Task]) -> None:
    """Under Lightning's predict: each rank answers every world-th batch."""
    import lightning as L
    import transformers
    from torch.utils.data import DataLoader

    from .lightning_modules.voters.local import ChatVoter, OmniVoter, VoterModule, check_manner

    check_manner(voter.manner)
    kind = transformers.AutoConfig.from_pretrained(local.checkpoint).model_type
    made = OmniVoter if kind.startswith("qwen2_5_omni") else ChatVoter
    model = made(
        local.checkpoint,
        voter.manner.scoring,
        voter.manner.style,
        local.dtype,
        local.attention,
        local.system,
        local.max_new_tokens,
        local.temperature,
        hash64(voter.name, ballot.seed),
    )
    trainer = L.Trainer(
        accelerator=local.accelerator,
        devices=local.devices,
        num_nodes=local.num_nodes,
        strategy=local.strategy,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    tasks: Any = todo  # the trainer deals them to its ranks, none twice
    loader = DataLoader(tasks, batch_size=local.batch_size, collate_fn=_Made(ballot), num_workers=local.num_workers)
    trainer.predict(VoterModule(model, ballot, store), loader, return_predictions=False)
    trainer.strategy.barrier("votes")


class _Made:
    """Makes a batch of tasks ready in a loader process."""

    def __init__(self, ballot: Ballot) -> None:
        self.ballot = ballot

    def __call__(self, tasks: list[Task]) -> list[Ask]:
        return [self.ballot.ask(task) for task in tasks]


def finish_job(job: LabelJob, answers: Mapping[str, str]) -> dict[str, Any]:
    """Labels, statistics and report from the voters' answer tables."""
    folder = Path(job.out)
    about = {
        "conditions": job.conditions,
        "asked": [voter.described() for voter in job.voters],
        "seed": job.seed,
    }
    labels = folder / "labels.arrow"
    counts = label(dict(answers), str(labels), None, job.index, job.rule, job.condition, job.allow_missing, about)
    table = read_table(job.index)
    table = table.take(table.where(job.pool))
    tallies = {name: read_tallies(path) for name, path in answers.items()}
    found = describe_jury(tallies, table, parse_rule(job.rule), job.condition, job.bootstrap)
    found |= {"title": job.title, "about": read_about(labels), "index": job.index}
    (folder / "jury.json").write_text(json.dumps(found, indent=1, default=str))
    from .jury_page import build_jury_page

    page = build_jury_page(found, job, answers, folder / "report.html")
    return counts | {"labels": str(labels), "report": str(page)}


def totals_line(totals: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What was asked in this run, over all voters."""
    return {key: sum(found[key] for found in totals.values()) for key in ("asked", "failed")} if totals else {}
