"""How long the phases of a step take: rollout, rewards, log-probs, update."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Phases:
    """Seconds of each phase since `begin`; work queued on a GPU is waited for at every border."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def begin(self) -> None:
        """Forgets the last step's times."""
        self._seconds = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = _now()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + _now() - start

    def seconds(self) -> dict[str, float]:
        """`time/{phase}_s` -> seconds since `begin`, for the log."""
        return {f"time/{name}_s": value for name, value in self._seconds.items()}


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
