"""Memory counted without weights is what real steps hold, and what published sizes need is as multiplied by hand."""

from __future__ import annotations

import pytest
import torch

from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.dry_run import Allocated
from earwitness.lightning_modules.policy.memory import (
    Lengths,
    counts_of,
    measured,
    memory_of,
    outline,
    prompts_like,
    sampling_bytes,
    update_bytes,
)
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny

# From the published config.json of each size.
TEXT = {
    "3B": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "vocab_size": 151936},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064},
}


def published(size: str):
    """The thinker's config of Qwen2.5-Omni."""
    from transformers import Qwen2_5OmniThinkerConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    width = TEXT[size]["hidden_size"]
    audio = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width}
    return Qwen2_5OmniThinkerConfig(
        text_config=TEXT[size] | {"rope_parameters": rope, "tie_word_embeddings": False},
        audio_config=audio | {"output_dim": width, "n_window": 100},
        vision_config=vision,
    )


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("wide"))
    build_tiny(small.annotations, folder, hidden=256, layers=4, audio_hidden=64, audio_layers=2)
    return folder


def held(work) -> int:
    """The most bytes that a piece of work on real tensors holds."""
    with Allocated() as counter:
        work()
    return counter.peak


CASES = [(recompute, lora, group) for recompute in (False, True) for lora in (None, Lora(rank=8)) for group in (1, 3)]


@pytest.mark.parametrize(("recompute", "lora", "group"), CASES)
def test_an_update_holds_what_the_dry_run_says(checkpoint, lora, recompute, group) -> None:
    """Within a tenth, for LoRA and full, with and without recomputation, one answer or a group."""
    policy = OmniPolicy(checkpoint, dtype="float32", lora=lora, gradient_checkpointing=recompute)
    lengths = Lengths(prompts=2, seconds=8.0, suffix=40, said=12, group=group)
    prompts = prompts_like(policy, lengths, 2)
    prompts = type(prompts)(**vars(prompts) | {"features": torch.zeros(prompts.features.shape)})
    rows = torch.arange(2).repeat_interleave(group)
    ids = torch.ones(2 * group, 12, dtype=torch.int64)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    found = held(lambda: policy(prompts, ids, torch.ones_like(ids), rows).logprob.sum().backward())
    made = outline(policy.base.config, "float32", lora=lora, gradient_checkpointing=recompute)
    assert counts_of(made) == counts_of(policy)
    assert update_bytes(made, lengths) == pytest.approx(found, rel=0.1)
    assert found > 5e6


def test_sampling_holds_what_the_dry_run_says(checkpoint) -> None:
    policy = OmniPolicy(checkpoint, dtype="float32")
    lengths = Lengths(seconds=8.0, suffix=40, said=12, group=4, samples=True, rollout=2)
    prompts = prompts_like(policy, lengths, 2)
    prompts = type(prompts)(**vars(prompts) | {"features": torch.zeros(prompts.features.shape)})

    @torch.no_grad()
    def draw() -> None:
        state = policy.read(prompts).expand(torch.arange(2).repeat_interleave(4))
        for _ in range(11):
            token = torch.ones(8, 1, dtype=torch.int64)
            state, _ = policy.extend(state, policy.embed(token), token)

    made = outline(policy.base.config, "float32")
    assert sampling_bytes(made, lengths) == pytest.approx(held(draw), rel=0.1)


@pytest.mark.parametrize(("size", "billions"), [("3B", 4.70), ("7B", 8.93)])
def test_published_sizes_are_counted_without_their_weights(size, billions) -> None:
    counts = counts_of(outline(published(size), lora=Lora()))
    assert counts.frozen / 1e9 == pytest.approx(billions, abs=0.005)  # the published weights of the thinker
    heads, width = TEXT[size]["num_key_value_heads"], TEXT[size]["hidden_size"]
    ranks = 16 * TEXT[size]["num_hidden_layers"] * (4 * width + 2 * width + 2 * (heads * 128))
    assert counts.trained == ranks


def test_sharding_divides_what_is_held_and_gathers_what_is_read(checkpoint) -> None:
    """By hand: 16 bytes per weight that trains in DDP, 8 of which a shard of two holds half of; sharing gathers all."""
    config = OmniPolicy(checkpoint).base.config
    counts = counts_of(outline(config, "float32"))
    lengths, whole = Lengths(seconds=2.0), counts.trained + counts.frozen
    found = measured(config, {"dtype": "float32"}, lengths)
    ddp = memory_of(found, 2, "ddp", reference=True)
    assert (ddp.weights, ddp.gradients, ddp.optimizer) == (4 * whole, 4 * counts.trained, 8 * counts.trained)
    assert (ddp.reference, ddp.gathered, ddp.sampling) == (4 * whole, 0, 0)
    assert ddp.total == 8 * whole + 12 * counts.trained + max(ddp.activations, 4 * counts.trained)
    half = memory_of(found, 2, "fsdp2", reference=True)
    for name in ("weights", "gradients", "optimizer", "reference"):
        assert getattr(half, name) == getattr(ddp, name) / 2, name
    assert half.gathered == 4 * whole + 4 * counts.trained
    recomputed = measured(config, {"dtype": "float32", "gradient_checkpointing": True}, lengths)
    assert memory_of(recomputed, 2, "fsdp2").gathered == 8 * (counts.root + 2 * counts.layer) < half.gathered
    assert memory_of(measured(config, {"lora": Lora(rank=4)}, lengths), 2, "ddp", reference=True).reference == 0
    assert memory_of(measured(config, {}, lengths), 2).weights == counts.trained * 6 + counts.frozen * 2
    with pytest.raises(InputError, match="ddp, fsdp2 are known, got 'tp'"):
        memory_of(found, 2, "tp")
