"""The batch: prompts, targets and weights as the policy sees them, and the samples that they were made of.

A prompt has two parts, because one recording is often asked several questions and one silence all of them:
    prefix   system turn and the recording, one row per distinct clip      [U, P] left-padded
    suffix   the question and the start of the answer, one row per sample  [B, S] left-padded
`clip_of_row` [B] says which prefix a row continues. The audio is encoded once per clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from .questions.question import Question


def index_on(numbers: Sequence[int], device: torch.device) -> Tensor:
    """[n] int64 on the device, which is not waited for."""
    made = torch.tensor(numbers, dtype=torch.int64, device="cpu")
    return made.to(device, non_blocking=True)


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


class Sizes(NamedTuple):
    """Lengths in a batch of prompts, as numbers: of U clips the prefix and the mel frames, of B rows the suffix and
    the clip. audio: positions of the U prefixes that sound is to fill; None where they were not counted.
    """

    prefix: list[int]
    frames: list[int]
    suffix: list[int]
    clip: list[int]
    audio: list[int] | None = None

    @property
    def own_clips(self) -> bool:
        """Whether every row has a clip of its own, in order."""
        return self.clip == list(range(len(self.prefix)))


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

    @property
    def sizes(self) -> Sizes:
        """The lengths; read from the masks once, and known to whatever is made of these prompts."""
        known: Sizes | None = self.__dict__.get("_sizes")
        if known is None:
            sums = [mask.sum(1) for mask in (self.prefix_mask, self.feature_mask, self.suffix_mask)]
            flat, parts = torch.cat([*sums, self.clip_of_row]).tolist(), []
            for count in (len(self.prefix_ids), len(self.prefix_ids), len(self), len(self)):
                parts.append(flat[:count])
                flat = flat[count:]
            known = Sizes(*parts)
            object.__setattr__(self, "_sizes", known)
        return known

    @property
    def heard(self) -> list[Tensor] | None:
        """What the audio tower made of every clip, [positions, H] each; None where that is not known yet."""
        heard: list[Tensor] | None = self.__dict__.get("_heard")
        return heard

    def knowing(self, sizes: Sizes, heard: Sequence[Tensor] | None = None) -> Self:
        """These prompts with their lengths and, where it is given, what was heard of their clips."""
        same = replace(self)
        object.__setattr__(same, "_sizes", sizes)
        object.__setattr__(same, "_heard", None if heard is None else list(heard))
        return same

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """A copy whose tensors lie on the device; what is known of the lengths needs not be read from there."""
        heard = None if self.heard is None else [part.to(device, non_blocking=non_blocking) for part in self.heard]
        return super().to(device, non_blocking).knowing(self.sizes, heard)

    def select(self, rows: slice | Sequence[int] | Tensor) -> Prompts:
        """The prompts of these rows, with only the clips they need and no more padding than they need."""
        sizes = self.sizes
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows
        chosen = [int(row) for row in (numbers.tolist() if isinstance(numbers, Tensor) else numbers)]
        clips = sorted({sizes.clip[row] for row in chosen})
        place = {clip: number for number, clip in enumerate(clips)}
        found = Sizes(
            [sizes.prefix[clip] for clip in clips],
            [sizes.frames[clip] for clip in clips],
            [sizes.suffix[row] for row in chosen],
            [place[sizes.clip[row]] for row in chosen],
            None if sizes.audio is None else [sizes.audio[clip] for clip in clips],
        )
        at, of = index_on(clips, self.prefix_ids.device), index_on(chosen, self.prefix_ids.device)
        p, s, frames = max(found.prefix), max(found.suffix), max(found.frames)
        selected = Prompts(
            self.prefix_ids[at, -p:],
            self.prefix_mask[at, -p:],
            self.features[at, :, :frames],
            self.feature_mask[at, :frames],
            self.suffix_ids[of, -s:],
            self.suffix_mask[of, -s:],
            index_on(found.clip, self.prefix_ids.device),
        )
        return selected.knowing(found, None if self.heard is None else [self.heard[clip] for clip in clips])

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

    @property
    def target_lengths(self) -> list[int]:
        """[B] tokens of every target; read from the mask once."""
        known: list[int] | None = self.__dict__.get("_target_lengths")
        if known is None:
            known = self.target_mask.sum(1).tolist()
            object.__setattr__(self, "_target_lengths", known)
        return known

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """A copy whose tensors lie on the device; what is known of the lengths needs not be read from there."""
        known, moved = self.target_lengths, super().to(device, non_blocking)
        object.__setattr__(moved, "_target_lengths", known)
        return moved
