"""TACOS: Freesound clips whose events have a caption, an onset and an offset; temporal questions alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .item import Found, Item, license_of
from .tables import Row, number_of, one_of, rows_of


def read_tacos(folder: Path, found: Found) -> Iterator[Item]:
    """An item per event of a clip, where the text of an event that occurs again counts once."""
    events: dict[str, list[dict[str, Any]]] = {}
    for where, row in rows_of(
        one_of(folder, ("annotations_strong.csv",)), ("filename", "text|caption", "onset", "offset")
    ):
        onset, offset = (number_of(row[name], where, name) for name in ("onset", "offset"))
        text = " ".join(row["text"].split())
        if not row["filename"] or not text or not 0 <= onset < offset:
            found.fault(f"{where}: needs filename, text and 0 <= onset < offset, got {onset:g} and {offset:g}")
            continue
        found.counts["events"] += 1
        events.setdefault(row["filename"], []).append({"text": text, "onset": onset, "offset": offset})
    found.counts["clips"] = len(events)
    weak = _by_file(folder, ("annotations_weak.csv", "annotations_weak_old.csv"), ("filename", "text|caption"))
    about = _by_file(folder, ("metadata.csv",), ("filename", "freesound_id", "license"))
    found.counts.update({"weak": len(weak), "metadata": len(about)})
    test = set(_by_file(folder, ("test_split.csv",), ("filename",), needed=False))
    for name, heard in events.items():
        told = about.get(name, {})
        scene = " ".join(weak[name]["text"].split()) if name in weak else ""
        for place, text in enumerate(dict.fromkeys(event["text"] for event in heard)):
            yield Item(
                "TACOS",
                f"{name.rpartition('.')[0] or name}_{place}",
                "test" if name in test else "train",
                (name,),
                (scene,) if scene else (text,),
                {"event": text, "events": heard},
                types=("temporal",),
                license=license_of(told.get("license", "")),
                origin=f"freesound:{told.get('freesound_id') or name.rpartition('.')[0]}",
                at=_at(told),
            )


def _by_file(folder: Path, names: tuple[str, ...], columns: tuple[str, ...], needed: bool = True) -> dict[str, Row]:
    """filename -> row of the first of the files that is there; {} where none is and it is not needed."""
    if not needed and not any(list(folder.rglob(name)) for name in names):
        return {}
    return {row["filename"]: row for _, row in rows_of(one_of(folder, names), columns)}


def _at(told: Row) -> tuple[float, float] | None:
    """Seconds of the Freesound recording that the clip is; None where the metadata does not say."""
    try:
        start, end = float(told["start_time_s"]), float(told["end_time_s"])
    except (KeyError, ValueError):
        return None
    return (start, end) if 0 <= start < end else None
