"""Clotho v2.1: captions in UTF-8, metadata in ISO-8859-1, five captions and a licence per clip."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from .item import Found, Item, license_of
from .tables import rows_of

_SPLITS = {"development": "train", "validation": "val", "evaluation": "test"}
_RATE = 44_100


def read_clotho(folder: Path, found: Found) -> Iterator[Item]:
    """An item per clip of the splits whose two files are in the folder."""
    parts = [part for part in _SPLITS if (folder / f"clotho_captions_{part}.csv").is_file()]
    if not parts:
        raise InputError(f"{folder}: holds no clotho_captions_development.csv, _validation.csv or _evaluation.csv")
    for part in parts:
        about = {}
        columns = ("file_name", "sound_id", "start_end_samples", "license")
        for _, row in rows_of(folder / f"clotho_metadata_{part}.csv", columns, "iso-8859-1"):
            about[row["file_name"]] = row
        names = [f"caption_{number}" for number in range(1, 6)]
        for where, row in rows_of(folder / f"clotho_captions_{part}.csv", ("file_name", *names), "utf-8-sig"):
            name = row["file_name"]
            texts = tuple(text for number in names if (text := " ".join(row[number].split())))
            if not name.strip() or not texts:
                found.fault(f"{where}: has no {'caption' if name.strip() else 'file_name'}")
                continue
            if name not in about:
                found.fault(f"{where}: {name!r} is not in clotho_metadata_{part}.csv")
                continue
            found.counts.update(rows=1, clips=1, captions=len(texts))
            found.counts[f"{_SPLITS[part]} clips"] += 1
            told = about[name]
            at = _at(told["start_end_samples"], f"clotho_metadata_{part}.csv: {name}", found)
            number = told["sound_id"].strip()
            yield Item(
                "Clotho",
                name,
                _SPLITS[part],
                (name, html.unescape(name), name.replace(" .wav", ".wav"), name.replace("/", "_")),
                texts,
                {"keywords": [word for word in told.get("keywords", "").split(";") if word]},
                license=license_of(told["license"]),
                origin=f"freesound:{number}" if number.isdigit() else "",
                at=at,
            )


def _at(text: str, where: str, found: Found) -> tuple[float, float] | None:
    """Seconds of the sound that the clip is, from `[first, last]` in samples; None where it is the whole sound."""
    if not text.strip():
        found.counts["no start_end"] += 1
        return None
    match = re.fullmatch(r"\[\s*(\d+)\s*,\s*(\d+)\s*\]", text.strip())
    if not match or int(match[2]) <= int(match[1]):
        found.fault(f"{where}: start_end_samples must be [first, last], got {text!r:.60}")
        return None
    return int(match[1]) / _RATE, int(match[2]) / _RATE
