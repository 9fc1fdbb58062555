"""Who depends on whom: the files that a step reads, and which step before it writes them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from ...configs.plugins import nearest
from ...errors import InputError
from ..checks.paths import texts_in
from .steps import Places, Step


class Edges:
    """The dependencies between steps; all paths are whole ones, addresses (s3://...) are as written.

    writes: step -> what it writes. inputs: step -> the paths whose content it depends on. made: step -> those of them
    that a step before it writes, and which. before: step -> the steps that must have ended, in their order.
    """

    def __init__(self, steps: Mapping[str, Step], places: Mapping[str, Places], out: Path) -> None:
        self.steps, self.out = steps, os.path.abspath(out)
        self.top = "" if out.is_absolute() else out.parts[0] if out.parts else ""
        self.writes = {name: places[name].writes for name in steps}
        self.inputs: dict[str, list[str]] = {}
        self.made: dict[str, dict[str, str]] = {}
        self.before: dict[str, list[str]] = {}
        self._read_of: dict[str, dict[str, None]] = {name: {} for name in steps}
        for number, name in enumerate(steps):
            self._connect(name, places[name], list(steps)[:number])

    def _connect(self, name: str, places: Places, earlier: list[str]) -> None:
        step, own = self.steps[name], self.writes[name]
        needs = [_whole(path) for path in places.needs]
        reads: dict[str, None] = {}
        for path in map(_whole, places.reads):
            inside = [made for before in earlier for made in self._outermost(before) if _below(path, made)]
            reads.update(dict.fromkeys(inside or [path]))
        shared = set()
        for path, plain in self._texts(step):
            if path in own.exact or path in needs:
                continue
            sure = any(covers(self.writes[before].exact, path) for before in earlier)
            if sure or (plain and any(covers(self.writes[before].below, path) for before in earlier)):
                reads[path] = None
                if not sure and path in own.below and (step.trains or step.ours):  # two callbacks with one folder
                    shared.add(path)
        made = {path: maker for path in reads if (maker := self._maker(path, earlier)) is not None}
        before = {maker for path in [*reads, *needs] for maker in self._writers(path, earlier)}
        before |= {other for other in earlier if self.writes[other].exact & own.exact}
        for other in step.after or ():
            if other not in earlier:
                raise InputError(
                    f"{step.where}after: no step {other!r} before it"
                    + (f"; {nearest(other, earlier)}" if earlier else "")
                )
            before.add(other)
        self.before[name] = [other for other in earlier if step.open or other in before]
        self.inputs[name] = [path for path in reads if path not in shared]
        self.made[name] = {path: maker for path, maker in made.items() if path not in shared}
        for path, maker in self.made[name].items():
            self._read_of[maker][path] = None

    def _texts(self, step: Step) -> Iterator[tuple[str, bool]]:
        """(path, whether it is surely one) of the texts in a step, whatever they are."""
        for _, text in texts_in("", step.spec):
            if text and "://" not in text and "\0" not in text:
                plain = os.path.isabs(text) or (os.sep in text and text.split(os.sep)[0] == self.top)
                yield os.path.abspath(text), plain

    def _outermost(self, name: str) -> list[str]:
        exact = self.writes[name].exact
        return sorted(path for path in exact if not covers(exact - {path}, path))

    def _writers(self, path: str, earlier: Iterable[str]) -> list[str]:
        return [name for name in earlier if covers(self.writes[name].exact | self.writes[name].below, path)]

    def _maker(self, path: str, earlier: list[str]) -> str | None:
        """The step before that writes a path: of several the last, those first of which it is known for sure."""
        sure = [name for name in earlier if covers(self.writes[name].exact, path)]
        found = sure or self._writers(path, earlier)
        return found[-1] if found else None

    def kept(self, name: str) -> list[str]:
        """The outputs whose content a step answers for: what it surely writes, and what others read of the rest.

        A folder into which another step writes is left out, and a file that a later step writes again. Of a function
        that declares nothing: the paths among its arguments that lie in the folder of the run and that nobody else
        writes.
        """
        others = {other: written.exact for other, written in self.writes.items() if other != name}
        elsewhere = {path for paths in others.values() for path in paths}
        later = {path for other in list(self.steps)[list(self.steps).index(name) + 1 :] for path in others[other]}
        sure = [path for path in sorted(self.writes[name].exact, key=len, reverse=True) if path not in later]
        found = [*(path for path in self._read_of[name] if not self._shared(name, path)), *sure]
        step = self.steps[name]
        if not step.trains and not step.ours and step.outputs is None:
            found += [path for path, _ in self._texts(step) if self._is_own(name, path)]
        return [path for path in dict.fromkeys(found) if not any(_below(path, other) for other in elsewhere)]

    def may_leave(self, name: str, path: str) -> bool:
        """Whether a path may be an output of the step; a lab's function may also change what it is given."""
        written, step = self.writes[name], self.steps[name]
        if covers(written.exact | written.below, path):
            return True
        return not step.trains and not step.ours and (path in step.mentioned or path in self.inputs[name])

    def _shared(self, name: str, path: str) -> bool:
        """Whether a path that a step only may write lies where another trainer's step may write, too."""
        if covers(self.writes[name].exact, path):
            return False
        others = (self.writes[other].below for other, step in self.steps.items() if step.trains and other != name)
        return any(covers(below, path) or any(_below(path, one) for one in below) for below in others)

    def _is_own(self, name: str, path: str) -> bool:
        """Whether a path below the folder of the run is no other step's."""
        others = (written for other, written in self.writes.items() if other != name)
        return _below(self.out, path) and not any(covers(written.exact | written.below, path) for written in others)

    def outside(self, name: str) -> list[str]:
        """The files from elsewhere among the arguments of a function that does not declare what it reads."""
        step = self.steps[name]
        if step.trains or step.ours or step.inputs is not None:
            return []
        known = {*self.inputs[name], *self.writes[name].exact}
        paths = (path for path, _ in self._texts(step) if path not in known and not _below(self.out, path))
        return [path for path in dict.fromkeys(paths) if os.path.isfile(path)]


def covers(tops: Collection[str], path: str) -> bool:
    """Whether a whole path is one of others, or lies below one of them."""
    while path not in tops:
        above = os.path.dirname(path)
        if above == path:
            return False
        path = above
    return True


def _below(top: str, path: str) -> bool:
    return path.startswith(top.rstrip(os.sep) + os.sep) and path != top


def _whole(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)
