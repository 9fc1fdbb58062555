"""A real vLLM samples for a policy: its log-probs are the policy's, before and after every way to hand weights over.

Run by `make test-vllm` in vLLM's own environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from earwitness.datamodules.batch import Batch, Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Completions, Rollout, completion_keys
from earwitness.lightning_modules.rollout.remote import VllmServer
from earwitness.lightning_modules.rollout.vllm_engine import VllmEngine

pytest.importorskip("vllm", reason="no vLLM in this environment; use make test-vllm")

SIZE = {"max_model_len": 512, "enforce_eager": True, "max_num_seqs": 64}
ROLLOUT = Rollout(group_size=8, temperature=1.5, max_new_tokens=12)
SHARED = [1, 0, 1, 2]  # the clip of each prompt


def new_policy(checkpoint: str, lora: bool = False) -> OmniPolicy:
    return OmniPolicy(checkpoint, dtype="float32", lora=Lora(rank=4, alpha=8) if lora else None)


def questions(policy: OmniPolicy, clip_of_row: list[int] = SHARED) -> Batch:
    """Four prompts of different lengths over three recordings of different lengths."""
    texts = ("Which sound is heard?", "Hm?", "And after all of this, which sound comes last?", "What is it?")
    records = [
        {"source_dataset": "s", "id": str(n), "question": t, "answer": "rain", "choices": ["rain", "dog"]}
        for n, t in enumerate(texts)
    ]
    asked = [parse_question(r, "test") for r in records]
    clips = [np.random.default_rng(n).normal(0, 0.3, n).astype(np.float32) for n in (4_000, 29_123, 11_000)]
    return policy.processor.batch([Sample(q, q.choices) for q in asked], clips, ["a"] * 4, clip_of_row)


def keys(batch: Batch, rollout: Rollout, *name: object) -> list[int]:
    return completion_keys([s.question.uid for s in batch.samples], rollout.group_size, *name)


@torch.no_grad()
def perturb(policy: OmniPolicy, seed: int, scale: float = 0.02) -> None:
    """Moves every weight that trains, so far that old log-probs are off by more than 0.1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter += scale * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def logprob(policy: OmniPolicy, batch: Batch, done: Completions, rollout: Rollout, support: bool = True):
    kept = done.support if support else None
    return policy(batch.prompts, done.ids, done.mask, done.prompt_of_row, rollout.temperature, support=kept).logprob


def gap(policy: OmniPolicy, batch: Batch, done: Completions, rollout: Rollout = ROLLOUT, **how) -> float:
    """The largest difference between the engine's log-probs and the policy's."""
    return float((logprob(policy, batch, done, rollout, **how) - done.logprob).abs().max())


@pytest.fixture(scope="module")
def engine(small):
    """One engine for all tests with whole weights; every test syncs first."""
    made = VllmEngine(**SIZE)
    made.start(new_policy(small.tiny), 0, 1)
    yield made
    made.close()


def test_log_probs_are_the_policys_before_and_after_syncs(engine, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    engine.sync(policy)
    before = engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT, 0))
    assert before.ids.shape == (32, 12) and before.support is None
    assert before.prompt_of_row.tolist() == [row for row in range(4) for _ in range(8)]
    assert len(set(map(tuple, before.ids.tolist()))) == 32, "a group's completions are different draws"
    assert gap(policy, batch, before) < 1e-4
    for step in (1, 2):
        perturb(policy, step)
        stale = engine.generate(batch.prompts, ROLLOUT, keys(batch, ROLLOUT, step), engine.tokens)
        assert gap(policy, batch, stale) > 0.1, "the weights have moved far, and the engine does not know yet"
        engine.sync(policy)
        assert gap(policy, batch, engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT, step))) < 1e-4


def test_an_adapted_policy_is_merged_on_the_way(engine, small):
    policy = new_policy(small.tiny, lora=True)
    batch = questions(policy)
    for step in (1, 2):
        perturb(policy, step, 0.1)
        engine.sync(policy)
        done = engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT, step))
        assert gap(policy, batch, done) < 1e-4
        with policy.reference():
            assert gap(policy, batch, done) > 0.1, "the adapters matter"


def test_adapters_alone_are_enough(small):
    policy = new_policy(small.tiny, lora=True)
    batch = questions(policy)
    engine = VllmEngine(**SIZE, sync="adapter")
    engine.start(policy, 0, 1)
    for step in (0, 1, 2):
        engine.sync(policy)
        done = engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT, step))
        assert gap(policy, batch, done) < 1e-4
        perturb(policy, step, 0.1)
        assert gap(policy, batch, done) > 0.1
        engine.rest()
    engine.close()


def test_a_truncated_rollout_says_what_was_kept(engine, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    engine.sync(policy)
    rollout = dataclasses.replace(ROLLOUT, top_k=4)
    done = engine.complete(batch, rollout, keys(batch, rollout))
    assert done.support.shape == (32, 12, 4) and (done.support >= 0).all()
    assert (done.support == done.ids[..., None]).any(-1).all(), "a token is among those that were kept"
    assert gap(policy, batch, done, rollout) < 1e-4
    assert gap(policy, batch, done, rollout, support=False) > 1.0, "over the whole vocabulary every ratio is off"
    likeliest = policy.logits(policy.read(batch.prompts).last).topk(4).indices.sort(-1).values
    assert done.support[::8, 0].sort(-1).values.equal(likeliest)


def test_top_p_keeps_few_tokens_of_a_sure_policy_and_too_many_of_an_unsure_one(engine, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    engine.sync(policy)
    rollout = dataclasses.replace(ROLLOUT, temperature=0.2, top_p=0.6)
    done = engine.complete(batch, rollout, keys(batch, rollout))
    counts = (done.support >= 0).sum(-1)[done.mask.bool()]
    assert counts.min() < counts.max(), "a nucleus has no fixed size"
    assert gap(policy, batch, done, rollout) < 1e-4
    with pytest.raises(InputError, match="set rollout.top_k too"):
        engine.complete(batch, dataclasses.replace(ROLLOUT, temperature=2.0, top_p=0.95), keys(batch, ROLLOUT))


def test_placeholders_are_never_said_however_likely(engine, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    with torch.no_grad():  # in the direction of the last hidden state: a logit of some thousands
        policy.head[policy.suppressed] = 50 * policy.read(batch.prompts).last[0]
    engine.sync(policy)
    for rollout in (ROLLOUT, dataclasses.replace(ROLLOUT, top_k=4)):
        done = engine.complete(batch, rollout, keys(batch, rollout))
        assert not torch.isin(done.ids, policy.suppressed).any()
        assert done.support is None or not torch.isin(done.support, policy.suppressed).any()
        assert gap(policy, batch, done, rollout) < 1e-4


def test_a_completion_ends_with_a_stop_token_or_at_the_limit(engine, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    eos, pad = policy.processor.stop_ids
    with torch.no_grad():  # a logit of 9 where others are random: the checkpoint's own end token comes often
        last = policy.read(batch.prompts).last[0]
        policy.head[eos] = 9 * last / last.square().sum()
    engine.sync(policy)
    given = engine.tokens

    def ending(*stops: int, length: int = 12) -> Completions:
        rollout = dataclasses.replace(ROLLOUT, max_new_tokens=length)
        tokens = dataclasses.replace(given, stops=stops)
        return engine.generate(batch.prompts, rollout, keys(batch, rollout), tokens)

    free = ending()
    assert (free.ids[:, :-1] == eos).any() and free.mask.all() and not free.finished.any(), "nothing else ends it"
    end = int(free.ids[3, 5])
    whole = ending(end, pad)
    assert whole.finished.any() and not whole.finished.all()
    for ids, mask, finished in zip(whole.ids.tolist(), whole.mask.tolist(), whole.finished.tolist(), strict=True):
        ends = [at for at, token in enumerate(ids) if token in (end, pad)]
        length = ends[0] + 1 if ends else 12
        assert mask == [1] * length + [0] * (len(ids) - length) and finished == bool(ends)
        assert ids[length:] == [pad] * (len(ids) - length)
    assert (whole.logprob[whole.mask == 0] == 0).all()
    assert gap(policy, batch, whole) < 1e-4
    likely = policy.logits(policy.read(batch.prompts).last).topk(100).indices[0].tolist()
    exact = ending(*likely, length=1)
    assert exact.finished.tolist() == [token in likely for token in exact.ids[:, 0].tolist()]
    assert exact.finished.any() and not exact.finished.all(), "ended by its last token, at the limit: finished"


def test_every_row_hears_its_own_clip(engine, small):
    """Log-probs under another pairing are off, so rows that share a clip and rows that do not hear the right one."""
    policy = new_policy(small.tiny)
    perturb(policy, 5, 0.05)  # makes the recordings matter
    batch = questions(policy)
    engine.sync(policy)
    done = engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT))
    assert gap(policy, batch, done) < 1e-4
    wrong = questions(policy, [0, 1, 1, 2])
    apart = (logprob(policy, wrong, done, ROLLOUT) - done.logprob).abs().amax(1).view(4, 8)
    assert (apart[:2] > 1e-2).all() and (apart[2:] < 1e-4).all()
    again = questions(policy, [2, 0, 0, 1])  # in another batch, the clips known already
    assert gap(policy, again, engine.complete(again, ROLLOUT, keys(again, ROLLOUT))) < 1e-4


def test_draws_follow_their_keys_and_leave_the_process_generators_alone(engine, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    found = []
    for name in (1, 1, 2):
        engine.sync(policy)
        found.append(engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT, name)).ids)
    assert found[0].equal(found[1]) and not found[0].equal(found[2])
    assert torch.rand(3).equal(expected[0]) and np.array_equal(np.random.rand(3), expected[1])


def test_what_cannot_work_is_said_at_once(engine, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    engine.sync(policy)
    with pytest.raises(InputError, match="max_model_len: 512"):
        engine.complete(batch, dataclasses.replace(ROLLOUT, max_new_tokens=480), keys(batch, ROLLOUT))
    with pytest.raises(InputError, match="max_logprobs: 216"):
        engine.complete(batch, dataclasses.replace(ROLLOUT, top_k=200), keys(batch, ROLLOUT))
    engine.rest()
    with pytest.raises(ValueError, match="sync comes before complete"):
        engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT))
    with pytest.raises(InputError, match="did not start on .*no_such"):
        VllmEngine(**SIZE).open(str(small.root / "no_such"), "float32")
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


class Served:
    """An `earwitness serve` in a process of its own; `url` waits until it serves."""

    def __init__(self, checkpoint: str, folder, sync: str) -> None:
        command = [sys.executable, "-m", "earwitness", "serve", checkpoint, "--port", "0", "--sync", sync]
        command += ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--max-num-seqs", "64"]
        command += ["--options", '{"max_lora_rank": 8}'] if sync == "adapter" else []
        self.log = folder / f"{sync}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )

    @property
    def url(self) -> str:
        if not hasattr(self, "_url"):
            line = next((line for line in self.process.stdout if line.startswith("serving ")), "")
            assert " at http" in line, self.log.read_text(errors="replace")[-3_000:]
            self._url = line.split()[-1]
        return self._url

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def servers(small, tmp_path_factory) -> Iterator[dict[str, Served]]:
    folder = tmp_path_factory.mktemp("served")
    made = {sync: Served(small.tiny, folder, sync) for sync in ("merged", "adapter")}
    yield made
    for server in made.values():
        server.kill()


@pytest.mark.parametrize("sync", ["merged", "adapter"])
def test_a_server_samples_for_the_policy(servers, small, sync):
    policy = new_policy(small.tiny, lora=True)
    batch = questions(policy)
    client = VllmServer([servers[sync].url], sync=sync)
    client.start(policy, 0, 1)
    for step in (0, 1, 2):
        client.sync(policy)
        for rollout in (ROLLOUT, dataclasses.replace(ROLLOUT, top_k=4)):
            done = client.complete(batch, rollout, keys(batch, rollout, step))
            assert done.ids.shape == (32, 12) and gap(policy, batch, done, rollout) < 1e-4
        assert done.support.shape == (32, 12, 4)
        perturb(policy, step, 0.1)
        assert gap(policy, batch, done, rollout) > 0.1


def test_full_weights_move_a_server_too_and_half_of_them_do_not(servers, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    client = VllmServer([servers["merged"].url])
    client.start(policy, 0, 1)
    perturb(policy, 3)
    client.sync(policy)
    client._post(client.urls[0], "begin", {"version": "x.1", "kind": "merged"}, {})
    half = {"lm_head.weight": torch.zeros(policy.head.shape)}
    client._post(client.urls[0], "part", {"version": "x.1", "number": 0}, half)
    with pytest.raises(InputError, match="half-finished"):
        client.complete(batch, ROLLOUT, keys(batch, ROLLOUT))
    client.sync(policy)
    assert gap(policy, batch, client.complete(batch, ROLLOUT, keys(batch, ROLLOUT))) < 1e-4


def test_a_server_says_what_it_cannot_do_and_one_that_is_killed_is_named(servers, small):
    policy = new_policy(small.tiny)
    batch = questions(policy)
    url = servers["merged"].url
    client = VllmServer([url], retries=1)
    client.start(policy, 0, 1)
    client.sync(policy)
    with pytest.raises(InputError, match=f"{url}: engine.max_model_len: 512"):
        client.complete(batch, dataclasses.replace(ROLLOUT, max_new_tokens=480), keys(batch, ROLLOUT))
    long = dataclasses.replace(ROLLOUT, max_new_tokens=350, group_size=16)
    threading.Timer(0.5, servers["merged"].kill).start()
    begun = time.monotonic()
    with pytest.raises(InputError, match=f"{url}: nobody answers .*earwitness serve"):
        client.complete(batch, long, keys(batch, long))
    assert time.monotonic() - begun > 0.5, "it was killed in the middle"
    with pytest.raises(InputError, match="nobody answers"):
        client.sync(policy)
