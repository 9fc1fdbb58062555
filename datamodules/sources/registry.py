"""The readers by name, and the items of a source with the recordings they are about."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...configs.plugins import function_named
from ...configs.typed import arguments
from ...errors import InputError
from .audio_files import AudioFiles
from .audiocaps import read_audiocaps
from .clotho import read_clotho
from .compa_r import read_compa_r
from .item import Found, Item
from .lp_musiccaps_mtt import read_lp_musiccaps_mtt
from .musiccaps import read_musiccaps
from .speechcraft import read_speechcraft
from .tacos import read_tacos

READERS: dict[str, Callable[..., Iterator[Item]]] = {
    "clotho": read_clotho,
    "audiocaps": read_audiocaps,
    "musiccaps": read_musiccaps,
    "lp_musiccaps_mtt": read_lp_musiccaps_mtt,
    "compa_r": read_compa_r,
    "tacos": read_tacos,
    "speechcraft": read_speechcraft,
}


def read_source(reader: str, folder: str, found: Found, options: Mapping[str, Any] | None = None) -> Iterator[Item]:
    """The items of a source in the order of its files.

    reader: of READERS, or an import path to a function (folder: Path, found: Found, **options) that yields items.
    Raises InputError for a wrong name, folder or option, and for a fault where `found` lists none.
    """
    function = function_named(reader, READERS, "reader")
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of annotation files")
    if options and "found" not in inspect.signature(function).parameters:
        raise InputError(f"reader {reader!r} must take (folder, found, ...)")
    given = arguments(function, dict(options or {}), f"reader {reader}: ", given_later=2)
    seen: set[int] = set()
    for item in function(Path(folder), found, **given):
        if item.uid in seen:
            found.fault(f"{folder}: {item.source}/{item.id} is given twice")
            continue
        seen.add(item.uid)
        yield item


def with_audio(items: Iterator[Item], files: AudioFiles, whole: bool, missing: list[str]) -> Iterator[Item]:
    """The items whose recording is found, with its path; the others are listed in `missing`.

    whole: files hold the whole video or sound, of which the item's part is cut when it is packed.
    """
    for item in items:
        audio = files.find(item.names)
        if not audio:
            missing.append(f"{item.source}/{item.id}\t{item.names[0]}")
            continue
        yield replace(item, audio=audio, cut=whole and item.at is not None)
