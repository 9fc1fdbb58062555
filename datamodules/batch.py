"""The batch: prompts, targets and weights as the policy sees them, and the samples that they were made of.

A prompt has two parts, because one recording is often asked several questions and one silence all of them:
    prefix   system turn and the recording, one row per distinct clip      [U, P] left-padded
    suffix   the question and the start of the answer, one row per sample  [B, S] left-padded
`clip_of_row` [B] says which prefix a row continues. The audio is encoded once per clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from .questions.question import Question


@dataclass(frozen=True)
class Replaced:
    """A sample that could not be read, and why.

    served: key of the question in its place, "" where there is none: in evaluation the place has the weight 0, and in
    training the sample was itself a replacement.
    """

    key: str
    uid: int
    reason: str
    served: str
    stage: str
    step: int


class _Movable:
    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """A copy whose tensors lie on the device."""
        moved = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, (Tensor, _Movable)):
                moved[f.name] = value.to(device, non_blocking=non_blocking)
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Prompts(_Movable):
    """Token ids and audio features of B prompts over U distinct clips; masks are 1 where a position is real."""

    prefix_ids: Tensor  # [U, P] int64
    prefix_mask: Tensor  # [U, P] int64
    features: Tensor  # [U, 128, F] float32 log-mel
    feature_mask: Tensor  # [U, F] int64
    suffix_ids: Tensor  # [B, S] int64
    suffix_mask: Tensor  # [B, S] int64
    clip_of_row: Tensor  # [B] int64

    def __len__(self) -> int:
        return len(self.suffix_ids)

    def select(self, rows: slice | Tensor) -> Prompts:
        """The prompts of these rows, with only the clips they need and no more padding than they need."""
        clips, clip_of_row = torch.unique(self.clip_of_row[rows], return_inverse=True)
        prefix_mask, suffix_mask = self.prefix_mask[clips], self.suffix_mask[rows]
        p, s = int(prefix_mask.sum(1).max()), int(suffix_mask.sum(1).max())
        frames = int(self.feature_mask[clips].sum(1).max())
        return Prompts(
            self.prefix_ids[clips, -p:],
            prefix_mask[:, -p:],
            self.features[clips, :, :frames],
            self.feature_mask[clips, :frames],
            self.suffix_ids[rows, -s:],
            suffix_mask[:, -s:],
            clip_of_row,
        )

    def frames(self, parts: Sequence[slice]) -> tuple[int, int]:
        """Mel frames (100 a second) in these micro-batches, without and with the padding they are computed with."""
        real = padded = 0
        lengths = self.feature_mask.sum(1)
        for part in parts:
            clips = lengths[torch.unique(self.clip_of_row[part])]
            real, padded = real + int(clips.sum()), padded + int(clips.max()) * len(clips)
        return real, padded


@dataclass(frozen=True)
class Sample:
    """One question as it was asked: the choices in the order shown, its label, and its row of the index."""

    question: Question
    choices: tuple[str, ...]
    label: str = ""
    condition: str = "audio"
    weight: float = 1.0
    row: int = -1
    style: str = "paper"  # of the prompt, see `prompts.py`


@dataclass(frozen=True)
class Batch(_Movable):
    """One rank's share of one optimizer step (training) or of one evaluation batch (step -1)."""

    prompts: Prompts
    target_ids: Tensor  # [B, T] int64, right-padded
    target_mask: Tensor  # [B, T] int64
    weights: Tensor  # [B] float32; 0 marks the padding of a last batch
    samples: tuple[Sample, ...]
    step: int = -1
    plan: str = ""
    stage: str = ""  # of the curriculum; in an interleave the member whose turn it is
    replaced: tuple[Replaced, ...] = ()  # bad samples, and what is in their places
    passes: tuple[int, ...] = ()  # [B] how often each place's row was presented before in the stage; () in evaluation

    def __len__(self) -> int:
        return len(self.samples)
