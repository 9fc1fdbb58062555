"""AudioCaps v1 (`dataset/`) and v2 (`dataset2.0/`): ten seconds of a YouTube video, a caption per row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from .item import Found, Item
from .tables import number_of, rows_of

_SECONDS = 10.0


def read_audiocaps(folder: Path, found: Found, version: str = "") -> Iterator[Item]:
    """An item per row of train, val and test.

    version: "v1" or "v2" where the folder holds both, as the publisher's does; v2 by default.
    """
    if version not in ("", "v1", "v2"):
        raise InputError(f"version of AudioCaps is v1 or v2, got {version!r}")
    place = folder / {"v1": "dataset", "v2": "dataset2.0"}[version] if version else None
    if place is None:
        place = next((p for p in (folder / "dataset2.0", folder / "dataset", folder) if p.is_dir() and _parts(p)), None)
    if place is None or not _parts(place):
        raise InputError(f"{place or folder}: holds no train.csv, val.csv or test.csv of AudioCaps")
    clips: set[tuple[str, str]] = set()
    for part in _parts(place):
        for where, row in rows_of(place / f"{part}.csv", ("audiocap_id", "youtube_id", "start_time", "caption")):
            video, start = row["youtube_id"], number_of(row["start_time"], where, "start_time")
            text = " ".join(row["caption"].split())
            if not re.fullmatch(r"[\w-]{11}", video) or not row["audiocap_id"].strip() or not text:
                found.fault(f"{where}: needs an audiocap_id, a youtube_id of 11 signs and a caption")
                continue
            found.counts.update({"rows": 1, f"{part} rows": 1, "captions": 1})
            if (video, row["start_time"]) not in clips:
                clips.add((video, row["start_time"]))
                found.counts.update({"clips": 1, f"{part} clips": 1})
            yield Item(
                "AudioCaps",
                row["audiocap_id"].strip(),
                part,
                _names(video, int(start), row["audiocap_id"].strip()),
                (text,),
                license="mit, academic purposes only",
                origin=f"youtube:{video}",
                at=(start, start + _SECONDS),
            )


def _parts(folder: Path) -> list[str]:
    return [part for part in ("train", "val", "test") if (folder / f"{part}.csv").is_file()]


def _names(video: str, start: int, number: str) -> tuple[str, ...]:
    """As downloaders name the file: id and start, id and both ends in seconds or milliseconds, row, id alone."""
    end = start + int(_SECONDS)
    spans = (f"{start}", f"{start}_{end}", f"{start * 1000}_{end * 1000}", f"{start}.0_{end}.0")
    names = [f"{mark}{video}_{span}" for span in spans for mark in ("", "Y")]
    return (*names, number, video, f"Y{video}")
