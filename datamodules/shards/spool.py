"""The questions to pack, on disk: in memory there are three numbers for each, however long they are.

Questions come in the order of their file and leave by recording, in the order of a hash of the recordings' paths.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...boundary.files import open_new, open_regular
from ...curriculum.identity import hash64
from ...errors import InputError
from ..questions.annotations import Annotation
from ..questions.segments import Segment


@dataclass
class Clip:
    """One recording to pack: its path as annotated, its questions with their keys, and its rows of a dataset.

    segment: the part of the file that is the recording, in seconds; None for all of it.
    """

    path: str
    segment: Segment | None = None
    questions: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def name(self) -> tuple[object, ...]:
        """What identifies the recording: its path and, where it is a part of the file, the seconds of it."""
        return (self.path,) if self.segment is None else (self.path, *self.segment)


class Spool:
    """Writes questions into a file that `clips` reads again; to be closed, which removes the file.

    root: folder of the recordings. home: folder of the annotations, from which paths with `..` may lead into it.
    """

    def __init__(self, path: Path, root: str, home: str) -> None:
        self.path, self.root, self.home = path, root, home
        self.file = open_new(path)
        self.order, self.offsets = array("Q"), array("q")

    def add(self, annotation: Annotation) -> None:
        """Takes a question; raises InputError where its recording does not lie in the folder of the recordings."""
        question, path, row, segment = annotation
        if row < 0:
            path = local_path(path, self.root, self.home, question.key)
        self.order.append(hash64("shard order", *Clip(path, segment).name))
        self.offsets.append(self.file.tell())
        line = json.dumps([path, segment, row, question.key, question.record()], ensure_ascii=False)
        self.file.write(line.encode() + b"\n")

    def sealed(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of all questions in the file, by recording, [Q] int64, and [C + 1] where each recording begins."""
        self.file.flush()
        order, offsets = np.frombuffer(self.order, np.uint64), np.frombuffer(self.offsets, np.int64)
        by_clip = np.lexsort((offsets, order))
        order = order[by_clip]
        begins = np.flatnonzero(np.concatenate([[True], order[1:] != order[:-1], [True]])) if len(order) else [0]
        return offsets[by_clip], np.asarray(begins, np.int64)

    def close(self) -> None:
        """Removes the file."""
        self.file.close()
        self.path.unlink(missing_ok=True)


def clips(path: str, offsets: np.ndarray) -> list[Clip]:
    """The recordings with their questions that lie at these places of a spool's file."""
    by_name: dict[tuple[object, ...], Clip] = {}
    for name, segment, row, key, record in _lines(path, offsets):
        found = Clip(name, Segment(*segment) if segment else None)
        clip = by_name.setdefault(found.name, found)
        clip.questions.append(record)
        clip.keys.append(key)
        clip.rows += [row] if row >= 0 else []
    return list(by_name.values())


def paths(path: str, offsets: np.ndarray) -> Iterator[str]:
    """The paths of the recordings of the questions at these places, that of a recorded row as ""."""
    for name, _, row, *_ in _lines(path, offsets):
        yield "" if row >= 0 else name


def _lines(path: str, offsets: np.ndarray) -> Iterator[list[Any]]:
    with open_regular(path) as file:
        for offset in offsets.tolist():
            file.seek(offset)
            yield json.loads(file.readline())


def local_path(path: str, root: str, home: str, key: str) -> str:
    """A recording's path within `root`: absolute ones and those with `..` are taken if they lead there.

    The latter may begin at the folder of the annotations, `home`. Raises InputError that names the question.
    """
    if "\0" not in path:
        if not Path(path).is_absolute() and ".." not in Path(path).parts:
            return path
        for base in (root, home):
            inside = os.path.relpath(os.path.join(base, path), root)
            if inside.partition(os.sep)[0] not in ("..", "."):
                return inside
    raise InputError(
        f"{key}: audio_path {path!r} must be relative and stay in its folder, or lie in {root}; "
        "give --audio-root a folder that holds all recordings"
    )
