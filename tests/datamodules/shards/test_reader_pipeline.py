"""From requests to batches: the same batches however many processes, ranks and requests in flight there are."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from earwitness.datamodules.batch import Batch, Prompts
from earwitness.datamodules.batches.pipeline import Prepared
from earwitness.datamodules.batches.requests import Augmentation, Request
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.datamodules.shards.streams import IndexedSamples
from earwitness.datamodules.storage.files import Reading
from earwitness.datamodules.storage.ranges import Range
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.sft import SFT
from earwitness.tests.datamodules.test_datamodule import EVERYTHING, build, module, same
from earwitness.tests.lightning_modules.test_resume import ADAPTIVE, FEW, WORLDS, forked
from earwitness.tests.lightning_modules.test_training import data_of
from earwitness.tests.trainers import trainer_of


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Seventy-two questions to train on, two on each of 36 recordings of different lengths; four to validate on."""
    clips, splits = [n // 2 for n in range(72)] + [40, 41, 42, 43], ["train"] * 72 + ["val"] * 4
    return build(tmp_path_factory.mktemp("pipeline") / "corpus", clips, splits, per_shard=7)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """The tokenizer is read once."""
    monkeypatch.setattr(OmniProcessor, "from_pretrained", lru_cache(OmniProcessor.from_pretrained))


def rows_of(batch: Batch) -> list[tuple]:
    """Everything a batch holds, row by row and without the padding, which depends on who else is in the batch."""
    prompts, rows = batch.prompts, []
    for place, sample in enumerate(batch.samples):
        clip = int(prompts.clip_of_row[place])
        kept = prompts.feature_mask[clip].bool()
        tensors = (
            prompts.suffix_ids[place][prompts.suffix_mask[place].bool()],
            prompts.prefix_ids[clip][prompts.prefix_mask[clip].bool()],
            batch.target_ids[place][batch.target_mask[place].bool()],
            prompts.features[clip][:, kept].contiguous(),
        )
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()
        rows.append((sample, float(batch.weights[place]), digest))
    return rows


def steps_of(ranks: Sequence[Iterator[Batch]]) -> list[list[tuple]]:
    """The global batches that the ranks' shares make up: row after row, rank after rank."""
    steps = []
    for batches in zip(*ranks, strict=True):
        assert len({(batch.step, batch.plan, batch.stage) for batch in batches}) == 1
        sizes = [len(batch) for batch in batches]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
        shares = [rows_of(batch) for batch in batches]
        steps.append([row for rows in zip_longest(*shares) for row in rows if row is not None])
    return steps


@pytest.fixture(scope="module")
def alone(corpus) -> list[list[tuple]]:
    """One rank without loader processes."""
    return steps_of([module(corpus, **FEW).train_dataloader()])


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_any_number_of_workers_gives_the_same_batches(corpus, alone, workers):
    assert steps_of([module(corpus, **FEW, num_workers=workers).train_dataloader()]) == alone


@pytest.mark.parametrize("world", WORLDS)
def test_any_number_of_ranks_gives_the_same_batches(corpus, alone, world):
    """Rows, weights, options, conditions, tokens and features, whatever each rank's number of loader processes."""
    ranks = [module(corpus, rank=r, world=world, **FEW, num_workers=r % 3) for r in range(world)]
    assert steps_of([data.train_dataloader() for data in ranks]) == alone


@pytest.mark.parametrize(("lookahead", "workers"), [(1, 0), (2, 0), (3, 2), (8, 0), (8, 3)])
def test_reading_ahead_from_a_server_gives_the_same_batches(corpus, alone, lookahead, workers):
    data = module(corpus, **FEW, num_workers=workers, reading=Reading(lookahead=lookahead))
    remote(data)
    assert steps_of([data.train_dataloader()]) == alone


def test_the_batches_of_a_fixed_plan_never_change(corpus):
    """Ids, weights, options and conditions of all six steps, as they were on the day this was written."""
    shown = [
        [(s.question.id, s.weight, s.choices, s.condition) for s in batch.samples]
        for batch in module(corpus, **FEW).train_dataloader()
    ]
    assert hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16] == "ba3c27ca78912377"


class Server:
    """Local files that behave as remote ones, and remember who asked for what; `gate` holds back all but the first."""

    remote = True

    def __init__(self, files, gate: threading.Event | None = None) -> None:
        self.files, self.gate = files, gate
        self.asked: list[set[Range]] = []
        self.threads: list[str] = []

    def fetch(self, wanted: Sequence[Range]) -> list:
        self.asked.append(set(wanted))
        assert len(self.asked[-1]) == len(wanted), "a range is asked for once"
        self.threads.append(threading.current_thread().name)
        if self.gate is not None and len(self.asked) > 1:
            assert self.gate.wait(20)
        return self.files.fetch(wanted)

    def check(self) -> None:
        pass


def remote(data, gate: threading.Event | None = None) -> Server:
    data.reader.files = Server(data.reader.files, gate)
    return data.reader.files


def ranges(data, requests: Sequence[Request]) -> set[Range]:
    rows = [int(row) for request in requests for row in request.rows]
    heard = [int(row) for r in requests if r.condition in ("audio", "mismatched") for row in r.rows]
    return {data.reader.range(row, "json") for row in rows} | {data.reader.range(row, "audio") for row in heard}


def threads_ahead() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_groups_of_requests_are_read_together_while_those_before_them_are_prepared(corpus):
    """Six requests, two at a time: the second group is on its way while both batches of the first come out."""
    data, gate = module(corpus, **(FEW | {"conditions": ["audio"]})), threading.Event()
    server, taken = remote(data, gate), []
    requests = [data.training_data.request(step) for step in range(6)]
    batches = Prepared(data.builder, 2)(taken.append(request.step) or request for request in requests)
    assert [next(batches).step, next(batches).step] == [0, 1], "the group behind them has not been answered yet"
    assert taken == [0, 1, 2, 3]
    gate.set()
    assert [batch.step for batch in batches] == [2, 3, 4, 5]
    assert server.asked == [ranges(data, requests[start : start + 2]) for start in (0, 2, 4)]
    assert set(server.threads) == {"ahead_0"}, "nothing is read while a batch is prepared"
    assert threads_ahead() == []


def test_silent_requests_ask_for_texts_alone(corpus):
    data = module(corpus, **(FEW | {"conditions": ["silence:0.5"]}))
    server = remote(data)
    requests = [data.training_data.request(step) for step in range(3)]
    assert len(list(Prepared(data.builder, 3)(requests))) == 3
    texts = {data.reader.range(int(row), "json") for request in requests for row in request.rows}
    assert server.asked == [texts]


def test_without_lookahead_each_request_is_read_by_itself_when_its_turn_comes(corpus):
    data = module(corpus, **(FEW | {"conditions": ["audio"]}))
    server, taken = remote(data), []
    requests = [data.training_data.request(step) for step in range(4)]
    batches = Prepared(data.builder, 0)(taken.append(request.step) or request for request in requests)
    for step in range(4):
        assert next(batches).step == step and taken == list(range(step + 1))
        assert server.asked == [ranges(data, [request]) for request in requests[: step + 1]]
    assert set(server.threads) == {"MainThread"}


def test_an_adaptive_stage_never_looks_ahead(corpus, monkeypatch):
    """What its next window holds is not known: a request is made when its batch is wanted."""
    data = module(corpus, curriculum={"seed": 3, "cells": ["question_type"], "stages": [ADAPTIVE]})
    remote(data)
    asked = []
    make = data.training_data.request
    monkeypatch.setattr(data.training_data, "request", lambda step: asked.append(step) or make(step))
    for step, batch in enumerate(data.train_dataloader()):
        assert batch.step == step and asked == list(range(step + 1))
        data.trained(batch)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_generator_that_is_closed_early_ends_its_thread(corpus, taken):
    data = module(corpus, **FEW)
    remote(data)
    batches = Prepared(data.builder, 2)(data.training_data.request(step) for step in range(6))
    for _ in range(taken):
        next(batches)
    batches.close()
    assert threads_ahead() == []


def test_a_request_that_cannot_be_made_ends_the_thread_too(corpus):
    data = module(corpus, **FEW)
    remote(data)

    def requests() -> Iterator[Request]:
        yield from (data.training_data.request(step) for step in range(3))
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(Prepared(data.builder, 2)(requests()))
    assert threads_ahead() == []


def test_what_a_server_does_not_give_is_a_bad_sample_of_its_batch_alone(corpus):
    """A range that comes back as an error is replaced; the others of its group are used."""
    data = module(corpus, **(FEW | {"conditions": ["audio"]}))
    server = remote(data)
    requests = [data.training_data.request(step) for step in range(2)]
    lost = int(requests[1].rows[5])
    gone = data.reader.range(lost, "audio")
    real = server.files.fetch
    server.files.fetch = lambda wanted: [InputError("gone") if each == gone else real([each])[0] for each in wanted]
    hearers = [[r for r in request.rows if data.reader.clip(int(r)) == data.reader.clip(lost)] for request in requests]
    for batch, rows in zip(Prepared(data.builder, 2)(requests), hearers, strict=True):
        assert sorted(bad.key for bad in batch.replaced) == sorted(data.reader.key(int(row)) for row in rows)
        assert {bad.reason for bad in batch.replaced} <= {"gone"} and len(batch) == 24
    assert hearers[1]


def wait_for(pid: int, pipe: int, corpus: Path) -> None:
    """An adaptive stage whose loader process waits for a window that nobody plans."""
    data = module(corpus, curriculum={"seed": 3, "cells": ["question_type"], "stages": [ADAPTIVE]}, num_workers=1)
    batches = iter(data.train_dataloader())
    next(batches), next(batches)  # windows 0 and 1 are planned ahead, window 2 is not
    os.write(pipe, f"{batches._workers[0].pid}\n".encode())
    time.sleep(600)


def test_a_loader_that_waits_for_a_window_ends_when_its_trainer_is_killed(corpus, tmp_path):
    with forked(lambda pipe: wait_for(os.getpid(), pipe, corpus), tmp_path / "log") as (pid, pipe):
        loader = int(os.read(pipe, 32) or 0)
        assert loader and runs(loader), (tmp_path / "log").read_text()
        os.kill(pid, signal.SIGKILL)  # the trainer alone, not its group
        limit = time.monotonic() + 30
        while runs(loader):
            assert time.monotonic() < limit, "the loader waits for ever"
            time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_samples_in_a_pipeline_of_webdataset_come_in_the_order_asked(corpus, workers):
    """Bytes of the recordings, each question by itself, however many loader processes there are."""
    reader = module(corpus, setup="test").reader
    rows = np.random.default_rng(0).permutation(len(reader))[:40]
    source = IndexedSamples(reader, rows, ahead=7)
    pipeline = wds.DataPipeline(source, wds.decode(only=["json"]))
    found = list(DataLoader(pipeline, batch_size=None, num_workers=workers))
    assert len(source) == len(found) == 40
    for sample, row in zip(found, rows.tolist(), strict=True):
        assert sample["json"] == reader.question(row).record()
        assert sample["__key__"] == reader.key(row) and sample["flac"] == reader.sound(row)
        assert sample["__url__"] == reader.where(row)


def test_samples_of_a_server_are_asked_for_in_groups(corpus):
    data = module(corpus, setup="test")
    server = remote(data)
    rows = list(range(20))
    assert [s["__key__"] for s in IndexedSamples(data.reader, rows, ahead=8)] == [data.reader.key(r) for r in rows]
    groups = [rows[:8], rows[8:16], rows[16:]]
    ask = [{data.reader.range(r, part) for r in group for part in ("json", "audio")} for group in groups]
    assert server.asked == ask


def test_sorted_batches_hold_the_same_rows_longest_first(corpus):
    plain, ordered = module(corpus, **FEW), module(corpus, **FEW, sort_by_length=True)
    moved = 0
    for step in range(plain.num_steps):
        a, b = plain.training_data.request(step), ordered.training_data.request(step)
        both = [sorted(zip(r.rows, r.weights, r.passes, strict=True)) for r in (a, b)]
        assert both[0] == both[1] and (a.condition, a.step, a.stage) == (b.condition, b.step, b.stage)
        lengths = ordered.reader.numbers["num_samples"][b.rows]
        assert (np.diff(lengths.astype(np.int64)) <= 0).all()
        moved += (a.rows != b.rows).sum()
    assert moved > 72
    for a, b in zip(plain.train_dataloader(), ordered.train_dataloader(), strict=True):
        assert sorted(map(repr, rows_of(a))) == sorted(map(repr, rows_of(b))), "options and features too"


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_of_a_sorted_batch_hear_recordings_of_like_length(corpus, world):
    """Row r of every rank is within one place of the order by length: no rank waits for another's long recording."""
    request = module(corpus, **FEW, sort_by_length=True).training_data.request(0)
    lengths = module(corpus, **FEW).reader.numbers["num_samples"]
    shares = np.stack([lengths[request.share(rank, world).rows] for rank in range(world)]).astype(np.int64)
    assert (shares[:, :-1].min(axis=0) >= shares[:, 1:].max(axis=0)).all()


def test_a_sorted_run_learns_the_same_with_less_padding(small, tmp_path):
    """Losses of every step and the weights at the end agree to rounding; `data/padding` is smaller in every step."""
    runs = []

    class Facts(L.Callback):
        def __init__(self) -> None:
            self.losses, self.padding = [], []

        def on_train_batch_end(self, trainer, *_) -> None:
            self.losses.append(float(trainer.callback_metrics["train/loss"]))
            self.padding.append(float(trainer.callback_metrics["data/padding"]))

    for ordered in (False, True):
        data, facts = data_of(small), Facts()
        data.training.sort_by_length = ordered
        data.training.curriculum = FEWER
        sgd = partial(torch.optim.SGD, lr=0.05)
        fitted = SFT(partial(OmniPolicy, small.tiny), sgd, micro_batch_size=2)
        trainer_of(tmp_path, callbacks=[facts]).fit(fitted, data)
        weights = torch.cat([p.detach().flatten() for p in fitted.net.parameters()])
        runs.append((facts.losses, facts.padding, weights))
    (losses, padding, weights), (losses_sorted, padding_sorted, weights_sorted) = runs
    assert len(losses) == 3 and losses_sorted == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(weights_sorted, weights, atol=1e-6, rtol=0)
    assert all(b < a for a, b in zip(padding, padding_sorted, strict=True)), (padding, padding_sorted)


FEWER = {
    "seed": 3,
    "cells": ["source", "label"],
    "stages": [
        {
            "name": "sft",
            "algorithm": "sft",
            "pool": {"source": "sounds", "label": "weak"},
            "batch_size": 8,
            "budget": {"samples": 24},
        }
    ],
}


def test_frames_are_those_of_the_distinct_recordings_of_each_micro_batch():
    """Recordings of 3, 5 and 2 frames, padded to 5; rows hear 0, 0, 1, 2, 2.

    Rows 0-1 need recording 0 alone: 3 of 3. Rows 2-3 need 1 and 2: 7 of 2 x 5. Row 4 needs 2: 2 of 2.
    """
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    none = torch.zeros(5, 1, dtype=torch.long)
    prompts = Prompts(none[:3], none[:3], torch.zeros(3, 128, 5), mask, none, none, torch.tensor([0, 0, 1, 2, 2]))
    assert prompts.frames([slice(0, 2), slice(2, 4), slice(4, 5)]) == (3 + 7 + 2, 3 + 10 + 2)
    assert prompts.frames([slice(0, 5)]) == (10, 15)


def test_the_same_request_gives_the_same_batch_again_and_alone(corpus):
    """No state is left behind by the batches before it."""
    data = module(corpus, **(EVERYTHING | FEW | {"augmentation": Augmentation()}))
    first = data.builder.batch(data.training_data.request(3))
    list(data.train_dataloader())
    assert same(first, data.builder.batch(data.training_data.request(3)))
    assert same(first, module(corpus, **FEW).builder.batch(data.training_data.request(3)))
