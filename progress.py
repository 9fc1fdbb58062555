"""Knows how long work is shown: a rich bar on a terminal, one line in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, with their progress on stderr."""
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(file=sys.stderr)
    if console.is_terminal:
        yield from rich_track(items, what, total, console=console, transient=True)
    else:
        yield from items
