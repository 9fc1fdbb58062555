"""The decoder's attention by torch's own function, over keys and values that lie as they are needed.

Heads that share keys and values read them where they are, and rows that continue one row read its keys through a view
until they are joined with their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .keeping import read_from_norm, rotated


class KeysValues:
    """What one layer has read so far: keys and values [N, heads, L, width]; None before it has read anything.

    own: whether the layer's attention takes this; `given` is what it takes.
    """

    def __init__(self, own: bool = True) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.own = own
        self._group = 0

    @classmethod
    def of(cls, layer: Any) -> KeysValues:
        """An empty one for this decoder layer, in the form that its attention takes."""
        config = layer.self_attn.config
        return cls() if is_ours(config) else _Transformers(config, layer.self_attn.layer_idx)

    @property
    def given(self) -> Any:
        """What the layer is given as `past_key_values`."""
        return self

    def continued_by(self, rows: Tensor | None, group: int) -> None:
        """Has further positions belong to these rows [N] of the ones before; group: see `Segment`."""
        self._group = 0 if rows is None or self.keys is None else group
        if rows is not None and not group and self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends L positions; returns all."""
        self.keys, self.values = self._joined(self.keys, keys), self._joined(self.values, values)
        self._group = 0
        return self.keys, self.values

    def _joined(self, before: Tensor | None, new: Tensor) -> Tensor:
        if before is None:
            return new
        if self._group:
            shared = before[:, None].expand(-1, self._group, *before.shape[1:])
            return torch.cat([shared, new.unflatten(0, (-1, self._group))], 3).flatten(0, 1)
        return torch.cat([before, new], 2)


class _Transformers(KeysValues):
    """The same in transformers' form, for its other attentions."""

    def __init__(self, config: Any, layer: int) -> None:
        from transformers import DynamicCache

        super().__init__(own=False)
        self._cache: Any = DynamicCache(config=config)  # only this layer's place in it is used
        self._layer = layer

    @property
    def given(self) -> Any:
        return self._cache

    def continued_by(self, rows: Tensor | None, group: int) -> None:
        if rows is not None:
            self._cache.layers[self._layer].batch_select_indices(rows)


def own_attention(attention: Any) -> None:
    """Has a decoder layer's attention take KeysValues for `past_key_values`; with anything else it is as it was."""
    attention.forward = _Attending(attention)


class _Attending:
    """An attention's `forward`; its module is kept in a tuple, since a module must not contain itself."""

    def __init__(self, attention: Any) -> None:
        self.attention = (attention,)

    def __call__(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        (own,) = self.attention
        past = options.get("past_key_values", options.get("cache"))  # of older and newer transformers
        if not isinstance(past, KeysValues):
            return type(own).forward(own, hidden_states, *args, **options)
        rotary, mask = options["position_embeddings"], options["attention_mask"]
        with read_from_norm(hidden_states):
            query, key, value = (heads(read(hidden_states), own) for read in (own.q_proj, own.k_proj, own.v_proj))
        query = rotated(query, rotary)
        keys, values = past.add(rotated(key, rotary), value)
        causal = mask is None and query.shape[2] > 1
        out = nn.functional.scaled_dot_product_attention(
            query, keys, values, mask, is_causal=causal, scale=own.scaling, enable_gqa=query.shape[1] != keys.shape[1]
        )
        return own.o_proj(out.transpose(1, 2).flatten(2)), None


def fill(layer: Any, cache: KeysValues, states: Tensor, rotary: Any) -> None:
    """Has the cache hold what a layer's attention reads of these states [N, L, H], and computes nothing else of it."""
    own, normed = layer.self_attn, layer.input_layernorm(states)
    cache.add(rotated(heads(own.k_proj(normed), own), rotary), heads(own.v_proj(normed), own))


def heads(projected: Tensor, attention: Any) -> Tensor:
    """[N, heads, L, width] of projections [N, L, heads x width]."""
    split: Tensor = projected.unflatten(-1, (-1, attention.head_dim))
    return split.transpose(1, 2)


def own_mask(decoder: Any, mask: Tensor, length: int, full: bool) -> Any:
    """The mask [N, 1, L, past + L] of the last `length` of all positions, of the mask [N, past + L].

    None where it would be the plain causal one; NotImplemented where the decoder's attention is another.
    """
    if not is_ours(decoder.config) or decoder.has_sliding_layers:
        return NotImplemented
    past = mask.shape[1] - length
    if full and (not past or length == 1):
        return None
    query = torch.arange(past, mask.shape[1], device=mask.device)
    seen = torch.arange(mask.shape[1], device=mask.device) <= query[:, None]
    return mask.bool()[:, None, None] & seen


def is_ours(config: Any) -> bool:
    """Whether attention is torch's own, over all that was read."""
    return bool(config._attn_implementation == "sdpa") and "sliding_attention" not in config.layer_types
