"""Pages: an overview above an explorer of questions, in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .records import Item, Overview


def write_page(
    path: str | Path, overview: Overview, items: Sequence[Item], embed_mb: float = 40.0, beside_mb: float = 200.0
) -> Path:
    """Writes the page; returns where it is.

    items: shown in the explorer; none leaves it out. embed_mb: megabytes of recordings inside the file, in the order of
    the items. beside_mb: further ones, which are in no file that a browser plays, as files in a folder beside the page;
    beyond that they are named only.
    """
    raise NotImplementedError
