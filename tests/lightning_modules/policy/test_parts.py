"""Parts of the model are found by name in every version of transformers, and what trains is never nothing."""

import pytest
import torch
from torch import nn

from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.parts import part_of, published, train_parts

NAMES = {  # published, from transformers 5.21 on, its part
    "audio_tower.layers.0.fc1.weight": ("model.audio_tower.layers.0.fc1.weight", "audio_tower"),
    "audio_tower.proj.bias": ("model.audio_tower.proj.bias", "projector"),
    "audio_tower.audio_bos_eos_token.weight": ("model.audio_tower.audio_bos_eos_token.weight", "marks"),
    "visual.merger.ln_q.weight": ("model.visual.merger.ln_q.weight", "vision"),
    "model.layers.0.mlp.up_proj.weight": ("model.language_model.layers.0.mlp.up_proj.weight", "language_model"),
    "model.embed_tokens.weight": ("model.language_model.embed_tokens.weight", "language_model"),
    "lm_head.weight": ("lm_head.weight", "language_model"),
}


def model_of(names) -> nn.Module:
    """A module with one parameter under each of the names."""
    root = nn.Module()
    for name in names:
        module = root
        *path, leaf = name.split(".")
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, nn.Module())
            module = getattr(module, step)
        module.register_parameter(leaf, nn.Parameter(torch.zeros(1)))
    return root


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("train", ["audio_tower", "projector", "language_model"])
def test_one_part_trains_alone_however_the_model_is_nested(version, train):
    names = {(flat, nested)[version]: part for flat, (nested, part) in NAMES.items()}
    assert {name: part_of(name) for name in names} == names
    assert [published(name) for name in names] == list(NAMES)
    model = model_of(names)
    train_parts(model, (train,))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {n for n in names if names[n] == train}


def test_a_part_that_is_not_there_or_not_known_stops():
    with pytest.raises(InputError, match=r"the model has no parameter of 'projector'; transformers \d+\.\d+"):
        train_parts(model_of([name for name in NAMES if ".proj." not in name]), ("audio_tower",))
    with pytest.raises(InputError, match=r"the parameter 'sound_tower\.w' is of no known part .*; transformers \d"):
        train_parts(model_of([*NAMES, "sound_tower.w"]), ("audio_tower",))


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_weights_saved_under_another_version_of_transformers_are_loaded(small, lora):
    """A run continues after transformers was updated: the names in its checkpoint are those of the version before."""
    policy = OmniPolicy(small.tiny, lora=lora)
    front = "thinker.base_model.model." if lora else "thinker."

    def other(name: str) -> str:
        bare = name.removeprefix(front)
        flat = published(bare)
        if flat != bare:
            return front + flat
        if bare.startswith("model."):
            return f"{front}model.language_model.{bare.removeprefix('model.')}"
        return name if bare.startswith("lm_head") else f"{front}model.{bare}"

    saved = {other(name): tensor + 1 for name, tensor in policy.state_dict().items()}
    assert len(set(saved) - set(policy.state_dict())) > 50
    fresh = OmniPolicy(small.tiny, lora=lora)
    fresh.load_state_dict(saved)
    expected = policy.state_dict()
    assert all(torch.equal(tensor, expected[name] + 1) for name, tensor in fresh.state_dict().items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fresh.load_state_dict(saved | {"thinker.model.language_model.nothing": torch.zeros(1)})
