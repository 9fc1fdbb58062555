"""The audio tower with its windows in one call: the numbers of transformers' own, window by window."""

from __future__ import annotations

import copy

import pytest
import torch

from earwitness.lightning_modules.policy.hearing import can_take_windows, encode, take_windows
from earwitness.lightning_modules.policy.omni import OmniPolicy

# Shorter than a window, whole windows, one frame beside them, a last window of one and of two frames, three windows.
FRAMES = (37, 200, 400, 199, 201, 202, 555)


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def towers(small, request):
    """The policy's tower and transformers' own, of the same weights."""
    ours = copy.deepcopy(OmniPolicy(small.tiny).tower).to(request.param)
    own = copy.deepcopy(ours)
    del own.forward  # what `take_windows` put over the class's
    for layer in own.layers:
        del layer.self_attn.forward
    assert can_take_windows(ours)
    take_windows(ours)
    return ours, own


def features(count: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """[U, 128, the longest] log-mel; what lies beyond a clip's end must not count."""
    drawn = torch.randn(len(count), 128, max(count), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return drawn.to(dtype)


def transformers_own(tower, sound, frames):
    """Every clip by itself, as many frames as it has."""
    parts = []
    for clip, count in zip(sound, frames, strict=True):
        lengths = tower._get_feat_extract_output_lengths(torch.tensor([count]))
        out = tower(clip[:, :count], feature_lens=torch.tensor([count]), aftercnn_lens=lengths[0])
        parts.append(out.last_hidden_state)
    return parts


@pytest.mark.parametrize("frames", [FRAMES, FRAMES[::-1], (200,), (201, 37), (400, 400)], ids=str)
def test_numbers_and_gradients_are_transformers_own(towers, frames):
    ours, own = towers
    dtype = next(own.parameters()).dtype
    sound = features(frames, dtype)
    found, heard = encode(ours, sound, frames)
    wanted = transformers_own(own, sound, frames)
    assert heard == [len(part) for part in wanted]
    within = 1e-6 if dtype is torch.float32 else 1e-14
    for part, expected in zip(found.split(heard), wanted, strict=True):
        gap = (part - expected).detach().abs().max()
        assert float(gap) <= within * max(1.0, float(expected.detach().abs().max()))
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(dtype)
    first = torch.autograd.grad((found * weights).sum(), list(ours.layers.parameters()))
    second = torch.autograd.grad((torch.cat(wanted) * weights).sum(), list(own.layers.parameters()))
    for one, two in zip(first, second, strict=True):
        assert float((one - two).abs().max()) <= 10 * within * max(1.0, float(two.abs().max()))


def test_what_lies_behind_a_clips_end_does_not_count(towers):
    ours, _ = towers
    sound = features((150, 401), next(ours.parameters()).dtype)
    other = sound.clone()
    other[0, :, 150:] = 9.0
    assert torch.equal(encode(ours, sound, (150, 401))[0], encode(ours, other, (150, 401))[0])
