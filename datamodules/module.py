"""Knows which questions are asked when: training batches by the plan, evaluation by split and condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning as L
import numpy as np
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset

from ..curriculum.identity import hash64, permutation
from ..curriculum.plan import Plan
from ..curriculum.stages import parse_curriculum
from ..curriculum.table import Table, read_table
from ..errors import InputError
from .answers import target_text
from .audio import SILENCE_S, augmented
from .batch import Batch, Sample
from .processor import OmniProcessor
from .reader import ShardReader, share, worker_share


@dataclass(frozen=True)
class Request:
    """One batch to prepare: rows of the index with weights, under one condition."""

    rows: np.ndarray
    weights: np.ndarray
    condition: str
    step: int = -1
    epoch: int = 0


@dataclass
class Augmentation:
    """Random gain within +-gain_db and white noise between snr_db[0] and snr_db[1] decibels below the signal."""

    gain_db: float = 6.0
    snr_db: tuple[float, float] = (15.0, 45.0)


@dataclass
class Training:
    """What is trained on.

    Args:
        curriculum: mapping with `seed`, `cells` and `stages`.
        stage: which of its stages.
        pool: text columns -> values, the rows the curriculum may deal at all.
        conditions: what is heard; with several, every batch has one of them.
        condition_order: "mixed" draws it by the batch's number, "sequential" gives each an equal part of the stage.
        shuffle_options: order the options anew for every pass.
        augmentation: random gain and noise; null for none.
    """

    curriculum: dict[str, Any]
    stage: str
    pool: dict[str, Any] = field(default_factory=lambda: {"split": "train"})
    conditions: list[str] = field(default_factory=lambda: ["audio"])
    condition_order: Literal["mixed", "sequential"] = "mixed"
    shuffle_options: bool = False
    augmentation: Augmentation | None = None


@dataclass
class Asking:
    """What is asked, greedily and once per condition: every question of the pool, `batch_size` per rank at a time."""

    pool: dict[str, Any] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=lambda: ["audio"])
    batch_size: int = 16


def silence_seconds(condition: str) -> float | None:
    """Length of a silent condition: "silence" is 30 s, "silence:4" is 4 s; None for "audio"."""
    name, _, seconds = condition.partition(":")
    try:
        if name == "silence":
            length = float(seconds) if seconds else SILENCE_S
            if 0.1 <= length <= 300:
                return length
        elif condition == "audio":
            return None
    except ValueError:
        pass
    raise InputError(f"condition {condition!r}: use 'audio', 'silence' (30 s) or 'silence:SECONDS' (0.1 to 300)")


class _Requests(IterableDataset):
    """Source stage of the pipeline: the requests of this rank and this worker, in order."""

    def __init__(self, module: AudioQuestions, plan: list[Request] | None, start: int, rank: int, world: int) -> None:
        self.module, self.plan, self.start, self.rank, self.world = module, plan, start, rank, world

    def __len__(self) -> int:
        return self.module.num_steps if self.plan is None else len(self.plan)

    def __iter__(self) -> Iterator[Request]:
        for number in worker_share(range(self.start, len(self))):
            request = self.module.training_request(number) if self.plan is None else self.plan[number]
            yield Request(
                share(request.rows, self.rank, self.world),
                share(request.weights, self.rank, self.world),
                request.condition,
                request.step,
                request.epoch,
            )


class AudioQuestions(L.LightningDataModule):
    """Audio multiple-choice questions out of WebDataset shards.

    Args:
        index: `index.arrow` of a shard folder.
        checkpoint: Qwen2.5-Omni checkpoint (folder or hub id) whose tokenizer and features are used.
        labels: label table joined by uid; adds the columns label, votes, ...
        training: needed for `fit`.
        validation: asked during `fit` and by `validate`; default the split "val" with its audio.
        evaluation: asked by `test` and `predict`; default the split "test" with its audio.
        num_workers: loader processes per rank; the batches do not depend on it.
        seed: of option orders and augmentation.
    """

    def __init__(
        self,
        index: str,
        checkpoint: str,
        labels: str | None = None,
        training: Training | None = None,
        validation: Asking | None = None,
        evaluation: Asking | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.index, self.checkpoint, self.labels = index, checkpoint, labels
        self.training = training
        self.validation = validation or Asking({"split": "val"})
        self.evaluation = evaluation or Asking({"split": "test"})
        self.num_workers, self.seed = num_workers, seed
        for part in (self.training, self.validation, self.evaluation):
            for condition in part.conditions if part else ():
                silence_seconds(condition)
        self.position = 0  # optimizer steps trained, not batches prepared: what a resumed run continues from
        self.plan: Plan | None = None
        self.table: Table | None = None

    def setup(self, stage: str) -> None:
        """Reads the index and the processor, and for `fit` compiles the curriculum over the training rows."""
        if self.table is None:
            self.table = read_table(self.index, self.labels)
            self.reader = ShardReader(self.index)
            self.processor = OmniProcessor.from_pretrained(self.checkpoint)
        if stage == "fit" and self.plan is None:
            if self.training is None:
                raise InputError("`fit` needs the data argument `training` (a curriculum and one of its stages)")
            self._train_rows = self.table.where(self.training.pool)
            plan = Plan(parse_curriculum(self.training.curriculum), self.table.take(self._train_rows))
            dealt = plan.dealt(self.training.stage)
            if dealt.stage.batch_size % self._world:
                raise InputError(
                    f"stage {self.training.stage!r}: batch_size {dealt.stage.batch_size} must be a multiple of the "
                    f"{self._world} ranks"
                )
            self.plan, self.num_steps = plan, dealt.steps

    def training_request(self, step: int) -> Request:
        """The global batch of one optimizer step."""
        assert self.plan is not None and self.training is not None
        stage, conditions = self.training.stage, self.training.conditions
        rows, weights = self.plan.batch(stage, step)
        pick = hash64(self.seed, "condition", stage, step) % len(conditions)
        if self.training.condition_order == "sequential":
            pick = step * len(conditions) // self.num_steps
        return Request(self._train_rows[rows], weights, conditions[pick], step, self.plan.epoch_of(stage, step))

    def evaluation_requests(self, asking: Asking) -> list[Request]:
        """Every question of the pool once per condition; the last batch is padded with weight 0 to equal ranks."""
        assert self.table is not None
        rows = self.table.where(asking.pool)
        if not len(rows):
            raise InputError(f"no question in the pool {asking.pool}")
        requests, size = [], asking.batch_size * self._world
        for condition in asking.conditions:
            for start in range(0, len(rows), size):
                chunk = rows[start : start + size]
                padded = np.append(chunk, np.repeat(chunk[-1:], -len(chunk) % self._world))
                weights = (np.arange(len(padded)) < len(chunk)).astype(np.float32)
                requests.append(Request(padded, weights, condition))
        return requests

    def prepare(self, request: Request) -> Batch:
        """Reads, decodes, augments and tokenises one request; a distinct recording is read once."""
        assert self.table is not None
        samples = [
            self._sample(int(row), float(weight), request)
            for row, weight in zip(request.rows, request.weights, strict=True)
        ]
        targets = [target_text(sample.question.answer) for sample in samples]
        fingerprint = self.plan.fingerprint if self.plan and request.step >= 0 else ""
        seconds = silence_seconds(request.condition)
        if seconds is not None:
            return self.processor.batch(samples, seconds, targets, step=request.step, plan=fingerprint)
        waves: dict[int, np.ndarray] = {}
        clip_of_row = []
        for row in request.rows:
            clip = self.reader.clip(int(row))
            if clip not in waves:
                waves[clip] = self._wave(int(row), clip, request)
            clip_of_row.append(list(waves).index(clip))
        clips = list(waves.values())
        return self.processor.batch(samples, clips, targets, clip_of_row, request.step, fingerprint)

    def _sample(self, row: int, weight: float, request: Request) -> Sample:
        question = self.reader.question(row)
        choices = question.choices
        if self.training and self.training.shuffle_options and request.step >= 0:
            order = permutation(len(choices), question.uid, self.seed, self.training.stage, request.epoch)
            choices = tuple(choices[i] for i in order)
        label = ""
        if "label" in self.table.columns:  # type: ignore[union-attr]
            column = self.table.text("label")  # type: ignore[union-attr]
            label = column.names[column.codes[row]] if column.codes[row] >= 0 else ""
        return Sample(question, choices, label, request.condition, weight, row)

    def _wave(self, row: int, clip: int, request: Request) -> np.ndarray:
        wave = self.reader.wave(row)
        if self.training is None or self.training.augmentation is None or request.step < 0:
            return wave
        change = self.training.augmentation
        name = (self.seed, self.training.stage, request.step)
        return augmented(wave, clip, *name, gain_db=change.gain_db, snr_db=change.snr_db)

    def _loader(self, requests: list[Request] | None, start: int = 0) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        source = _Requests(self, requests, start, rank, world)
        pipeline = wds.DataPipeline(source, wds.map(self.prepare)).with_length(len(source), silent=True)
        return DataLoader(pipeline, batch_size=None, num_workers=self.num_workers, collate_fn=_untouched)

    def train_dataloader(self) -> DataLoader:
        """Batches from `position` on; its length is the whole stage's, as Lightning counts batches from its start."""
        return self._loader(None, self.position)

    def val_dataloader(self) -> DataLoader:
        """The validation pool under every condition."""
        return self._loader(self.evaluation_requests(self.validation))

    def test_dataloader(self) -> DataLoader:
        """The evaluation pool under every condition."""
        return self._loader(self.evaluation_requests(self.evaluation))

    predict_dataloader = test_dataloader

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: the plan's fingerprint, the stage and the number of trained steps."""
        stage = self.training.stage if self.training else ""
        return {"plan": self.plan.fingerprint if self.plan else "", "stage": stage, "step": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the checkpoint stands; a checkpoint of another plan or stage is refused."""
        here = self.state_dict()
        for key in ("plan", "stage"):
            if self.plan is not None and state[key] != here[key]:
                raise InputError(
                    f"the checkpoint was trained on {key} {state[key]!r}, this run has {here[key]!r}: the seed, the "
                    "curriculum, the labels or the index changed; start the stage anew"
                )
        self.position = int(state["step"])
        if self.trainer is not None:
            # A loader that was built before the restore (for a schedule, or by strategies that restore late) would
            # start at 0: have Lightning build it again.
            self.trainer.fit_loop._combined_loader = None


def _untouched(batch: Any) -> Any:
    return batch
