"""The decoder read layer by layer: each layer reads a prefix, its questions and their completions before the next does.

Gives the numbers of reading them one after the other with a cache, but a layer's keys and values never leave it. So
each layer can be recomputed in the backward pass as a whole, and its weights, where they are sharded, are gathered
once for all that it reads: prefixes stay shared in both cases. Of what is only continued, the last layer makes keys and
values alone. Nothing here asks the device for a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...datamodules.batch import Prompts
from .attention import KeysValues, fill, own_attention, own_mask
from .keeping import whole_layers


@dataclass(frozen=True)
class Segment:
    """L further positions of N rows: embeddings [N, L, H], and the mask [N, past + L] of all that the rows have read.

    rows: [N] int64, the rows of the segment before that these continue; None where they are the same rows. group: how
    many rows continue each of those, in order; 0 where that is not known. full: whether nothing is known to be padded.
    wanted: of how many of the last positions the states are asked for; None for all.
    """

    embeds: Tensor
    mask: Tensor
    rows: Tensor | None = None
    group: int = 0
    full: bool = False
    wanted: int | None = None


@dataclass(frozen=True)
class _Where:
    """What a layer needs beside the hidden states of a segment: attention mask, rotary embeddings, continued rows."""

    masks: dict[str, Any]
    rotary: tuple[Tensor, Tensor]
    rows: Tensor | None
    group: int
    wanted: int | None


def read_completions(
    decoder: Any,
    prompts: Prompts,
    embeds: tuple[Tensor, Tensor, Tensor],
    mask: Tensor,
    rows: Tensor,
    group: int = 0,
    recompute: bool = False,
) -> Tensor:
    """[N, C, H] hidden states that predict N completions of C tokens, every prompt read once.

    embeds: prefix [U, P, H], suffix [B, S, H], completion [N, C - 1, H], of the prompts' parts and of all tokens but
    the last, which predicts nothing. mask [N, C - 1]: of the completions. rows [N]: the prompt that each continues.
    group: completions of every prompt, which are neighbours; 0 where they may be anything.
    """
    prefix, suffix, completion = embeds
    read, sizes = prompts.prefix_mask, prompts.sizes
    full = min(sizes.prefix) == prefix.shape[1]
    if sizes.own_clips:
        read, full = torch.cat([read, prompts.suffix_mask], 1), full and min(sizes.suffix) == suffix.shape[1]
        segments = [Segment(torch.cat([prefix, suffix], 1), read, full=full, wanted=1)]
    else:
        segments = [Segment(prefix, read, full=full, wanted=0)]
        read = torch.cat([read.index_select(0, prompts.clip_of_row), prompts.suffix_mask], 1)
        segments.append(Segment(suffix, read, prompts.clip_of_row, wanted=1))
    if not completion.shape[1]:
        return _repeated(read_in_layers(decoder, segments, recompute)[-1], rows, group)
    segments.append(Segment(completion, torch.cat([_repeated(read, rows, group), mask], 1), rows, group))
    *_, before, hidden = read_in_layers(decoder, segments, recompute)
    return torch.cat([_repeated(before, rows, group), hidden], 1)


def read_in_layers(decoder: Any, segments: Sequence[Segment], recompute: bool = False) -> list[Tensor]:
    """The decoder's last hidden states of every segment, [N, L, H] or of its last `wanted` positions.

    decoder: transformers' text model of the thinker. recompute: keep the hidden states between layers alone for the
    backward pass, and compute what is within a layer again; dropout then drops the same.
    """
    places = _places(decoder, segments)
    hidden = tuple(segment.embeds for segment in segments)
    for number, layer in enumerate(decoder.layers):
        kind, last = decoder.config.layer_types[number], number + 1 == len(decoder.layers)
        if recompute and torch.is_grad_enabled():
            hidden = checkpoint(_step, layer, kind, places, last, _dropping(layer), *hidden, use_reentrant=False)
        else:
            hidden = layer(hidden, kind=kind, places=places, last=last)
    kept = (
        states if s.wanted is None else states[:, states.shape[1] - s.wanted :]
        for states, s in zip(hidden, segments, strict=True)
    )
    return [decoder.norm(states) for states in kept]


def take_segments(decoder: Any) -> None:
    """Has the decoder's layers read several segments in one call, which hooks around a layer see as one.

    A layer that is called with a tuple of hidden states, `kind` and `places` reads them in turn; else it is as before.
    """
    for layer in decoder.layers:
        layer.forward = _Reading(layer)
        own_attention(layer.self_attn)


class _Reading:
    """A layer's `forward`. It keeps the layer's own in a tuple: a module must not contain itself."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = (layer,)

    def __call__(
        self, hidden: Any, *args: Any, kind: str = "", places: Any = None, last: bool = False, **options: Any
    ) -> Any:
        (layer,) = self.layer
        forward = type(layer).forward
        if places is None:
            return forward(layer, hidden, *args, **options)
        cache, read = KeysValues.of(layer), []
        for states, place in zip(hidden, places, strict=True):
            cache.continued_by(place.rows, place.group)
            mask, rotary = place.masks[kind], place.rotary
            if last and place.wanted is not None and cache.own:
                begin = max(states.shape[1] - place.wanted, 0)
                if begin:
                    fill(layer, cache, states[:, :begin], tuple(part[..., :begin, :] for part in rotary))
                states, mask = states[:, begin:], None if mask is None else mask[:, :, begin:]
                rotary = tuple(part[..., begin:, :] for part in rotary)
            if states.shape[1]:
                given = {"attention_mask": mask, "position_embeddings": rotary}
                states = forward(layer, states, past_key_values=cache.given, use_cache=True, **given)
            read.append(states)
        return tuple(read)


def _step(layer: nn.Module, kind: str, places: list[_Where], last: bool, dropping: list[bool], *hidden: Tensor) -> Any:
    """One layer over all segments; where it is computed again, dropout acts as it did the first time."""
    before = _dropping(layer)
    _set_dropping(layer, dropping)
    try:
        with whole_layers():
            return layer(hidden, kind=kind, places=places, last=last)
    finally:
        _set_dropping(layer, before)


def _dropping(layer: nn.Module) -> list[bool]:
    return [module.training for module in layer.modules() if isinstance(module, nn.Dropout)]


def _set_dropping(layer: nn.Module, dropping: list[bool]) -> None:
    dropouts = [module for module in layer.modules() if isinstance(module, nn.Dropout)]
    for module, training in zip(dropouts, dropping, strict=True):
        module.training = training


def _places(decoder: Any, segments: Sequence[Segment]) -> list[_Where]:
    """Masks and rotary embeddings of every segment, as the decoder itself makes them."""
    places = []
    for segment in segments:
        length = segment.mask.shape[1] - segment.embeds.shape[1]
        positions = (segment.mask.cumsum(1) - 1).clamp(min=0)[:, length:]
        rotary = decoder.rotary_emb(segment.embeds, positions[None].expand(3, *positions.shape))
        places.append(_Where(_masks(decoder, segment), rotary, segment.rows, segment.group, segment.wanted))
    return places


def _masks(decoder: Any, segment: Segment) -> dict[str, Any]:
    """The segment's attention mask for every kind of layer: our own, or what other attentions want."""
    own = own_mask(decoder, segment.mask, segment.embeds.shape[1], segment.full)
    if own is not NotImplemented:
        return {"full_attention": own}
    from transformers import DynamicCache
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    embeds, mask = segment.embeds, segment.mask
    length = mask.shape[1] - embeds.shape[1]
    cache = DynamicCache(config=decoder.config)  # as if so many positions had been read: nothing else of it matters
    if length:
        cache.update(embeds.new_zeros(len(mask), 1, length, 1), embeds.new_zeros(len(mask), 1, length, 1), 0)
    given = {"config": decoder.config, "inputs_embeds": embeds, "attention_mask": mask}
    given |= {"past_key_values": cache, "position_ids": None}
    masks = {"full_attention": create_causal_mask(**given)}
    if decoder.has_sliding_layers:
        masks["sliding_attention"] = create_sliding_window_causal_mask(**given)
    return masks


def _repeated(values: Tensor, rows: Tensor, group: int) -> Tensor:
    """values[rows]; where every one is repeated `group` times, with a gradient that is a plain sum."""
    if not group:
        return values.index_select(0, rows)
    return values[:, None].expand(-1, group, *values.shape[1:]).flatten(0, 1)
