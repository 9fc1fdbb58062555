"""Asking a model what an evaluation lacks: a server from one process, a checkpoint in batches dealt to all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...boundary.files import write_text
from ...datamodules.voting.answer_store import AnswerId, AnswerStore, answer_id
from ...datamodules.voting.evaluation import EvaluationTasks
from ...datamodules.voting.tasks import Ask, Reply, Task
from ...errors import InputError
from ...lightning_modules.ranks import Ranks
from ...lightning_modules.voters.processes import launched
from ...progress import counter
from .job import EvaluationJob

Failures = list[dict[str, Any]]  # task -> error, of what could not be asked or was not answered


class Asker:
    """Puts an evaluation's tasks to its model, which is loaded when the first of them is asked."""

    def __init__(self, job: EvaluationJob, ranks: Ranks, source: Any = None) -> None:
        self.job, self.ranks, self.source = job, ranks, source
        self._voter: Any = None

    def ask(self, name: str, tasks: EvaluationTasks, store: AnswerStore, all_tasks: Sequence[Task]) -> Failures:
        """Asks those of all tasks of one benchmark that have no stored answer; returns what failed in this process.

        Answers are stored as they come. All processes must enter it.
        """
        done = {answer_id(record) for record in store.read()}
        self.ranks.gathered(0)  # all have read before anybody writes
        own = AnswerStore(store.file, self.ranks.rank)
        if self.job.served:
            todo = [task for task in all_tasks if task.id not in done]
            return self._ask_server(name, tasks, own, todo, len(all_tasks)) if not self.ranks.rank and todo else []
        return self._ask_here(name, tasks, own, self._batches(all_tasks, done), len(all_tasks) - len(done))

    def _batches(self, all_tasks: Sequence[Task], done: set[AnswerId]) -> list[list[Task]]:
        """This process's batches, without what is answered; what is asked together depends on nothing but the tasks."""
        batches: list[list[Task]] = []
        for condition in dict.fromkeys(task.id.condition for task in all_tasks):
            of_condition = [task for task in all_tasks if task.id.condition == condition]
            size = self.job.batch_size
            batches += [of_condition[at : at + size] for at in range(0, len(of_condition), size)]
        mine = batches[self.ranks.rank :: self.ranks.world_size]
        left = [[task for task in batch if task.id not in done] for batch in mine]
        return [batch for batch in left if batch]

    def _ask_here(
        self, name: str, tasks: EvaluationTasks, store: AnswerStore, batches: list[list[Task]], todo: int
    ) -> Failures:
        failures: Failures = []
        if not batches:
            return failures
        voter = self.voter()
        total = sum(map(len, batches))
        what = f"asking {name}" + (f" ({total:,} of {todo:,} here)" if self.ranks.world_size > 1 else "")
        with counter(what, total) as advance:
            for ready in _ahead(tasks, batches):
                asks = [ask for ask in ready if isinstance(ask, Ask)]
                failures += [failed for failed in ready if isinstance(failed, dict)]
                if asks:
                    replies = voter.replies(asks)
                    store.append([tasks.record(ask, reply) for ask, reply in zip(asks, replies, strict=True)])
                for _ in ready:
                    advance()
        return failures

    def _ask_server(
        self, name: str, tasks: EvaluationTasks, store: AnswerStore, todo: list[Task], total: int
    ) -> Failures:
        failures: Failures = []
        with counter(f"asking {name}", total, total - len(todo)) as advance:

            def take(ask: Ask, reply: Reply) -> None:
                if reply.error:
                    failures.append(_failed(ask.task, reply.error))
                else:
                    store.append([tasks.record(ask, reply)])
                advance()

            def asks() -> Iterator[Ask]:
                for task in todo:
                    ready = _ready(tasks, task)
                    if isinstance(ready, Ask):
                        yield ready
                    else:
                        failures.append(ready)
                        advance()

            self.job.endpoint().ask_all(asks(), take, answered_before=len(todo) < total)
        return failures

    def voter(self) -> Any:
        """The model, on this process's device."""
        if self._voter is None:
            import torch

            from ...lightning_modules.voters.loading import load_voter

            job = self.job
            device = job.device if job.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
            voter = load_voter(
                *(job.checkpoint, self.source, job.prompt_style, job.dtype, job.attention, job.system),
                *(job.tokens, job.temperature, job.seed),
            )
            if device == "cuda":  # also for what computes on the present device, as kernels do
                torch.cuda.set_device(launched()[2] % torch.cuda.device_count())
            self._voter = voter.to(device)
        return self._voter


def write_failures(path: Path, failures: Failures) -> None:
    """Lists what failed in a file, sorted; removes the list of a run before where nothing did."""
    lines = sorted({json.dumps(failure, ensure_ascii=False) for failure in failures})
    if lines:
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


def _ahead(tasks: EvaluationTasks, batches: Sequence[Sequence[Task]]) -> Iterator[list[Ask | dict[str, Any]]]:
    """The batches with what they need; the next one is read while one is answered."""
    pool = ThreadPoolExecutor(1)

    def read(batch: Sequence[Task]) -> list[Ask | dict[str, Any]]:
        return [_ready(tasks, task) for task in batch]

    try:
        coming: Future[list[Ask | dict[str, Any]]] = pool.submit(read, batches[0])
        for following in [*batches[1:], None]:
            ready = coming.result()
            if following is not None:
                coming = pool.submit(read, following)
            yield ready
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ready(tasks: EvaluationTasks, task: Task) -> Ask | dict[str, Any]:
    """The task with all that is asked, or why it cannot be asked."""
    try:
        return tasks.ask(task)
    except InputError as error:
        return _failed(task, str(error))


def _failed(task: Task, error: str) -> dict[str, Any]:
    return {**task.id._asdict(), "error": error}
