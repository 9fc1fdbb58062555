"""Memory counted without weights is what real steps hold, and what published sizes need is as multiplied by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from earwitness.commands.training import memory_table
from earwitness.datamodules.batch import Prompts
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.dry_run import Allocated
from earwitness.lightning_modules.policy.memory import (
    Lengths,
    Memory,
    counts_of,
    measured,
    memory_of,
    outline,
    prompts_like,
    reading_bytes,
    sampling_bytes,
    update_bytes,
)
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny
from earwitness.tests.places import ROOT

# From the published config.json of each size.
TEXT = {
    "3B": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "vocab_size": 151936},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064},
}


def published(size: str, **text: int):
    """The thinker's config of Qwen2.5-Omni. text: what its language model has otherwise."""
    from transformers import Qwen2_5OmniThinkerConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    width = TEXT[size]["hidden_size"]
    audio = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width}
    return Qwen2_5OmniThinkerConfig(
        text_config=TEXT[size] | {"rope_parameters": rope, "tie_word_embeddings": False} | text,
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
    """For LoRA and full, with and without recomputation, one answer or a group; and what a reference's reading holds.

    Read as under DDP, and in layers as under FSDP2.
    """
    policy = OmniPolicy(checkpoint, dtype="float32", lora=lora, gradient_checkpointing=recompute)
    made = outline(policy.base.config, "float32", lora=lora, gradient_checkpointing=recompute)
    assert counts_of(made) == counts_of(policy)
    lengths = Lengths(prompts=2, seconds=8.0, suffix=40, said=12, group=group)
    rows = torch.arange(2).repeat_interleave(group)
    ids = torch.ones(2 * group, 12, dtype=torch.int64)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    def read() -> torch.Tensor:
        return policy(real_prompts(policy, lengths), ids, torch.ones_like(ids), rows).logprob.sum()

    for by_layers in {recompute, True}:
        policy.by_layers = made.by_layers = by_layers
        found = held(lambda: read().backward())
        assert update_bytes(made, lengths) == pytest.approx(found, rel=0.01)
        assert found > 5e6
    with torch.no_grad():
        assert reading_bytes(made, lengths) == pytest.approx(held(read), rel=0.01)  # read by layers


def real_prompts(policy: OmniPolicy, lengths: Lengths) -> Prompts:
    """With features that have a content."""
    prompts = prompts_like(policy, lengths, lengths.prompts)
    return replace(prompts, features=torch.zeros(prompts.features.shape))


def test_sampling_holds_what_the_dry_run_says(checkpoint) -> None:
    policy = OmniPolicy(checkpoint, dtype="float32")
    lengths = Lengths(prompts=2, seconds=8.0, suffix=40, said=12, group=4, samples=True, rollout=2)

    @torch.no_grad()
    def draw() -> None:
        state = policy.read(real_prompts(policy, lengths)).expand(torch.arange(2).repeat_interleave(4))
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
    """By hand: 16 bytes per weight that trains in DDP, of which a shard of two holds half; "step" gathers all."""
    config = OmniPolicy(checkpoint).base.config
    counts = counts_of(outline(config, "float32"))
    lengths, whole = Lengths(seconds=2.0), counts.trained + counts.frozen
    alone, found = (measured(config, {"dtype": "float32"}, lengths, strategy) for strategy in ("ddp", "fsdp2"))
    ddp = memory_of(alone, 2, reference=True)
    assert (ddp.weights, ddp.gradients, ddp.optimizer) == (4 * whole, 4 * counts.trained, 8 * counts.trained)
    assert (ddp.reference, ddp.gathered, ddp.sampling) == (4 * whole, 0, 0)
    assert ddp.total == 8 * whole + 12 * counts.trained + max(ddp.activations, 4 * counts.trained)
    half, at_once = memory_of(found, 2, reference=True), memory_of(found, 2, gather="step")
    for name in ("weights", "gradients", "optimizer", "reference"):
        assert getattr(half, name) == getattr(ddp, name) / 2, name
    assert at_once.gathered == 4 * whole + 4 * counts.trained
    by_layers = 8 * (counts.root + 2 * counts.layer)
    assert memory_of(found, 2).gathered == by_layers
    assert half.gathered == max(by_layers, 4 * whole), "the reference is gathered whole"
    kept = (4 * whole + 12 * counts.trained) / 2
    assert half.total == kept + 2 * whole + max(found.activations + by_layers, found.reading + 4 * whole)
    assert at_once.total == kept + found.activations + at_once.gathered
    assert memory_of(found, 2, offload=True).total == found.activations + by_layers
    adapted = measured(config, {"dtype": "float32", "lora": Lora(rank=4)}, lengths, "fsdp2")
    adapters = adapted.counts.trained
    assert memory_of(adapted, 2).gathered == 4 * whole + 8 * adapters, "LoRA gathers once a step"
    layer = adapted.counts.root + 2 * adapted.counts.layer
    assert memory_of(adapted, 2, gather="layer").gathered == 4 * layer < 4 * whole
    assert memory_of(adapted, 2, reference=True).reference == 0
    assert memory_of(measured(config, {}, lengths), 2).weights == counts.trained * 6 + counts.frozen * 2
    with pytest.raises(InputError, match="ddp, fsdp2 are known, got 'tp'"):
        measured(config, {}, lengths, "tp")
    with pytest.raises(InputError, match="auto, layer, step are known, got 'once'"):
        memory_of(found, 2, gather="once")


def test_the_command_takes_fsdp2s_options_from_the_file(checkpoint, monkeypatch, capsys) -> None:
    """What it counts with, for DDP and for FSDP2; full GRPO of 8 GPUs."""
    asked: list[tuple] = []
    nothing = Memory(*[0.0] * 8)

    def dry_run(config, policy, lengths, strategy):
        return strategy, bool(policy.get("gradient_checkpointing"))

    monkeypatch.setattr(memory_table, "measured", dry_run)
    monkeypatch.setattr(memory_table, "memory_of", lambda *given: asked.append(given) or nothing)
    words = [f"paths.model={checkpoint}", "model.init_args.policy.init_args.lora=null"]
    words += ["trainer.strategy.class_path=earwitness.FSDP2", "trainer.strategy.init_args.recompute=true"]
    words += ["trainer.strategy.init_args.gather=step", "trainer.strategy.init_args.shard_over=4"]
    memory_table.show_memory(str(ROOT / "configs" / "grpo.yaml"), words, 8, ["ddp", "fsdp2"], 30.0, 80.0)
    words = [words[0], "trainer.strategy=earwitness.FSDP2"]
    memory_table.show_memory(str(ROOT / "configs" / "grpo.yaml"), words, 8, ["fsdp2"], 30.0, 80.0)
    assert asked == [
        (("ddp", False), 8, True, 2, "step", False),
        (("fsdp2", True), 4, True, 2, "step", False),
        (("fsdp2", False), 8, True, 2, "auto", False),
    ]
