"""FLOPs from a policy's layers are those that torch counts while it reads and trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from earwitness.datamodules.batch import Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.flops import ReadingCost, Row
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny
from earwitness.lightning_modules.rollout.sampling import sample

CLIPS, CLIP_OF_ROW = (32_000, 64_000), [0, 1, 0, 1]  # whole windows of 2 s, two questions on each


@pytest.fixture(scope="module")
def deep(small, tmp_path_factory) -> str:
    """A policy of several layers: what the last one does beside its cache for a shared prefix is never trained on."""
    folder = str(tmp_path_factory.mktemp("deep"))
    build_tiny(small.annotations, folder, hidden=64, layers=8, audio_hidden=32, audio_layers=4)
    return folder


def prompts_of(policy: OmniPolicy):
    record = {"source_dataset": "s", "answer": "rain", "choices": ["rain", "a dog"]}
    questions = [parse_question(record | {"id": str(n), "question": f"Which sound is {n}?"}, "t") for n in range(4)]
    waves = [np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32) for n in CLIPS]
    return policy.processor.batch([Sample(q, q.choices) for q in questions], waves, ["a"] * 4, CLIP_OF_ROW).prompts


def rows_of(prompts, said: tuple[int, ...]) -> list[Row]:
    """As padded: every prompt is as long as the longest, which is what torch computes."""
    prefix, suffix = prompts.prefix_ids.shape[1], prompts.suffix_ids.shape[1]
    return [Row(clip, CLIPS[clip] // 160, prefix, suffix, said) for clip in CLIP_OF_ROW]


def counted(work) -> float:
    """Of matrix products; what torch does beside them is not counted."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("lora", "train"), [(None, None), (None, ["language_model"]), (Lora(rank=4), None)])
def test_reading_and_training_cost_what_torch_counts(deep, share, lora, train) -> None:
    policy = OmniPolicy(deep, attention="eager", lora=lora, train=train)
    policy.share = share
    prompts, rows = prompts_of(policy), torch.arange(4).repeat_interleave(2)
    ids = torch.ones(8, 5, dtype=torch.int64)
    expected = ReadingCost(policy).read(rows_of(prompts, (5, 5)))
    with torch.no_grad():
        found = counted(lambda: policy(prompts, ids, torch.ones_like(ids), rows))
    assert found == pytest.approx(expected, rel=0.03)
    both = counted(lambda: policy(prompts, ids, torch.ones_like(ids), rows).logprob.sum().backward())
    assert both == pytest.approx(
        ReadingCost(policy).read(rows_of(prompts, (5, 5)), backward=True), rel=0.08 if share else 0.03
    )
    assert both > 1.8 * found


def test_sampling_costs_what_torch_counts(deep) -> None:
    policy = OmniPolicy(deep, attention="eager")
    prompts = prompts_of(policy)
    done = None

    def draw() -> None:
        nonlocal done
        done = sample(policy, prompts, max_new_tokens=6, group_size=3, temperature=1.0, keys=range(12))

    found = counted(draw)
    said = (done.mask.shape[1],) * 3
    assert found == pytest.approx(ReadingCost(policy).sampled(rows_of(prompts, said)), rel=0.03)
