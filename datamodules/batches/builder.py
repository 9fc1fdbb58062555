"""Knows how a request becomes a batch: texts and sounds read, decoded, changed as asked, tokenised.

A sample that cannot be read never makes a batch smaller: in training the next card of its deck takes its place, in
evaluation the place weighs 0; both are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ...curriculum.identity import permutation
from ...curriculum.plan.plan import Plan
from ...curriculum.plan.stand_ins import stand_ins
from ...curriculum.table import Table
from ...errors import InputError
from ..audio.waves import augmented, noise
from ..batch import Batch, Replaced, Sample
from ..processors.omni import OmniProcessor
from ..shards.partners import Partners
from ..shards.reader import Fetched, ShardReader
from .conditions import Condition, length_of, parse_condition
from .quarantine import Quarantine
from .reasoning import target_of
from .requests import Request, TrainingSpec
from .watchdog import Watchdog

_MOST_STAND_INS = 16


def _reordered(choices: Sequence[str], uid: int, number: int, *name: object) -> tuple[str, ...]:
    """The options in the order of presentation `number`, which counts from 0.

    Presentations come in rounds of as many as there are options: a round has a random order of its own, turned by one
    place each time, so that every option stands at every place once a round. Drawn independently, only 4!/4^4 = 9 % of
    the questions with four options would have their answer at every place within four presentations.
    """
    turn, place = divmod(number, len(choices))
    order = permutation(len(choices), uid, *name, turn)
    return tuple(choices[i] for i in order[place:] + order[:place])


class BatchBuilder:
    """Makes batches in one process.

    training_rows: [M] rows of the index that the plan's rows stand for.
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
        self._partners = Partners(reader, seed)

    def rows_heard(self, request: Request) -> list[int]:
        """The rows whose recordings the request needs; what cannot be heard is told when its batch is made."""
        condition, heard = parse_condition(request.condition), []
        for row in request.rows if condition.reads_audio else ():
            with suppress(InputError):
                heard.append(self._heard_row(int(row), condition))
        return heard

    def fetch(self, requests: Sequence[Request]) -> Fetched:
        """What several requests need, read together."""
        rows = [int(row) for request in requests for row in request.rows]
        return self.reader.fetch(rows, [row for request in requests for row in self.rows_heard(request)])

    def watched(self, doing: str, requests: Sequence[Request]) -> AbstractContextManager[None]:
        """Ends the process if what is done with the requests takes too long."""
        rows = [int(row) for request in requests for row in request.rows]
        return self.watchdog.over(lambda: f"{doing} {', '.join(map(self.reader.key, rows))}")

    def batch(self, request: Request, fetched: Fetched | None = None) -> Batch:
        """One rank's share of a batch; a distinct recording is read once."""
        with self.watched("preparing", [request]):
            return _BatchInProgress(self, request, fetched).batch()

    def sample(self, request: Request, place: int, row: int, fetched: Fetched | None) -> Sample:
        """The question of a row as the request shows it in one of its places."""
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

    def _heard_row(self, row: int, condition: Condition) -> int:
        return self._partners.partner(row) if condition.kind == "mismatched" else row

    def sound_key(self, row: int, condition: Condition) -> tuple[str, int]:
        """Equal for rows that hear the same."""
        if condition.reads_audio:
            return condition.kind, self.reader.clip(self._heard_row(row, condition))
        if condition.kind == "noise":
            return "noise", self.reader.clip(row)
        return "silence", length_of(condition, self.reader.num_samples(row))

    def sound(self, row: int, condition: Condition, request: Request, fetched: Fetched | None) -> np.ndarray:
        """What the row hears, mono float32 at 16 kHz."""
        length = length_of(condition, self.reader.num_samples(row))
        if condition.kind == "silence":
            return np.zeros(length, np.float32)
        if condition.kind == "noise":
            return noise(length, self.reader.clip(row), self.seed, "condition")
        row = self._heard_row(row, condition)
        wave = self.reader.wave(row, fetched)
        if self.training is None or self.training.augmentation is None or request.step < 0:
            return wave
        change, name = self.training.augmentation, (self.seed, request.stage, request.step)
        return augmented(wave, self.reader.clip(row), *name, gain_db=change.gain_db, snr_db=change.snr_db)


class _BatchInProgress:
    """One batch in the making: what was read so far, and what was bad."""

    def __init__(self, owner: BatchBuilder, request: Request, fetched: Fetched | None) -> None:
        self.owner, self.request, self.fetched = owner, request, fetched
        self.condition = parse_condition(request.condition)
        self.sounds: dict[tuple[str, int], np.ndarray] = {}
        self.bad: dict[tuple[str, int], InputError] = {}
        self.replaced: list[Replaced] = []

    def batch(self) -> Batch:
        """The whole batch."""
        found = [self._place(place, int(row)) for place, row in enumerate(self.request.rows)]
        filled = next((each for each in found if each is not None), None)
        if filled is None:
            raise InputError("no sample of a batch can be read:\n  " + "\n  ".join(bad.reason for bad in self.replaced))
        filler = replace(filled[0], weight=0.0)
        present = [each if each is not None else (filler, filled[1]) for each in found]
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
        """The sample of a place, or what stands in for it; None where an evaluation has to leave it empty."""
        try:
            return self._present(place, row, self.fetched)
        except InputError as error:
            reason = str(error)
        if self.request.step < 0:
            self._record_bad_sample(row, reason, "")
            return None
        for candidate in self._stand_ins(row)[:_MOST_STAND_INS]:
            try:
                found = self._present(place, candidate, None)
            except InputError as error:
                self._record_bad_sample(candidate, str(error), "")
                continue
            self._record_bad_sample(row, reason, self.owner.reader.key(candidate))
            return found
        raise InputError(f"{reason}; and no card of its deck can stand in for it")

    def _stand_ins(self, row: int) -> list[int]:
        owner = self.owner
        assert owner.plan is not None
        local = int(np.searchsorted(owner.training_rows, row))
        found: list[int] = []
        for candidate in stand_ins(owner.plan, self.request.stage, local):
            found.append(int(owner.training_rows[candidate]))
            if len(found) == _MOST_STAND_INS:
                break
        return found

    def _present(self, place: int, row: int, fetched: Fetched | None) -> tuple[Sample, tuple[str, int]]:
        sample = self.owner.sample(self.request, place, row, fetched)
        key = self.owner.sound_key(row, self.condition)
        if key in self.bad:
            raise self.bad[key]
        if key not in self.sounds and not self.condition.fixed_silence:
            try:
                self.sounds[key] = self.owner.sound(row, self.condition, self.request, fetched)
            except InputError as error:
                self.bad[key] = error
                raise
        return sample, key

    def _record_bad_sample(self, row: int, reason: str, served: str) -> None:
        reader, request = self.owner.reader, self.request
        bad = Replaced(reader.key(row), reader.uid(row), reason, served, request.stage, request.step)
        self.replaced.append(bad)
        self.owner.quarantine.add(bad)
