"""Knows the file of a labelling job: who votes, how each voter is asked, and what is made of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..configs.files import read_yaml, resolved
from ..curriculum.contribution.jury import parse_rule
from ..datamodules.batches.conditions import parse_condition
from ..datamodules.voting.tasks import NO_AUDIO, PromptingSpec, check_rates
from ..errors import InputError
from ..lightning_modules.voters.endpoint import Endpoint

_PROMPTING = tuple(f.name for f in fields(PromptingSpec))
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
    """One voter: behind an endpoint, loaded here, or with answers of before; and how it is asked."""

    name: str
    prompting: PromptingSpec
    endpoint: Endpoint | None = None
    local: LocalVoter | None = None
    answers: str | None = None
    price: dict[str, float] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What makes its answers comparable; never a key, which is no part of it."""
        how: dict[str, Any] = {"name": self.name, **asdict(self.prompting)}
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
    pool: dict[str, str | list[str]] = field(default_factory=dict)
    shards: str | None = None
    conditions: list[str] = field(default_factory=lambda: ["silence"])
    condition: str = "silence"
    rule: Any = "majority"
    allow_missing: bool = False
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
    spec = resolved(read_yaml(Path(path)), Path(path))
    voters = spec.pop("voters", None)
    if not isinstance(voters, list) or not voters:
        raise InputError(f"{path}: `voters` must be a list of voters")
    spec["voters"] = [_voter(voter, f"{path}: voters[{number}]") for number, voter in enumerate(voters)]
    if spec.get("judge") is not None:
        spec["judge"] = _made(Endpoint, spec["judge"], f"{path}: judge")
    return _made(LabelJob, spec, path)


def _voter(spec: Any, where: str) -> VoterSpec:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise InputError(f"{where}: a voter is a mapping with a `name`")
    spec = dict(spec)
    name = spec.pop("name")
    if not name or any(not (letter.isalnum() or letter in "-_.") for letter in name) or name == _JUDGEMENTS:
        raise InputError(f"{where}: the name {name!r} may hold letters, digits, - _ and ., and is not {_JUDGEMENTS}")
    where = f"{where} ({name})"
    kinds = [kind for kind in ("endpoint", "checkpoint", "answers") if kind in spec]
    if len(kinds) != 1:
        raise InputError(f"{where}: give one of endpoint, checkpoint, answers")
    prompting = _made(PromptingSpec, {k: spec.pop(k) for k in _PROMPTING if k in spec}, where)
    rates = spec.pop("price", {})
    if not _fits(rates, dict[str, float]):
        raise InputError(f"{where}: price must be a mapping of rates, got {rates!r:.80}")
    _naming(where, check_rates, rates)
    if kinds == ["checkpoint"]:
        local = _made(LocalVoter, spec, where)
        _refuse_equal_draws(prompting, local.temperature, where)
        return VoterSpec(name, prompting, local=local, price=rates)
    given = spec.pop(kinds[0])
    if spec:
        raise InputError(f"{where}: unknown key {min(map(str, spec))!r} beside {kinds[0]}")
    if kinds == ["answers"]:
        if not isinstance(given, str):
            raise InputError(f"{where}: answers must be the path of an answer table, got {given!r:.80}")
        return VoterSpec(name, prompting, answers=given)
    if prompting.scoring == "options":
        raise InputError(f"{where}: scoring: chat endpoints give no log-probs of whole options; score by letters")
    if prompting.scoring == "letters" and isinstance(given, Mapping):
        given = {**given, "letter_logprobs": True}
    endpoint = _made(Endpoint, given, f"{where}: endpoint")
    _refuse_equal_draws(prompting, endpoint.body.get("temperature", endpoint.temperature), where)
    return VoterSpec(name, prompting, endpoint=endpoint, price=rates)


def _refuse_equal_draws(prompting: PromptingSpec, temperature: Any, where: str) -> None:
    if prompting.draws > 1 and not temperature:
        raise InputError(f"{where}: draws is {prompting.draws}, but at temperature 0 all of them are the same answer")


def _made(kind: Any, spec: Any, where: str) -> Any:
    """The dataclass with these values, or an InputError that names the key that is unknown, missing or of no use."""
    if not isinstance(spec, Mapping):
        raise InputError(f"{where}: must be a mapping, got {spec!r:.80}")
    hints = get_type_hints(kind)
    unknown = sorted(map(str, set(spec) - set(hints)))
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(sorted(hints))}")
    for name, value in spec.items():
        if not _fits(value, hints[name]):
            raise InputError(f"{where}: {name} must be {_words(hints[name])}, got {value!r:.80}")
    try:
        return kind(**spec)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).rpartition('__init__() ')[2]}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a file is what a type says; a whole number is a float too, true and false are no numbers."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is list:
        return isinstance(value, list) and all(_fits(each, args[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _words(hint: Any) -> str:
    """A type as a file's writer knows it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is list:
        return f"a list of {_words(args[0])}"
    if origin is dict or hint in (dict, VoterSpec, Endpoint):
        return "a mapping"
    if args:
        return " or ".join(map(_words, args))
    known = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
    return known.get(hint, str(hint))


def _naming(name: str, act: Any, value: Any) -> Any:
    try:
        return act(value)
    except (InputError, TypeError) as error:
        raise InputError(f"{name}: {error}") from None
