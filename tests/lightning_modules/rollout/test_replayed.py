"""Steps of the sampler that are recorded once and replayed give what the steps themselves give.

Without a GPU the recording is a trace: the operations on their memory, with every number of Python's built in, as a
CUDA graph has them.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from earwitness.datamodules.batch import Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.lightning_modules.policy import replayed
from earwitness.lightning_modules.policy.decoding import Decoding
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny
from earwitness.lightning_modules.rollout import sampling
from earwitness.lightning_modules.rollout.sampling import sample

RECORD = {"source_dataset": "s", "answer": "rain", "choices": ["rain", "a dog's bark"]}
TEXTS = ("Which sound is heard?", "Hm?", "And after all of this, which sound comes last?")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A policy, and three prompts of different lengths."""
    folder = tmp_path_factory.mktemp("tiny")
    records = [RECORD | {"id": str(n), "question": text} for n, text in enumerate(TEXTS)]
    (folder / "q.jsonl").write_text("\n".join(json.dumps(r | {"audio_path": "x.wav"}) for r in records))
    size = {"hidden": 64, "layers": 2, "audio_hidden": 32, "audio_layers": 1}
    build_tiny(str(folder / "q.jsonl"), str(folder / "tiny"), seed=1, **size)
    policy = OmniPolicy(str(folder / "tiny"))
    questions = [parse_question(record, "test") for record in records]
    clips = [np.random.default_rng(n).normal(0, 0.1, 9_000 + 4_000 * n).astype(np.float32) for n in range(3)]
    return policy, policy.processor.batch([Sample(q, q.choices) for q in questions], clips, ["a"] * 3).prompts


@pytest.fixture
def traced(monkeypatch):
    """Has the sampler replay traces; how many were recorded."""
    count = []

    def record(function):
        count.append(1)
        return make_fx(function)()

    def reading(policy, state, group, longest, graphs):
        decoding = Decoding(policy, state, group, longest)
        return replayed.Replayed(decoding, record) if graphs else decoding

    monkeypatch.setattr(sampling, "_reading", reading)
    monkeypatch.setattr(replayed, "_unable", [])
    return count


@pytest.mark.parametrize("places", [4, 64])
def test_replays_give_what_steps_give(asked, traced, monkeypatch, places):
    """Greedy and sampled, 22 tokens, rows that end leave: the same completions, log-probs to rounding."""
    monkeypatch.setattr(replayed, "PLACES", places)
    policy, prompts = asked
    monkeypatch.setattr(type(policy.processor), "stop_ids", property(lambda _: [*range(0, 400, 9)]))
    for temperature in (0.0, 1.3):
        how = {"max_new_tokens": 22, "group_size": 4, "temperature": temperature, "keys": list(range(12))}
        plain = sample(policy, prompts, **how, cuda_graphs=False)
        assert not traced
        again = sample(policy, prompts, **how)
        assert torch.equal(plain.ids, again.ids) and torch.equal(plain.finished, again.finished)
        if temperature:
            assert plain.finished.any()
            assert torch.allclose(plain.logprob, again.logprob, rtol=0, atol=1e-5)
        assert len(traced) >= (again.ids.shape[1] - 1) // places
        traced.clear()


def test_a_recording_that_looks_at_too_few_places_is_noticed(asked, traced, monkeypatch):
    """That the test above can fail: a recording kept for longer than it serves gives other completions."""
    policy, prompts = asked
    how = {"max_new_tokens": 22, "group_size": 4, "temperature": 1.3, "keys": list(range(12))}
    plain = sample(policy, prompts, **how, cuda_graphs=False)
    first = Decoding.hidden
    monkeypatch.setattr(Decoding, "hidden", lambda self, token, at, bound: first(self, token, at, min(bound, 6)))
    with pytest.raises((RuntimeError, AssertionError)):
        assert torch.equal(plain.ids, sample(policy, prompts, **how).ids)


def test_where_a_recording_has_no_room_these_completions_alone_go_without(asked, monkeypatch, caplog):
    policy, prompts = asked

    def record(function):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def reading(policy, state, group, longest, graphs):
        return replayed.Replayed(Decoding(policy, state, group, longest), record)

    how = {"max_new_tokens": 6, "group_size": 2, "temperature": 1.0, "keys": list(range(6))}
    plain = sample(policy, prompts, **how)
    monkeypatch.setattr(sampling, "_reading", reading)
    monkeypatch.setattr(replayed, "_unable", [])
    with caplog.at_level(logging.WARNING, "earwitness.rollout"):
        found = sample(policy, prompts, **how)
    assert not caplog.records and replayed._unable == []
    assert torch.equal(found.ids, plain.ids) and torch.equal(found.logprob, plain.logprob)


def test_where_nothing_can_be_recorded_steps_are_taken_with_one_warning(asked, monkeypatch, caplog):
    policy, prompts = asked

    def record(function):
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def reading(policy, state, group, longest, graphs):
        return replayed.Replayed(Decoding(policy, state, group, longest), record)

    monkeypatch.setattr(sampling, "_reading", reading)
    monkeypatch.setattr(replayed, "_unable", [])
    how = {"max_new_tokens": 6, "group_size": 2, "temperature": 1.0, "keys": list(range(6))}
    with caplog.at_level(logging.WARNING, "earwitness.rollout"):
        found = [sample(policy, prompts, **how) for _ in range(2)]
    assert len(caplog.records) == 1 and "operation not permitted when stream is capturing" in caplog.text
    monkeypatch.undo()
    plain = sample(policy, prompts, **how)
    assert all(torch.equal(one.ids, plain.ids) and torch.equal(one.logprob, plain.logprob) for one in found)


class Graph:
    """torch's graphs by their rules of memory: of a pool whose last graph is gone nothing more can be recorded.

    A recording holds what `doing` did on its device while it was made.
    """

    living: list[int] = []  # the pool of every graph that is there
    known: set[int] = set()
    doing: list = []

    def __init__(self):
        self._pool, self._done = 0, []

    def capture_begin(self, pool, capture_error_mode):
        self._pool = len(self.known) + 1 if pool is None else pool
        if self._pool in self.known and self._pool not in self.living:
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
        self.known.add(self._pool)
        self.living.append(self._pool)
        self.doing.clear()

    def capture_end(self):
        self._done = list(self.doing)

    def replay(self):
        for again in self._done:
            again()

    def pool(self):
        return self._pool

    def __del__(self):
        if self._pool in self.living:
            self.living.remove(self._pool)


@pytest.fixture
def gpu(monkeypatch):
    """Has `recorded` find graphs, and streams, where there is no GPU."""
    stream = SimpleNamespace(wait_stream=lambda _: None)
    zeros = torch.zeros
    for name, what in {
        "CUDAGraph": Graph,
        "Stream": lambda *_: stream,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda: stream,
        "current_device": lambda: 0,
        "graph_pool_handle": lambda: 7,
    }.items():
        monkeypatch.setattr(torch.cuda, name, what)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(Graph, "known", set())
    replayed._place.cache_clear()
    yield
    replayed._place.cache_clear()


def added(number: torch.Tensor, here: bool = True):
    """Adds 1 to a number on the present device, or on another."""

    def function():
        out = number + 1
        if here:
            Graph.doing.append(lambda: out.copy_(number + 1))
        return out

    return function


def test_recordings_follow_one_another(gpu):
    """Also where the one before is gone, as after every call of the sampler."""
    for _ in range(3):
        number = torch.zeros((), device="cpu")
        replay = replayed.recorded(added(number))
        for value in (3.0, 5.0):
            number.fill_(value)
            assert replay() == value + 1
        del replay


def test_what_is_done_instead_comes_after_what_was_tried(gpu):
    """What was begun beside writes to the completions' memory; the step that is taken in its place waits for it."""
    waits = []
    torch.cuda.current_stream().wait_stream = waits.append
    replayed._place(0)
    waits.clear()
    calls = []

    def function():
        calls.append(len(waits))
        if len(calls) > 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.zeros((), device="cpu")

    with pytest.raises(RuntimeError, match="not permitted"):
        replayed.recorded(function)
    assert len(waits) == calls[-1] + 1


def test_a_recording_without_the_operations_is_refused(gpu):
    with pytest.raises(RuntimeError, match="a replayed step is not the step itself"):
        replayed.recorded(added(torch.zeros((), device="cpu"), here=False))


def test_a_step_is_recorded_on_the_device_of_its_policy(monkeypatch):
    """A process may have another present one."""
    present = [0]

    @contextmanager
    def device_of(tensor):
        present.append(tensor)
        yield
        present.pop()

    def record(function):
        assert present[-1] is token
        return function

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    token = torch.tensor([3])
    decoding = SimpleNamespace(read=0, longest=4, hidden=lambda token, at, bound: token)
    assert replayed.Replayed(decoding, record).step(token) == 3 and present == [0]
