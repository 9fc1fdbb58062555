"""A step of a recipe: what its verb is, what it reads and writes, and running it in this process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ...boundary.environment import hidden_in
from ...boundary.files import write_text
from ...boundary.words import is_name, say
from ...configs.files import curriculum_files, is_resolved_anew, read_curriculum
from ...configs.plugins import function_named
from ...configs.typed import arguments, mapping, value_of
from ...errors import InputError
from ..checks.paths import Read, Written, function_reads, missing_paths, texts_in
from ..checks.trainer import checked_curriculum, trainer_reads
from ..processes.forwarding import forwarded
from .modules import modules_named
from .records import digest
from .verbs import FUNCTIONS, TRAINER_VERBS

# What a step says of itself, beside its verb's arguments: their types, in words and for the reader.
DECLARED = {"after": list[str], "inputs": list[str], "outputs": list[str], "devices": int}


@dataclass
class Places:
    """Where a step reads and writes, as its configuration says it.

    reads: files and folders whose content counts. needs: those of which only the step that writes them counts.
    """

    reads: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    writes: Written = field(default_factory=Written)


class Step:
    """One step: its name and its own keys are right once it is made; its verb's arguments when `given` is read.

    verb: of `do`. spec: the verb's arguments as written. after, inputs, outputs: what it declares, None where it does
    not. config: hash of all that is written in the step.
    """

    def __init__(self, name: str, spec: Any, out: Path, origin: str) -> None:
        spec = mapping(spec, f"{origin}: step {name!r}")
        if not is_name(name) or name.startswith("."):
            raise InputError(f"{origin}: a step's name is letters, digits, - _ and ., got {name!r:.80}")
        self.name, self.where, self.folder = name, f"{origin}: step {name!r}: ", out / name
        self.text = dict(spec)
        self.config = digest(self.text)
        self.verb = spec.pop("do", None)
        if not isinstance(self.verb, str):
            raise InputError(f"{self.where}`do` must name a verb, got {self.verb!r}")
        self.trains, self.ours = self.verb in TRAINER_VERBS, self.verb in FUNCTIONS
        declared = {key: spec.pop(key) for key in DECLARED if key in spec}
        if declared and not self.trains:  # a function may have arguments of these names
            taken = _names(self.function)
            self.spec = spec | {key: value for key, value in declared.items() if key in taken}
        else:
            self.spec = spec
        self._declare(declared, set(self.spec))

    def _declare(self, declared: Mapping[str, Any], arguments_too: set[str]) -> None:
        """Takes what the step says of itself; InputError for a value that is none, unless it is also an argument."""
        found: dict[str, Any] = {}
        for key, value in declared.items():
            listed = [value] if key != "devices" and isinstance(value, str) else value
            try:
                found[key] = value_of(listed, DECLARED[key], self.where + key)
            except InputError:
                if key not in arguments_too:
                    raise
                if key in ("inputs", "outputs"):
                    found[key] = [text for _, text in texts_in(key, value)]
        self.after: list[str] | None = found.get("after")
        self.inputs: list[str] | None = found.get("inputs")
        self.outputs: list[str] | None = found.get("outputs")
        self._devices: int | None = found.get("devices")

    @property
    def open(self) -> bool:
        """Whether nothing says what it depends on: a function of a lab's that declares neither files nor steps."""
        return not self.trains and not self.ours and self.inputs is None and self.after is None

    @property
    def devices(self) -> int:
        """How many GPUs it takes where there are some; -1 for all."""
        if self._devices is not None or not self.trains:
            return self._devices or 0
        trainer = self.spec.get("trainer") or {}
        given = trainer.get("devices", 1)
        if str(trainer.get("accelerator", "auto")) == "cpu":
            return 0
        return int(given) if str(given).isdigit() and int(trainer.get("num_nodes") or 1) == 1 else -1

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function of a verb that is none of the trainer's."""
        found = function_named(self.verb, FUNCTIONS | dict.fromkeys(TRAINER_VERBS, ""), f"{self.where}do")
        return found if callable(found) else getattr(import_module(found), self.verb)

    @cached_property
    def given(self) -> dict[str, Any]:
        """The arguments, checked; for a trainer verb the whole configuration, defaults included. Raises InputError."""
        return self._checked_trainer() if self.trains else self._checked_function()

    def _checked_function(self) -> dict[str, Any]:
        given = arguments(self.function, _present_spelling(self.verb, self.spec), self.where)
        if self.verb == "evaluate" and given.get("curriculum") is not None:
            checked_curriculum(given["curriculum"], f"{self.where}curriculum")
        if self.verb in ("label_by_voters", "ask_benchmarks"):
            from .jobs import check_job

            check_job(self.verb, given, self.where)
        return given

    def _checked_trainer(self) -> dict[str, Any]:
        from ..training.trainer import check

        with tempfile.TemporaryDirectory() as scratch:
            config = Path(scratch) / "config.yaml"
            write_text(config, OmegaConf.to_yaml(OmegaConf.create(hidden_in(self.spec))), private=True)
            try:
                return check([self.verb, "--config", str(config)])
            except InputError as error:
                raise type(error)(self.where + str(error)) from error

    def _reads(self) -> list[Read]:
        read = trainer_reads(self.verb, self.given) if self.trains else function_reads(self.given if self.ours else {})
        return [*read, *(Read("inputs", path, False) for path in self.inputs or ())]

    def missing(self, written: Written, elsewhere: dict[str, str] | None = None) -> None:
        """Raises InputError for a path that is read, not there, and not `written` by a step before.

        elsewhere: where given, takes those that do not lie in the recipe's own folder instead: path -> who reads it.
        """
        for read, sentence in missing_paths(self._reads(), written):
            inside = Path(os.path.abspath(read.path)).is_relative_to(os.path.abspath(self.folder.parent))
            if elsewhere is None or inside:
                raise InputError(self.where + sentence)
            elsewhere.setdefault(read.path, f"{self.name}: {read.key}")

    def places(self) -> Places:
        """Where it reads and writes; raises InputError where its arguments are wrong."""
        reads, found = self._reads(), Places(self.named())  # in this order: its arguments are right, then
        for read in reads:
            # a packing lists the recordings that it read, which lie anywhere below
            (found.needs if self.verb == "shard" and read.key == "audio_root" else found.reads).append(read.path)
        if self.outputs is not None:
            found.writes.exact |= {os.path.abspath(path) for path in self.outputs}
        elif self.trains:
            found.writes.add_trainer(self.given)
        else:
            found.writes.add_function(self.verb, self.given, self.ours)
        return found

    def named(self) -> list[str]:
        """What it reads besides, and what may be more files than in its last run: its curriculum, modules and tars."""
        named = self._curricula()
        files = [str(path) for name in named for path in curriculum_files(name)]
        files += _local_tars(self.spec["shards"]) if self.verb == "build_index" else []
        return [*files, *modules_named([self.text, *map(read_curriculum, named)])]

    def resolved(self) -> str:
        """A hash of its named curricula as the environment resolves them; "" where they read nothing from it.

        Raises InputError where a file or a variable of the environment is not there.
        """
        anew = [name for name in self._curricula() if any(map(is_resolved_anew, curriculum_files(name)))]
        return digest([read_curriculum(name) for name in anew]) if anew else ""

    def _curricula(self) -> list[str]:
        """The curricula that are named, not written out."""
        if not self.trains and not self.ours:
            return []
        parts = self.spec, ((self.spec.get("data") or {}).get("init_args") or {}).get("training") or {}
        return [name for part in parts if isinstance(name := part.get("curriculum"), str)]

    @cached_property
    def mentioned(self) -> set[str]:
        """The texts in it, whatever they are, as whole paths: what it reads and writes is or lies below one of them."""
        texts = (text for _, text in texts_in("", self.text) if text and "://" not in text and "\0" not in text)
        return {os.path.abspath(text) for text in texts}

    def recordings(self) -> list[str]:
        """The recordings that a finished packing read, which it lists itself; none of another verb."""
        if self.verb != "shard":
            return []
        from ...datamodules.shards.done import packed_recordings

        annotations = Path(self.spec["annotations"])
        root = self.spec.get("audio_root") or (annotations if annotations.is_dir() else annotations.parent)
        return packed_recordings(self.spec["out"], root)

    def act(self) -> Any:
        """Runs it in this process and gives what its function returns; raises InputError, and what the function does.

        A trainer verb on several devices runs in a process of its own, as launchers fork it. A run that a signal ended
        ends with the same code, 143 after SIGTERM.
        """
        if not self.trains:
            return self.function(**self.given)
        config = self.folder / "config.yaml"
        spec = OmegaConf.create({"paths": {"out": str(self.folder)}} | hidden_in(self.spec))
        write_text(config, OmegaConf.to_yaml(spec), private=True)
        words = [self.verb, "--config", str(config)]
        if self.spec.get("trainer", {}).get("devices", 1) in (1, "1"):
            from ..training.trainer import main

            main(words)
            return None
        code = forwarded([sys.executable, "-m", "earwitness", *words])
        if code > 128:
            raise SystemExit(code)
        if code:
            raise InputError(f"{config}: {self.verb} ended with code {code}; its messages are above")
        return None

    def move_aside(self) -> None:
        """Checkpoints of other arguments or inputs are not continued: they get another name. Says so."""
        if self.verb != "fit":
            return
        from ...lightning_modules.checkpoints.folders import moved_aside
        from ..training.continuing import checkpoints_folder

        folder = checkpoints_folder(self.spec)
        aside = None if folder is None else moved_aside(folder)
        if aside is not None:
            say(f"  {folder} is of another configuration of this step, and now {aside}", flush=True)


def _names(function: Callable[..., Any]) -> set[str]:
    try:
        return set(signature(function).parameters)
    except (TypeError, ValueError):  # some functions written in C do not say what they take
        return set()


def _present_spelling(verb: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a step with `column_map` and `layout` of earlier recipes where they are now, in `fields`."""
    if verb != "shard":
        return dict(spec)
    older = {"column_map": "columns", "layout": "layout"}
    fields = {older[name]: value for name, value in spec.items() if name in older and value is not None}
    given = {name: value for name, value in spec.items() if name not in older}
    return given | {"fields": (given.get("fields") or {}) | fields} if fields else given


def _local_tars(shards: str) -> list[str]:
    from ...datamodules.storage.address import list_shards

    if "://" in shards:
        return []
    try:
        return list_shards(shards)
    except InputError:  # still to be written
        return []
