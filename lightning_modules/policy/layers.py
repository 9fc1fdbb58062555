"""The decoder read layer by layer: each layer reads a prefix, its questions and their completions before the next does.

Gives the numbers of reading them one after the other with a cache, but a layer's keys and values never leave it. So
each layer can be recomputed in the backward pass as a whole, and its weights, where they are sharded, are gathered
once for all that it reads: prefixes stay shared in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...datamodules.batch import Prompts


@dataclass(frozen=True)
class Segment:
    """L further positions of N rows: embeddings [N, L, H], and the mask [N, past + L] of all that the rows have read.

    rows: [N] int64, the rows of the segment before that these continue; None where they are the same rows.
    """

    embeds: Tensor
    mask: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class _Where:
    """What a layer needs beside the hidden states of a segment: attention mask, rotary embeddings, continued rows."""

    masks: dict[str, Any]
    rotary: tuple[Tensor, Tensor]
    rows: Tensor | None


def read_completions(
    decoder: Any,
    prompts: Prompts,
    prefix: Tensor,
    suffix: Tensor,
    completion: Tensor,
    mask: Tensor,
    rows: Tensor,
    recompute: bool = False,
) -> Tensor:
    """[N, C, H] hidden states that predict N completions of C tokens, every prompt read once.

    prefix [U, P, H], suffix [B, S, H], completion [N, C - 1, H]: embeddings of the prompts' parts and of all tokens but
    the last, which predicts nothing. mask [N, C - 1]: of the completions. rows [N]: the prompt that each continues.
    """
    read = prompts.prefix_mask
    if prompts.clip_of_row.equal(torch.arange(len(prompts), device=prefix.device)):
        read = torch.cat([read, prompts.suffix_mask], 1)
        segments = [Segment(torch.cat([prefix, suffix], 1), read)]
    else:
        segments = [Segment(prefix, read)]
        read = torch.cat([read[prompts.clip_of_row], prompts.suffix_mask], 1)
        segments.append(Segment(suffix, read, prompts.clip_of_row))
    if not completion.shape[1]:
        return read_in_layers(decoder, segments, recompute)[-1][rows, -1:]
    segments.append(Segment(completion, torch.cat([read[rows], mask], 1), rows))
    *_, before, hidden = read_in_layers(decoder, segments, recompute)
    return torch.cat([before[rows, -1:], hidden], 1)


def read_in_layers(decoder: Any, segments: Sequence[Segment], recompute: bool = False) -> list[Tensor]:
    """The decoder's last hidden states [N, L, H] of every segment.

    decoder: transformers' text model of the thinker. recompute: keep the hidden states between layers alone for the
    backward pass, and compute what is within a layer again; dropout then drops the same.
    """
    places = _places(decoder, segments)
    hidden = tuple(segment.embeds for segment in segments)
    for number, layer in enumerate(decoder.layers):
        kind = decoder.config.layer_types[number]
        if recompute and torch.is_grad_enabled():
            hidden = checkpoint(_step, layer, kind, places, _dropping(layer), *hidden, use_reentrant=False)
        else:
            hidden = layer(hidden, kind=kind, places=places)
    return [decoder.norm(states) for states in hidden]


def take_segments(decoder: Any) -> None:
    """Has the decoder's layers read several segments in one call, which hooks around a layer see as one.

    A layer that is called with a tuple of hidden states, `kind` and `places` reads them in turn; else it is as before.
    """
    for layer in decoder.layers:
        layer.forward = _Reading(layer)


class _Reading:
    """A layer's `forward`. It keeps the layer's own in a tuple: a module must not contain itself."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = (layer,)

    def __call__(self, hidden: Any, *args: Any, kind: str = "", places: Any = None, **options: Any) -> Any:
        (layer,) = self.layer
        forward = type(layer).forward
        if places is None:
            return forward(layer, hidden, *args, **options)
        from transformers import DynamicCache

        attention: Any = layer.self_attn
        cache = DynamicCache(config=attention.config)  # only this layer's place in it is used
        read = []
        for states, place in zip(hidden, places, strict=True):
            if place.rows is not None:
                cache.layers[attention.layer_idx].batch_select_indices(place.rows)
            options = {"attention_mask": place.masks[kind], "position_embeddings": place.rotary}
            read.append(forward(layer, states, past_key_values=cache, use_cache=True, **options))
        return tuple(read)


def _step(layer: nn.Module, kind: str, places: list[_Where], dropping: list[bool], *hidden: Tensor) -> Any:
    """One layer over all segments; where it is computed again, dropout acts as it did the first time."""
    before = _dropping(layer)
    _set_dropping(layer, dropping)
    try:
        return layer(hidden, kind=kind, places=places)
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
    from transformers import DynamicCache
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    places = []
    for segment in segments:
        embeds, mask = segment.embeds, segment.mask
        length = mask.shape[1] - embeds.shape[1]
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, length:]
        cache = DynamicCache(
            config=decoder.config
        )  # as if so many positions had been read: masks depend on nothing else of it
        if length:
            cache.update(embeds.new_zeros(len(mask), 1, length, 1), embeds.new_zeros(len(mask), 1, length, 1), 0)
        given = {"config": decoder.config, "inputs_embeds": embeds, "attention_mask": mask}
        given |= {"past_key_values": cache, "position_ids": None}
        masks = {"full_attention": create_causal_mask(**given)}
        if decoder.has_sliding_layers:
            masks["sliding_attention"] = create_sliding_window_causal_mask(**given)
        rotary = decoder.rotary_emb(embeds, positions[None].expand(3, *positions.shape))
        places.append(_Where(masks, rotary, segment.rows))
    return places
