"""Asking a voter that is loaded here, on as many devices as there are."""

from __future__ import annotations

from typing import Any

from ...curriculum.contribution.verdicts import Readable
from ...curriculum.identity import hash64
from ...datamodules.voting.answer_store import AnswerStore
from ...datamodules.voting.tasks import Ask, Task, VoterTasks
from .job import LocalVoter, VoterSpec


def ask_local(
    voter: VoterSpec,
    local: LocalVoter,
    voter_tasks: VoterTasks,
    store: AnswerStore,
    todo: list[Task],
    readable: Readable,
) -> None:
    """Asks a model that is loaded here, under Lightning's predict: each rank answers every world-th batch.

    Once `readable` has passed, a rank asks no more.
    """
    from ..training.trainer import quiet

    quiet()
    import lightning as L
    from torch.utils.data import DataLoader

    from ...lightning_modules.voters.local import ChatVoter, OmniVoter, kind_of
    from ...lightning_modules.voters.module import VoterModule

    model = (OmniVoter if kind_of(local.checkpoint) == "omni" else ChatVoter)(
        local.checkpoint,
        voter.prompting.scoring,
        voter.prompting.style,
        local.dtype,
        local.attention,
        local.system,
        local.max_new_tokens,
        local.temperature,
        hash64(voter.name, voter_tasks.seed),
    )
    trainer = L.Trainer(
        accelerator=local.accelerator,
        devices=local.devices,
        num_nodes=local.num_nodes,
        strategy=local.strategy,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    tasks: Any = todo  # the trainer deals them to its ranks, none twice
    loader = DataLoader(
        tasks, batch_size=local.batch_size, collate_fn=_Asks(voter_tasks), num_workers=local.num_workers
    )
    trainer.predict(VoterModule(model, voter_tasks, store, readable), loader, return_predictions=False)
    trainer.strategy.barrier("votes")


class _Asks:
    """Reads what a batch of tasks needs, in a loader process; a class, as those are handed over by pickling."""

    def __init__(self, voter_tasks: VoterTasks) -> None:
        self.voter_tasks = voter_tasks

    def __call__(self, tasks: list[Task]) -> list[Ask]:
        return [self.voter_tasks.ask(task) for task in tasks]
