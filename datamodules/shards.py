"""Knows how to pack recordings and their questions into ordinary WebDataset tars, reproducibly.

A sample is one recording: `<clip>.json` with all its questions, then `<clip>.flac`, 16 kHz mono. Recordings are
ordered by a hash, so that neighbours in a shard are unrelated; the bytes depend on the input alone.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import webdataset as wds

from ..curriculum.identity import hash64
from ..errors import InputError
from ..progress import track
from .audio import SAMPLE_RATE, checked, to_model_rate
from .index import build_index
from .question import Question, read_annotations


def read_recording(path: Path) -> np.ndarray:
    """Mono float32 at 16 kHz from any file libsndfile reads."""
    if not path.is_file():
        raise InputError(f"{path}: no such recording; is `audio_root` right?")
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable recording ({error})") from None
    return to_model_rate(checked(wave.mean(axis=1), str(path)), rate, str(path))


def flac_bytes(wave: np.ndarray) -> bytes:
    """16-bit flac at 16 kHz; louder than full scale is scaled down, never clipped."""
    buffer = io.BytesIO()
    peak = float(np.abs(wave).max())
    soundfile.write(buffer, wave / max(1.0, peak), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def shard(
    annotations: str,
    out: str,
    audio_root: str | None = None,
    samples_per_shard: int = 1_000,
    column_map: dict[str, str] | None = None,
) -> dict:
    """Packs annotations in the AudioMCQ layout into `out/shard-000000.tar` ... and writes `out/index.arrow`.

    Args:
        annotations: JSON list or JSONL file; several questions may name the same `audio_path`.
        out: folder of the shards and the index.
        audio_root: folder the audio paths are relative to; default the annotation file's own.
        samples_per_shard: recordings per tar.
        column_map: our field name -> the file's, see `read_annotations`.

    Returns counts for the recipe's log.
    """
    root = Path(audio_root) if audio_root else Path(annotations).parent
    by_clip: dict[str, list[Question]] = defaultdict(list)
    for question, audio_path in read_annotations(annotations, column_map):
        if Path(audio_path).is_absolute() or ".." in Path(audio_path).parts:
            raise InputError(f"{question.key}: audio_path {audio_path!r} must be relative and stay in {root}")
        by_clip[audio_path].append(question)
    clips = sorted(by_clip, key=lambda path: hash64("shard order", path))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("shard-*.tar"), *folder.glob("*.partial")]:
        stale.unlink()
    for number, start in enumerate(range(0, len(clips), samples_per_shard)):
        scratch = folder / f"shard-{number:06d}.tar.partial"
        names = clips[start : start + samples_per_shard]
        with scratch.open("wb") as file:
            writer = wds.TarWriter(file, encoder=False, mtime=0)
            for path in track(names, f"packing {scratch.stem}"):
                _write_sample(writer, path, root, by_clip[path])
            writer.close()
        scratch.rename(folder / f"shard-{number:06d}.tar")
    return build_index(str(folder)) | {"shards": -(-len(clips) // samples_per_shard)}


def _write_sample(writer: wds.TarWriter, path: str, root: Path, questions: list[Question]) -> None:
    # Two writes of one key: the writer sorts the members of one write by extension, and json must come first so that
    # a plain stream can decide before it reads the audio.
    key = f"{hash64('clip', path):016x}"
    content = {"audio_path": path, "questions": [question.record() for question in questions]}
    writer.write({"__key__": key, "json": json.dumps(content, ensure_ascii=False).encode()})
    writer.write({"__key__": key, "flac": flac_bytes(read_recording(root / path))})
