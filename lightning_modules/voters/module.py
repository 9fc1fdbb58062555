"""A local voter under Lightning's predict: every batch of answers is stored at once."""

from __future__ import annotations

from typing import Any

import lightning as L

from ...curriculum.contribution.verdicts import Readable
from ...datamodules.voting.answer_store import AnswerStore
from ...datamodules.voting.tasks import Ask, VoterTasks


class VoterModule(L.LightningModule):
    """Answers asks under `trainer.predict`, on as many devices and nodes as there are; each batch is stored at once.

    voter: OmniVoter or ChatVoter. voter_tasks: what makes records of replies. store: where these go. readable: once it
    has passed, nothing more is asked; processes do not stop each other, the first one reports after all have come here.
    """

    def __init__(self, voter: Any, voter_tasks: VoterTasks, store: AnswerStore, readable: Readable) -> None:
        super().__init__()
        self.voter, self.voter_tasks, self.store, self.readable = voter, voter_tasks, store, readable

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """The asks as they are: the voter moves to the device what it makes of them."""
        return batch

    def predict_step(self, batch: list[Ask], batch_idx: int) -> None:
        """Stores the records of the replies to a batch of asks, in this rank's file."""
        if self.readable.passed:
            return
        store = AnswerStore(self.store.file, self.global_rank)
        replies = self.voter.replies(batch)
        records = [self.voter_tasks.record(ask, reply) for ask, reply in zip(batch, replies, strict=True)]
        store.append(records)
        for record in records:
            self.readable.add(record)
