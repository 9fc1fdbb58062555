"""The paths that a step reads and writes: what must be there before it starts, and what the steps before it leave."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_CORPUS = ("questions.jsonl", "planted.jsonl")
# The files that a function leaves in its folder `out`; others leave `out` itself.
_INSIDE = {
    "build_sounds": _CORPUS,
    "build_spoken_digits": _CORPUS,
    "shard": ("index.arrow",),
    "label_by_voters": ("labels.arrow", "jury.json", "report.html"),
    "ask_benchmarks": ("results.json", "report.html"),
    "score_table": ("table.json", "table.md", "report.html"),
}
_READ = (
    "source",
    "annotations",
    "audio_root",
    "index",
    "labels",
    "planted",
    "votes",
    "answers",
    "logs",
    "results",
    "train_index",
)
_JUST = {
    ".ExportPolicy": "folder",
    ".AnswerTable": "file",
    ".PassRateTable": "file",
}  # callbacks, and the argument that names what they write
_MODELS = ("processor_from", "checkpoint")
_OF_BENCHMARKS = ("file", "audio", "labels", "strong", "weak")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Read(NamedTuple):
    """A path that is read: the key it stands under, and whether it is a model, which may be on the hub."""

    key: str
    path: str
    model: bool


@dataclass
class Written:
    """The paths that the steps before a step write: `exact` ones, and anything `below` a folder."""

    exact: set[str] = field(default_factory=set)
    below: set[str] = field(default_factory=set)

    def has(self, path: str) -> bool:
        """Whether a step before writes the path."""
        whole = os.path.abspath(path)
        return whole in self.exact or any(whole == top or whole.startswith(f"{top}{os.sep}") for top in self.below)

    def begins(self, path: str) -> bool:
        """Whether the first folder of a relative path is one that is written into: then it is no hub id."""
        top = os.path.abspath(path.split("/", maxsplit=1)[0])
        return any(whole.startswith(f"{top}{os.sep}") for whole in self.exact | self.below)

    def add(self, other: Written) -> None:
        """Adds what another step writes."""
        self.exact |= other.exact
        self.below |= other.below

    def add_function(self, verb: str, given: Mapping[str, Any], ours: bool) -> None:
        """Adds what a function writes; given: its arguments.

        Of one that is not ours nothing is known: whatever stands below a text that it is given may be its work.
        """
        if not ours:
            self.below |= {os.path.abspath(text) for _, text in texts_in("", given)}
        elif verb == "build_index":
            self.exact.add(os.path.abspath(given.get("out") or Path(given["shards"]) / "index.arrow"))
        elif given.get("out"):
            self.exact |= {os.path.abspath(Path(given["out"]) / name) for name in ("", *_INSIDE.get(verb, ()))}

    def add_trainer(self, config: Mapping[str, Any]) -> None:
        """Adds what a trainer command writes: by its callbacks, its loggers and its data module.

        A callback's texts may be folders; of ExportPolicy and AnswerTable it is known that they write just one.
        """
        trainer = config.get("trainer") or {}
        for made in _objects(trainer.get("callbacks")):
            known = next((key for end, key in _JUST.items() if str(made["class_path"]).endswith(end)), None)
            given = {name: value for name, value in made.items() if name != "class_path"}
            if known is None:
                self.below |= {os.path.abspath(text) for _, text in texts_in("", given)}
            elif path := (given.get("init_args") or {}).get(known):
                self.exact.add(os.path.abspath(path))
        for made in _objects(trainer.get("logger")):
            given = made.get("init_args") or {}
            if given.get("save_dir"):
                self.below.add(os.path.abspath(Path(given["save_dir"]) / (given.get("name") or "lightning_logs")))
        data = (config.get("data") or {}).get("init_args") or {}
        for part, name in (("training", "record"), ("reading", "quarantine")):
            if (data.get(part) or {}).get(name):
                self.below.add(os.path.abspath(data[part][name]))


def missing_path(reads: Iterable[Read], written: Written | None = None) -> str | None:
    """A sentence about the first path that is read and not there, None where all are.

    written: by the steps before, in a recipe. Addresses (s3://...) and what may be on the hub are not looked up.
    """
    return next((sentence for _, sentence in missing_paths(reads, written)), None)


def missing_paths(reads: Iterable[Read], written: Written | None = None) -> Iterator[tuple[Read, str]]:
    """All paths that are read and not there, each with a sentence; see `missing_path`."""
    also = "" if written is None else ", and no step that is still to be done before writes it"
    written = written or Written()
    for read in reads:
        key, path, model = read
        if "://" in path or os.path.exists(path) or written.has(path):
            continue
        if model and _HUB_ID.fullmatch(path) and not written.begins(path):
            continue
        what = "neither a folder here nor a hub id like Qwen/Qwen2.5-Omni-7B" if model else "not there"
        yield read, f"{key}: {path} is {what}{also}"


def function_reads(given: Mapping[str, Any]) -> Iterator[Read]:
    """What a function of ours reads; given: its arguments."""
    for name in (*_READ, *_MODELS):
        for key, path in texts_in(name, given.get(name)):
            yield Read(key, path, name in _MODELS)
    for name, files in (given.get("benchmarks") or {}).items():
        for kind in _OF_BENCHMARKS if files is not None else ():
            if getattr(files, kind, None):
                yield Read(f"benchmarks.{name}.{kind}", getattr(files, kind), False)


def _objects(given: Any) -> list[Mapping[str, Any]]:
    listed = given if isinstance(given, list) else [given]
    return [one for one in listed if isinstance(one, Mapping) and "class_path" in one]


def texts_in(key: str, given: Any) -> Iterator[tuple[str, str]]:
    """(key, text) of all texts in a value, lists and mappings included."""
    if isinstance(given, str):
        yield key, given
    elif isinstance(given, Mapping):
        for name, value in given.items():
            yield from texts_in(f"{key}.{name}", value)
    elif isinstance(given, (list, tuple)):
        for number, value in enumerate(given):
            yield from texts_in(f"{key}[{number}]", value)
