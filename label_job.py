"""Knows the file of a labelling job: who votes, how each voter is asked, and what is made of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .curriculum.jury import parse_rule
from .datamodules.curriculum_file import read_yaml, resolved
from .datamodules.voting import Manner
from .errors import InputError
from .lightning_modules.voters.endpoint import Endpoint

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
        judge: a language model that says why weak questions need no audio, see `voters/judge.py`.
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
    judge: Endpoint | None = None


def load_job(path: str) -> LabelJob:
    """The job in a YAML file; an InputError names the key that is wrong."""
    spec = resolved(read_yaml(Path(path)), Path(path))
    voters = spec.pop("voters", None)
    if not isinstance(voters, list) or not voters:
        raise InputError(f"{path}: `voters` must be a list of voters")
    made = [_voter(voter, f"{path}: voters[{number}]") for number, voter in enumerate(voters)]
    if len({voter.name for voter in made}) < len(made):
        raise InputError(f"{path}: two voters have one name")
    judge = spec.pop("judge", None)
    spec["judge"] = None if judge is None else _made(Endpoint, judge, f"{path}: judge")
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
