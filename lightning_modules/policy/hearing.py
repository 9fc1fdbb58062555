"""The audio tower without waiting: windows of equal length in one attention call, shapes from lengths on the CPU.

transformers' tower calls attention once per window of two seconds and layer, and reads its lengths from the device in
every layer. The order of positions here is its own: whole windows first, then the clips' ends, padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...datamodules.batch import index_on


@dataclass(frozen=True)
class Windows:
    """How positions are arranged: `whole` windows of `width`, then `ends` windows padded to `longest`, with their mask.

    mask: [ends, 1, 1, longest] bool, None where nothing is padded.
    """

    whole: int
    width: int
    ends: int
    longest: int
    mask: Tensor | None


@dataclass(frozen=True)
class _Plan:
    """Windows in the tower's order, from clips in the batch's. All index tensors lie on the device.

    chosen: [W] of the U x ceil(F / window) windows. frames: [W] real ones. left, right: [heard] positions that are
    averaged. heard: of every clip.
    """

    chosen: Tensor
    frames: Tensor
    windows: Windows
    left: Tensor
    right: Tensor
    heard: list[int]


def encode(tower: Any, features: Tensor, frames: Sequence[int]) -> tuple[Tensor, list[int]]:
    """What the tower makes of U clips, [sum of positions, H], clip after clip, and how many positions each has.

    features: [U, 128, F] log-mel. frames: [U] real ones of F. `take_windows` must have been called for the tower.
    """
    size = 2 * tower.n_window
    padded = nn.functional.pad(features, (0, -features.shape[2] % size))
    plan = _plan(frames, size, padded.shape[2] // size, features.device)
    each = padded.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1).index_select(0, plan.chosen)
    real = (torch.arange(size, device=features.device) < plan.frames[:, None])[:, None]
    each = each.masked_fill(~real, 0.0).to(tower.conv1.weight.dtype)
    hidden = nn.functional.gelu(tower.conv1(each)) * real
    hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    hidden = hidden + tower.positional_embedding.positional_embedding[: hidden.shape[1]].to(hidden.dtype)
    windows = plan.windows
    ends = hidden[windows.whole :, : windows.longest]
    hidden = torch.cat([hidden[: windows.whole].flatten(0, 1), ends.flatten(0, 1)])
    for layer in tower.layers:
        hidden = _first(layer(hidden, cu_seqlens=windows))
    hidden = (hidden.index_select(0, plan.left) + hidden.index_select(0, plan.right)) / 2
    return tower.proj(tower.ln_post(hidden)), plan.heard


def can_take_windows(tower: Any) -> bool:
    """Whether the tower's attention is computed as here; others, as flash attention, arrange windows themselves."""
    return bool(tower.config._attn_implementation == "sdpa")


def take_windows(tower: Any) -> None:
    """Has the tower take (features, frames) as `encode` does, and its layers take Windows for `cu_seqlens`."""
    for layer in tower.layers:
        layer.self_attn.forward = _Attending(layer.self_attn)
    tower.forward = _Encoding(tower)


class _Encoding:
    """A tower's `forward`: `encode` where it is given lengths as numbers, else its own."""

    def __init__(self, tower: Any) -> None:
        self.tower = (tower,)  # in a tuple: a module must not contain itself

    def __call__(self, *given: Any, **options: Any) -> Any:
        (tower,) = self.tower
        if len(given) == 2 and isinstance(given[1], list):
            return encode(tower, *given)
        return type(tower).forward(tower, *given, **options)


class _Attending:
    """An attention's `forward`: over Windows, or as it was."""

    def __init__(self, attention: Any) -> None:
        self.attention = (attention,)

    def __call__(self, hidden_states: Tensor, cu_seqlens: Any = None, **options: Any) -> Tensor:
        (own,) = self.attention
        if not isinstance(cu_seqlens, Windows):
            result: Tensor = type(own).forward(own, hidden_states, cu_seqlens, **options)
            return result
        parts, split = [own.q_proj(hidden_states), own.k_proj(hidden_states), own.v_proj(hidden_states)], []
        border = cu_seqlens.whole * cu_seqlens.width
        for count, width, part, mask in (
            (cu_seqlens.whole, cu_seqlens.width, slice(0, border), None),
            (cu_seqlens.ends, cu_seqlens.longest, slice(border, None), cu_seqlens.mask),
        ):
            if count:
                q, k, v = (x[part].view(count, width, own.num_heads, -1).transpose(1, 2) for x in parts)
                out = nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=own.scaling)
                split.append(out.transpose(1, 2).reshape(count * width, -1))
        projected: Tensor = own.out_proj(torch.cat(split))
        return projected


def _plan(frames: Sequence[int], size: int, per_clip: int, device: torch.device) -> _Plan:
    """How windows of `size` frames, per_clip of them in every clip's padded features, are arranged."""
    counts = [-(-count // size) for count in frames]
    last = [count - size * (number - 1) for count, number in zip(frames, counts, strict=True)]
    width, after = (size - 1) // 2 + 1, [(count - 1) // 2 + 1 for count in last]
    whole = [
        (clip, w) for clip, number in enumerate(counts) for w in range(number) if _full(w, number, last[clip], size)
    ]
    ends = [(clip, counts[clip] - 1) for clip in range(len(counts)) if last[clip] < size]
    longest = max((after[clip] for clip, _ in ends), default=0)
    begin = {place: number * width for number, place in enumerate(whole)}
    begin |= {place: len(whole) * width + number * longest for number, place in enumerate(ends)}
    left: list[int] = []
    right: list[int] = []
    heard = []
    for clip, number in enumerate(counts):
        length = width * (number - 1) + after[clip]
        heard.append((length - 2) // 2 + 1)
        at = [begin[clip, position // width] + position % width for position in range(2 * heard[-1])]
        left, right = left + at[::2], right + at[1::2]
    lengths = [after[clip] for clip, _ in ends]
    mask = None
    if any(length < longest for length in lengths):
        mask = (torch.arange(longest, device=device) < index_on(lengths, device)[:, None])[:, None, None]
    order = whole + ends
    return _Plan(
        index_on([clip * per_clip + w for clip, w in order], device),
        index_on([size] * len(whole) + [last[clip] for clip, _ in ends], device),
        Windows(len(whole), width, len(ends), longest, mask),
        index_on(left, device),
        index_on(right, device),
        heard,
    )


def _full(window: int, count: int, last: int, size: int) -> bool:
    """Whether a clip's window has all its frames: all have but the last of `count`, which has `last`."""
    return window < count - 1 or last == size


def _first(output: Any) -> Tensor:
    """The hidden states a layer returns, in whichever version of transformers."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
