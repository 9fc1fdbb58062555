"""Sampling from the policy itself, with transformers' modules: a prompt is read once for its whole group.

Every draw is a hash of the completion's key and the token's number, never a generator's state: a completion is the
same whatever the batch it is sampled in, the number of ranks and the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...curriculum.identity import uniforms
from ...datamodules.batch import Batch, Prompts
from ..policy.omni import OmniPolicy
from ..policy.sharding import whole
from .engine import Completions, Engine, Rollout, completion_keys, prompt_of_row

__all__ = ["PolicyEngine", "completion_keys", "sample"]


class PolicyEngine(Engine):
    """Samples from the policy itself, on its device; draws are hashes, so runs repeat and resume bit for bit."""

    def start(self, policy: OmniPolicy, rank: int, world_size: int) -> None:
        """Remembers the policy to sample from."""
        self.policy = policy

    def sync(self, policy: OmniPolicy) -> None:
        """Nothing to do: the weights are the policy's."""

    def complete(self, batch: Batch, rollout: Rollout, keys: Sequence[int]) -> Completions:
        """[N = B x group_size] completions of the batch's prompts; keys [N] decide the draws, see `sample`."""
        return sample(
            self.policy,
            batch.prompts,
            max_new_tokens=rollout.max_new_tokens,
            group_size=rollout.group_size,
            temperature=rollout.temperature,
            keys=keys,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            unwanted=self.unwanted,
        )

    def rest(self) -> None:
        """Nothing to do: the engine holds no memory between calls."""

    def close(self) -> None:
        """Nothing to do: the engine holds nothing but the policy."""


class _Drawn(NamedTuple):
    """One position of N completions: token ids [N], their log-probs [N], what the sampler kept [N, K] or None."""

    token: Tensor
    logprob: Tensor | None
    support: Tensor | None


@torch.no_grad()
def sample(
    policy: OmniPolicy,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    group_size: int = 1,
    temperature: float = 0.0,
    keys: Sequence[int] | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    unwanted: Callable[[], bool] = bool,
) -> Completions:
    """[N = B x group_size] completions; temperature 0 is greedy, otherwise `keys` [N] decide every draw.

    Placeholder tokens have probability 0, so a completion never claims to contain audio. It ends with the end of the
    turn or of the text, whichever comes first. top_k and top_p act after the temperature, as in `Rollout`. unwanted is
    asked after every token; what is drawn by then is returned. ValueError for another number of keys than completions.
    """
    if temperature and (keys is None or len(keys) != len(prompts) * group_size):
        raise ValueError(f"sampling needs one key per completion, {len(prompts) * group_size}")
    device = prompts.suffix_ids.device
    rows = prompt_of_row(len(prompts), group_size, device)
    draws = None
    if temperature:
        draws = torch.from_numpy(np.stack([uniforms(key, max_new_tokens, "token") for key in keys or ()])).to(device)
    with whole(policy):
        state = policy.read(prompts)
        if group_size > 1:
            state = state.expand(rows)
        stops = torch.tensor(policy.processor.stop_ids, device=device)
        unfinished = torch.ones(len(rows), dtype=torch.long, device=device)
        drawn: list[_Drawn] = []
        mask: list[Tensor] = []
        for position in range(max_new_tokens):
            draw = None if draws is None else draws[:, position]
            drawn.append(_draw(policy.logits(state.last), temperature, draw, top_k, top_p))
            token = drawn[-1].token.where(unfinished.bool(), policy.processor.pad_id)
            drawn[-1] = drawn[-1]._replace(token=token)
            mask.append(unfinished)
            unfinished = unfinished * ~torch.isin(token, stops)
            if position + 1 == max_new_tokens or not unfinished.any() or unwanted():
                break
            state, _ = policy.extend(state, policy.embed(token[:, None]), mask[-1][:, None])
    return _stacked(drawn, torch.stack(mask, 1), unfinished == 0, rows)


def _stacked(drawn: list[_Drawn], mask: Tensor, finished: Tensor, rows: Tensor) -> Completions:
    """The completions whose positions were drawn one after the other, 0 or -1 where a completion had ended."""
    logprob = support = None
    if drawn[0].logprob is not None:
        logprob = torch.stack([position.logprob for position in drawn], 1).where(mask.bool(), 0.0)  # type: ignore[misc]
    if drawn[0].support is not None:
        kept = [position.support for position in drawn if position.support is not None]
        width = max(ids.shape[1] for ids in kept)
        support = torch.stack([torch.nn.functional.pad(s, (0, width - s.shape[1]), value=-1) for s in kept], 1)
        support = support.where(mask.bool()[..., None], -1)
    return Completions(torch.stack([position.token for position in drawn], 1), mask, finished, rows, logprob, support)


def _draw(logits: Tensor, temperature: float, draw: Tensor | None, top_k: int, top_p: float) -> _Drawn:
    """The arg max, or the inverse of the (truncated) distribution function at `draw` [N] in [0, 1)."""
    if draw is None:
        return _Drawn(logits.argmax(-1), None, None)
    scaled = logits.double() / temperature
    support = None
    if top_k or top_p < 1:
        support = kept_tokens(scaled, top_k, top_p)
        inside = torch.zeros_like(scaled, dtype=torch.bool)
        inside = inside.scatter(1, support.clamp(min=0), True)
        inside.scatter_(1, support[:, :1], True)  # the likeliest; padding of the support pointed at token 0
        inside[:, 0] = (support == 0).any(1)
        scaled = scaled.where(inside, -torch.inf)
    token, logprob = _pick(scaled, draw)
    return _Drawn(token, logprob.float(), support)


def kept_tokens(scaled: Tensor, top_k: int, top_p: float) -> Tensor:
    """[N, K] ids that truncation keeps, likeliest first, padded with -1: top_k, then the fewest that have top_p.

    scaled: [N, V] logits over the temperature. Tokens of probability 0 are never kept.
    """
    values, ids = scaled.topk(min(top_k or scaled.shape[1], scaled.shape[1]), -1)
    share = values.softmax(-1)
    keep = (share > 0) & (share.cumsum(-1) - share < top_p)
    return ids.where(keep, -1)[:, : max(1, int(keep.sum(1).max()))]


def _pick(scaled: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """[N] token ids and their log-probs: the inverse of the distribution function at `draw` [N].

    In the order of the vocabulary; one softmax serves both, since vocabularies are large and scaled is float64.
    """
    share = torch.softmax(scaled, -1)
    mass = share.cumsum(-1)
    token = torch.searchsorted(mass, draw[:, None] * mass[:, -1:], right=True).clamp(max=scaled.shape[-1] - 1)
    return token.squeeze(1), share.gather(1, token).log().squeeze(1)
