"""Sampling from the policy itself, with transformers' modules: a prompt is read once for its whole group.

Every draw is a hash of the completion's key and the token's number, never a generator's state: a completion is the
same whatever the batch it is sampled in, the number of ranks and the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...curriculum.identity import uniforms
from ...datamodules.batch import Batch, Prompts
from ..policy.decoding import Decoding, Extending, can_decode
from ..policy.omni import OmniPolicy, State
from ..policy.replayed import Replayed
from ..policy.sharding import whole
from .drawing import draw
from .engine import Completions, Engine, Rollout, completion_keys, prompt_of_row
from .written import Written

__all__ = ["PolicyEngine", "completion_keys", "sample"]

_EVERY = 4  # tokens between two looks at which completions have ended


class PolicyEngine(Engine):
    """Samples from the policy itself, on its device; draws are hashes, so runs repeat and resume bit for bit.

    cuda_graphs: on a GPU a token is a replay of recorded operations where these can be recorded, which a sharded
    policy's cannot; a warning tells where they could not, and False tries nothing.
    """

    cuda_graphs: bool = True

    def __init__(self, cuda_graphs: bool = True) -> None:
        self.cuda_graphs = cuda_graphs

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
            cuda_graphs=self.cuda_graphs,
        )

    def rest(self) -> None:
        """Nothing to do: the engine holds no memory between calls."""

    def close(self) -> None:
        """Nothing to do: the engine holds nothing but the policy."""


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
    cuda_graphs: bool = True,
) -> Completions:
    """[N = B x group_size] completions; temperature 0 is greedy, otherwise `keys` [N] decide every draw.

    Placeholder tokens have probability 0, so a completion never claims to contain audio. It ends with the end of the
    turn or of the text, whichever comes first. top_k and top_p act after the temperature, as in `Rollout`. unwanted is
    asked after every token; what is drawn by then is returned. cuda_graphs: as in `PolicyEngine`.
    ValueError for another number of keys than completions.
    """
    if temperature and (keys is None or len(keys) != len(prompts) * group_size):
        raise ValueError(f"sampling needs one key per completion, {len(prompts) * group_size}")
    device = prompts.suffix_ids.device
    draws = None
    if temperature:
        draws = torch.from_numpy(np.stack([uniforms(key, max_new_tokens, "token") for key in keys or ()])).to(device)
    written = Written(policy.processor, len(prompts), group_size, max_new_tokens, device)
    with whole(policy):
        state = policy.read(prompts)
        last = state.last.repeat_interleave(group_size, 0)
        reading = _reading(policy, state, group_size, max_new_tokens - 1, cuda_graphs)
        for position in range(max_new_tokens):
            uniform = None if draws is None else draws[written.rows, position]
            token = written.put(draw(policy.logits(last), temperature, uniform, top_k, top_p), position)
            if position + 1 == max_new_tokens or unwanted():
                break
            if (position + 1) % _EVERY == 0:
                grid = written.going_on()
                if not grid:
                    break
                if 4 * sum(map(len, grid.values())) <= 3 * len(token):
                    reading.keep(*written.keep(grid))
                    token = written.latest
            last = reading.step(token)
    return written.completions(prompt_of_row(len(prompts), group_size, device))


def _reading(policy: OmniPolicy, state: State, group: int, longest: int, graphs: bool) -> Any:
    """What reads further tokens: with our attention or transformers', on a GPU replayed where that is wanted."""
    if not can_decode(policy):
        return Extending(policy, state, group, longest)
    decoding = Decoding(policy, state, group, longest)
    return Replayed(decoding) if graphs and state.mask.is_cuda and not policy.sharded else decoding
