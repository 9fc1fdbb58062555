"""Recordings of a page: inside the file as Opus while there is room, then linked, then only named."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..boundary.files import JSON_BYTES, made_folder, read_bytes, write_bytes
from ..datamodules.audio.encoding import opus_bytes
from ..datamodules.audio.waves import Cut, whole
from ..datamodules.shards.reader import ShardReader
from ..errors import InputError
from ..progress import track
from .page import seen
from .records import Clip

_PLAYABLE = {".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".webm"}
_MB = 1e6


@dataclass
class Sounds:
    """The recordings of a page in the order of their first question.

    places: id of a clip -> its place. clips: for every one {} where it is embedded, else `url`, or `why` there is none.
    blocks: place -> Base64 of the Opus file that is embedded.
    """

    places: dict[str, int]
    clips: list[dict[str, str]]
    blocks: dict[int, str]

    @property
    def linked(self) -> bool:
        """Whether any is a file beside the page, or elsewhere on this disk."""
        return any("url" in clip for clip in self.clips)


def gather(clips: Iterable[Clip], page: Path, embed_mb: float, beside_mb: float) -> Sounds:
    """Reads recordings and embeds them while there is room.

    page: the file that they are for. embed_mb: megabytes of the page that they may take. beside_mb: further ones of
    shards are written as files into a folder beside the page, named after it; files that a browser plays are linked
    where they lie. A recording that cannot be read has its error on the page.
    """
    distinct = {clip.id: clip for clip in clips}
    places = {name: place for place, name in enumerate(distinct)}
    sounds = Sounds(places, [{} for _ in places], {})
    room, beside = embed_mb * _MB, beside_mb * _MB
    folder = page.with_name(f"{page.stem}.clips")
    for file in folder.glob("*.ogg"):  # of the page that stood here before
        file.unlink()
    for name, clip in track(distinct.items(), f"recordings of {page.name}", len(distinct)):
        place = places[name]
        if room <= 0 and (url := _url(clip, page)):
            sounds.clips[place] = {"url": url}
            continue
        if room <= 0 and beside <= 0:
            sounds.clips[place] = {"why": "Not in this page, which has room for the first recordings only."}
            continue
        try:
            data = opus_bytes(_wave(clip))
        except (OSError, ValueError) as error:  # also InputError, and names that no file can have
            sounds.clips[place] = {"why": seen(f"No recording: {error}")}
            continue
        if len(data) * 4 / 3 <= room:
            sounds.blocks[place] = base64.b64encode(data).decode()
            room -= len(sounds.blocks[place])
            continue
        room = 0
        if url := _url(clip, page):
            sounds.clips[place] = {"url": url}
            continue
        beside -= len(data)
        made_folder(folder)
        write_bytes(folder / f"{place}.ogg", data)
        sounds.clips[place] = {"url": f"{quote(folder.name)}/{place}.ogg"}
    return sounds


def _wave(clip: Clip) -> np.ndarray:
    if clip.load is not None:
        return clip.load()
    if clip.path is None:
        raise InputError(f"{clip.id}: neither a file nor a shard is known")
    end = None if clip.seconds is None else clip.start + clip.seconds
    return whole(read_bytes(clip.path, JSON_BYTES), clip.path, Cut(clip.start, end, too_long="first")).wave


def _url(clip: Clip, page: Path) -> str | None:
    """Relative address of a file that a browser plays, with the part that is heard; None for any other."""
    if clip.path is None or Path(clip.path).suffix.lower() not in _PLAYABLE or not Path(clip.path).is_file():
        return None
    end = "" if clip.seconds is None else f",{clip.start + clip.seconds:g}"
    part = f"#t={clip.start:g}{end}" if clip.start or end else ""
    return quote(os.path.relpath(clip.path, page.parent)) + part


def clip_at(reader: ShardReader, row: int) -> Clip:
    """The recording of an index's row, read from its shard when it is needed."""
    return Clip(f"{reader.clip(row):016x}", load=lambda: reader.wave(row))
