"""The LightningDataModule: training batches by the plan of a curriculum, evaluation batches by pool and condition."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import webdataset as wds
from torch.utils.data import DataLoader

from ..curriculum.online.cursor import Cursor, write_state
from ..curriculum.plan.plan import Plan
from ..curriculum.table import Table, read_table
from ..errors import InputError
from .batch import Batch
from .batches.builder import BatchBuilder
from .batches.conditions import parse_condition
from .batches.pipeline import Prepared, Requests
from .batches.quarantine import Quarantine
from .batches.requests import EvaluationSpec, Request, TrainingSpec
from .batches.watchdog import Watchdog
from .processors.omni import OmniProcessor
from .shards.reader import ShardReader
from .storage.files import Reading
from .training import TrainingData


class AudioQuestions(L.LightningDataModule):
    """Audio multiple-choice questions out of WebDataset shards.

    Args:
        index: `index.arrow` of a shard folder.
        checkpoint: Qwen2.5-Omni checkpoint (folder or hub id) whose tokenizer and features are used; without one those
            of the policy that is trained.
        labels: label table joined by uid, or several (labels, grades); adds the columns label, votes, ...
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
        checkpoint: str | None = None,
        labels: str | list[str] | None = None,
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
        self.table: Table | None = None
        self._training_data: TrainingData | None = None
        self._restored: dict[str, Any] | None = None  # a checkpoint's state that came before `setup`

    def setup(self, stage: str) -> None:
        """Reads the index and the processor, and for `fit` compiles the curriculum over the training rows."""
        if self.table is None:
            self.table = read_table(self.index, self.labels)
            self.reader = ShardReader(self.index, self.reading)
            processor = None if self.checkpoint is None else OmniProcessor.from_pretrained(self.checkpoint)
            rank = self.trainer.global_rank if self.trainer else 0
            if rank == 0:
                self.reader.files.check()
            self.quarantine = Quarantine(self.reading.quarantine, rank, self.reading.max_bad)
            watchdog = Watchdog(self.reading.stall_s)
            self.builder = BatchBuilder(
                self.reader, processor, self.table, self.quarantine, watchdog, self.training, self.seed
            )
        if stage == "fit" and self._training_data is None:
            if self.training is None:
                raise InputError("`fit` needs the data argument `training` (a curriculum and one of its stages)")
            self._refuse_shared_audio(self.table, self.training)
            first = self.trainer is None or self.trainer.global_rank == 0
            self._training_data = TrainingData(self.training, self.table, self.builder, self._world, first)
            if self._restored is not None:
                self.load_state_dict(self._restored)

    def use_processor(self, processor: OmniProcessor, of: str) -> None:
        """Tokenises with the policy's own processor from now on, so that what is asked is what the policy reads.

        of: the policy's checkpoint, for messages. Raises InputError where `checkpoint` has another vocabulary, chat
        template or audio features: every token would then mean something else to the policy.
        """
        if self.builder.processor is not None:
            differs = self.builder.processor.difference(processor)
            if differs:
                raise InputError(
                    f"the data are prepared with {self.checkpoint}, the policy is {of}: their {differs} differ; "
                    "leave the data argument `checkpoint` out, and the policy's own is used"
                )
        self.builder.processor = processor

    def _refuse_shared_audio(self, table: Table, training: TrainingSpec) -> None:
        """Accuracy on recordings that are trained on says nothing: validation must have its own."""
        try:
            asked = table.where(self.validation.pool)
        except InputError:  # a corpus without such a split; asking for it is refused when it is asked
            return
        clips = self.reader.numbers["clip"]
        shared = asked[np.isin(clips[asked], clips[table.where(training.pool)])]
        if len(shared):
            raise InputError(
                f"{len(shared)} of {len(asked)} validation questions, {self.reader.key(int(shared[0]))} the first, are "
                "about recordings that are trained on; index with `holdout`, or give other pools"
            )

    @property
    def training_data(self) -> TrainingData:
        """The curriculum over the training rows, and how far it is; there is one once `fit` is set up."""
        if self._training_data is None:
            raise RuntimeError("the training data are there once `setup('fit')` was called")
        return self._training_data

    @property
    def processor(self) -> OmniProcessor:
        """What makes prompts and features: that of `checkpoint`, or the policy's once it is loaded."""
        if self.builder.processor is None:
            raise InputError("the data argument `checkpoint` is needed where no policy brings a processor")
        return self.builder.processor

    @property
    def plan(self) -> Plan:
        """The compiled curriculum."""
        return self.training_data.plan

    @property
    def cursor(self) -> Cursor:
        """How far training is in the plan: optimizer steps trained, not batches prepared."""
        return self.training_data.cursor

    @property
    def num_steps(self) -> int:
        """Batches of the whole training stage."""
        return self.training_data.num_steps

    @property
    def position(self) -> int:
        """Optimizer steps trained: where a resumed run continues; 0 outside `fit`."""
        return 0 if self._training_data is None else self.cursor.step

    def trained(self, batch: Batch | None = None) -> None:
        """Moves the position on by one batch, and counts the bad samples in it."""
        self.cursor.trained()
        if batch is not None:
            self.record_bad_samples(batch)

    def record_bad_samples(self, batch: Batch) -> None:
        """Counts the bad samples of a batch over all loader processes; raises InputError where there are too many."""
        for bad in batch.replaced:
            self.quarantine.count(bad)

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

    def _loader(self, requests: list[Request] | None, start: int = 0) -> DataLoader[Batch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        assert self.processor is not None  # an error here rather than in a loader process
        if requests is None:
            source = Requests(self.training_data.request, start, self.num_steps, rank, world)
        else:
            source = Requests(requests.__getitem__, start, len(requests), rank, world)
        # What an adaptive stage will ask for is not known ahead; its workers are forked, so that they see its plans.
        adapts = requests is None and self.cursor.adapts
        stages = Prepared(self.builder, 0 if adapts else self.reading.lookahead)
        pipeline = wds.DataPipeline(source, stages).with_length(len(source), silent=True)
        return DataLoader[Batch](
            pipeline,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_untouched,
            timeout=2 * self.reading.stall_s if self.num_workers else 0,
            multiprocessing_context="fork" if self.num_workers and adapts else None,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from `position` on; its length is the whole stage's, as Lightning counts batches from its start."""
        return self._loader(None, self.position)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation pool under every condition."""
        return self._loader(self.evaluation_requests(self.validation))

    def test_dataloader(self) -> DataLoader[Batch]:
        """The evaluation pool under every condition."""
        return self._loader(self.evaluation_requests(self.evaluation))

    predict_dataloader = test_dataloader

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, over which recordings and texts; empty outside `fit`."""
        return {} if self._training_data is None else self._training_data.state()

    def write_record(self) -> None:
        """Writes the state into the file `training.record`, where one is wanted; one process does."""
        if self.training and self.training.record and (self.trainer is None or self.trainer.is_global_zero):
            write_state(self.state_dict(), self.training.record)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the checkpoint stands; one of another plan or stage is refused, naming what changed."""
        if self._training_data is None:
            self._restored = state or None
            return
        self._training_data.load(state, self.index)
        if self.trainer is not None:
            # A loader that was built before the restore (for a schedule, or by strategies that restore late) would
            # start at 0: have Lightning build it again.
            self.trainer.fit_loop._combined_loader = None


def _untouched(batch: Any) -> Any:
    return batch
