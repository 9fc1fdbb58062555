"""How much work a step was, over all ranks: samples, tokens, sound, floating-point operations; and its padding.

Lengths come from the device in one transfer, and all that is summed over ranks is summed at once.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...datamodules.batch import Batch
from ..policy.flops import ReadingCost, Row
from ..ranks import Ranks
from .experience import Experience


@dataclass(frozen=True)
class Work:
    """What one step did, over all ranks and without the padding of a last batch.

    samples: presented. tokens: of their prompts, audio positions included, and of all that is said to them. audio_s:
    seconds of sound presented. flops: see `policy/flops.py`. peak_bytes: the most memory of any rank so far.
    """

    samples: float
    tokens: float
    audio_s: float
    flops: float
    peak_bytes: float


@dataclass(frozen=True)
class Lengths:
    """The lengths in a batch, in positions and mel frames: of U clips and B prompts."""

    frames: list[int]
    prefix: list[int]
    clip: list[int]
    suffix: list[int]
    target: list[int]

    @classmethod
    def of(cls, batch: Batch) -> Lengths:
        """Read from the batch's masks at once."""
        prompts = batch.prompts
        by_clip = [prompts.feature_mask.sum(1), prompts.prefix_mask.sum(1)]
        by_row = [prompts.clip_of_row, prompts.suffix_mask.sum(1), batch.target_mask.sum(1)]
        parts = [*by_clip, *by_row]
        flat, ends = torch.cat(parts).tolist(), []
        for part in parts:
            ends.append(flat[: len(part)])
            flat = flat[len(part) :]
        return cls(*ends)

    def computed(self, parts: Sequence[slice]) -> tuple[int, int]:
        """Mel frames (100 a second) in these micro-batches, without and with the padding they are computed with."""
        real = padded = 0
        for part in parts:
            frames = [self.frames[clip] for clip in set(self.clip[part])]
            real, padded = real + sum(frames), padded + max(frames) * len(frames)
        return real, padded

    def rows(self, completions: Sequence[Sequence[int]] | None = None) -> list[Row]:
        """One per prompt; completions: lengths of what is said to each, by default the target."""
        said = [(length,) for length in self.target] if completions is None else [tuple(each) for each in completions]
        places = zip(self.clip, self.suffix, said, strict=True)
        return [Row(clip, self.frames[clip], self.prefix[clip], suffix, each) for clip, suffix, each in places]


def summed(work: Work, padding: tuple[int, int], replaced: int, ranks: Ranks) -> tuple[Work, dict[str, float]]:
    """The work of all ranks, and what of their batches was computed for nothing; a collective operation.

    padding: mel frames without and with padding. replaced: bad samples so far. Logged are `data/padding`, the share of
    the frames of sound that are computed for nothing, and `data/replaced`.
    """
    peaks = [work.peak_bytes if rank == ranks.rank else 0.0 for rank in range(ranks.world_size)]
    own = (work.samples, work.tokens, work.audio_s, work.flops, *map(float, padding), float(replaced))
    samples, tokens, audio_s, flops, heard, computed, bad, *fullest = ranks.sums(*own, *peaks)
    whole = Work(samples, tokens, audio_s, flops, max(fullest))
    return whole, {"data/padding": 1 - heard / computed, "data/replaced": bad}


def peak_bytes() -> int:
    """The most memory that this process has held: allocated on its GPU, or resident where there is none."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def supervised(cost: ReadingCost, batch: Batch, lengths: Lengths, parts: Sequence[slice]) -> Work:
    """This rank's work of training on the batch's targets in these micro-batches."""
    rows = lengths.rows()
    real = [[row for row, sample in zip(rows[p], batch.samples[p], strict=True) if sample.weight > 0] for p in parts]
    return _work([row for part in real for row in part], sum(cost.read(part, backward=True) for part in real))


def sampled(cost: ReadingCost, experiences: Sequence[Experience], size: int, fixed: int, updates: int) -> Work:
    """This rank's work of sampling and of training on what was sampled.

    size: prompts of a micro-batch. fixed: log-probs taken without a gradient, of reference and old policy. updates:
    optimizer steps on every rollout.
    """
    everything: list[Row] = []
    flops = 0.0
    for experience in experiences:
        said = experience.lengths[experience.rows.cpu()].tolist()
        rows = Lengths.of(experience.batch).rows(said)
        real = [row for row, counts in zip(rows, experience.real.tolist(), strict=True) if counts]
        kept = [row for row, counts in zip(rows, experience.kept.tolist(), strict=True) if counts]
        everything += real
        flops += cost.sampled(real)
        for part in (kept[start : start + size] for start in range(0, len(kept), size)):
            flops += fixed * cost.read(part) + updates * cost.read(part, backward=True)
    return _work(everything, flops)


def _work(rows: Sequence[Row], flops: float) -> Work:
    tokens = sum(row.prefix + row.suffix + sum(row.completions) for row in rows)
    return Work(len(rows), tokens, sum(row.frames for row in rows) / 100, flops, float(peak_bytes()))
