"""Knows which questions are asked when: training batches by the plan, evaluation by split and condition."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..curriculum.cursor import Cursor, fork, read_state, write_state
from ..curriculum.identity import hash64, permutation
from ..curriculum.plan import Plan
from ..curriculum.stages import parse_curriculum
from ..curriculum.table import Table, read_table
from ..errors import InputError
from .answers import target_text
from .audio import augmented
from .batch import Batch, Sample
from .curriculum_file import read_curriculum
from .processor import OmniProcessor
from .reader import ShardReader, worker_share
from .requests import Asking, Request, Training, silence_seconds


class _Requests(IterableDataset):
    """Source stage of the pipeline: the requests of this rank and this worker, in order."""

    def __init__(self, module: AudioQuestions, plan: list[Request] | None, start: int, rank: int, world: int) -> None:
        self.module, self.plan, self.start, self.rank, self.world = module, plan, start, rank, world

    def __len__(self) -> int:
        return self.module.num_steps if self.plan is None else len(self.plan)

    def __iter__(self) -> Iterator[Request]:
        for number in worker_share(range(self.start, len(self))):
            request = self.module.training_request(number) if self.plan is None else self.plan[number]
            yield request.share(self.rank, self.world)


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
        self.cursor: Cursor | None = None  # counts optimizer steps trained, not batches prepared
        self._restored: dict[str, Any] | None = None
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
            self._compile(self.training)

    def _compile(self, training: Training) -> None:
        """The plan over the training rows, and the position in it."""
        assert self.table is not None
        spec = training.curriculum
        curriculum = parse_curriculum(read_curriculum(spec) if isinstance(spec, str) else spec)
        self._train_rows = self.table.where(training.pool)
        rows = self.table.take(self._train_rows)
        origin = read_state(training.replan) if training.replan else None
        plan = Plan(curriculum, rows, None if origin is None else fork(origin, rows), origin)
        for name in plan.members(training.stage):
            dealt = plan.dealt(name)
            if dealt.stage.batch_size % self._world:
                raise InputError(
                    f"stage {name!r}: batch_size {dealt.stage.batch_size} must be a multiple of the {self._world} ranks"
                )
            if dealt.stage.window:  # loader processes see the windows that are planned after they started
                shared = torch.from_numpy(dealt.matrix).share_memory_().numpy()
                plan.stages[name] = replace(dealt, matrix=shared)
        self.plan, self.num_steps = plan, plan.num_steps(training.stage)
        self.cursor = Cursor(plan, training.stage)
        if self._restored is not None:
            self.load_state_dict(self._restored)

    @property
    def position(self) -> int:
        """Optimizer steps trained: where a resumed run continues."""
        return self.cursor.step if self.cursor is not None else 0

    def cells_of(self, rows: Sequence[int]) -> np.ndarray:
        """Cell numbers of rows of the index, as observations of an adaptive stage name them."""
        assert self.plan is not None
        return self.plan.number[np.searchsorted(self._train_rows, np.asarray(rows))]

    def trained(self) -> None:
        """One more batch is trained."""
        assert self.cursor is not None
        self.cursor.trained()

    def training_request(self, step: int) -> Request:
        """The global batch of one optimizer step; waits for the window of an adaptive stage to be planned."""
        assert self.plan is not None and self.training is not None
        stage, conditions = self.training.stage, self.training.conditions
        while get_worker_info() is not None and not self.plan.ready(stage, step):
            time.sleep(0.005)  # the trainer consumes the batches before it, and then plans the next window
        rows, weights = self.plan.batch(stage, step)
        pick = hash64(self.seed, "condition", stage, step) % len(conditions)
        if self.training.condition_order == "sequential":
            pick = step * len(conditions) // self.num_steps
        passes, member = self.plan.passes(stage, step), self.plan.member(stage, step)[0]
        return Request(self._train_rows[rows], weights, conditions[pick], step, passes, member)

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
        samples = [self._sample(request, place) for place in range(len(request.rows))]
        targets = [target_text(sample.question.answer) for sample in samples]
        fingerprint = self.plan.fingerprint if self.plan and request.step >= 0 else ""
        where: dict[str, Any] = {"step": request.step, "plan": fingerprint, "stage": request.stage}
        seconds = silence_seconds(request.condition)
        if seconds is not None:
            return self.processor.batch(samples, seconds, targets, **where)
        waves: dict[int, np.ndarray] = {}
        clip_of_row = []
        for row in request.rows:
            clip = self.reader.clip(int(row))
            if clip not in waves:
                waves[clip] = self._wave(int(row), clip, request)
            clip_of_row.append(list(waves).index(clip))
        return self.processor.batch(samples, list(waves.values()), targets, clip_of_row, **where)

    def _sample(self, request: Request, place: int) -> Sample:
        row, weight = int(request.rows[place]), float(request.weights[place])
        question = self.reader.question(row)
        choices = question.choices
        if self.training and self.training.shuffle_options and request.passes is not None:
            order = permutation(len(choices), question.uid, self.seed, request.stage, int(request.passes[place]))
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
        name = (self.seed, request.stage, request.step)
        return augmented(wave, clip, *name, gain_db=change.gain_db, snr_db=change.snr_db)

    def _loader(self, requests: list[Request] | None, start: int = 0) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        source = _Requests(self, requests, start, rank, world)
        pipeline = wds.DataPipeline(source, wds.map(self.prepare)).with_length(len(source), silent=True)
        # Forked, so that the workers see what an adaptive stage plans while they run.
        context = "fork" if self.num_workers and requests is None and self.cursor and self.cursor.adapts else None
        return DataLoader(
            pipeline,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_untouched,
            multiprocessing_context=context,
        )

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
        """Where training stands: numbers, texts and lists alone."""
        return self.cursor.state() if self.cursor is not None else {}

    def write_record(self) -> None:
        """Shows the state in the file `record`, where one is wanted; one process does."""
        if self.training and self.training.record and (self.trainer is None or self.trainer.is_global_zero):
            write_state(self.state_dict(), self.training.record)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the checkpoint stands; one of another plan or stage is refused, naming what changed."""
        if self.cursor is None:
            self._restored = state or None
            return
        self.cursor.load(state)
        if self.trainer is not None:
            # A loader that was built before the restore (for a schedule, or by strategies that restore late) would
            # start at 0: have Lightning build it again.
            self.trainer.fit_loop._combined_loader = None


def _untouched(batch: Any) -> Any:
    return batch
