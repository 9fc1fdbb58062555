"""The file of a building job: sources, models, prompts, rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...configs.files import read_yaml, resolved
from ...configs.prompt_files import check_names
from ...configs.typed import read
from ...datamodules.asking.runner import Model
from ...datamodules.building.asking import Prompts
from ...datamodules.building.pipeline import Rules
from ...datamodules.building.reading import SourceSpec
from ...errors import InputError


@dataclass
class Probe(Model):
    """The model of the text-only probe: greedy, 16 tokens, by the letters' log-probs where `letter_logprobs` is set."""

    temperature: float = 0.0
    attempts: int = 2


@dataclass
class Limit:
    """Where a job stops: money of all runs together, null for none."""

    money: float | None = None


@dataclass
class BuildJob:
    """What is built, from what, by whom.

    Args:
        out: folder of everything that is written; a ledger lies in it for each model.
        sources: see `SourceSpec`. audio_root: folder that holds their recordings; paths in the output are below it.
        writer, grader: see `Model`. The grader is asked anew, and best is another model.
        probe: a model that is asked the text alone, null for none.
        prompts: name -> a file in the place of one of `configs/prompts/`.
        rules: see `Rules`. deny: words of licences that are not wanted, like nc.
        exclude: files of origins, one a line, that benchmarks use.
        on_bad: "stop" at a malformed record, or "quarantine": leave it out and list it.
        limit: see `Limit`. examples: shown on the page for kept questions, and at most two for every reason.
    """

    out: str
    audio_root: str
    sources: list[SourceSpec]
    writer: Model
    grader: Model
    probe: Probe | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    deny: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    on_bad: Literal["stop", "quarantine"] = "stop"
    limit: Limit = field(default_factory=Limit)
    examples: int = 12

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("sources: name at least one")
        check_names(self.prompts)
        Prompts(self.prompts)
        if not Path(self.audio_root).is_dir():
            raise InputError(f"audio_root: {self.audio_root}: no such folder")
        if self.limit.money is not None and self.limit.money < 0:
            raise InputError(f"limit: money must not be negative, got {self.limit.money}")
        for model in [self.writer, self.grader, *([self.probe] if self.probe else [])]:
            if self.limit.money is not None and not model.price:
                raise InputError(f"limit: money needs the price of {model.model}; give it (0 for what costs nothing)")


def load_build(path: str) -> BuildJob:
    """The job in a YAML file; an InputError names the key that is wrong."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    spec = resolved(read_yaml(Path(path)), Path(path))
    sources = spec.pop("sources", None)
    if not isinstance(sources, list):
        raise InputError(f"{path}: `sources` must be a list of sources")
    parts: dict[str, Any] = {
        "sources": [read(SourceSpec, source, f"{path}: sources[{n}]") for n, source in enumerate(sources)]
    }
    kinds = {"writer": Model, "grader": Model, "probe": Probe, "rules": Rules, "limit": Limit}
    for name, kind in kinds.items():
        if spec.get(name) is not None:
            parts[name] = read(kind, _mapping(spec.pop(name), f"{path}: {name}"), f"{path}: {name}")
    return read(BuildJob, spec | parts, f"{path}: ")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be a mapping, got {value!r:.80}")
    return value
