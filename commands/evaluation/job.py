"""What an evaluation asks: a model, benchmarks, conditions and orders of the options, from a command line or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...boundary.files import read_json
from ...configs.files import read_yaml, resolved
from ...configs.overrides import overridden
from ...configs.typed import read
from ...datamodules.batches.conditions import parse_condition
from ...datamodules.benchmarks.benchmark import Benchmark, benchmark_named
from ...datamodules.benchmarks.known import BENCHMARKS
from ...datamodules.questions.answers import rule_named
from ...datamodules.questions.prompts import shows_letters
from ...datamodules.storage.address import redacted
from ...datamodules.voting.tasks import NO_AUDIO, PromptingSpec
from ...errors import InputError
from ...lightning_modules.voters.endpoint import Endpoint

_REASONING_TOKENS, _TOKENS = 1_024, 64
JOB = "job.json"


@dataclass
class BenchmarkSpec:
    """One benchmark of an evaluation.

    Args:
        file: its questions, or an index.arrow. audio: folder its recordings are relative to; default the file's own.
        benchmark: its kind, where the name does not say it. labels: label table of `earwitness label`.
        split: of an index, asks only its questions: train, val or test; all by default.
        strong, weak: files of ids (or keys), one a line, of questions that need the audio, or do not.
    """

    file: str
    audio: str | None = None
    benchmark: str | None = None
    labels: str | None = None
    split: str | None = None
    strong: str | None = None
    weak: str | None = None


@dataclass
class EvaluationJob:
    """An evaluation.

    Args:
        checkpoint: folder, hub id, folder of adapters, run, or the address of an OpenAI-compatible server (http://...).
        benchmarks: name -> `BenchmarkSpec`. to: folder of the results.
        model: its name on a server. key_env, concurrency, body: as of `Endpoint`; body may hold its other arguments.
        conditions: what is heard; none asks without any recording. rotations: orders of the options, or "all".
        reasoning: ask for the thinking first (style think). style: of the prompt. rule: a further one to judge by;
            contributions are then measured with; default strict, or letter where the prompt shows letters.
        max_new_tokens: default 64, 1,024 with reasoning.
        temperature, system, dtype, attention, seed: as of `OmniVoter`.
        batch_size: asks at a time and device. device: auto, cpu or cuda. workers: processes that pack recordings.
        cache: where packed recordings are kept. train_index: indexes to look for the benchmarks' questions in.
        title: of the page.
    """

    checkpoint: str
    benchmarks: dict[str, BenchmarkSpec]
    to: str
    model: str | None = None
    key_env: str | None = None
    concurrency: int = 16
    body: dict[str, Any] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=lambda: ["audio", "silence"])
    rotations: int | Literal["all"] = 1
    reasoning: bool = False
    style: str | None = None
    rule: str | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    system: str | None = None
    dtype: str = "auto"
    attention: str = "sdpa"
    seed: int = 0
    batch_size: int = 16
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 1
    cache: str | None = None
    train_index: list[str] = field(default_factory=list)
    title: str = ""

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise InputError("benchmarks: give one, --benchmark mmau=FILE[:AUDIO_ROOT]")
        for name, spec in self.benchmarks.items():
            if not name or any(not (sign.isalnum() or sign in "-_.") for sign in name):
                raise InputError(f"benchmarks: the name {name!r} may hold letters, digits, - _ and .")
            benchmark_named(spec.benchmark or name, BENCHMARKS)
            for kind in ("labels", "strong", "weak"):
                _refuse_missing(f"{kind} of {name}", getattr(spec, kind))
        for path in self.train_index:
            _refuse_missing("train_index", path)
        for condition in self.conditions:
            if condition != NO_AUDIO:
                parse_condition(condition)
        if not self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise InputError(f"conditions: name at least one, and none twice; got {self.conditions}")
        if self.rule is not None and self.rule != "strict":
            rule_named(self.rule)
        if self.reasoning and self.style not in (None, "think"):
            raise InputError(f"reasoning: asks in style think; style is {self.style!r}, give one of the two")
        for name, least in (("batch_size", 1), ("concurrency", 1), ("workers", 1), ("temperature", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens}")
        self.prompting()  # refuses what makes no sense
        if self.served and not self.model:
            raise InputError(f"{self.checkpoint}: a server needs the name of its model, --model NAME")

    @property
    def served(self) -> bool:
        """Whether the model stands behind a server."""
        return self.checkpoint.startswith(("http://", "https://"))

    @property
    def prompt_style(self) -> str:
        """The style of the prompts."""
        return self.style or ("think" if self.reasoning else "paper")

    @property
    def tokens(self) -> int:
        """The greatest length of an answer."""
        return self.max_new_tokens or (_REASONING_TOKENS if self.reasoning else _TOKENS)

    @property
    def main_rule(self) -> str:
        """The rule that contributions, groups and orders are measured with."""
        return self.rule or ("letter" if shows_letters(self.prompt_style) else "strict")

    def prompting(self) -> PromptingSpec:
        """How questions are put; in all orders, as `EvaluationTasks` wants it. InputError for what makes no sense."""
        if self.rotations != "all" and (not isinstance(self.rotations, int) or self.rotations < 1):
            raise InputError(f"rotations is a number from 1 on or 'all', got {self.rotations!r}")
        return PromptingSpec(self.prompt_style, "letter" if shows_letters(self.prompt_style) else "exact")

    def endpoint(self) -> Endpoint:
        """The server that is asked."""
        known = ("retries", "timeout_s", "patience_s", "give_up")
        more = {name: self.body[name] for name in known if name in self.body}
        body = {name: value for name, value in self.body.items() if name not in known}
        assert self.model is not None
        settings: dict[str, Any] = {"key_env": self.key_env, "system": self.system, "temperature": self.temperature}
        settings |= {"max_tokens": self.tokens, "concurrency": self.concurrency, "body": body}
        return Endpoint(self.checkpoint, self.model, **settings, **more)

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark behind a name of the job."""
        return benchmark_named(self.benchmarks[name].benchmark or name, BENCHMARKS)

    def record(self) -> dict[str, Any]:
        """The job as JSON, without a password in a server's address; `job_of` reads it back."""
        return asdict(self) | {"checkpoint": redacted(self.checkpoint) if self.served else self.checkpoint}


def job_of(spec: Mapping[str, Any], where: str) -> EvaluationJob:
    """The job in a mapping; a benchmark may be the text FILE[:AUDIO_ROOT]. InputError names the key that is wrong."""
    spec = dict(spec)
    given = spec.get("benchmarks")
    if isinstance(given, Mapping):
        spec["benchmarks"] = {
            name: split_files(value) if isinstance(value, str) else value for name, value in given.items()
        }
    conditions = spec.get("conditions")
    if isinstance(conditions, str):
        spec["conditions"] = [one.strip() for one in conditions.split(",")]
    spec.setdefault("to", f"runs/evaluation/{_slug(str(spec.get('model') or spec.get('checkpoint', '')))}")
    return read(EvaluationJob, spec, where)


def split_files(text: str) -> dict[str, Any]:
    """FILE[:AUDIO_ROOT] as a mapping; a file whose own name has a colon is taken as it is."""
    file, colon, audio = text.rpartition(":")
    if colon and not Path(text).exists() and file and audio:
        return {"file": file, "audio": audio}
    return {"file": text}


def named_benchmarks(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """NAME=FILE[:AUDIO_ROOT] words as the benchmarks of a job; one kind named twice goes by its files' names too.

    InputError for a word of another form.
    """
    pairs = []
    for word in words:
        name, equals, files = word.partition("=")
        if not equals or not name or not files:
            raise InputError(f"--benchmark {word!r} is not of the form NAME=FILE[:AUDIO_ROOT]")
        pairs.append((name, split_files(files)))
    kinds = [name for name, _ in pairs]
    found: dict[str, dict[str, Any]] = {}
    for kind, spec in pairs:
        own = _slug(Path(spec["file"]).stem) if kinds.count(kind) > 1 else ""
        name = "-".join(part for part in (kind.rpartition(".")[2].lower() if "." in kind else kind, own) if part)
        if name in found:
            raise InputError(f"--benchmark {kind}={spec['file']}: another one of that name; name them in a YAML file")
        found[name] = {**spec, "benchmark": kind}
    return found


def load_evaluation(path: str, words: Sequence[str], options: Mapping[str, Any]) -> EvaluationJob:
    """The job of a YAML file with values changed: by words key=value, then by a command line's options.

    A folder of results is a job that was asked already. InputError names the key that is wrong.
    """
    held = Path(path).is_dir()
    spec = dict(read_json(Path(path) / JOB)) if held else resolved(read_yaml(Path(path)), Path(path))
    return job_of(overridden(spec, words) | dict(options), f"{path}: ")


def _refuse_missing(what: str, path: str | None) -> None:
    """InputError for a file that is named and not there: before the first question is asked, not behind the last."""
    if path is not None and not Path(path).is_file():
        raise InputError(f"{what}: {path}: no such file")


def _slug(text: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in text.rstrip("/")).strip("-.")[-80:]
