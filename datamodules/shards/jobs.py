"""The shards to write, each with what it is made of: questions in a spool, recordings in a folder or in a dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...curriculum.identity import hash64
from ...errors import InputError
from ...progress import track
from ..audio.waves import Cut
from ..questions.annotations import iter_annotations
from ..questions.datasets import Source, is_saved
from ..questions.fields import Fields
from .done import stamp
from .spool import Clip, Spool, clips

LAYOUT = 3  # version of what is in the tars; shards of another one are packed anew


@dataclass
class Job:
    """One shard to write."""

    target: str  # its path
    root: str  # folder of the recordings
    dataset: str  # folder of a saved dataset that holds them, or ""
    dataset_print: str  # hash of that dataset's files
    original: bool  # keep the files' bytes
    cut: Cut  # how long recordings may be, and how their channels become one
    stop: bool  # raise the first fault
    recordings: str  # Arrow file of the recordings, where they come from Parquet files, or ""
    spool: str  # file of the questions
    offsets: np.ndarray  # of its questions in that file

    def clips(self) -> list[Clip]:
        """The recordings with their questions."""
        return clips(self.spool, self.offsets)

    @property
    def fingerprint(self) -> str:
        """Hash of all that the shard is made of; recordings count by size and time of change."""
        parts: list[object] = [LAYOUT, self.original, repr(self.cut), self.dataset_print]
        for clip in self.clips():
            parts += [*clip.name, json.dumps(clip.questions, ensure_ascii=False)]
            parts.append(clip.rows or stamp(Path(self.root) / clip.path))
        return f"{hash64(*parts):016x}"


def jobs_of(
    spool: Spool,
    source: Source,
    fields: Fields,
    folder: Path,
    samples_per_shard: int,
    original: bool,
    cut: Cut,
    stop: bool,
    left_out: list[dict[str, str]],
) -> list[Job]:
    """Reads the annotations into the spool; the shards to write. What is left out is added to `left_out`."""
    faults: list[str] = []
    questions = iter_annotations(source.path, fields, None if stop else faults, notes=True)
    for annotation in track(questions, "reading annotations"):
        try:
            spool.add(annotation)
        except InputError as error:
            if stop:
                raise
            left_out.append({"question": annotation.question.key, "reason": str(error)})
    left_out += [{"question": "", "reason": reason} for reason in faults]
    dataset, held = "", ""
    if source.holds_recordings:
        dataset = str(source.path)
        held = "" if is_saved(source.path) else str(folder / "recordings.spool")
    dataset_print = f"{hash64(*source.stamps('.arrow', '.parquet') if dataset else ()):016x}"
    offsets, begins = spool.sealed()
    parts = [begins[at : at + samples_per_shard + 1] for at in range(0, len(begins) - 1, samples_per_shard)]
    made_of = (spool.root, dataset, dataset_print, original, cut, stop, held, str(spool.path))
    return [
        Job(f"{folder}/shard-{number:06d}.tar", *made_of, offsets[part[0] : part[-1]])
        for number, part in enumerate(parts)
    ]
