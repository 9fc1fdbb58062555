"""The pipeline of one loader process, from requests to batches: what is read ahead, and in which order it comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from torch.utils.data import IterableDataset, get_worker_info

from ..batch import Batch
from ..shards.reader import Fetched
from .builder import BatchBuilder
from .requests import Request


class Requests(IterableDataset[Request]):
    """Source stage of a `webdataset.DataPipeline`: this rank's and this loader worker's requests, in order.

    request_of: the request of a batch number, for all ranks. start, stop: the batch numbers, which workers share.
    """

    def __init__(self, request_of: Callable[[int], Request], start: int, stop: int, rank: int, world: int) -> None:
        self.request_of, self.start, self.stop, self.rank, self.world = request_of, start, stop, rank, world

    def __len__(self) -> int:
        """Batches of the whole stage, as Lightning counts them from its start, not from `start`."""
        return self.stop

    def __iter__(self) -> Iterator[Request]:
        for number in worker_share(range(self.start, self.stop)):
            yield self.request_of(number).share(self.rank, self.world)


class Prepared:
    """Second stage of the pipeline: batches in the order of their requests.

    From a server, the ranges of `lookahead` requests are fetched together, sorted and merged, while the batches of the
    requests before them are built; with 0, each request's by itself. Local files are read as they are needed.
    """

    def __init__(self, builder: BatchBuilder, lookahead: int) -> None:
        self.builder, self.lookahead = builder, lookahead

    def __call__(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """The batches; see `BatchBuilder.batch` for the errors."""
        if not self.builder.reader.files.remote:
            yield from map(self.builder.batch, requests)
        elif not self.lookahead:
            for request in requests:
                with self.builder.watched("reading", [request]):
                    fetched = self.builder.fetch([request])
                yield self.builder.batch(request, fetched)
        else:
            yield from self._ahead(iter(requests))

    def _ahead(self, requests: Iterator[Request]) -> Iterator[Batch]:
        """Builds one group of batches while a thread fetches the next."""
        pending: deque[tuple[list[Request], Future[Fetched]]] = deque()
        thread = ThreadPoolExecutor(1, "ahead")
        try:
            while True:
                group = list(islice(requests, self.lookahead))
                if group:
                    pending.append((group, thread.submit(self.builder.fetch, group)))
                if not pending:
                    return
                if len(pending) == 2 or not group:
                    ready, coming = pending.popleft()
                    with self.builder.watched("reading", ready):
                        fetched = coming.result()
                    for request in ready:
                        yield self.builder.batch(request, fetched)
        finally:
            thread.shutdown(cancel_futures=True)


def worker_share(steps: range) -> Iterator[int]:
    """The batch numbers that this loader worker builds: round robin, the order in which the loader collects them."""
    info = get_worker_info()
    yield from steps if info is None else steps[info.id :: info.num_workers]
