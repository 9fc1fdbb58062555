"""Requests for batches, and the arguments of a data module that say what is trained on and what is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ...errors import InputError
from ..shards.reader import share

_NO_WEIGHT = np.zeros(1, np.float32)
REASONING = ("none", "structured", "unstructured", "given")


@dataclass(frozen=True)
class Request:
    """One batch to build: B rows of the index with weights, under one condition.

    style: of the prompts (see `prompts.py`). reasoning: what the targets say before their answers, one of REASONING.
    """

    rows: np.ndarray  # [B] int64
    weights: np.ndarray  # [B] float32, 0 for padding
    condition: str
    step: int = -1  # optimizer step; -1 in evaluation
    passes: np.ndarray | None = None  # [B] how often each row was presented before in the stage
    stage: str = ""
    style: str = "paper"
    reasoning: str = "none"

    def share(self, rank: int, world: int) -> Request:
        """One rank's part of the request: every world-th row from its rank on.

        Parts differ by a row at most. A rank for which no row is left gets the first with weight 0, as all ranks train.
        """
        places = share(np.arange(len(self.rows)), rank, world)
        return self._taken(places) if len(places) else replace(self._taken(np.zeros(1, np.int64)), weights=_NO_WEIGHT)

    def without_padding(self) -> Request:
        """The same without the rows of weight 0, which teach nothing; the first alone where all have it."""
        real = np.flatnonzero(self.weights > 0)
        return self._taken(real if len(real) else np.zeros(1, np.int64))

    def sorted_by(self, lengths: np.ndarray) -> Request:
        """The same rows, longest first by [B] lengths: micro-batches and ranks then hold recordings of like length."""
        return self._taken(np.argsort(-lengths, kind="stable"))

    def _taken(self, places: np.ndarray) -> Request:
        passes = None if self.passes is None else self.passes[places]
        return replace(self, rows=self.rows[places], weights=self.weights[places], passes=passes)


@dataclass
class Augmentation:
    """Random gain within +-gain_db and white noise, snr_db[0] to snr_db[1] dB below the signal; new each step."""

    gain_db: float = 6.0
    snr_db: tuple[float, float] = (15.0, 45.0)


@dataclass
class TrainingSpec:
    """What is trained on.

    Args:
        curriculum: mapping with `seed`, `cells` and `stages`, or a YAML file with one.
        stage: which of its stages, or an interleave of several.
        pool: text columns -> values; the rows that the curriculum may use at all.
        conditions: what is heard (see `conditions.py`); with several, every batch has one of them.
        condition_order: "mixed" draws it by the batch's number, "sequential" gives each an equal part of the stage.
        shuffle_options: order the options anew for every pass, so that over as many passes as a question has options
            its answer stands at every place once; the paper's four presentations are `budget: {epochs: 4}`.
        sort_by_length: order the rows of each batch by the length of their recordings; less padding, the same batches.
        augmentation: random gain and noise; null for none.
        reasoning: "structured" or "unstructured": SFT learns the question's `structured_cot` or `unstructured_cot`
            before the answer, and both SFT and GRPO ask for thinking first (style "think"); an SFT question without
            it is an error. "given": the one or the other where a question has it, else the answer alone. "none": the
            answer alone, as the paper trains.
        record: JSON file that shows where the curriculum stands, written at start, end and every checkpoint.
        replan: such a file of another run: this curriculum goes on from there, and uses none of its rows again.
    """

    curriculum: dict[str, Any] | str
    stage: str
    pool: dict[str, Any] = field(default_factory=lambda: {"split": "train"})
    conditions: list[str] = field(default_factory=lambda: ["audio"])
    condition_order: Literal["mixed", "sequential"] = "mixed"
    shuffle_options: bool = False
    sort_by_length: bool = False
    augmentation: Augmentation | None = None
    reasoning: Literal["none", "structured", "unstructured", "given"] = "none"
    record: str | None = None
    replan: str | None = None

    def __post_init__(self) -> None:
        if self.reasoning not in REASONING:
            raise InputError(f"training.reasoning must be one of {', '.join(REASONING)}; got {self.reasoning!r}")


@dataclass
class EvaluationSpec:
    """What is asked: every question of the pool, greedily, once under each condition, `batch_size` per rank at a time.

    reasoning: ask to think before answering, as after training on reasoning; `max_new_tokens` must leave room for it.
    """

    pool: dict[str, Any] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=lambda: ["audio"])
    batch_size: int = 16
    reasoning: bool = False
