"""From a request to a batch: texts and recordings are read, decoded, augmented where asked, and tokenised.

A sample that cannot be read never makes a batch smaller: training replaces it by the next question of its group, and
evaluation gives its place the weight 0. Both are recorded in the batch and in the quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from ...curriculum.identity import permutation
from ...curriculum.plan.plan import Plan
from ...curriculum.plan.stand_ins import stand_ins
from ...curriculum.table import Table
from ...errors import InputError
from ..audio.signals import augmented
from ..batch import Batch, Replaced, Sample
from ..processors.omni import OmniProcessor
from ..shards.reader import Fetched, ShardReader
from .condition_audio import ConditionAudio
from .conditions import Condition, parse_condition
from .quarantine import Quarantine
from .reasoning import target_of
from .requests import Request, TrainingSpec
from .watchdog import Watchdog

_MOST_REPLACEMENTS = 16


def _reordered(choices: Sequence[str], uid: int, number: int, *name: object) -> tuple[str, ...]:
    """The options of the question `uid` in the order of its presentation `number`, which counts from 0.

    Presentations come in rounds of as many as there are options: a round has a random order of its own, turned by one
    place each time, so that every option stands at every place once a round. Drawn independently, only 4!/4^4 = 9 % of
    the questions with four options would have their answer at every place within four presentations.
    """
    turn, place = divmod(number, len(choices))
    order = permutation(len(choices), uid, *name, turn)
    return tuple(choices[i] for i in order[place:] + order[:place])


class BatchBuilder:
    """Builds the batches of one process: one loader worker, or the trainer itself.

    Whoever compiles a plan sets `plan` and `training_rows`, the [M] rows of the index that the plan's rows stand for;
    without a plan only evaluation batches can be built.
    """

    def __init__(
        self,
        reader: ShardReader,
        processor: OmniProcessor | None,
        table: Table,
        quarantine: Quarantine,
        watchdog: Watchdog,
        training: TrainingSpec | None = None,
        seed: int = 0,
    ) -> None:
        self.reader, self.processor, self.table = reader, processor, table
        self.quarantine, self.watchdog = quarantine, watchdog
        self.training, self.seed = training, seed
        self.plan: Plan | None = None
        self.training_rows = np.empty(0, np.int64)
        self.audio = ConditionAudio(reader, seed)

    def rows_heard(self, request: Request) -> list[int]:
        """The rows whose recordings the request needs; one without a partner is left out, and fails in its batch."""
        condition, heard = parse_condition(request.condition), []
        for row in request.rows if condition.reads_audio else ():
            with suppress(InputError):
                heard.append(self.audio.heard_row(int(row), condition))
        return heard

    def fetch(self, requests: Sequence[Request]) -> Fetched:
        """The texts and recordings of several requests, read together."""
        rows = [int(row) for request in requests for row in request.rows]
        return self.reader.fetch(rows, [row for request in requests for row in self.rows_heard(request)])

    def watched(self, doing: str, requests: Sequence[Request]) -> AbstractContextManager[None]:
        """A context that ends the process, naming the samples, if the work in it exceeds `reading.stall_s`."""
        rows = [int(row) for request in requests for row in request.rows]
        return self.watchdog.over(lambda: f"{doing} {', '.join(map(self.reader.key, rows))}")

    def batch(self, request: Request, fetched: Fetched | None = None) -> Batch:
        """The batch of a request; a recording that several of its samples hear is read once.

        fetched: what `fetch` returned for it; without, everything is read now. Raises InputError where no sample of the
        batch can be read, where a bad one has no replacement, and where there are more bad ones than reading.max_bad.
        """
        with self.watched("preparing", [request]):
            return _BatchInProgress(self, request, fetched).batch()

    def sample(self, request: Request, place: int, row: int, fetched: Fetched | None) -> Sample:
        """The question of a row as the request shows it at one of its places, with the options in their order."""
        question = self.reader.question(row, fetched)
        choices = question.choices
        if self.training and self.training.shuffle_options and request.passes is not None:
            choices = _reordered(choices, question.uid, int(request.passes[place]), self.seed, request.stage)
        label = ""
        if "label" in self.table.columns:
            column = self.table.text("label")
            label = column.names[column.codes[row]] if column.codes[row] >= 0 else ""
        weight = float(request.weights[place])
        return Sample(question, choices, label, request.condition, weight, row, request.style)

    def sound(self, row: int, condition: Condition, request: Request, fetched: Fetched | None) -> np.ndarray:
        """What the row hears: [n] mono float32 at 16 kHz; recordings are augmented in training, if asked."""
        wave = self.audio.wave(row, condition, fetched)
        change = self.training.augmentation if self.training else None
        if change is None or request.step < 0 or not condition.reads_audio:
            return wave
        clip = self.reader.clip(self.audio.heard_row(row, condition))
        name = (self.seed, request.stage, request.step)
        return augmented(wave, clip, *name, gain_db=change.gain_db, snr_db=change.snr_db)


class _BatchInProgress:
    """One batch while it is built: the recordings read so far, and the samples that could not be read."""

    def __init__(self, owner: BatchBuilder, request: Request, fetched: Fetched | None) -> None:
        self.owner, self.request, self.fetched = owner, request, fetched
        self.condition = parse_condition(request.condition)
        self.sounds: dict[tuple[str, int], np.ndarray] = {}
        self.bad: dict[tuple[str, int], InputError] = {}
        self.replaced: list[Replaced] = []

    def batch(self) -> Batch:
        """The batch, as large as the request; see `BatchBuilder.batch` for the errors."""
        entries = [self._place(place, int(row)) for place, row in enumerate(self.request.rows)]
        filled = next((entry for entry in entries if entry is not None), None)
        if filled is None:
            raise InputError("no sample of a batch can be read:\n  " + "\n  ".join(bad.reason for bad in self.replaced))
        filler = replace(filled[0], weight=0.0)
        present = [entry if entry is not None else (filler, filled[1]) for entry in entries]
        samples = [sample for sample, _ in present]
        order = list(self.sounds)
        clips = self.condition.fixed_silence or list(self.sounds.values())
        clip_of_row = None if self.condition.fixed_silence else [order.index(key) for _, key in present]
        plan, step = self.owner.plan, self.request.step
        where: dict[str, Any] = {
            "step": step,
            "plan": plan.fingerprint if plan is not None and step >= 0 else "",
            "stage": self.request.stage,
            "replaced": tuple(self.replaced),
            "passes": () if self.request.passes is None else tuple(self.request.passes.tolist()),
        }
        targets = [target_of(sample.question, self.request.reasoning) for sample in samples]
        processor = self.owner.processor
        assert processor is not None
        return processor.batch(samples, clips, targets, clip_of_row, **where)

    def _place(self, place: int, row: int) -> tuple[Sample, tuple[str, int]] | None:
        """The sample of a place or its replacement, and the key of its sound; None where evaluation leaves it out."""
        try:
            return self._present(place, row, self.fetched)
        except InputError as error:
            reason = str(error)
        if self.request.step < 0:
            self._record_bad_sample(row, reason, "")
            return None
        for candidate in self._replacements(row):
            try:
                sample = self._present(place, candidate, None)
            except InputError as error:
                self._record_bad_sample(candidate, str(error), "")
                continue
            self._record_bad_sample(row, reason, self.owner.reader.key(candidate))
            return sample
        raise InputError(f"{reason}; no other question of its group can replace it")

    def _replacements(self, row: int) -> Iterator[int]:
        """The first rows of the index, at most 16, that may replace one, by the plan."""
        owner = self.owner
        assert owner.plan is not None
        local = int(np.searchsorted(owner.training_rows, row))
        for candidate in islice(stand_ins(owner.plan, self.request.stage, local), _MOST_REPLACEMENTS):
            yield int(owner.training_rows[candidate])

    def _present(self, place: int, row: int, fetched: Fetched | None) -> tuple[Sample, tuple[str, int]]:
        sample = self.owner.sample(self.request, place, row, fetched)
        key = self.owner.audio.key(row, self.condition)
        if key in self.bad:
            raise self.bad[key]
        if key not in self.sounds and not self.condition.fixed_silence:
            try:
                self.sounds[key] = self.owner.sound(row, self.condition, self.request, fetched)
            except InputError as error:
                self.bad[key] = error
                raise
        return sample, key

    def _record_bad_sample(self, row: int, reason: str, replacement: str) -> None:
        """replacement: the key of the question in its place, or ""."""
        reader, request = self.owner.reader, self.request
        bad = Replaced(reader.key(row), reader.uid(row), reason, replacement, request.stage, request.step)
        self.replaced.append(bad)
        self.owner.quarantine.add(bad)
