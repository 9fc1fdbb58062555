"""What has been drawn of a batch's completions, while those that end leave those that go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...datamodules.batch import index_on
from .drawing import Drawn
from .engine import Completions


class Written:
    """N = B x G completions of at most `longest` tokens, and which of them are still read.

    rows: [n] those that are, a grid of prompts and their completions. latest: [n] the token each has said last.
    """

    def __init__(self, processor: Any, prompts: int, group: int, longest: int, device: torch.device) -> None:
        count = prompts * group
        self._pad, self._stops = processor.pad_id, torch.tensor(processor.stop_ids, device=device)
        self._ids = torch.full((count, longest), self._pad, dtype=torch.int64, device=device)
        self._mask = torch.zeros_like(self._ids)
        self._open = torch.ones(count, dtype=torch.bool, device=device)
        self._logprob: Tensor | None = None
        self._support: list[tuple[Tensor, int, Tensor]] = []
        self.rows = torch.arange(count, device=device)
        self.latest = self.rows
        self._group, self._length = group, 0

    def put(self, drawn: Drawn, position: int) -> Tensor:
        """Writes what was drawn for the rows that are read; returns the tokens [n] they go on with."""
        unfinished = self._open[self.rows]
        self.latest = drawn.token.where(unfinished, self._pad)
        self._ids[self.rows, position] = self.latest
        self._mask[self.rows, position] = unfinished.long()
        if drawn.logprob is not None:
            if self._logprob is None:
                self._logprob = drawn.logprob.new_zeros(self._ids.shape)
            self._logprob[self.rows, position] = drawn.logprob.where(unfinished, 0.0)
        if drawn.support is not None:
            self._support.append((self.rows, position, drawn.support.masked_fill(~unfinished[:, None], -1)))
        self._open[self.rows] = unfinished & ~torch.isin(self.latest, self._stops)
        self._length = position + 1
        return self.latest

    def going_on(self) -> dict[int, list[int]]:
        """Prompts, by their number in the grid, and those of their completions that have not ended; one transfer.

        All have as many: where they have not, ended ones fill the grid.
        """
        unfinished = self._open[self.rows].view(-1, self._group).tolist()
        alive = {number: sum(row) for number, row in enumerate(unfinished) if any(row)}
        width = max(alive.values(), default=0)
        ranked = {number: sorted(range(self._group), key=lambda at: not unfinished[number][at]) for number in alive}
        return {number: sorted(order[:width]) for number, order in ranked.items()}

    def keep(self, grid: Mapping[int, Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Goes on with these alone: prompts [B'] and rows [B', G'] as `Decoding.keep` takes them."""
        device = self.rows.device
        prompts = index_on(list(grid), device)
        rows = index_on([row for chosen in grid.values() for row in chosen], device).view(len(grid), -1)
        flat = (prompts[:, None] * self._group + rows).reshape(-1)
        self.rows, self.latest, self._group = self.rows[flat], self.latest[flat], rows.shape[1]
        return prompts, rows

    def completions(self, prompt_of_row: Tensor) -> Completions:
        """All of them, as wide as the longest."""
        self._length = max(int(self._mask.sum(1).max()), 1) if len(self._mask) else self._length
        ids, mask = self._ids[:, : self._length], self._mask[:, : self._length]
        logprob = None if self._logprob is None else self._logprob[:, : self._length].contiguous()
        return Completions(ids.contiguous(), mask.contiguous(), ~self._open, prompt_of_row, logprob, self._supports())

    def _supports(self) -> Tensor | None:
        if not self._support:
            return None
        width = max(ids.shape[1] for *_, ids in self._support)
        whole = self._ids.new_full((len(self._ids), self._length, width), -1)
        for rows, position, ids in self._support:
            if position < self._length:
                whole[rows, position] = nn.functional.pad(ids, (0, width - ids.shape[1]), value=-1)
        used = max(1, int((whole >= 0).sum(-1).max()))
        return whole[..., :used].contiguous()
