"""The first stages: items of all sources with their recordings, each recording from one source, none of a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...boundary.files import JSON_BYTES, read_text
from ...curriculum.identity import hash64
from ...errors import InputError
from ..sources.audio_files import AudioFiles
from ..sources.item import Found, Item, license_tags
from ..sources.registry import read_source, with_audio
from .checks import normal
from .draft import Draft
from .stages import Kept


@dataclass
class SourceSpec:
    """A source of a job.

    Args:
        reader: see `sources/registry.py`, or an import path. annotations: folder of its files.
        audio: folder of its recordings below the job's audio root.
        splits: which are built from. whole: recordings are whole videos or sounds, of which clips are cut in packing.
        at_most: items, chosen by a hash. options: of the reader.
    """

    reader: str
    annotations: str
    audio: str = ""
    splits: list[str] = field(default_factory=lambda: ["train"])
    whole: bool = False
    at_most: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.splits or (wrong := [split for split in self.splits if split not in ("train", "val", "test")]):
            raise InputError(f"splits: {wrong[0] if self.splits else self.splits!r} is none of train, val, test")
        if self.at_most is not None and self.at_most < 1:
            raise InputError(f"at_most must be 1 or more, got {self.at_most}")

    def stamps(self) -> list[tuple[str, int, int]]:
        """Names, sizes and times of the annotation files."""
        files = sorted(path for path in Path(self.annotations).rglob("*") if path.is_file())
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


@dataclass
class Sources:
    """What reading the sources found beside their items.

    counts: source -> what its publisher counts. missing: items without a recording. faults: records left out.
    """

    specs: list[SourceSpec]
    audio_root: str
    deny: list[str]
    quarantine: bool
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self, _: Iterable[Draft] = ()) -> Kept:
        """The items of all sources as drafts, dropped where recording or licence is missing."""
        for spec in self.specs:
            found = Found(faults=self.faults if self.quarantine else None)
            items = read_source(spec.reader, spec.annotations, found, spec.options)
            wanted: Iterable[Item] = (item for item in items if item.split in spec.splits)
            if spec.at_most is not None:
                wanted = sorted(wanted, key=lambda item: hash64("at most", item.uid))[: spec.at_most]
            files, count = AudioFiles(self.audio_root, spec.audio), 0
            for item in wanted:
                count += 1
                if reason := self._license(item):
                    yield Draft(item), reason
                    continue
                here = next(with_audio(iter([item]), files, spec.whole, self.missing), None)
                yield Draft(here or item), "" if here else "no recording"
            if not count:
                raise InputError(f"{spec.annotations}: no item of the splits {', '.join(spec.splits)}")
            self.counts[spec.reader] = found.counts
            self.notes += found.notes

    def _license(self, item: Item) -> str:
        tags = license_tags(item.license)
        denied = next((name for name in self.deny if license_tags(name) <= tags), None)
        return f"licence: {denied}" if denied else ""


def read_origins(files: Iterable[str]) -> dict[str, str]:
    """Origin -> file that excludes it, from files with one origin a line ("youtube:ID", "freesound:ID")."""
    origins: dict[str, str] = {}
    for name in files:
        if not Path(name).is_file():
            raise InputError(f"exclude: {name}: no such file")
        for number, line in enumerate(read_text(name, JSON_BYTES).splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                if ":" not in line:
                    raise InputError(
                        f"{name}:{number}: an origin is written youtube:ID or freesound:ID, got {line!r:.60}"
                    )
                origins[line.strip()] = Path(name).name
    return origins


def unique(drafts: Iterable[Draft], excluded: Mapping[str, str], across: bool) -> Kept:
    """Drops origins of benchmarks, equal texts about one recording, and recordings that an earlier source has.

    across: the last of these; recordings are the same where origins are and their parts overlap.
    """
    homes: dict[int, list[tuple[str, tuple[float, float] | None]]] = {}
    seen: set[int] = set()
    for draft in drafts:
        item = draft.item
        if item.origin in excluded:
            yield draft, f"excluded by {excluded[item.origin]}"
            continue
        facts = [item.facts.get(name, "") for name in ("instruction", "event")]
        told = hash64(item.origin or item.audio, str(item.at), *facts, *sorted(map(normal, item.texts)))
        if told in seen and item.texts:
            yield draft, "told twice"
            continue
        seen.add(told)
        parts = homes.setdefault(hash64(item.origin), []) if item.origin else []
        others = (source for source, at in parts if source != item.source and _overlap(at, item.at))
        if across and (other := next(others, None)):
            yield draft, f"recording is in {other}"
            continue
        if item.origin and (item.source, item.at) not in parts:
            parts.append((item.source, item.at))
        yield draft, ""


def _overlap(a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    """Whether two parts of an origin share a second or more; an unknown part may be any."""
    return a is None or b is None or min(a[1], b[1]) - max(a[0], b[0]) >= 1
