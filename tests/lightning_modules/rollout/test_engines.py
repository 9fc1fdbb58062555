"""Weights travel whole, requests and answers mean what they should, a sleeping engine cannot answer, and a server
answers only with the weights it was given last. No vLLM is needed: tests/vllm_rollouts.py asks the real one.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from earwitness.commands.cli import main
from earwitness.datamodules.batch import Batch, Prompts, Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.checkpoint import thinker_state
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.parts import published
from earwitness.lightning_modules.policy.precision import compute_in
from earwitness.lightning_modules.policy.tiny import build_tiny
from earwitness.lightning_modules.policy.weights import (
    adapter_config,
    adapter_weights,
    base_weights,
    chunks,
    merged_weights,
    without_vision,
)
from earwitness.lightning_modules.rollout import remote
from earwitness.lightning_modules.rollout.engine import Completions, Rollout, completion_keys
from earwitness.lightning_modules.rollout.remote import VllmServer
from earwitness.lightning_modules.rollout.sampling import PolicyEngine
from earwitness.lightning_modules.rollout.server import RolloutServer, ServedEngine
from earwitness.lightning_modules.rollout.vllm_engine import VllmEngine
from earwitness.lightning_modules.rollout.vllm_format import (
    TIES,
    TokenIds,
    architecture,
    completions_of,
    concatenated,
    num_logprobs,
    num_positions,
    vllm_prompts,
    vocabulary_hash,
)
from earwitness.lightning_modules.rollout.wire import pack, tensors_of, unpack

ROLLOUT = Rollout(group_size=3, temperature=1.5, max_new_tokens=5)
CPU = torch.device("cpu")


def new_policy(checkpoint: str, lora: bool = False) -> OmniPolicy:
    return OmniPolicy(checkpoint, dtype="float32", lora=Lora(rank=4, alpha=12) if lora else None)


@torch.no_grad()
def perturb(policy: OmniPolicy, seed: int, scale: float = 0.05) -> OmniPolicy:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return policy


def questions(policy: OmniPolicy, clip_of_row: tuple[int, ...] = (1, 0, 1, 2)) -> Batch:
    """Four prompts of different lengths over three recordings of different lengths."""
    texts = ("Which sound is heard?", "Hm?", "And after all of this, which sound comes last?", "What is it?")
    records = [
        {"source_dataset": "s", "id": str(n), "question": t, "answer": "rain", "choices": ["rain", "dog"]}
        for n, t in enumerate(texts)
    ]
    asked = [parse_question(r, "test") for r in records]
    clips = [np.random.default_rng(n).normal(0, 0.3, n).astype(np.float32) for n in (4_000, 9_123, 6_000)]
    return policy.processor.batch([Sample(q, q.choices) for q in asked], clips, ["a"] * 4, list(clip_of_row))


def keys(batch: Batch, *name: object) -> list[int]:
    return completion_keys([s.question.uid for s in batch.samples], ROLLOUT.group_size, *name)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=atol, rtol=0, msg=name)


class TestWeights:
    def test_full_weights_are_the_state_itself_and_not_copied(self, small):
        policy = new_policy(small.tiny)
        found = dict(merged_weights(policy))
        same(found, thinker_state(policy.thinker))
        assert all(found[published(n)].data_ptr() == p.data_ptr() for n, p in policy.thinker.named_parameters())

    def test_adapters_are_merged_as_the_exporter_merges_them(self, small):
        policy = perturb(new_policy(small.tiny, lora=True), 1)
        found = dict(merged_weights(policy))
        same(found, thinker_state(policy.thinker), atol=1e-6)
        plain = thinker_state(new_policy(small.tiny).thinker)
        same(dict(base_weights(policy)), plain)
        moved = {name for name in plain if not found[name].equal(plain[name])}
        assert len(moved) == 8 and {name.split(".")[-2] for name in moved} == {"q_proj", "k_proj", "v_proj", "o_proj"}

    def test_adapters_alone_say_what_they_add(self, small):
        """W + (alpha / r) B A from the two lists is the merged weight; names are those of a checkpoint."""
        policy = perturb(new_policy(small.tiny, lora=True), 2)
        config, base, merged = adapter_config(policy), dict(base_weights(policy)), dict(merged_weights(policy))
        parts = dict(adapter_weights(policy))
        assert config["r"] == 4 and config["lora_alpha"] == 12
        assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
        downs = [name for name in parts if name.endswith(".lora_A.weight")]
        assert len(downs) == 8 and len(parts) == 16
        for name in downs:
            layer = name.removeprefix("base_model.model.thinker.").removesuffix(".lora_A.weight")
            added = 3.0 * parts[name.replace("lora_A", "lora_B")] @ parts[name]
            torch.testing.assert_close(base[f"{layer}.weight"] + added, merged[f"{layer}.weight"], atol=1e-6, rtol=0)

    def test_without_adapters_there_is_nothing_to_send_alone(self, small):
        for ask in (adapter_config, lambda policy: next(adapter_weights(policy))):
            with pytest.raises(InputError, match="needs policy.lora"):
                ask(new_policy(small.tiny))

    def test_sharded_weights_are_gathered_and_reach_a_server(self, small, tmp_path):
        """Two ranks that each hold half of every weight send what one that holds all would send. When a server
        refuses, both hear of it: the one that only helps to gather does not wait for ever."""
        script = tmp_path / "sharded.py"
        script.write_text(_SHARDED)
        with serving(small.tiny) as server:
            begin, server.begun = server.served.begin, 0

            def once(*message):
                server.begun += 1
                if server.begun > 1:
                    raise InputError("the disk is full")
                return begin(*message)

            server.served.begin = once
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
            command += ["--rdzv-endpoint=localhost:0", str(script), small.tiny, server.url, str(tmp_path / "sent")]
            ended = subprocess.run(command, capture_output=True, text=True)
            assert ended.returncode == 0 and ended.stdout.count("gathered 8 adapters") == 2, ended.stderr[-2_000:]
            assert ended.stdout.count(f"{server.url}: the disk is full") == 2
            arrived = thinker_state(server.behind.policy.thinker)
        expected = load_file(tmp_path / "sent")
        same({name: arrived[name] for name in expected}, expected, atol=1e-6)

    def test_chunks_are_bounded_and_whole(self):
        """Sizes 40, 40, 80, 8 and 400 bytes in chunks of 100: the third does not fit behind the first two."""
        weights = [(str(n), torch.full((size,), float(n))) for n, size in enumerate((10, 10, 20, 2, 100))]
        parts = list(chunks(weights, 100))
        assert [list(part) for part in parts] == [["0", "1"], ["2", "3"], ["4"]]
        same({name: t for part in parts for name, t in part.items()}, dict(weights))
        assert parts[0]["0"].data_ptr() != weights[0][1].data_ptr(), "the source may change while a chunk is sent"

    def test_the_vision_tower_stays_at_home(self, small):
        names = [name for name, _ in without_vision(merged_weights(new_policy(small.tiny)))]
        assert not any(name.startswith("visual") for name in names) and "lm_head.weight" in names
        assert any(name.startswith("audio_tower") for name in names)


_SHARDED = """
import sys, torch
torch.distributed.init_process_group("gloo")
torch.set_num_threads(1)
from torch.distributed.device_mesh import init_device_mesh
from earwitness.lightning_modules.policy.checkpoint import thinker_state
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.sharding import shard
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.weights import adapter_weights, merged_weights
from earwitness.lightning_modules.rollout.remote import VllmServer
from safetensors.torch import save_file

torch.manual_seed(1)  # adapters begin at random
policy = OmniPolicy(sys.argv[1], dtype="float32", lora=Lora(rank=4))
with torch.no_grad():
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter += 0.1 * torch.randn(parameter.shape)
whole, alone = dict(merged_weights(policy)), dict(adapter_weights(policy))
whole, alone = ({n: t.clone() for n, t in each.items()} for each in (whole, alone))
shard(policy, init_device_mesh("cpu", (2,)))
assert policy.sharded and not policy.base.lm_head.weight.to_local().equal(whole["lm_head.weight"])
for found, expected in ((merged_weights(policy), whole), (adapter_weights(policy), alone)):
    found = dict(found)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)
sys.stdout.write(f"gathered {sum('lora_A' in name for name in alone)} adapters\\n")
rank = torch.distributed.get_rank()
if rank == 0:
    save_file(whole, sys.argv[3])
client = VllmServer([sys.argv[2]])
client.start(policy, rank, 2)
client.sync(policy)
try:
    client.sync(policy)
except InputError as error:
    sys.stdout.write(f"{error}\\n")
torch.distributed.barrier()
"""


class TestRequests:
    def test_a_request_is_a_prompt_without_padding_its_recording_folded(self, small):
        policy = new_policy(small.tiny)
        prompts, tokens = questions(policy).prompts, TokenIds.of(policy)
        for row, request in enumerate(vllm_prompts(prompts, tokens)):
            clip = int(prompts.clip_of_row[row])
            ids = prompts.prefix_ids[clip][prompts.prefix_mask[clip].bool()].tolist()
            ids += prompts.suffix_ids[row][prompts.suffix_mask[row].bool()].tolist()
            given = request["prompt_token_ids"]
            at, count = given.index(tokens.audio), ids.count(tokens.audio)
            assert given[:at] + [tokens.audio] * count + given[at + 1 :] == ids and count > 1
            audio, frames = request["multi_modal_data"]["audio"], int(prompts.feature_mask[clip].sum())
            assert audio["input_audio_features"].equal(prompts.features[clip, :, :frames])
            assert audio["audio_feature_lengths"].tolist() == [frames]

    def test_clips_are_named_by_what_they_hold(self, small):
        policy = new_policy(small.tiny)
        prompts, tokens = questions(policy).prompts, TokenIds.of(policy)
        names = [r["multi_modal_uuids"]["audio"][0] for r in vllm_prompts(prompts, tokens)]
        assert names[0] == names[2] and len(set(names)) == 3
        alone = vllm_prompts(prompts.select(torch.tensor([3])), tokens)[0]
        assert alone["multi_modal_uuids"]["audio"] == [names[3]], "whatever the batch pads it to"
        other = Prompts(**tensors_of(prompts) | {"features": prompts.features + 1e-4})
        assert not {r["multi_modal_uuids"]["audio"][0] for r in vllm_prompts(other, tokens)} & set(names)

    def test_positions_count_the_recording(self, small):
        policy = new_policy(small.tiny)
        prompts = questions(policy).prompts
        lengths = [
            int(prompts.prefix_mask[c].sum() + prompts.suffix_mask[r].sum()) for r, c in enumerate(prompts.clip_of_row)
        ]
        assert num_positions(prompts) == max(lengths)

    def test_what_to_ask_for(self):
        assert num_logprobs(Rollout(), 500, 128) == 0
        assert num_logprobs(Rollout(top_k=4), 500, 128) == 4 + TIES
        assert num_logprobs(Rollout(top_k=4), 10, 128) == 10, "there are no more"
        assert num_logprobs(Rollout(top_p=0.9), 500, 128) == 128
        with pytest.raises(InputError, match=f"max_logprobs: {120 + TIES}"):
            num_logprobs(Rollout(top_k=120), 500, 128)


INF = float("inf")
TOKENS = TokenIds(audio=9, stops=(0, 1), pad=1, suppressed=(9,), vocabulary=10)


def output(*rows: list[list[tuple[int, float]]]) -> SimpleNamespace:
    """One prompt's output: per completion and position the sampled (id, log-prob), then the likeliest ones."""
    found = []
    for index, row in enumerate(rows):
        flat = [entry for position in row for entry in position]
        ends = np.cumsum([len(position) for position in row]).tolist()
        ids, values = zip(*flat, strict=True)
        logprobs = SimpleNamespace(token_ids=ids, logprobs=values, start_indices=[0, *ends[:-1]], end_indices=ends)
        found.append(SimpleNamespace(index=index, token_ids=[p[0][0] for p in row], logprobs=logprobs))
    return SimpleNamespace(outputs=found)


class TestCompletions:
    def test_completions_of_two_prompts(self):
        first = output([[(5, -1.0)], [(6, -2.0)], [(0, -0.5)]], [[(1, -0.25)]])
        second = output([[(7, -1.5)], [(8, -2.5)], [(3, -3.5)]], [[(2, -4.0)], [(1, -5.0)]])
        second.outputs.reverse()
        done = completions_of([first, second], Rollout(group_size=2, max_new_tokens=3), TOKENS, 0, CPU)
        assert done.ids.tolist() == [[5, 6, 0], [1, 1, 1], [7, 8, 3], [2, 1, 1]]
        assert done.mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0]]
        assert done.finished.tolist() == [True, True, False, True], "three tokens that end with an end are finished"
        assert done.prompt_of_row.tolist() == [0, 0, 1, 1]
        assert done.logprob.tolist() == [[-1, -2, -0.5], [-0.25, 0, 0], [-1.5, -2.5, -3.5], [-4, -5, 0]]
        assert done.support is None

    def test_the_support_is_what_has_a_probability(self):
        """Two of three asked are finite at the first position, one at the second."""
        rows = [
            [[(5, -1.0), (4, -0.5), (5, -1.0), (2, -INF)], [(0, 0.0), (0, 0.0), (2, -INF), (3, -INF)]],
            [[(4, -0.5), (4, -0.5), (5, -1.0), (2, -INF)]],
        ]
        done = completions_of([output(*rows)], Rollout(group_size=2, top_k=2), TOKENS, 3, CPU)
        assert done.support.tolist() == [[[4, 5], [0, -1]], [[4, 5], [-1, -1]]]

    def test_more_may_have_been_kept_than_was_returned(self):
        full = output(*[[[(5, -1.0), (4, -1.0), (5, -1.0)]]] * 2)
        with pytest.raises(InputError, match="top_p alone kept 2 tokens or more.*set rollout.top_k too"):
            completions_of([full], Rollout(group_size=2, top_p=0.9), TOKENS, 2, CPU)
        with pytest.raises(InputError, match="raise the engine's options max_logprobs"):
            completions_of([full], Rollout(group_size=2, top_k=2), TOKENS, 2, CPU)
        tiny = TokenIds(audio=9, stops=(0, 1), pad=1, suppressed=(), vocabulary=2)
        done = completions_of([full], Rollout(group_size=2, top_p=0.9), tiny, 2, CPU)
        assert done.support.tolist() == [[[4, 5]], [[4, 5]]], "all there are were returned"

    def test_an_engine_that_contradicts_itself_is_not_believed(self):
        with pytest.raises(ValueError, match="says it left out"):
            completions_of(
                [output(*[[[(5, -1.0), (4, 0.0), (5, -INF)]]] * 2)], Rollout(group_size=2, top_k=2), TOKENS, 2, CPU
            )
        with pytest.raises(ValueError, match="returned 1 completions"):
            completions_of([output([[(5, -1.0)]])], Rollout(group_size=2), TOKENS, 0, CPU)

    def test_parts_of_a_batch_are_joined(self):
        def part(width: int, kept: int, prompts: int) -> Completions:
            rows = 2 * prompts
            ids, mask = torch.full((rows, width), 7), torch.ones(rows, width, dtype=torch.long)
            owner = torch.arange(prompts).repeat_interleave(2)
            support = torch.full((rows, width, kept), 7)
            return Completions(ids, mask, torch.ones(rows, dtype=torch.bool), owner, -torch.ones(rows, width), support)

        done = concatenated([part(1, 2, 1), part(3, 1, 2)], 1, CPU)
        assert done.ids.tolist() == [[7, 1, 1]] * 2 + [[7, 7, 7]] * 4
        assert done.mask.tolist() == [[1, 0, 0]] * 2 + [[1, 1, 1]] * 4
        assert done.logprob.tolist() == [[-1, 0, 0]] * 2 + [[-1, -1, -1]] * 4
        assert done.prompt_of_row.tolist() == [0, 0, 1, 1, 2, 2]
        assert done.support.tolist() == [[[7, 7], [-1, -1], [-1, -1]]] * 2 + [[[7, -1]] * 3] * 4


class FakeLlm:
    """Writes down what is asked of it; the weights an update brings are read to the end."""

    def __init__(self, calls: list, fail: str = "", **arguments: object) -> None:
        self.calls, self.fail, self.arguments = calls, fail, arguments
        self.llm_engine = SimpleNamespace(
            reset_encoder_cache=lambda: calls.append("reset_encoder_cache"),
            add_lora=lambda request: calls.append(f"add {request.lora_int_id}") or True,
            remove_lora=lambda number: calls.append(f"remove {number}"),
            engine_core=SimpleNamespace(shutdown=lambda: calls.append("shutdown")),
        )

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")

    def reset_mm_cache(self) -> None:
        self.calls.append("reset_mm_cache")

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return True

    def collective_rpc(self, method: str, kwargs: dict) -> None:
        if self.fail == "load":
            raise RuntimeError("out of memory")
        self.names = [name for name, _ in kwargs["weights_iterator"]]
        self.calls.append("load")

    def generate(self, asked: list, how: object, use_tqdm: bool, lora_request: object) -> list:
        self.calls.append("generate" if lora_request is None else f"generate with {lora_request.lora_int_id}")
        rows = [[[(5, -1.0)]]] * how.n
        return [output(*rows) for _ in asked]


@pytest.fixture
def fake(monkeypatch) -> SimpleNamespace:
    """The `calls` that a made-up vLLM gets, and the engines that were `made`."""
    seen = SimpleNamespace(calls=[], made=[])
    vllm, lora = ModuleType("vllm"), ModuleType("vllm.lora.request")
    vllm.LLM = lambda **arguments: seen.made.append(FakeLlm(seen.calls, **arguments)) or seen.made[-1]
    vllm.SamplingParams = SimpleNamespace
    lora.LoRARequest = lambda name, number, path: SimpleNamespace(lora_int_id=number, path=path)
    for name, module in {"vllm": vllm, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": lora}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return seen


RESETS = ["reset_mm_cache", "reset_encoder_cache", "reset_prefix_cache"]


def awake_on_a_gpu(policy: OmniPolicy, **settings: object) -> VllmEngine:
    """An engine that believes its policy lies on a GPU."""
    engine = VllmEngine(**settings)
    seen = SimpleNamespace(device=SimpleNamespace(type="cuda", index=0), tolist=policy.suppressed.tolist)
    processor = policy.processor
    stand_in = SimpleNamespace(suppressed=seen, head=policy.head, processor=processor, audio_id=policy.audio_id)
    stand_in.checkpoint, stand_in.adapted, stand_in.thinker = policy.checkpoint, policy.adapted, policy.thinker
    stand_in.compute_dtype = policy.compute_dtype
    engine.start(stand_in, 0, 1)
    return engine


class TestSleep:
    def test_weights_are_loaded_between_the_two_wakings(self, fake, small):
        policy = new_policy(small.tiny)
        engine = awake_on_a_gpu(policy, sleep=True)
        batch = questions(policy)
        engine.sync(policy)
        engine.complete(batch, ROLLOUT, keys(batch))
        engine.rest()
        engine.rest()
        assert fake.calls == ["load", *RESETS, "generate", "sleep 2"], "a second rest is none"
        fake.calls.clear()
        engine.sync(policy)
        assert fake.calls == ["wake weights", "load", "wake kv_cache", *RESETS]
        assert fake.made[0].names[0].startswith("thinker.") and len(fake.made[0].names) > 50
        assert not any("visual" in name for name in fake.made[0].names)
        engine.close()
        assert fake.calls[-1] == "shutdown"

    def test_nothing_is_sampled_before_weights_have_come(self, fake, small):
        policy = new_policy(small.tiny)
        batch = questions(policy)
        engine = awake_on_a_gpu(policy, sleep=True)
        refused = pytest.raises(ValueError, match="sync comes before complete")
        with refused:
            engine.complete(batch, ROLLOUT, keys(batch))
        engine.sync(policy)
        engine.rest()
        with refused:
            engine.complete(batch, ROLLOUT, keys(batch))
        engine.sync(policy)
        fake.made[0].fail = "load"
        for _ in range(2):  # awake, and asleep
            with pytest.raises(RuntimeError, match="out of memory"):
                engine.sync(policy)
            with refused:
                engine.complete(batch, ROLLOUT, keys(batch))
            engine.rest()
        assert fake.calls[-2:] == ["sleep 2", "wake weights"], "the rest is not woken for weights that did not come"
        assert "generate" not in fake.calls

    def test_under_adapters_the_base_is_kept_and_the_adapters_are_new(self, fake, small, tmp_path):
        policy = new_policy(small.tiny, lora=True)
        engine = awake_on_a_gpu(policy, sleep=True, sync="adapter")
        batch = questions(policy)
        engine.sync(policy)
        first = engine._adapter[0].path
        engine.complete(batch, ROLLOUT, keys(batch))
        engine.rest()
        engine.sync(policy)
        engine.complete(batch, ROLLOUT, keys(batch))
        assert fake.calls == [
            *("add 1", *RESETS, "generate with 1", "sleep 1"),
            *("wake weights", "remove 1", "add 2", "wake kv_cache", *RESETS, "generate with 2"),
        ]
        second = Path(engine._adapter[0].path)
        assert not Path(first).exists() and json.loads((second / "adapter_config.json").read_text())["r"] == 4
        assert fake.made[0].arguments["max_lora_rank"] == 8, "vLLM has room for certain ranks only"
        engine.close()

    def test_only_a_gpu_can_sleep(self, fake, small):
        with pytest.raises(InputError, match="set sleep: false"):
            VllmEngine(sleep=True).start(new_policy(small.tiny), 0, 1)


class TestSettings:
    def test_what_vllm_is_started_with(self, fake, small):
        policy = new_policy(small.tiny)
        VllmEngine(0.3, 512, seed=5, options={"block_size": 16}).start(policy, 2, 1)
        given = fake.made[0].arguments
        assert given["model"] == small.tiny and given["seed"] == 7 and given["dtype"] == "float32"
        assert given["gpu_memory_utilization"] == 0.3 and given["block_size"] == 16
        assert given["logprobs_mode"] == "processed_logprobs" and "distributed_executor_backend" not in given

    def test_vllm_computes_as_the_policy_does_and_not_as_its_weights_are_stored(self, fake, small):
        """Weights that train are stored in float32, also where bf16 is computed with; and the other way round."""
        for loaded, computed in (("float32", "bfloat16"), ("bfloat16", "float32")):
            policy = OmniPolicy(small.tiny, dtype=loaded)
            compute_in(policy, getattr(torch, computed))
            VllmEngine().start(policy, 0, 1)
            assert fake.made[-1].arguments["dtype"] == computed
            (sent,) = {str(tensor.dtype) for _, tensor in merged_weights(policy, policy.compute_dtype)}
            assert sent == f"torch.{computed}"

    def test_several_ranks_are_launched_from_outside(self, fake, small, monkeypatch):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        policy = new_policy(small.tiny)
        VllmEngine().start(policy, 1, 2)
        assert fake.made[0].arguments["distributed_executor_backend"] == "external_launcher"
        with pytest.raises(InputError, match="1 with several training processes"):
            VllmEngine(tensor_parallel_size=2).start(policy, 0, 2)

    def test_bad_settings_are_named(self, small, monkeypatch):
        with pytest.raises(InputError, match="engine.options: logprobs_mode is set by earwitness"):
            VllmEngine(options={"logprobs_mode": "raw_logprobs"})
        with pytest.raises(InputError, match="neither"):
            VllmEngine(sync="both")
        monkeypatch.setitem(sys.modules, "vllm", None)
        with pytest.raises(InputError, match=r"pip install 'earwitness\[vllm\]'"):
            VllmEngine().start(new_policy(small.tiny), 0, 1)
        with pytest.raises(InputError, match="needs policy.lora"):
            VllmEngine(sync="adapter").start(new_policy(small.tiny), 0, 1)

    def test_vllm_that_does_not_start_says_why(self, fake, small, monkeypatch):
        def broken(**arguments):
            raise ValueError("No memory left\nand more")

        monkeypatch.setattr(sys.modules["vllm"], "LLM", broken)
        with pytest.raises(InputError, match=r"\(No memory left\); where memory is short"):
            VllmEngine().start(new_policy(small.tiny), 0, 1)

    def test_importing_the_engines_imports_no_vllm(self):
        code = "import sys; sys.modules['vllm'] = None; import earwitness; earwitness.VllmEngine, earwitness.VllmServer"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestWire:
    def test_a_message_comes_back(self):
        tensors = {"a": torch.arange(6).view(2, 3), "b": torch.tensor([1.5], dtype=torch.bfloat16)}
        tensors["c"] = torch.arange(6.0).view(2, 3).T[1:]
        header, found = unpack(pack({"version": "x.1", "keys": [2**63 + 1]}, tensors))
        assert header == {"version": "x.1", "keys": [2**63 + 1]}
        same(found, tensors)
        assert found["b"].dtype == torch.bfloat16
        assert unpack(pack({"a": 1})) == ({"a": 1}, {})

    @pytest.mark.parametrize("body", [b"", b"\x05", b"\x02" + b"\0" * 7 + b"[]" + pack({})[10:], pack({"a": 1})[:-1]])
    def test_anything_else_is_refused(self, body):
        with pytest.raises(InputError, match="not a message"):
            unpack(body)


class PolicyBehind:
    """Stands in for vLLM behind a server: a policy of its own, whose weights an update replaces."""

    def __init__(self, checkpoint: str, by: str = "merged") -> None:
        self.sync_mode, self.policy, self.fresh, self.calls = by, new_policy(checkpoint), False, []
        self.base = thinker_state(self.policy.thinker)

    def update_weights(self, change) -> None:
        self.fresh = False
        change()
        self.fresh = True

    def load_weights(self, weights) -> None:
        self.calls.append("load")
        loaded = dict(weights)
        self.policy.load_state_dict({f"thinker.{name}": each for name, each in loaded.items()}, strict=False)
        self.base = {name: tensor.clone() for name, tensor in loaded.items()}

    def load_adapter(self, weights, config) -> None:
        self.calls.append("adapt")
        weights, merged = dict(weights), dict(self.base)
        for name in (n for n in weights if n.endswith(".lora_A.weight")):
            layer = name.removeprefix("base_model.model.thinker.").replace(".lora_A", "")
            up = weights[name.replace("lora_A", "lora_B")]
            merged[layer] = merged[layer] + config["lora_alpha"] / config["r"] * up @ weights[name]
        self.policy.load_state_dict({f"thinker.{name}": each for name, each in merged.items()}, strict=False)

    def generate(self, prompts, rollout, keys, tokens):
        assert self.fresh and tokens == TokenIds.of(self.policy)
        self.calls.append(len(prompts))
        engine = PolicyEngine()
        engine.start(self.policy, 0, 1)
        return engine.complete(SimpleNamespace(prompts=prompts), rollout, keys)


@contextlib.contextmanager
def serving(checkpoint: str, by: str = "merged", port: int = 0, token: str = "", **about: str) -> Iterator:
    """A server in a thread of its own, with its `url` and the engine `behind` it."""
    behind = PolicyBehind(checkpoint, by)
    facts = {"checkpoint": checkpoint, "vocabulary": vocabulary_hash(behind.policy.processor.tokenizer)}
    facts["architecture"] = architecture(behind.policy.base.config)
    server = RolloutServer(ServedEngine(behind, facts | about), ("127.0.0.1", port), token)
    server.behind, server.url = behind, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.delenv("EARWITNESS_TOKEN", raising=False)


def here(policy: OmniPolicy, batch: Batch, rollout: Rollout, name: object) -> Completions:
    engine = PolicyEngine()
    engine.start(policy, 0, 1)
    return engine.complete(batch, rollout, keys(batch, name))


def equal(one: Completions, other: Completions) -> None:
    same(tensors_of(one), tensors_of(other), atol=1e-5)


class TestServers:
    @pytest.mark.parametrize("lora", [False, True])
    def test_two_servers_say_what_the_policy_says_here(self, small, lora, monkeypatch):
        """Draws are hashes with this engine behind, so every number must come back, in order, after every sync."""
        monkeypatch.setattr(remote, "CHUNK_BYTES", 20_000)
        policy = new_policy(small.tiny, lora=lora)
        batch = questions(policy)
        with serving(small.tiny) as one, serving(small.tiny) as two:
            client = VllmServer([one.url, two.url + "/"])
            client.start(policy, 0, 1)
            for step in range(2):
                perturb(policy, step)
                client.sync(policy)
                for rollout in (ROLLOUT, Rollout(3, 1.5, 4, top_k=4)):
                    equal(client.complete(batch, rollout, keys(batch, step)), here(policy, batch, rollout, step))
                same(thinker_state(one.behind.policy.thinker), thinker_state(policy.thinker), atol=1e-6)
            assert one.behind.calls == two.behind.calls == ["load", 2, 2] * 2, "each gets half of the prompts"

    def test_adapters_go_alone_once_their_base_is_there(self, small, tmp_path):
        """The server began with other weights: without the base, the completions would be others."""
        other = str(tmp_path / "other")
        build_tiny(small.annotations, other, seed=3, hidden=64, layers=2, audio_hidden=32, audio_layers=1)
        policy = new_policy(small.tiny, lora=True)
        batch = questions(policy)
        with serving(other, "adapter") as server:
            client = VllmServer([server.url], sync="adapter")
            client.start(policy, 0, 1)
            for step in range(2):
                perturb(policy, step)
                client.sync(policy)
                equal(client.complete(batch, ROLLOUT, keys(batch, step)), here(policy, batch, ROLLOUT, step))
            assert server.behind.calls == ["load", "adapt", 4, "adapt", 4]
            port = server.server_port
        with serving(other, "adapter", port) as again:
            with pytest.raises(InputError, match="has the weights of no run.*started again"):
                client.complete(batch, ROLLOUT, keys(batch))
            client.sync(policy)
            equal(client.complete(batch, ROLLOUT, keys(batch, 2)), here(policy, batch, ROLLOUT, 2))
            assert again.behind.calls == ["load", "adapt", 4], "a new server gets the base again"

    def test_ranks_and_servers(self, small):
        policy = new_policy(small.tiny)
        with serving(small.tiny) as one, serving(small.tiny) as two, serving(small.tiny) as three:
            urls = [one.url, two.url, three.url]

            def of(rank: int, world: int) -> list[int]:
                client = VllmServer(urls)
                client.start(policy, rank, world)
                return [urls.index(url) for url in client.own_urls]

            assert [of(rank, 2) for rank in range(2)] == [[0, 2], [1]]
            assert [of(rank, 4) for rank in range(4)] == [[0], [1], [2], [0]]

    def test_a_half_finished_update_is_not_sampled_from(self, small):
        policy = new_policy(small.tiny)
        batch = questions(policy)
        with serving(small.tiny) as server:
            client = VllmServer([server.url])
            client.start(policy, 0, 1)
            client.sync(policy)
            first = client.complete(batch, ROLLOUT, keys(batch))
            client._post(server.url, "begin", {"version": "x.2", "kind": "merged"}, {})
            client._post(server.url, "part", {"version": "x.2", "number": 0}, {"lm_head.weight": torch.zeros(2)})
            with pytest.raises(InputError, match=r"update of its weights is half-finished.*\(HTTP 409\)"):
                client.complete(batch, ROLLOUT, keys(batch))
            with pytest.raises(InputError, match="1 of the update's 2 parts"):
                client._post(server.url, "commit", {"version": "x.2", "parts": 2}, {})
            with pytest.raises(InputError, match="no update y.1 has begun; two runs must not share"):
                client._post(server.url, "part", {"version": "y.1", "number": 0}, {})
            assert server.behind.calls == ["load", 4]
            client.sync(policy)
            equal(client.complete(batch, ROLLOUT, keys(batch)), first)

    def test_an_update_that_vllm_cannot_read_leaves_nothing_to_sample_from(self, small):
        policy = new_policy(small.tiny)
        batch = questions(policy)
        with serving(small.tiny) as server:
            client = VllmServer([server.url])
            client.start(policy, 0, 1)
            client.sync(policy)
            server.behind.load_weights = lambda weights: (_ for _ in ()).throw(RuntimeError("no room"))
            with pytest.raises(InputError, match=r"RuntimeError: no room \(HTTP 500; see its log\)"):
                client.sync(policy)
            client.version = f"{client._run}.1"
            with pytest.raises(InputError, match="half-finished"):
                client.complete(batch, ROLLOUT, keys(batch))

    def test_completions_of_other_weights_are_refused(self, small):
        policy = new_policy(small.tiny)
        batch = questions(policy)
        with serving(small.tiny) as server:
            mine, theirs = VllmServer([server.url]), VllmServer([server.url])
            for client in (mine, theirs):
                client.start(policy, 0, 1)
                client.sync(policy)
            with pytest.raises(InputError, match="another run uses it"):
                mine.complete(batch, ROLLOUT, keys(batch))
            served = server.served.complete
            server.served.complete = lambda *message: ({"version": "z.9"}, served(*message)[1])
            with pytest.raises(InputError, match="sampled with the weights z.9"):
                theirs.complete(batch, ROLLOUT, keys(batch))

    def test_an_answer_that_was_lost_can_be_asked_for_again(self, small):
        policy = new_policy(small.tiny)
        with serving(small.tiny) as server:
            client = VllmServer([server.url])
            client.start(policy, 0, 1)
            client.sync(policy)
            assert client._post(server.url, "commit", {"version": client.version, "parts": 9}, {}) == ({}, {})
            assert server.behind.calls == ["load"], "it is not done twice"

    def test_a_server_that_is_gone_is_named_and_one_that_comes_late_is_found(self, small):
        policy = new_policy(small.tiny)
        batch = questions(policy)
        with serving(small.tiny) as server:
            client = VllmServer([server.url])
            client.start(policy, 0, 1)
            client.sync(policy)
            port = server.server_port
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"http://127.0.0.1:{port}: nobody answers .*earwitness serve"):
            client.complete(batch, ROLLOUT, keys(batch))
        assert time.monotonic() - begun >= 0.02 + 0.04 + 0.08, "it was tried four times"
        with pytest.raises(InputError, match="nobody answers"):
            client.sync(policy)
        client.retries, found = 8, []
        waiting = threading.Thread(target=lambda: (client.sync(policy), found.append(1)))
        waiting.start()
        time.sleep(0.1)
        with serving(small.tiny, port=port):
            waiting.join()
        assert found == [1]

    def test_servers_that_do_not_fit_are_refused_at_the_start(self, small):
        policy = new_policy(small.tiny)
        for about, named in (
            ({"vocabulary": "0123"}, "its vocabulary is 0123"),
            ({"architecture": "text 9x9"}, "its architecture is text 9x9, the policy's text 2x64"),
        ):
            with serving(small.tiny, **about) as server, pytest.raises(InputError, match=f"{server.url}: {named}"):
                VllmServer([server.url]).start(policy, 0, 1)
        with serving(small.tiny, "adapter") as server, pytest.raises(InputError, match="with --sync merged"):
            VllmServer([server.url]).start(policy, 0, 1)
        with pytest.raises(InputError, match="must name servers"):
            VllmServer(["node7:8437"])
        with pytest.raises(InputError, match="needs policy.lora"):
            VllmServer(["http://node7:1"], sync="adapter").start(policy, 0, 1)

    def test_a_shared_secret_keeps_others_out(self, small, monkeypatch):
        policy = new_policy(small.tiny)
        with serving(small.tiny, token="secret") as server:
            with pytest.raises(InputError, match="EARWITNESS_TOKEN is not the server's"):
                VllmServer([server.url]).start(policy, 0, 1)
            monkeypatch.setenv("EARWITNESS_TOKEN", "secret")
            client = VllmServer([server.url])
            client.start(policy, 0, 1)
            client.sync(policy)
            assert server.served.version == client.version

    def test_a_slow_server_is_not_asked_twice(self, small):
        policy = new_policy(small.tiny)
        batch = questions(policy)
        with serving(small.tiny) as server:
            client = VllmServer([server.url], timeout_s=0.3)
            client.start(policy, 0, 1)
            client.timeout_s = 60
            client.sync(policy)
            client.timeout_s, asked = 0.3, []
            server.served.complete = lambda *message: asked.append(1) or time.sleep(0.8) or ({}, {})
            with pytest.raises(InputError, match=r"no answer within engine.timeout_s: 0\.3; raise it"):
                client.complete(batch, ROLLOUT, keys(batch))
        assert len(asked) == 1

    def test_nonsense_gets_an_answer_and_the_server_lives_on(self, small):
        with serving(small.tiny) as server:
            for path, body, status in (("/part", b"nonsense", 409), ("/nothing", b"", 404), ("/begin", pack({}), 409)):
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(urllib.request.Request(server.url + path, body))
                assert error.value.code == status
            with urllib.request.urlopen(f"{server.url}/status") as answer:
                assert json.load(answer)["version"] == ""


class TestCommand:
    def test_help_is_light(self):
        code = (
            "import sys\nfrom earwitness.commands.cli import main\n"
            "try: main(['serve', '--help'])\nexcept SystemExit: pass\n"
            "sys.exit('torch' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    @pytest.mark.parametrize(
        ("more", "named"),
        [
            (["--options", "{"], "--options: not JSON"),
            (["--options", "[]"], "a JSON object"),
            (["--options", '{"seed": 1}'], "seed is set by earwitness"),
            (["--host", "256.1.1.1", "--without-token"], "cannot listen at 256.1.1.1"),
            (["--port", "0"], "pip install 'earwitness[vllm]'"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_what_is_wrong_is_one_line(self, small, monkeypatch, capsys, more, named):
        monkeypatch.setitem(sys.modules, "vllm", None)
        with pytest.raises(SystemExit) as end:
            main(["serve", small.tiny, *more])
        error = capsys.readouterr().err
        assert end.value.code == 1 and error.startswith("error: ") and named in error and error.count("\n") == 1
