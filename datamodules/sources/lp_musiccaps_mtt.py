"""LP-MusicCaps-MTT: captions that a language model wrote from the tags of MagnaTagATune, in Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...boundary.tables import open_parquet
from ...errors import InputError
from .item import Found, Item

_CAPTIONS = ("caption_writing", "caption_summary", "caption_paraphrase")
_ATTRIBUTES = "caption_attribute_prediction"  # its authors advise against it: the attributes are invented
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def read_lp_musiccaps_mtt(folder: Path, found: Found, attributes: bool = False) -> Iterator[Item]:
    """An item per row of the Parquet files; their names tell the split.

    attributes: take `caption_attribute_prediction` too.
    """
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise InputError(f"{folder}: holds no .parquet file of LP-MusicCaps-MTT")
    for path in files:
        split = _SPLITS.get(path.stem.split("-")[0], "train")
        for number, row in enumerate(_rows(path)):
            where = f"{path}[{number}]"
            texts = tuple(text for n in (*_CAPTIONS, *[_ATTRIBUTES] * attributes) if (text := _text(row[n])))
            if not _text(row["track_id"]) or not _text(row["path"]) or not texts:
                found.fault(f"{where}: needs track_id, path and a caption")
                continue
            found.counts.update({"rows": 1, "clips": 1, f"{split} rows": 1, "captions": len(texts)})
            track, place = _text(row["track_id"]), _text(row["path"])
            yield Item(
                "LP-MusicCaps-MTT",
                track,
                split,
                (place, place.rpartition("/")[2], track),
                texts,
                {"tags": [str(tag) for tag in (row.get("tag_top188") or row.get("tag_top50") or ())]},
                types=("music",),
                license="mit (card), cc-by-nc-4.0 (repository)",
                origin=f"magnatagatune:{track}",
            )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, a thousand in memory at a time."""
    wanted = ("track_id", "path", *_CAPTIONS, _ATTRIBUTES)
    try:
        with open_parquet(path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in wanted if name not in names]:
                raise InputError(f"{path}: has no column {missing[0]}; it has {', '.join(names)}")
            more = [name for name in ("tag_top188", "tag_top50") if name in names]
            for batch in file.iter_batches(1_000, columns=[*wanted, *more]):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file that can be read ({str(error).splitlines()[0]})") from None


def _text(value: Any) -> str:
    return " ".join(str(value).split()) if value is not None else ""
