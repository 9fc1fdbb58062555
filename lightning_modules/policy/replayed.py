"""Decoding whose step is recorded once and replayed: of a token's thousand small operations the CPU starts one.

A recording is bound to memory and shapes: it is made anew when completions have left, and after every 64 tokens, so
that a token never looks at many more places than it has. Whatever it needs of the token lies on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .decoding import Decoding

LOG = logging.getLogger("earwitness.rollout")
PLACES = 64  # tokens that one recording serves
Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
_unable: list[str] = []  # why this process records nothing any more


class Replayed:
    """As `Decoding`, which it drives. record: gives of a function without arguments one that replays it."""

    def __init__(self, decoding: Decoding, record: Recorder | None = None) -> None:
        self._decoding, self._record = decoding, record or recorded
        self._token: Tensor | None = None
        self._replay: Callable[[], Tensor] | None = None
        self._bound = 0
        self._no_room = False

    def step(self, token: Tensor) -> Tensor:
        """As `Decoding.step`. What it returns is overwritten by the next step."""
        decoding = self._decoding
        bound = min((decoding.read // PLACES + 1) * PLACES, decoding.longest)
        if _unable or self._no_room:
            return decoding.step(token)
        if self._replay is None or bound != self._bound:
            self._replay = None
            try:
                self._replay = self._recorded(token, bound)
            except torch.OutOfMemoryError:  # a recording needs some memory more; the next completions may be fewer
                self._no_room = True
                return decoding.step(token)
            except RuntimeError as error:
                _unable.append(str(error).splitlines()[0])
                LOG.warning("the sampler's steps are not recorded as a CUDA graph, which is slower: %s", _unable[0])
                return decoding.step(token)
        assert self._token is not None
        self._token.copy_(token)
        self._at.fill_(decoding.read)
        last = self._replay()
        decoding.read += 1
        return last

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """As `Decoding.keep`."""
        self._decoding.keep(prompts, rows)
        self._replay = None

    def _recorded(self, token: Tensor, bound: int) -> Callable[[], Tensor]:
        decoding, self._bound = self._decoding, bound
        kept = self._token = token.clone()
        at = self._at = torch.full((), decoding.read, dtype=torch.int64, device=token.device)
        with torch.cuda.device_of(token):  # a policy may lie on another GPU than the process's present one
            return self._record(lambda: decoding.hidden(kept, at, bound))


def recorded(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Replays a function's operations on the present GPU as a CUDA graph; the function may be called several times.

    RuntimeError where that is not possible, or where a replay does not give bitwise what the function gave.
    """
    beside, (_, first) = _place(torch.cuda.current_device())
    beside.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(beside):
            expected = function()
            out, graph = _captured(function, first.pool())
    finally:  # also what is done instead comes after the function's operations, which write to the same memory
        torch.cuda.current_stream().wait_stream(beside)
    out.fill_(torch.nan)  # a graph that holds nothing, as of operations on another device, must not pass for the step
    graph.replay()
    if not torch.equal(out, expected):
        raise RuntimeError("a replayed step is not the step itself")

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def _captured(function: Callable[[], Tensor], pool: Any = None) -> tuple[Tensor, Any]:
    """What the function returned, to be filled by replays, and the graph of its operations on the present stream."""
    graph = torch.cuda.CUDAGraph()
    # Other threads, as the loader that pins memory, may call the device meanwhile.
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        out = function()
    finally:
        graph.capture_end()
    return out, graph


@cache
def _place(device: int) -> tuple[Any, tuple[Tensor, Any]]:
    """The stream of a GPU that recordings are made on, and a first one, whose memory all share one after the other.

    One stream, since each that multiplies has a workspace of its own. The first stays as long as the process: torch
    records nothing into memory whose last graph is gone.
    """
    beside = torch.cuda.Stream(device)
    with torch.cuda.stream(beside):
        torch.zeros((), device=device)
        return beside, _captured(lambda: torch.zeros((), device=device))
