"""Steps that depend on each other by their files: which of them run, why, and in what order.

A step is done where its own text, the content of the files that it reads, and what it left are those of its finished
run; see `hashes.py` for what content is. What a step reads and writes is known of the shipped verbs; a function of a
lab's says it by `inputs` and `outputs`, or depends on all steps before it. A step depends on earlier ones alone.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

from ... import __version__
from ...boundary.files import alone_in, locked
from ...boundary.words import say
from ..checks.paths import Written
from ..processes.logs import logged
from .decisions import Decisions
from .side_by_side import run_side_by_side
from .step_server import SERVED
from .steps import Step


class Graph(Decisions):
    """The steps of a recipe, or of several in one folder.

    steps: name -> a step's mapping, resolved; a step may depend on those before it alone. out: the folder of their
    records. origin: the file that they come from, for messages. Raises InputError for a step that is wrong.
    """

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
