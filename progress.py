"""Progress of long work, on stderr: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from .boundary.words import say

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yields the items and says on stderr how many of `total` have come: a bar on a terminal, lines in a log.

    In a log there is a line for every tenth, at most every 10 s, and one after 30 s without; work of less than 10 s
    leaves none. total: None where it is not known.
    """
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(file=sys.stderr)
    if console.is_terminal:
        yield from rich_track(items, what, total, console=console, transient=True)
        return
    said, tenths = time.monotonic(), 0
    for count, item in enumerate(items, 1):
        yield item
        since = time.monotonic() - said
        if since < 10 or count == total:
            continue
        reached = count * 10 // total if total else 0
        if reached > tenths or since >= 30:
            said, tenths = said + since, reached
            say(f"{what}: {count:,}" + (f" of {total:,}" if total else ""), file=sys.stderr, flush=True)


@contextmanager
def counter(what: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """Gives a function to call for every item that is done: a bar on a terminal, a line for every tenth in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda: bar.advance(task)
        return
    count = done

    def advance() -> None:
        nonlocal count
        count += 1
        if count * 10 // max(1, total) > (count - 1) * 10 // max(1, total):
            say(f"{what}: {count:,} of {total:,}", file=sys.stderr, flush=True)

    yield advance
