"""Stages of a build: each reads the drafts of the one before, keeps some and drops others by name.

A stage's file appears whole or not at all. It is made again where the stage before it, or what it depends on, changed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...boundary.files import made_folder, read_json, write_text
from ...curriculum.identity import hash64
from .draft import Draft, read_drafts

Kept = Iterator[tuple[Draft, str]]  # a draft, and why it is dropped, "" where it is kept


class Stages:
    """The stages in a folder, in the order they are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._about = folder / "stages.json"
        self._before = _read(self._about)
        self.done: dict[str, dict[str, Any]] = {}  # of this run
        self.last = ""

    def path(self, name: str, dropped: bool = False) -> Path:
        """The file of what a stage kept, or of what it dropped."""
        return self.folder / f"{name}{'.dropped' if dropped else ''}.jsonl"

    def drafts(self, name: str = "") -> Iterator[Draft]:
        """The drafts that a stage kept, the last by default, one by one."""
        return read_drafts(self.path(name or self.last))

    def count(self, name: str = "") -> int:
        """How many drafts a stage kept, the last by default."""
        return int(self.done[name or self.last]["kept"])

    def mark(self, name: str, depends: Any) -> str:
        """What a stage's file is made from: the marks of the stages before, and what it depends on."""
        before = self.done[self.last]["mark"] if self.last else ""
        return f"{hash64(name, before, json.dumps(depends, sort_keys=True, default=str)):016x}"

    def is_done(self, name: str, depends: Any) -> bool:
        """Whether a stage's file is there and made from the same."""
        entry = self._before.get(name, {})
        return entry.get("mark") == self.mark(name, depends) and self.path(name).is_file()

    def skip(self, name: str, depends: Any) -> None:
        """Goes on behind a stage that is done."""
        self.done[name], self.last = self._before[name], name

    def run(self, name: str, depends: Any, make: Callable[[Iterable[Draft]], Kept]) -> None:
        """Makes the stage of the drafts of the last one, unless it is done."""
        if self.is_done(name, depends):
            self.skip(name, depends)
            return
        mark = self.mark(name, depends)
        made_folder(self.folder)
        counts: Counter[tuple[str, str, str]] = Counter()
        kept_to, dropped_to = self.path(name), self.path(name, dropped=True)
        scratch = [path.with_suffix(".partial") for path in (kept_to, dropped_to)]
        with scratch[0].open("w", encoding="utf-8") as kept, scratch[1].open("w", encoding="utf-8") as dropped:
            for draft, reason in make(self.drafts() if self.last else ()):
                counts[reason, draft.item.source, draft.kind] += 1
                record = draft.record() | ({"dropped": reason} if reason else {})
                text = json.dumps(record, ensure_ascii=False) + "\n"
                (dropped if reason else kept).write(text.encode("utf-8", "replace").decode())
        for path, final in zip(scratch, (kept_to, dropped_to), strict=True):
            path.replace(final)
        self.finish(name, mark, counts)

    def finish(self, name: str, mark: str, counts: Mapping[tuple[str, str, str], int]) -> None:
        """Remembers a stage as done. counts: (reason, source, type) -> drafts."""
        rows = [[*key, count] for key, count in sorted(counts.items())]
        kept = sum(count for (reason, *_), count in counts.items() if not reason)
        self.done[name] = {"mark": mark, "kept": kept, "in": sum(counts.values()), "counts": rows}
        self.last = name
        write_text(self._about, json.dumps(self._before | self.done, indent=1))

    def dropped(self, name: str) -> Iterator[tuple[Draft, str]]:
        """The drafts that a stage dropped, each with its reason."""
        with self.path(name, dropped=True).open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                reason = record.pop("dropped")
                yield Draft.of(record), reason


def _read(path: Path) -> dict[str, Any]:
    """What is remembered of stages; nothing where the file is missing or damaged, so that they are made again."""
    try:
        return dict(read_json(path))
    except (TypeError, ValueError):
        return {}
