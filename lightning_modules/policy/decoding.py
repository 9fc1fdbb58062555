"""One token at a time for G completions of each of B prompts, whose keys and values are stored once per prompt.

Keys and values of the completions lie in buffers made once. Scores over a prompt and over a completion's own tokens are
made apart and weighed together, so that nothing is copied per completion or per token. Nothing asks the device for a
number, and `hidden` does the same operations on the same memory for every token, as `replayed.py` needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attention import heads, is_ours
from .keeping import rotated
from .omni import OmniPolicy, State


class _Layer(NamedTuple):
    """One layer's memory: of prompts [B, heads, P, width], and of completions [B, G, heads, C, width]."""

    keys: Tensor
    values: Tensor
    own_keys: Tensor
    own_values: Tensor


class Decoding:
    """What B x G rows have read; `step` reads one more token in each. Inference alone, over weights that are whole.

    state: of the B prompts. group: G. longest: tokens that will be read at most.
    """

    def __init__(self, policy: OmniPolicy, state: State, group: int, longest: int) -> None:
        self.policy, self.decoder = policy, policy.base.get_decoder()
        self.count, self.group, self.longest, self.read = len(state.mask), group, longest, 0
        self._layers = []
        for layer in state.cache.layers:
            shape = (self.count, group, layer.keys.shape[1], longest, layer.keys.shape[3])
            own = (layer.keys.new_zeros(shape), layer.values.new_zeros(shape))
            self._layers.append(_Layer(layer.keys, layer.values, *own))
        seen = state.mask.bool()
        self._hidden = None if state.full else ~seen[:, None, None]
        self._next = seen.sum(1)

    def step(self, token: Tensor) -> Tensor:
        """Hidden states [B x G, H] after one more token [B x G] of every row."""
        last = self.hidden(token, self.read, self.read + 1)
        self.read += 1
        return last

    def hidden(self, token: Tensor, at: int | Tensor, bound: int) -> Tensor:
        """As `step`, where `at` tokens have been read; of the memory of a completion it looks at `bound` places.

        at: below bound; a tensor int64 on the device where the number is not to be part of what is done.
        """
        states = self.policy.embed(token)[:, None]
        positions = (self._next + at)[:, None].expand(-1, self.group).reshape(1, -1, 1)
        rotary = self.decoder.rotary_emb(states, positions.expand(3, -1, -1))
        for layer, memory in zip(self.decoder.layers, self._layers, strict=True):
            normed = layer.input_layernorm(states)
            seen = self._attend(layer.self_attn, normed, rotary, memory, at, bound)
            states = states + layer.self_attn.o_proj(seen)
            states = states + layer.mlp(layer.post_attention_layernorm(states))
        normed = self.decoder.norm(states)
        last: Tensor = normed[:, 0]
        return last

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """Goes on with some rows: prompts [B'] of the present ones, and of each the rows [B', G'] of its group."""
        for number, memory in enumerate(self._layers):
            own = []
            for part in memory[2:]:
                fresh = part.new_zeros(*rows.shape, *part.shape[2:])
                fresh[:, :, :, : self.read] = part[:, :, :, : self.read][prompts[:, None], rows]
                own.append(fresh)
            self._layers[number] = _Layer(memory.keys[prompts], memory.values[prompts], *own)
        self.count, self.group = rows.shape
        self._next = self._next[prompts]
        self._hidden = None if self._hidden is None else self._hidden[prompts]

    def _attend(
        self, attention: Any, normed: Tensor, rotary: Any, memory: _Layer, at: int | Tensor, bound: int
    ) -> Tensor:
        """[B x G, 1, heads x width] what every row's new token sees of its prompt and of itself."""
        shape = (self.count, self.group)
        query = rotated(heads(attention.q_proj(normed), attention), rotary).unflatten(0, shape)
        new = (rotated(heads(attention.k_proj(normed), attention), rotary), heads(attention.v_proj(normed), attention))
        for own, part in zip(memory[2:], new, strict=True):
            if isinstance(at, int):
                own[:, :, :, at] = part[:, :, 0].unflatten(0, shape)
            else:
                own.index_copy_(3, at.view(1), part.unflatten(0, shape))
        keys, values = (part[:, :, :, :bound] for part in memory[2:])
        kv, width = memory.keys.shape[1], memory.keys.shape[3]
        query = query.reshape(*shape, kv, -1, width) * attention.scaling
        sharing = query.shape[3]  # heads that read the same keys
        beside = query.transpose(1, 2).reshape(self.count, kv, self.group * sharing, width)
        on_prompt = product(beside, memory.keys.transpose(-1, -2))
        if self._hidden is not None:
            on_prompt = on_prompt.masked_fill(self._hidden, -torch.inf)
        on_prompt = on_prompt.unflatten(2, (self.group, sharing)).transpose(1, 2)
        on_own = product(query, keys.transpose(-1, -2))
        if not isinstance(at, int):
            on_own = on_own.masked_fill(torch.arange(bound, device=at.device) > at, -torch.inf)
        scores = torch.cat([on_prompt, on_own], -1)
        weights = torch.softmax(scores, -1).to(normed.dtype)
        length = memory.keys.shape[2]
        to_prompt = weights[..., :length].transpose(1, 2).reshape(self.count, kv, -1, length)
        seen = torch.matmul(to_prompt, memory.values).unflatten(2, (self.group, sharing)).transpose(1, 2)
        seen = seen + torch.matmul(weights[..., length:], values)
        joined: Tensor = seen.reshape(self.count * self.group, 1, -1)
        return joined


class Extending:
    """The same by transformers' own cache, for other attentions: every completion has its copy of the prompt."""

    def __init__(self, policy: OmniPolicy, state: State, group: int, longest: int) -> None:
        self.policy, self.group = policy, group
        rows = torch.arange(len(state.mask), device=state.mask.device).repeat_interleave(group)
        self.state = state if group == 1 else state.expand(rows)

    def step(self, token: Tensor) -> Tensor:
        """As `Decoding.step`."""
        self.state, _ = self.policy.extend(
            self.state, self.policy.embed(token[:, None]), torch.ones_like(token)[:, None]
        )
        return self.state.last

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """As `Decoding.keep`."""
        self.state = self.state.expand((prompts[:, None] * self.group + rows).reshape(-1))
        self.group = rows.shape[1]


def can_decode(policy: OmniPolicy) -> bool:
    """Whether the policy's attention is computed as here."""
    return is_ours(policy.base.get_decoder().config)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Scores in float32 (float64 stays): in 16 bits they would be rounded before the softmax."""
    if left.dtype not in (torch.bfloat16, torch.float16):
        return torch.matmul(left, right)
    if left.is_cuda:
        flat = torch.bmm(left.flatten(0, -3), right.flatten(0, -3), out_dtype=torch.float32)
        scores: Tensor = flat.unflatten(0, left.shape[:-2])
        return scores
    return torch.matmul(left.float(), right.float())
