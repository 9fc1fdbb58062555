"""Several addresses of one model: each with patience of its own, the next request where there is most room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..storage.address import redacted
from .patience import Patience, now


class Addresses:
    """Where requests go. An address that is busy or gone is left alone while another one is free.

    urls: base addresses. most: requests at a time at each. patience_s: as of `Patience`, for each.
    """

    def __init__(self, urls: Sequence[str], most: int, patience_s: float) -> None:
        self._changed = asyncio.Event()
        self.patience = {url: Patience(redacted(url), most, patience_s, self._changed.set) for url in urls}

    @property
    def stop(self) -> str:
        """Why none is asked any more, "" while one is."""
        stops = [f"{place.where}: {place.stop}" for place in self.patience.values() if place.stop]
        return "; ".join(stops) if len(stops) == len(self.patience) else ""

    def resume(self) -> float:
        """When the first of those that are still asked may be asked again, by `now`."""
        return min((place.resume for place in self.patience.values() if not place.stop), default=now())

    async def enter(self) -> str:
        """Waits for the turn of a request; the address it goes to, "" where none is asked any more.

        `leave` of that address's patience must follow.
        """
        if len(self.patience) == 1:  # in line, so that whoever was refused stands behind who was not
            url, only = next(iter(self.patience.items()))
            return url if await only.enter() else ""
        while not self.stop:
            self._changed.clear()
            load, url = min((place.load, url) for url, place in self.patience.items())
            if load < 1 and await self.patience[url].enter():
                return url
            pauses = [p.resume - now() for p in self.patience.values() if not p.stop and p.resume > now()]
            waiting = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait([waiting], timeout=min(pauses, default=1.0) + 1e-3)
            waiting.cancel()
        return ""
