"""MusicCaps: ten seconds of a YouTube video, a long caption and a list of aspects."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from .item import Found, Item
from .tables import number_of, one_of, rows_of

# What its captions say that nobody can hear: how good the recording is, and where the music may be played.
_UNHEARD = re.compile(
    r"\b(?:recording|audio|sound) quality\b|\b(?:low|poor|bad|average|good|high)[ -]quality\b"
    r"|\b(?:amateur|home|phone|field) recording\b|\bquality of the (?:recording|audio|sound)\b"
    r"|\b(?:may|might|could|can|would)(?: also)?(?: very well)? be (?:playing|played|used|heard|part of)"
    r"|\b(?:sounds|feels) like (?:something|it) (?:you|that)\b|\bsuitable for\b|\bwould (?:fit|suit)\b",
    re.IGNORECASE,
)


def read_musiccaps(folder: Path, found: Found, unheard: bool = False) -> Iterator[Item]:
    """An item per row; AudioSet's evaluation clips are the test split.

    unheard: keep sentences on the quality of the recording and on imagined uses, which nobody can hear.
    """
    columns = ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval")
    for where, row in rows_of(one_of(folder, ("musiccaps-public.csv",)), columns):
        start, end = (number_of(row[name], where, name) for name in ("start_s", "end_s"))
        aspects = _aspects(row["aspect_list"])
        text = " ".join(row["caption"].split())
        if aspects is None or not row["ytid"] or not text or end <= start or row["is_audioset_eval"] not in _BOOLS:
            wrong = "aspect_list must be a list of texts" if aspects is None else "needs ytid, start_s < end_s, caption"
            found.fault(f"{where}: {wrong}")
            continue
        test = row["is_audioset_eval"] == "True"
        found.counts.update({"rows": 1, "clips": 1, "test" if test else "train": 1, "aspects": len(aspects)})
        video, span = row["ytid"], f"{int(start)}-{int(end)}"
        yield Item(
            "MusicCaps",
            video,
            "test" if test else "train",
            (f"[{video}]-[{span}]", f"{video}_{int(start)}_{int(end)}", f"{video}_{int(start)}", video, f"Y{video}"),
            (text if unheard else heard_sentences(text, found),),
            {"aspects": [aspect for aspect in aspects if unheard or not _UNHEARD.search(aspect)]},
            types=("music",),
            license="cc-by-sa-4.0",
            origin=f"youtube:{video}",
            at=(start, end),
        )


_BOOLS = ("True", "False")


def _aspects(text: str) -> list[str] | None:
    """The list that a Python literal says, None where it says another thing."""
    try:
        value = ast.literal_eval(text) if len(text) < 20_000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def heard_sentences(text: str, found: Found) -> str:
    """The sentences that speak of what is heard; all of them where none would be left."""
    sentences = re.split(r"(?<=[.!?])\s+", text)
    kept = [sentence for sentence in sentences if not _UNHEARD.search(sentence)]
    found.counts["sentences that nobody hears"] += len(sentences) - len(kept)
    return " ".join(kept or sentences)
