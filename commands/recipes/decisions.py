"""Which steps of a graph are done, which run and why, and their records."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import InputError
from ..checks.paths import Written
from .edges import Edges, covers
from .hashes import MOST, Hashes
from .records import (
    PLACES,
    RECORDINGS,
    RESOLVED,
    Record,
    changed_inputs,
    changed_outputs,
    changed_text,
    digest,
    result_shown,
    shown,
)
from .steps import Places, Step

_PACKING = ("shard", "build_index", "build_spoken_digits")  # what they read may be very large


class Decisions:
    """What is known of a graph's steps, with the arguments of `Graph`: what is done, what is recorded, what is said."""

    def __init__(self, steps: Mapping[str, Any], out: str | Path, origin: str) -> None:
        self.out, self.origin, self._explained = Path(out), origin, False
        self.folder = self.out / ".steps"
        self.steps = {name: Step(name, spec, self.out, origin) for name, spec in steps.items()}
        self.hashes = Hashes(self.folder / ".hashes")
        self.records: dict[str, Record] = {}
        self._older: dict[str, str] = {}
        self._begun: dict[str, Record] = {}
        chain = hashlib.blake2b(__version__.encode(), digest_size=8)
        for name in self.steps:  # what earlier code recorded
            chain.update(json.dumps([name, steps[name]], sort_keys=True, default=str).encode())
            self._older[name] = chain.hexdigest()
        self.read_records()
        self._read_places = {name: self._places(step) for name, step in self.steps.items()}
        self.edges = Edges(self.steps, self._read_places, self.out)

    def read_records(self) -> None:
        """Reads what is recorded of the steps."""
        self.records = {name: Record.read(self.folder / f"{name}.json") for name in self.steps}

    def why(self, name: str, running: Collection[str] = ()) -> str | None:
        """Why a step runs, None where it is done; running: the steps before it that are known to run."""
        step, record = self.steps[name], self.records[name]
        if not record.finished:
            return self._why_unfinished(name, running)
        if record.config != step.config:
            return changed_text(record.text, step.text)
        made = self.edges.made[name]
        passed = {*self._whole(record.outputs), *(path for path, maker in made.items() if maker in running)}
        now = {path: value for path, value in self._inputs(name).items() if path not in passed}
        then = self._whole(record.inputs)
        if (changed := changed_inputs(then, now, made)) is not None:
            return changed
        if changed := changed_outputs(left := self._kept_by(name), {p: self._content(p, step) for p in left}):
            return changed
        for before in self.edges.before[name]:
            if before in running:
                return f"because {before} runs"
        for before, state in self._after(name).items():
            if record.after.get(before) != state:
                return f"because {before} has run since"
        return None

    def _why_unfinished(self, name: str, running: Collection[str]) -> str | None:
        """As `why`, of a step without a record of this form: one that earlier code finished may be taken as done."""
        record = self.records[name]
        if record.started:
            return "it was started and did not end"
        if not record.fingerprint:
            return "it has not run yet"
        if record.fingerprint != self._older[name]:
            return "its record is of an earlier form, and it or a step before it has changed since"
        for path in sorted(self.edges.writes[name].exact):
            if not os.path.exists(path):
                return f"its output {shown(path)} is missing"
        for path, maker in self.edges.made[name].items():
            if maker in running:
                return f"because {maker} runs"
            if not os.path.exists(path):
                return f"its input {shown(path)} is missing"
        return None

    def take(self, name: str) -> None:
        """Notes that a step is done; a record of an earlier form becomes one of this form, with the files of now."""
        record = self.records[name]
        if not record.finished:
            self._begun[name] = self._record_of_start(name)
            self.finish(name, record.seconds, record.result)
        elif record.places.get("by") != [__version__]:
            record.places = self._places_kept(name)
            record.write(self.folder / f"{name}.json")

    def begin(self, name: str) -> None:
        """Records that a step starts; checkpoints of other arguments or inputs are moved aside before."""
        step, before = self.steps[name], self.records[name]
        start = self._record_of_start(name)
        if before.started not in (start.fingerprint, self._older[name]):
            step.move_aside()  # before this start is recorded: no kill mixes them
        self._begun[name] = start
        self.records[name] = Record(started=start.fingerprint)
        self.records[name].write(self.folder / f"{name}.json")

    def finish(self, name: str, seconds: float, result: Any) -> None:
        """Records that a step has ended well, with what it left; InputError where a declared output is not there."""
        step, record = self.steps[name], self._begun.pop(name)
        for path in step.outputs or ():
            if not os.path.exists(path):
                raise InputError(f"{step.where}it ended without its output {path}")
        outputs = {path: self._content(path, step) for path in self.edges.kept(name)}
        inputs = self._inputs(name, packed=True)
        if not step.trains and not step.ours:  # what it changed it has written
            begun = self._whole(record.inputs)
            outputs |= {path: value for path, value in inputs.items() if begun.get(path, value) != value}
            inputs = {path: value for path, value in inputs.items() if path not in outputs}
        else:
            inputs |= self._whole(record.inputs)
        record.inputs, record.outputs = self._short(inputs), self._short({p: v for p, v in outputs.items() if v})
        record.seconds, record.result = round(seconds, 1), result
        self.records[name] = record
        record.write(self.folder / f"{name}.json")
        self.hashes.save()

    def log(self, name: str) -> Path:
        """The file that a step's output is kept in."""
        return self.folder / f"{name}.log"

    def done_line(self, name: str) -> str:
        """What is printed of a step that is not run."""
        return f"{self._head(name)} done before    {result_shown(self.records[name].result)}"

    def start_line(self, name: str, why: str) -> str:
        """What is printed of a step that starts; why is told where it ran before."""
        told = "" if why == "it has not run yet" else f" ({why})"
        return f"{self._head(name)} {self.steps[name].verb} ...{told}"

    def end_line(self, name: str) -> str:
        """What is printed of a step that has just finished."""
        record = self.records[name]
        return f"{self._head(name)} {record.seconds:6.1f} s       {result_shown(record.result)}"

    def _head(self, name: str) -> str:
        width = max(18, *map(len, self.steps))
        return f"[{list(self.steps).index(name) + 1:>2}/{len(self.steps)}] {name:<{width}}"

    def _places(self, step: Step) -> Places:
        """Where a step reads and writes; of one that has not changed since its last run, as it was recorded.

        A record may be damaged or somebody else's: one that leads to what the step does not mention is not followed.
        """
        record = self.records[step.name]
        if record.config != step.config or record.places.get("by") != [__version__]:
            return step.places()
        reads, needs, exact, below = (list(record.places[key]) for key in PLACES)
        written = Written({self._path(path) for path in exact}, {self._path(path) for path in below})
        try:
            named = step.named()
        except InputError:  # what it read may be gone
            named, reads = [], [path for path in reads if _is_known(step.mentioned, path)]
        known = {*step.mentioned, *map(os.path.abspath, named)}
        if not all(_is_known(known, path) for path in [*reads, *needs, *written.exact, *written.below]):
            return step.places()
        return Places(list(dict.fromkeys([*reads, *named])), needs, written)

    def _places_kept(self, name: str) -> dict[str, list[str]]:
        found, written = self._read_places[name], self.edges.writes[name]
        exact, below = (sorted(map(self._short_path, paths)) for paths in (written.exact, written.below))
        return {"by": [__version__], "reads": found.reads, "needs": found.needs, "exact": exact, "below": below}

    def _record_of_start(self, name: str) -> Record:
        step, inputs, after = self.steps[name], self._short(self._inputs(name)), self._after(name)
        key = digest([step.config, inputs, after])
        return Record("", key, step.config, step.text, inputs, {}, after, self._places_kept(name))

    def _inputs(self, name: str, packed: bool = False) -> dict[str, str]:
        """Path -> hash of what a step reads; packed: with the recordings of a packing that has just ended."""
        step = self.steps[name]
        paths = [*self.edges.inputs[name], *self.edges.outside(name)]
        found = {path: self._content(path, step) for path in paths}
        if (packed or self.records[name].finished) and (recordings := step.recordings()):
            found[RECORDINGS] = self.hashes.of_all(recordings, MOST)
        with suppress(InputError):  # what it read may be gone
            if resolved := step.resolved():
                found[RESOLVED] = resolved
        return found

    def _content(self, path: str, step: Step) -> str:
        return self.hashes.of(path, MOST if step.verb in _PACKING else None)

    def _after(self, name: str) -> dict[str, str]:
        """Step -> its state, of the steps that this one depends on without reading their files."""
        step = self.steps[name]
        left = {one: self.records[one].left for one in self.edges.before[name]} if step.open else {}
        return left | {one: self.records[one].state for one in step.after or ()}

    def _kept_by(self, name: str) -> dict[str, str]:
        """The outputs that a step left, and not what a later one has written since, nor what it cannot have written."""
        names = list(self.steps)
        later = {path for one in names[names.index(name) + 1 :] for path in self.records[one].outputs}
        left = self._whole({path: value for path, value in self.records[name].outputs.items() if path not in later})
        return {path: value for path, value in left.items() if self.edges.may_leave(name, path)}

    def _short_path(self, path: str) -> str:
        """A path as records keep it: from the run's folder where it lies in it, so that the folder may be moved."""
        return os.path.relpath(path, self.out) if covers([os.path.abspath(self.out)], path) else path

    def _path(self, kept: str) -> str:
        return kept if "://" in kept or kept in (RECORDINGS, RESOLVED) else os.path.abspath(self.out / kept)

    def _short(self, paths: Mapping[str, str]) -> dict[str, str]:
        return {self._short_path(path): value for path, value in paths.items()}

    def _whole(self, paths: Mapping[str, str]) -> dict[str, str]:
        return {self._path(path): value for path, value in paths.items()}


def _is_known(known: Collection[str], path: str) -> bool:
    """Whether a recorded path is among known ones or below them, or leads to nothing here that could be read."""
    return "://" in path or not os.path.lexists(path) or covers(known, os.path.abspath(path))
