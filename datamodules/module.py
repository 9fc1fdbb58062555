"""Knows which questions are asked when: training batches by the plan, evaluation by split and condition."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from multiprocessing import parent_process
from typing import Any

import lightning as L
import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader, get_worker_info

from ..configs.files import read_curriculum
from ..curriculum.identity import hash64
from ..curriculum.online.cursor import Cursor, fork, read_state, write_state
from ..curriculum.plan.fingerprint import differences
from ..curriculum.plan.plan import Plan
from ..curriculum.schedule.stages import parse_curriculum
from ..curriculum.table import Table, read_table
from ..errors import InputError
from .batch import Batch
from .batches.builder import BatchBuilder
from .batches.conditions import parse_condition
from .batches.pipeline import Prepared, Requests
from .batches.quarantine import Quarantine
from .batches.reasoning import asked_of, check_reasoning
from .batches.requests import EvaluationSpec, Request, TrainingSpec
from .batches.watchdog import Watchdog
from .processors.omni import OmniProcessor
from .shards.reader import ShardReader
from .storage.files import Reading


class AudioQuestions(L.LightningDataModule):
    """Audio multiple-choice questions out of WebDataset shards.

    Args:
        index: `index.arrow` of a shard folder.
        checkpoint: Qwen2.5-Omni checkpoint (folder or hub id) whose tokenizer and features are used.
        labels: label table joined by uid; adds the columns label, votes, ...
        training: needed for `fit`.
        validation: asked during `fit` and by `validate`; default the split "val" with its audio.
        evaluation: asked by `test` and `predict`; default the split "test" with its audio.
        reading: how shards are read, from where, and how many bad samples are put up with.
        num_workers: loader processes per rank; the batches do not depend on it.
        seed: of option orders and augmentation.
    """

    def __init__(
        self,
        index: str,
        checkpoint: str,
        labels: str | None = None,
        training: TrainingSpec | None = None,
        validation: EvaluationSpec | None = None,
        evaluation: EvaluationSpec | None = None,
        reading: Reading | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.index, self.checkpoint, self.labels = index, checkpoint, labels
        self.training = training
        self.validation = validation or EvaluationSpec({"split": "val"})
        self.evaluation = evaluation or EvaluationSpec({"split": "test"})
        self.reading = reading or Reading()
        self.num_workers, self.seed = num_workers, seed
        for part in (self.training, self.validation, self.evaluation):
            for condition in part.conditions if part else ():
                parse_condition(condition)
        self.cursor: Cursor | None = None  # counts optimizer steps trained, not batches prepared
        self._restored: dict[str, Any] | None = None
        self.plan: Plan | None = None
        self.table: Table | None = None

    def setup(self, stage: str) -> None:
        """Reads the index and the processor, and for `fit` compiles the curriculum over the training rows."""
        if self.table is None:
            self.table = read_table(self.index, self.labels)
            self.reader = ShardReader(self.index, self.reading)
            self.processor = OmniProcessor.from_pretrained(self.checkpoint)
            rank = self.trainer.global_rank if self.trainer else 0
            if rank == 0:
                self.reader.files.check()
            self.quarantine = Quarantine(self.reading.quarantine, rank, self.reading.max_bad)
            watchdog = Watchdog(self.reading.stall_s)
            self.builder = BatchBuilder(
                self.reader, self.processor, self.table, self.quarantine, watchdog, self.training, self.seed
            )
        if stage == "fit" and self.plan is None:
            if self.training is None:
                raise InputError("`fit` needs the data argument `training` (a curriculum and one of its stages)")
            self._compile(self.training)

    def _compile(self, training: TrainingSpec) -> None:
        """The plan over the training rows, and the position in it."""
        assert self.table is not None
        spec = training.curriculum
        curriculum = parse_curriculum(read_curriculum(spec) if isinstance(spec, str) else spec)
        self._train_rows = self.table.where(training.pool)
        self._refuse_shared_audio()
        rows = self.table.take(self._train_rows)
        origin = read_state(training.replan) if training.replan else None
        plan = Plan(curriculum, rows, None if origin is None else fork(origin, rows), origin)
        for name in plan.members(training.stage):
            dealt = plan.stage_plan(name)
            if dealt.stage.batch_size % self._world:
                raise InputError(
                    f"stage {name!r}: batch_size {dealt.stage.batch_size} must be a multiple of the {self._world} ranks"
                )
            if dealt.stage.window:  # loader processes see the windows that are planned after they started
                shared = torch.from_numpy(dealt.matrix).share_memory_().numpy()
                plan.stages[name] = replace(dealt, matrix=shared)
            if self.trainer is None or self.trainer.global_rank == 0:
                check_reasoning(self.reader, dealt, self._train_rows, training.reasoning)
        self.plan, self.num_steps = plan, plan.num_steps(training.stage)
        self.builder.plan, self.builder.training_rows = plan, self._train_rows
        self.cursor = Cursor(plan, training.stage)
        if self._restored is not None:
            self.load_state_dict(self._restored)

    def _refuse_shared_audio(self) -> None:
        """Accuracy on recordings that are trained on says nothing: validation must have its own."""
        assert self.table is not None
        try:
            asked = self.table.where(self.validation.pool)
        except InputError:  # a corpus without such a split; asking for it is refused when it is asked
            return
        clips = self.reader.numbers["clip"]
        shared = asked[np.isin(clips[asked], clips[self._train_rows])]
        if len(shared):
            raise InputError(
                f"{len(shared)} of {len(asked)} validation questions, {self.reader.key(int(shared[0]))} the first, are "
                "about recordings that are trained on; index with `holdout`, or give other pools"
            )

    @property
    def position(self) -> int:
        """Optimizer steps trained: where a resumed run continues."""
        return self.cursor.step if self.cursor is not None else 0

    def cells_of(self, rows: Sequence[int]) -> np.ndarray:
        """Cell numbers of rows of the index, as observations of an adaptive stage name them."""
        assert self.plan is not None
        return self.plan.cell_of_row[np.searchsorted(self._train_rows, np.asarray(rows))]

    def trained(self, batch: Batch | None = None) -> None:
        """One more batch is trained."""
        assert self.cursor is not None
        self.cursor.trained()
        if batch is not None:
            self.record_bad_samples(batch)

    def record_bad_samples(self, batch: Batch) -> None:
        """Counts the bad samples of a batch over all loader processes; too many stop the run."""
        for bad in batch.replaced:
            self.quarantine.count(bad)

    def training_request(self, step: int) -> Request:
        """The global batch of one optimizer step; waits for the window of an adaptive stage to be planned."""
        assert self.plan is not None and self.training is not None
        stage, conditions = self.training.stage, self.training.conditions
        while get_worker_info() is not None and not self.plan.ready(stage, step):
            parent = parent_process()
            if parent is not None and not parent.is_alive():
                raise SystemExit("the trainer is gone")  # killed; nobody will plan the window
            time.sleep(0.005)  # the trainer consumes the batches before it, and then plans the next window
        rows, weights = self.plan.batch(stage, step)
        pick = hash64(self.seed, "condition", stage, step) % len(conditions)
        if self.training.condition_order == "sequential":
            pick = step * len(conditions) // self.num_steps
        passes, member = self.plan.passes(stage, step), self.plan.member(stage, step)[0]
        style, reasoning = asked_of(self.plan.stage_plan(member).stage, self.training.reasoning)
        request = Request(self._train_rows[rows], weights, conditions[pick], step, passes, member, style, reasoning)
        if self.training.sort_by_length:
            return request.sorted_by(self.reader.numbers["num_samples"][request.rows])
        return request

    def prepare(self, request: Request) -> Batch:
        """The batch of a request."""
        return self.builder.batch(request)

    def evaluation_requests(self, asking: EvaluationSpec) -> list[Request]:
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
                style = "think" if asking.reasoning else "paper"
                requests.append(Request(padded, weights, condition, style=style))
        return requests

    def _loader(self, requests: list[Request] | None, start: int = 0) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if requests is None:
            source = Requests(self.training_request, start, self.num_steps, rank, world)
        else:
            source = Requests(requests.__getitem__, start, len(requests), rank, world)
        # What an adaptive stage will ask for is not known ahead; its workers are forked, so that they see its plans.
        adapts = requests is None and self.cursor is not None and self.cursor.adapts
        stages = Prepared(self.builder, 0 if adapts else self.reading.lookahead)
        pipeline = wds.DataPipeline(source, stages).with_length(len(source), silent=True)
        return DataLoader(
            pipeline,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_untouched,
            timeout=2 * self.reading.stall_s if self.num_workers else 0,
            multiprocessing_context="fork" if self.num_workers and adapts else None,
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
        """Where training stands, over which recordings and texts: numbers, texts and lists alone."""
        if self.cursor is None:
            return {}
        return self.cursor.state() | {"content": self.reader.content(), "shown": self._shown()}

    def _shown(self) -> dict[str, Any]:
        """What is decided here and not by the plan: how a question is shown and heard."""
        training = self.training
        assert training is not None
        return {
            "seed": self.seed,
            "conditions": list(training.conditions),
            "condition_order": training.condition_order,
            "shuffle_options": training.shuffle_options,
            "reasoning": training.reasoning,
            "augmentation": json.loads(json.dumps(training.augmentation and asdict(training.augmentation))),
        }

    def write_record(self) -> None:
        """Shows the state in the file `record`, where one is wanted; one process does."""
        if self.training and self.training.record and (self.trainer is None or self.trainer.is_global_zero):
            write_state(self.state_dict(), self.training.record)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the checkpoint stands; one of another plan or stage is refused, naming what changed."""
        if self.cursor is None:
            self._restored = state or None
            return
        same_plan = state.get("fingerprint") == self.cursor.plan.fingerprint
        if same_plan and state.get("content", self.reader.content()) != self.reader.content():
            raise InputError(
                f"{self.index}: other recordings or texts than when the checkpoint was written, under the same "
                "identities; start the stage anew"
            )
        for key, old, new in differences(state.get("shown", self._shown()), self._shown()) if same_plan else ():
            raise InputError(
                f"the data argument {key!r} changed since the checkpoint: it was {old}, is {new}; "
                "set it as it was, or start the stage anew"
            )
        self.cursor.load(state)
        if self.trainer is not None:
            # A loader that was built before the restore (for a schedule, or by strategies that restore late) would
            # start at 0: have Lightning build it again.
            self.trainer.fit_loop._combined_loader = None


def _untouched(batch: Any) -> Any:
    return batch
