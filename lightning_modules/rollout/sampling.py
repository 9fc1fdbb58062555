"""Knows how to sample completions with transformers' modules: one reading of a prompt for its whole group.

Every draw is a hash of the completion's key and the token's number, never a generator's state: a completion is the
same whatever the batch it is sampled in, the number of ranks and the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...curriculum.identity import hash64, uniforms
from ...datamodules.batch import Prompts
from ..policy.omni import OmniPolicy


@dataclass(frozen=True)
class Completions:
    """N sampled completions: ids [N, C], mask [N, C] up to and with the end token, prompt_of_row [N].

    finished [N] is False for a completion that was cut at the length limit.
    """

    ids: Tensor
    mask: Tensor
    finished: Tensor
    prompt_of_row: Tensor

    def select(self, rows: Tensor, first_prompt: int) -> Completions:
        """The completions of these rows, their prompts counted from `first_prompt`."""
        mask = self.mask[rows]
        width = int(mask.sum(1).max())
        prompts = self.prompt_of_row[rows] - first_prompt
        return Completions(self.ids[rows, :width], mask[:, :width], self.finished[rows], prompts)


def completion_keys(uids: Sequence[int], group_size: int, *name: object) -> list[int]:
    """One key per completion, prompt by prompt."""
    return [hash64(*name, uid, number) for uid in uids for number in range(group_size)]


@torch.no_grad()
def sample(
    policy: OmniPolicy,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    group_size: int = 1,
    temperature: float = 0.0,
    keys: Sequence[int] | None = None,
) -> Completions:
    """`group_size` completions per prompt; temperature 0 is greedy, otherwise `keys` [N] decide every draw.

    Placeholder tokens have probability 0, so a completion never claims to contain audio.
    """
    if temperature and (keys is None or len(keys) != len(prompts) * group_size):
        raise ValueError(f"sampling needs one key per completion, {len(prompts) * group_size}")
    device = prompts.suffix_ids.device
    prompt_of_row = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
    draws = None
    if temperature:
        draws = torch.from_numpy(np.stack([uniforms(key, max_new_tokens, "token") for key in keys or ()])).to(device)
    state = policy.read(prompts)
    if group_size > 1:
        state = state.expand(prompt_of_row)
    eos = policy.processor.eos_id
    open_ = torch.ones(len(prompt_of_row), dtype=torch.long, device=device)
    ids, mask = [], []
    for position in range(max_new_tokens):
        logits = policy.logits(state.last)
        token = _pick(logits, temperature, None if draws is None else draws[:, position])
        token = torch.where(open_.bool(), token, policy.processor.pad_id)
        ids.append(token)
        mask.append(open_)
        open_ = open_ * (token != eos)
        if position + 1 == max_new_tokens or not open_.any():
            break
        state, _ = policy.extend(state, policy.embed(token[:, None]), mask[-1][:, None])
    return Completions(torch.stack(ids, 1), torch.stack(mask, 1), open_ == 0, prompt_of_row)


def _pick(logits: Tensor, temperature: float, draw: Tensor | None) -> Tensor:
    """[N] token ids: the arg max, or the inverse of the distribution function at `draw` [N] in [0, 1)."""
    if draw is None:
        return logits.argmax(-1)
    mass = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    return (mass <= draw[:, None] * mass[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
