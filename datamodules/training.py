"""The training questions of one run: the plan over them, how far training is, and the batches that come next."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from ..curriculum.identity import hash64
from ..curriculum.online.cursor import Cursor, fork, read_state
from ..curriculum.plan.fingerprint import differences
from ..curriculum.plan.plan import Plan
from ..curriculum.schedule.named import curriculum_of
from ..curriculum.schedule.stages import Stage
from ..curriculum.table import Table
from ..errors import InputError
from .batch import Batch
from .batches.builder import BatchBuilder
from .batches.reasoning import asked_of, check_reasoning
from .batches.requests import Request, TrainingSpec


class TrainingData:
    """A curriculum compiled over the training rows of an index, and the position of one stage in it.

    spec: what is trained on. table: columns of the whole index. builder: makes batches of it. world_size: ranks that
    share every batch, as evenly as it goes. check: whether this process looks into the shards for questions that cannot
    be trained on (one rank does).

    plan: the compiled curriculum. cursor: counts optimizer steps that were trained, not batches that were prepared.
    rows: [N] rows of the index that the plan's rows stand for. num_steps: batches of the whole stage.
    """

    def __init__(self, spec: TrainingSpec, table: Table, builder: BatchBuilder, world_size: int, check: bool) -> None:
        self.spec, self.builder, self.seed = spec, builder, builder.seed
        curriculum = curriculum_of(spec.curriculum)
        self.rows: np.ndarray = table.where(spec.pool)
        builder.reader.check_answered(self.rows, "trained on")
        chosen = table.take(self.rows)
        origin = read_state(spec.replan) if spec.replan else None
        self.plan = Plan(curriculum, chosen, None if origin is None else fork(origin, chosen), origin)
        for name in self.plan.members(spec.stage):
            stage_plan = self.plan.stage_plan(name)
            if stage_plan.stage.window:  # loader processes see the windows that are planned after they started
                shared = torch.from_numpy(stage_plan.matrix).share_memory_().numpy()
                self.plan.stages[name] = replace(stage_plan, matrix=shared)
            if check:
                check_reasoning(builder.reader, stage_plan, self.rows, spec.reasoning)
        builder.plan, builder.training_rows = self.plan, self.rows
        self.num_steps = self.plan.num_steps(spec.stage)
        self.cursor = Cursor(self.plan, spec.stage)

    def members(self) -> list[Stage]:
        """The stages that are trained: one, or those that take turns in an interleave."""
        return [self.plan.stage_plan(name).stage for name in self.plan.members(self.spec.stage)]

    def stage_of(self, batch: Batch) -> Stage:
        """The stage that a batch belongs to; in an interleave the one whose turn it is."""
        return self.plan.stage_plan(batch.stage or self.spec.stage).stage

    def cells_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """[n] cell numbers of rows of the index, as observations of an adaptive stage name them."""
        numbers: np.ndarray = self.plan.cell_of_row[np.searchsorted(self.rows, np.asarray(rows, np.int64))]
        return numbers

    def cell_counts(self, rows: Sequence[int]) -> np.ndarray:
        """[Q] how many of these rows of the index lie in each cell."""
        return np.bincount(self.cells_of(rows), minlength=len(self.plan.cells))

    def request(self, step: int) -> Request:
        """The global batch of one optimizer step without padding; waits for an adaptive stage to plan its window."""
        spec, stage = self.spec, self.spec.stage
        while get_worker_info() is not None and not self.plan.ready(stage, step):
            parent = parent_process()
            if parent is not None and not parent.is_alive():
                raise SystemExit("the trainer is gone")  # killed; nobody will plan the window
            time.sleep(0.005)  # the trainer consumes the batches before it, and then plans the next window
        rows, weights = self.plan.batch(stage, step)
        pick = hash64(self.seed, "condition", stage, step) % len(spec.conditions)
        if spec.condition_order == "sequential":
            pick = step * len(spec.conditions) // self.num_steps
        passes, member = self.plan.passes(stage, step), self.plan.member(stage, step)[0]
        style, reasoning = asked_of(self.plan.stage_plan(member).stage, spec.reasoning)
        padded = Request(self.rows[rows], weights, spec.conditions[pick], step, passes, member, style, reasoning)
        request = padded.without_padding()
        if spec.sort_by_length:
            return request.sorted_by(self.builder.reader.numbers["num_samples"][request.rows])
        return request

    def refill(self, batch: Batch, wanted: Sequence[np.ndarray], rank: int) -> Batch | None:
        """Questions that no stage takes, of the same cells as those whose groups taught nothing: this rank's share.

        wanted: [Q] of every rank, how many it lacks of each cell; the questions go to the ranks in their order. A rank
        for which none is left gets its batch's first question with weight 0, since ranks with sharded weights must
        sample together. None where no rank gets any. What was taken counts in the position.
        """
        taken = self.cursor.refill(batch.stage or self.spec.stage, np.sum(wanted, axis=0))
        if not taken:
            return None
        before = np.sum(wanted[:rank], axis=0) if rank else np.zeros_like(wanted[rank])
        parts = [taken[cell][before[cell] : before[cell] + wanted[rank][cell]] for cell in sorted(taken)]
        rows = self.rows[np.concatenate(parts)]
        request = self.request(batch.step)
        real = request.weights > 0
        weight_of = dict(zip(self.cells_of(request.rows[real]).tolist(), request.weights[real].tolist(), strict=True))
        weights = np.array([weight_of[cell] for cell in self.cells_of(rows).tolist()], np.float32)
        if not len(rows):
            rows, weights = np.array([batch.samples[0].row]), np.zeros(1, np.float32)
        passes = np.zeros(len(rows), np.int64)
        more = self.builder.batch(replace(request, rows=rows, weights=weights, passes=passes))
        for bad in more.replaced:
            self.builder.quarantine.count(bad)
        return more

    def state(self) -> dict[str, Any]:
        """How far training is, over which recordings and texts: numbers, texts and lists alone."""
        return self.cursor.state() | {"content": self.builder.reader.content(), "shown": self._shown()}

    def _shown(self) -> dict[str, Any]:
        """What is decided here and not by the plan: how a question is shown and heard."""
        spec = self.spec
        return {
            "seed": self.seed,
            "conditions": list(spec.conditions),
            "condition_order": spec.condition_order,
            "shuffle_options": spec.shuffle_options,
            "reasoning": spec.reasoning,
            "augmentation": json.loads(json.dumps(spec.augmentation and asdict(spec.augmentation))),
        }

    def load(self, state: Mapping[str, Any], index: str) -> None:
        """Continues from `state()`.

        index: its file, for messages. Raises InputError where plan, stage, recordings, texts or the way questions are
        shown are not those of the checkpoint, naming what changed.
        """
        same_plan = state.get("fingerprint") == self.plan.fingerprint
        content = self.builder.reader.content()
        if same_plan and state.get("content", content) != content:
            raise InputError(
                f"{index}: other recordings or texts than when the checkpoint was written, under the same "
                "identities; start the stage anew"
            )
        for key, old, new in differences(state.get("shown", self._shown()), self._shown()) if same_plan else ():
            raise InputError(
                f"the data argument {key!r} changed since the checkpoint: it was {old}, is {new}; "
                "set it as it was, or start the stage anew"
            )
        self.cursor.load(state)
