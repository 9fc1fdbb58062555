"""Nothing waits for the device: of tensors without content any number read is an error, and a step reads few.

Tensors lie on the meta device; what is particular to CUDA runs on fake CUDA tensors, which a torch without CUDA cannot
index.
"""

from __future__ import annotations

import contextlib
import re
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from earwitness.datamodules.batch import Prompts, Sample
from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.questions.question import parse_question
from earwitness.kernels.functions import Recompute
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.objectives.losses import LOSSES, SHARES, nll_loss
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.decoding import Decoding, product
from earwitness.lightning_modules.policy.omni import OmniPolicy, State
from earwitness.lightning_modules.policy.said import Said
from earwitness.lightning_modules.rollout.drawing import draw
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.rollout.written import Written
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step.policy_loss import PolicyLoss

LENGTHS = [4, 2, 3, 4]
ROOT = Path(__file__).parents[2]


def without_content(policy: OmniPolicy) -> OmniPolicy:
    """The policy with weights and buffers that have no content."""
    for module in policy.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                fake = torch.nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device="meta"))
                module._parameters[name] = fake.requires_grad_(weight.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
    return policy


@pytest.fixture(scope="module")
def asked(small) -> tuple[OmniPolicy, Prompts]:
    """Two questions about recordings of different lengths."""
    policy = OmniPolicy(small.tiny)
    record = {"source_dataset": "s", "question": "Which?", "answer": "rain", "choices": ["rain", "bark"]}
    questions = [parse_question(record | {"id": str(n)}, "test") for n in range(2)]
    clips = [np.zeros(n, np.float32) for n in (40_000, 9_123)]
    prompts = policy.processor.batch([Sample(q, q.choices) for q in questions], clips, ["a", "b"]).prompts
    return policy, policy.counted(prompts)


def fake(prompts: Prompts) -> Prompts:
    """The prompts without content; what is known of their lengths stays known."""
    parts = {
        name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in vars(prompts).items() if name[0] != "_"
    }
    return Prompts(**parts).knowing(prompts.sizes)


@pytest.mark.parametrize("loss", ["nll", *LOSSES])
@pytest.mark.parametrize("lora", [False, True])
def test_reading_and_learning_never_read_a_number(small, asked, loss, lora):
    """Forward and backward pass of a micro-batch of two prompts, each with a group of two, LoRA and full."""
    policy = without_content(OmniPolicy(small.tiny, lora=Lora(rank=2) if lora else None, gradient_checkpointing=lora))
    prompts = fake(asked[1]).select(slice(0, 2))
    ids = torch.zeros(4, 4, dtype=torch.int64, device="meta")
    mask, rows = torch.ones_like(ids), torch.zeros(4, dtype=torch.int64, device="meta")
    numbers = torch.empty(4, 4, device="meta")
    of_all = of_tokens = None
    if loss != "nll":
        config = GRPOConfig(loss=loss, high=5.0 if loss == "cispo" else 0.2)
        made = PolicyLoss(LOSSES[loss], config, 8.0, mask, numbers[:, 0], numbers[:, 0], None, numbers)
        of_all, of_tokens = made.of_all, made.of_tokens() if made.by_token and not lora else None
    else:
        of_all = partial(nll_loss, mask=mask, weights=numbers[:, 0], denominator=8.0)
    out = policy(prompts, ids, mask, rows, 1.0, True, said=Said(LENGTHS, 2), loss=of_tokens)
    value = out.loss if of_tokens is not None else of_all(out.logprob)
    value.backward()
    assert all(p.grad is not None for name, p in policy.named_parameters() if p.requires_grad and "lora" in name)


@pytest.mark.parametrize("truncation", [(0, 1.0), (4, 0.9)])
def test_a_token_is_sampled_without_reading_a_number(small, asked, truncation):
    with torch.no_grad():
        policy = without_content(OmniPolicy(small.tiny))
        config = policy.base.config.text_config
        width = config.hidden_size // config.num_attention_heads
        keys = torch.empty(2, config.num_key_value_heads, 9, width, device="meta")
        layers = [type("Layer", (), {"keys": keys, "values": keys}) for _ in range(config.num_hidden_layers)]
        cache = type("Cache", (), {"layers": layers})
        state = State(
            cache, torch.ones(2, 9, dtype=torch.int64, device="meta"), torch.empty(2, config.hidden_size, device="meta")
        )
        reading = Decoding(policy, state, 2, 5)
        written = Written(policy.processor, 2, 2, 6, torch.device("meta"))
        last = state.last.repeat_interleave(2, 0)
        uniform = torch.empty(4, dtype=torch.float64, device="meta")
        for position in range(3):
            token = written.put(draw(policy.logits(last), 0.7, uniform, *truncation), position)
            last = reading.step(token)
    assert last.shape == (4, config.hidden_size) and last.device.type == "meta"


def test_scores_in_sixteen_bits_on_a_gpu_are_float32():
    """Attention's scores are not rounded to 16 bits before the softmax."""
    with FakeTensorMode():
        left, right = (torch.empty(2, 3, *size, dtype=torch.bfloat16, device="cuda") for size in ((4, 8), (8, 5)))
        scores = product(left, right)
    assert scores.dtype == torch.float32 and scores.shape == (2, 3, 4, 5) and scores.device.type == "cuda"


READS = ("_local_scalar_dense", "equal", "is_nonzero")


class Reads(TorchDispatchMode):
    """Counts the numbers that are read out of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in READS
        return func(*args, **(kwargs or {}))


class Counted(L.Callback):
    """Reads of every step, optimizer and logging included."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_start(self, *_) -> None:
        self.inside = contextlib.ExitStack()
        self.reads = self.inside.enter_context(Reads())

    def on_train_batch_end(self, *_) -> None:
        self.inside.close()
        self.steps.append(self.reads.count)


def reads(small, module, tokens: int = 0) -> int:
    """The most numbers that one of three steps of four questions reads."""
    name = "grpo" if isinstance(module, GRPO) else "sft"
    stage = {"name": name, "algorithm": name, "batch_size": 4, "budget": {"steps": 3}}
    spec = TrainingSpec(
        {"seed": 1, "cells": ["source"], "stages": [stage]}, name, {"split": "train", "source": "sounds"}
    )
    data, counted = AudioQuestions(small.index, small.tiny, training=spec), Counted()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, callbacks=[counted], **quiet).fit(module, data)
    return max(counted.steps)


@pytest.fixture
def fast(monkeypatch) -> None:
    """Whatever makes the head's numbers a second time fails."""

    def slow(*_):
        raise AssertionError("the log-probs' numbers are made again in the backward pass")

    monkeypatch.setattr(Recompute, "forward", staticmethod(slow))


def test_every_shipped_objective_takes_the_single_pass():
    """A loss by tokens, and no correction that couples them; what trains with LoRA alone has its own short way."""
    files = [*(ROOT / "configs").rglob("*.yaml")]
    named = [value for file in files for value in re.findall(r"^[^#\n]*\bloss: (\w+)", file.read_text(), re.M)]
    assert named and {LOSSES[name].function for name in {*named, GRPOConfig().loss}} <= set(SHARES)
    assert not [file for file in files if re.search(r"^[^#\n]*level: sequence", file.read_text(), re.M)]


def test_a_step_of_supervised_training_reads_at_most_ten_numbers(small, fast):
    assert reads(small, SFT(partial(OmniPolicy, small.tiny), micro_batch_size=2)) <= 10


def test_a_step_of_grpo_reads_at_most_forty_numbers_and_none_for_a_token(small, fast):
    found = []
    for tokens in (8, 24):
        rollout, objective = Rollout(4, 1.0, tokens), GRPOConfig(beta=0.01)
        module = GRPO(
            partial(OmniPolicy, small.tiny), rollout=rollout, objective=objective, rewards={"length": {"weight": 1.0}}
        )
        found.append(reads(small, module))
    assert found[0] == found[1] <= 40, found
