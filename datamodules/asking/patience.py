"""How many requests wait together for a server that is busy, loading or gone, and go on together."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ...boundary.words import say

_LESS = 0.75  # of the requests at a time that are left after a refusal
_SAY_AGAIN_S = 60.0


def now() -> float:
    """Seconds on a clock that never goes back."""
    return time.monotonic()


async def until(moment: float) -> None:
    """Returns at that time of `now`, or at once where it is past."""
    await asyncio.sleep(max(0.0, moment - now()))


def told_seconds(retry_after: str | None, today: datetime | None = None) -> float | None:
    """Seconds to wait that a Retry-After header names, as a number or as an HTTP date; None where it names none.

    A date that is past is 0 seconds away. today: now, with its time zone.
    """
    text = (retry_after or "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError):
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - (today or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


class Patience:
    """Lets requests out: at most `most` at a time, and none while the server wants to be left alone.

    After a refusal all wait, then one goes ahead, and the others follow once it is answered. Every refusal leaves three
    quarters of the requests at a time, every round of answers adds one again.

    Args:
        where: address for messages. most: requests at a time. patience_s: after so many seconds of refusals alone,
            `stop` says why it ends; "" until then. changed: called whenever there may be room again.
    """

    def __init__(self, where: str, most: int, patience_s: float, changed: Callable[[], None] | None = None) -> None:
        self.where, self.most, self.patience_s = where, most, patience_s
        self._told = changed or (lambda: None)
        self.room = float(most)
        self.refusals = 0  # in a row; those that came together are one
        self.stop = ""
        self._open = 0
        self._resume = self._last_cut = -math.inf
        self._refused_since: float | None = None
        self._said = -math.inf
        self._line: deque[object] = deque()  # who was refused stands behind who was not
        self._changed = asyncio.Event()

    async def enter(self) -> bool:
        """Waits for the turn of a request; false where none is let out any more. `leave` must follow a true one."""
        turn = object()
        self._line.append(turn)
        try:
            while not self.stop:
                if self._resume > now():
                    await until(self._resume)
                elif self._line[0] is turn and self._open < (1 if self._refused_since is not None else int(self.room)):
                    self._open += 1
                    return True
                else:
                    await self._changed.wait()
            return False
        finally:
            self._line.remove(turn)
            self._wake()

    def leave(self) -> None:
        """A request is over, however it ended; those that wait look again."""
        self._open -= 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._told()

    @property
    def resume(self) -> float:
        """When the server may be asked again, by `now`; minus infinity where it never refused."""
        return self._resume

    @property
    def load(self) -> float:
        """The share of its requests at a time that are out; 1 or more where another would have to wait."""
        waits = self.stop or self._resume > now()
        room = 1 if self._refused_since is not None else int(self.room)
        return math.inf if waits else (self._open + len(self._line)) / room

    def answered(self) -> None:
        """The server works: a question was answered."""
        self.reached()
        self.room = min(float(self.most), self.room + 1 / self.room)

    def reached(self) -> None:
        """The server is there, whatever it said."""
        self._refused_since, self.refusals = None, 0

    def refused(self, begun: float, pause_s: float, error: str, told_s: float | None = None) -> float:
        """Makes all wait: as long as the server told, else `pause_s`; returns until when, or sets `stop`.

        begun: when the request went out, for those of one crowd to count once. error: what it met, for messages.
        """
        moment = now()
        if begun >= self._last_cut:
            self.room, self.refusals, self._last_cut = max(1.0, _LESS * self.room), self.refusals + 1, moment
        if self._refused_since is None:
            self._refused_since = moment
        self._resume = max(self._resume, moment + (told_s or pause_s))
        if self._resume - self._refused_since > self.patience_s:
            wanted = f"it asks to wait {told_s:,.0f} s, " if told_s and told_s > self.patience_s else ""
            wanted += f"no answer within patience_s ({self.patience_s:,g} s)"
            self.stop = f"{wanted}, the last said: {error}; raise patience_s"
        elif moment - self._said > _SAY_AGAIN_S:
            self._said = moment
            say(f"{self.where}: {error:.200}; waiting, up to {self.patience_s:,g} s", file=sys.stderr, flush=True)
        return self._resume
