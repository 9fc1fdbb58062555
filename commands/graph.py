"""Steps that depend on each other by their files: which of them run, why, and in what order.

A step is done where its own text, the content of the files that it reads, and what it left are those of its finished
run; see `hashes.py` for what content is. What a step reads and writes is known of the shipped verbs; a function of a
lab's says it by `inputs` and `outputs`, or depends on all steps before it. A step depends on earlier ones alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .. import __version__
from ..boundary.files import alone_in, locked
from ..boundary.words import say
from ..errors import InputError
from .checks import Written
from .edges import Edges, covers
from .hashes import MOST, Hashes
from .logs import logged
from .records import RECORDINGS, Record, changed_inputs, changed_outputs, changed_text, digest, result_shown, shown
from .steps import Places, Step

_PLACES = ("reads", "needs", "exact", "below")
_PACKING = ("shard", "build_index", "build_spoken_digits")  # what they read may be very large
SERVED = "children.lock"  # held while steps run side by side, until the last of them has ended


class Graph:
    """The steps of a recipe, or of several in one folder.

    steps: name -> a step's mapping, resolved; a step may depend on those before it alone. out: the folder of their
    records. origin: the file that they come from, for messages. Raises InputError for a step that is wrong.
    """

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

    def explain(self, elsewhere: dict[str, str] | None = None) -> list[tuple[str, str, str]]:
        """(step, "done" or "runs", why) of all steps, in their order; nothing is written.

        elsewhere: where given, takes the paths that no step writes and that are not there, but for those in `out`:
        path -> the step and key that read it.
        A step behind one that runs will still not run where that one leaves the same bytes as before. Raises InputError
        where a step that runs has a wrong argument, or reads a path that is not there and that nothing writes before.
        """
        self._explained = True
        found: list[tuple[str, str, str]] = []
        running: dict[str, Step] = {}
        for name, step in self.steps.items():
            why = self.why(name, running)
            if why is None:
                then = self.records[name].version
                found.append((name, "done", f"by earwitness {then}" if then not in ("", __version__) else ""))
                continue
            written = Written()
            for before in running:
                written.add(self.edges.writes[before])
            step.missing(written, elsewhere)
            running[name] = step
            found.append((name, "runs", why))
        return found

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

    def run(self, jobs: int = 1, alone: bool = True) -> None:
        """Runs the steps that are not done, `jobs` of them at a time; prints a line for each.

        alone: whether no other process may run steps in this folder; whoever says no sees to it that they are others.
        What one step raises ends the run: others that are running come to their end, none is started. Raises
        InputError, before the first step, for what `explain` raises it for, and where another process runs here.
        """
        if not self._explained:
            self.explain()
        with alone_in(self.out, "running") if alone else nullcontext():
            if (self.folder / SERVED).exists():  # those of a run that was killed are ending
                with locked(self.folder / SERVED):
                    pass
            self.read_records()
            if jobs > 1:
                from .side_by_side import run_side_by_side

                run_side_by_side(self, jobs)
                return
            for name in self.steps:
                self._run_here(name)

    def _run_here(self, name: str) -> None:
        why = self.why(name)
        if why is None:
            self.take(name)
            say(self.done_line(name), flush=True)
            return
        say(self.start_line(name, why), flush=True)
        started = time.monotonic()
        self.begin(name)
        with logged(self.log(name)):
            result = self.steps[name].act()
        self.finish(name, time.monotonic() - started, result)
        say(self.end_line(name), flush=True)

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
        """Where a step reads and writes; of one that has not changed since its last run, as it was recorded."""
        record = self.records[step.name]
        if record.config != step.config or record.version != __version__ or not record.places:
            return step.places()
        reads, needs, exact, below = (list(record.places[key]) for key in _PLACES)
        written = Written({self._path(path) for path in exact}, {self._path(path) for path in below})
        return Places(reads, needs, written)

    def _record_of_start(self, name: str) -> Record:
        step, inputs, after = self.steps[name], self._short(self._inputs(name)), self._after(name)
        written = self.edges.writes[name]
        place = self._read_places[name]
        places = {"reads": place.reads, "needs": place.needs}
        places |= {"exact": sorted(self._short_path(path) for path in written.exact)}
        places |= {"below": sorted(self._short_path(path) for path in written.below)}
        key = digest([step.config, inputs, after])
        return Record("", key, step.config, step.text, inputs, {}, after, places)

    def _inputs(self, name: str, packed: bool = False) -> dict[str, str]:
        """Path -> hash of what a step reads; packed: with the recordings of a packing that has just ended."""
        step = self.steps[name]
        paths = [*self.edges.inputs[name], *self.edges.outside(name)]
        found = {path: self._content(path, step) for path in paths}
        if (packed or self.records[name].finished) and (recordings := step.recordings()):
            found[RECORDINGS] = self.hashes.of_all(recordings, MOST)
        return found

    def _content(self, path: str, step: Step) -> str:
        return self.hashes.of(path, MOST if step.verb in _PACKING else None)

    def _after(self, name: str) -> dict[str, str]:
        """Step -> its state, of the steps that this one depends on without reading their files."""
        step = self.steps[name]
        left = {one: self.records[one].left for one in self.edges.before[name]} if step.open else {}
        return left | {one: self.records[one].state for one in step.after or ()}

    def _kept_by(self, name: str) -> dict[str, str]:
        """The outputs that a step left, and not what a later one has written since."""
        names = list(self.steps)
        later = {path for one in names[names.index(name) + 1 :] for path in self.records[one].outputs}
        return self._whole({path: value for path, value in self.records[name].outputs.items() if path not in later})

    def _short_path(self, path: str) -> str:
        """A path as records keep it: from the run's folder where it lies in it, so that the folder may be moved."""
        return os.path.relpath(path, self.out) if covers([os.path.abspath(self.out)], path) else path

    def _path(self, kept: str) -> str:
        return kept if "://" in kept or kept == RECORDINGS else os.path.abspath(self.out / kept)

    def _short(self, paths: Mapping[str, str]) -> dict[str, str]:
        return {self._short_path(path): value for path, value in paths.items()}

    def _whole(self, paths: Mapping[str, str]) -> dict[str, str]:
        return {self._path(path): value for path, value in paths.items()}
