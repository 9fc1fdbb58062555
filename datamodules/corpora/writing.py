"""The folder that every builder writes: `audio/`, `questions.jsonl` in the AudioMCQ layout, and `planted.jsonl`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ...curriculum.identity import hash64, permutation
from ...progress import track
from ..audio.waves import SAMPLE_RATE
from ..questions.question import Question

HEARD, LOGIC, PRIOR = "heard", "logic", "prior"


@dataclass(frozen=True)
class Draft:
    """One question to write.

    clip: name of its recording. wave: makes it, [n] at 16 kHz. planted: how the question can be answered (HEARD, LOGIC
    or PRIOR), kept in a file of its own that training never reads.
    """

    question: Question
    clip: str
    wave: Callable[[], np.ndarray]
    planted: str


def write_corpus(drafts: Iterable[Draft], out: str, total: int) -> dict[str, int]:
    """Writes the drafts into the folder `out`, replacing it; recordings of one `clip` name are written once.

    total: how many drafts there are, for the progress bar. Returns the numbers of questions and recordings.
    """
    folder = Path(out)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "audio").mkdir(parents=True)
    count, clips = 0, set()
    with (folder / "questions.jsonl").open("w") as questions, (folder / "planted.jsonl").open("w") as planted:
        for draft in track(drafts, "recording the corpus", total=total):
            if draft.clip not in clips:
                clips.add(draft.clip)
                soundfile.write(folder / "audio" / f"{draft.clip}.wav", draft.wave(), SAMPLE_RATE, subtype="PCM_16")
            record = draft.question.record() | {"audio_path": f"audio/{draft.clip}.wav"}
            questions.write(json.dumps(record, ensure_ascii=False) + "\n")
            planted.write(json.dumps({"key": draft.question.key, "planted": draft.planted}) + "\n")
            count += 1
    return {"questions": count, "recordings": len(clips)}


def shuffled(words: Iterable[str], *name: object) -> tuple[str, ...]:
    """The words in a random order that depends on the name alone."""
    words = list(words)
    return tuple(words[i] for i in permutation(len(words), hash64(*name)))


def choose(words: Iterable[str], *name: object) -> str:
    """A random one of the words, which depends on the name alone."""
    words = list(words)
    return words[hash64(*name) % len(words)]
