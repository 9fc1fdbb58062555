"""The file of a labelling job: who votes, how each voter is asked, and what is made of the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...configs.files import read_yaml, resolved
from ...configs.typed import read, value_of
from ...curriculum.contribution.jury import parse_rule
from ...curriculum.contribution.verdicts import check_share
from ...curriculum.table import Table
from ...datamodules.batches.conditions import parse_condition
from ...datamodules.shards.reader import ShardReader
from ...datamodules.voting.tasks import NO_AUDIO, PromptingSpec, check_rates
from ...errors import InputError
from ...lightning_modules.voters.endpoint import Endpoint

_PROMPTING = tuple(f.name for f in fields(PromptingSpec))
_OF_ENDPOINT = ("model", "system", "temperature", "max_tokens", "body")  # what an answer depends on
_OF_LOCAL = ("checkpoint", "dtype", "system", "max_new_tokens", "temperature")
_JUDGEMENTS = "categories"  # names the judge's answers among the voters'


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

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_new_tokens", 1), ("num_workers", 0), ("temperature", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")


@dataclass
class VoterSpec:
    """One voter: behind an endpoint, loaded here, or with answers of before; and how it is asked.

    said: the fields of `prompting` that the job's file gives.
    """

    name: str
    prompting: PromptingSpec
    endpoint: Endpoint | None = None
    local: LocalVoter | None = None
    answers: str | None = None
    price: dict[str, float] = field(default_factory=dict)
    max_unreadable: float | None = None  # the job's where it is None
    said: frozenset[str] = frozenset()

    def described(self) -> dict[str, Any]:
        """What its answers depend on, as plain values; never an API key, and not how fast or where it is asked."""
        asked: dict[str, Any] = {"name": self.name, **asdict(self.prompting)}
        for settings, names in ((self.endpoint, _OF_ENDPOINT), (self.local, _OF_LOCAL)):
            if settings is not None:
                asked |= {name: getattr(settings, name) for name in names}
        return asked


class Questions(NamedTuple):
    """The questions of a job, opened once: the reader and the table of their index, and the rows [N] of the pool."""

    reader: ShardReader
    table: Table
    rows: np.ndarray


@dataclass
class LabelJob:
    """What is labelled, by whom.

    Args:
        index: the questions. out: folder of the answers, labels.arrow, jury.json and report.html.
        voters: see `VoterSpec`. pool: text columns -> values, the questions that are asked; all by default.
        shards: where the shards lie, if not where the index says.
        conditions: what is heard; `condition` is the one without the audio that makes the label.
        max_unreadable: share of a voter's answers, of 20 at least, that may be unfinished or unreadable; beyond it the
            job stops. A voter may have its own.
        rule: see `Rule`. allow_missing: leave questions without enough votes unlabelled instead of refusing.
        seed: of noise, mismatches and draws. bootstrap: resamplings of an interval. title: of the report.
        judge: a language model that says why weak questions need no audio, see `voters/judge.py`.
    """

    index: str
    out: str
    voters: list[VoterSpec]
    pool: dict[str, str | list[str]] = field(default_factory=dict)
    shards: str | None = None
    conditions: list[str] = field(default_factory=lambda: ["silence"])
    condition: str = "silence"
    rule: Any = "majority"
    allow_missing: bool = False
    max_unreadable: float = 0.2
    seed: int = 0
    bootstrap: int = 10_000
    title: str = "Audio contribution"
    judge: Endpoint | None = None

    def __post_init__(self) -> None:
        for name in self.conditions:
            if name != NO_AUDIO:
                _naming("conditions", parse_condition, name)
        if len(set(self.conditions)) < len(self.conditions):
            raise InputError(f"conditions: one is named twice in {self.conditions}")
        if self.condition not in self.conditions or self.condition == "audio":
            raise InputError(
                f"condition {self.condition!r} must be one without the audio, among the conditions {self.conditions}"
            )
        check_share(self.max_unreadable)
        if self.bootstrap < 1:
            raise InputError(f"bootstrap must be 1 or more, got {self.bootstrap}")
        rule = _naming("rule", parse_rule, self.rule)
        if rule.at_least is not None and rule.at_least > len(self.voters):
            raise InputError(f"rule: at_least is {rule.at_least}, there are {len(self.voters)} voters")
        names = [voter.name for voter in self.voters]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"voters: two have the name {name!r}")


def load_job(path: str) -> LabelJob:
    """The job in a YAML file; an InputError names the key that is wrong."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return job_of(resolved(read_yaml(Path(path)), Path(path)), f"{path}: ")


def job_of(spec: Mapping[str, Any], where: str) -> LabelJob:
    """The job in a mapping; an InputError begins with `where` and names the key that is wrong."""
    voters = spec.get("voters")
    if not isinstance(voters, list) or not voters:
        raise InputError(f"{where}`voters` must be a list of voters")
    made = [_voter(voter, f"{where}voters[{number}]") for number, voter in enumerate(voters)]
    return read(LabelJob, {**spec, "voters": made}, where)


def _voter(spec: Any, where: str) -> VoterSpec:
    """One entry of `voters`: what it is asked with stands beside `endpoint`, `checkpoint` or `answers`."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise InputError(f"{where}: a voter is a mapping with a `name`")
    spec = dict(spec)
    name = spec.pop("name")
    if not name or any(not (letter.isalnum() or letter in "-_.") for letter in name) or name == _JUDGEMENTS:
        raise InputError(f"{where}: the name {name!r} may hold letters, digits, - _ and ., and is not {_JUDGEMENTS}")
    where = f"{where} ({name}): "
    kinds = [kind for kind in ("endpoint", "checkpoint", "answers") if kind in spec]
    if len(kinds) != 1:
        raise InputError(f"{where}give one of endpoint, checkpoint, answers")
    given_prompting = {k: spec.pop(k) for k in _PROMPTING if k in spec}
    prompting, said = read(PromptingSpec, given_prompting, where), frozenset(given_prompting)
    rates = value_of(spec.pop("price", {}), dict[str, float], f"{where}price")
    _naming(where.removesuffix(": "), check_rates, rates)
    most = value_of(spec.pop("max_unreadable", None), float | None, f"{where}max_unreadable")
    if most is not None:
        _naming(where.removesuffix(": "), check_share, most)
    if kinds == ["checkpoint"]:
        local = read(LocalVoter, spec, where)
        _refuse_equal_draws(prompting, local.temperature, where)
        return VoterSpec(name, prompting, local=local, price=rates, max_unreadable=most, said=said)
    given = spec.pop(kinds[0])
    if spec:
        raise InputError(f"{where}unknown key {min(map(str, spec))!r} beside {kinds[0]}")
    if kinds == ["answers"]:
        if not isinstance(given, str):
            raise InputError(f"{where}answers must be the path of an answer table, got {given!r:.80}")
        return VoterSpec(name, prompting, answers=given, price=rates, max_unreadable=most)
    if prompting.scoring == "options":
        raise InputError(f"{where}scoring: chat endpoints give no log-probs of whole options; score by letters")
    if prompting.scoring == "letters" and isinstance(given, Mapping):
        given = {**given, "letter_logprobs": True}
    endpoint = read(Endpoint, given, f"{where}endpoint")
    _refuse_equal_draws(prompting, endpoint.body.get("temperature", endpoint.temperature), where)
    return VoterSpec(name, prompting, endpoint=endpoint, price=rates, max_unreadable=most, said=said)


def _refuse_equal_draws(prompting: PromptingSpec, temperature: Any, where: str) -> None:
    if prompting.draws > 1 and not temperature:
        raise InputError(f"{where}draws is {prompting.draws}, but at temperature 0 all of them are the same answer")


def _naming(name: str, act: Callable[[Any], Any], value: Any) -> Any:
    """What `act` makes of the value; what it refuses is an InputError that begins with the name."""
    try:
        return act(value)
    except (InputError, TypeError) as error:
        raise InputError(f"{name}: {error}") from None
