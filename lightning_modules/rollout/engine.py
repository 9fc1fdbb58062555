"""The settings of a rollout, the completions it gives, and what any engine that samples them must offer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...curriculum.identity import hash64
from ...datamodules.batch import Batch
from ...errors import InputError
from ..policy.omni import OmniPolicy


@dataclass
class Rollout:
    """How completions are sampled: `group_size` per prompt at this temperature, at most `max_new_tokens` tokens each.

    Args:
        group_size: completions per prompt. temperature: divides the logits, in sampling and in every log-prob.
        max_new_tokens: longest completion, its end token included. seed: of the draws.
        top_k: only the so many likeliest tokens; 0 for all. top_p: only the likeliest tokens that together have this
            probability; 1 for all. What was kept is remembered with every token (its support), and all log-probs are
            renormalised over it: the ratio is then that of the truncated distributions, 1 where nothing was learnt.
        refill_rounds: how often a stage with `on_zero_advantage: refill_same_cell` tries other questions in a step.
    """

    group_size: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 32
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    refill_rounds: int = 4

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise InputError(
                f"rollout.group_size: {self.group_size} leaves nothing to compare a completion with; at least 2"
            )
        if self.temperature == 0:
            raise InputError("rollout.temperature: 0 is greedy, all completions of a group would be the same; as 1.0")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"rollout.temperature: a positive number, got {self.temperature}")
        if self.max_new_tokens < 1:
            raise InputError(f"rollout.max_new_tokens: at least 1, got {self.max_new_tokens}")
        if self.refill_rounds < 0:
            raise InputError(f"rollout: refill_rounds must not be negative, got {self.refill_rounds}")
        if self.top_k < 0 or self.top_k == 1 or not 0 < self.top_p <= 1:
            raise InputError("rollout: top_k is 0 (all) or at least 2, top_p lies in (0, 1]")

    @property
    def truncates(self) -> bool:
        """Whether top_k or top_p leaves tokens out of the distribution."""
        return self.top_k > 0 or self.top_p < 1


@dataclass(frozen=True)
class Completions:
    """N sampled completions of B prompts, those of a group one after the other; C is the longest one's length.

    ids: [N, C] int64. mask: [N, C] int64, 1 up to and with the end token; never derived from the ids.
    finished: [N] bool, False for a completion that was cut at the length limit. prompt_of_row: [N] int64.
    logprob: [N, C] float32 with which the tokens were drawn (temperature and support applied), 0 outside the mask;
        None where they were chosen greedily.
    support: [N, C, K] int64 ids that a truncating sampler kept, padded with -1; None where it kept all.
    """

    ids: Tensor
    mask: Tensor
    finished: Tensor
    prompt_of_row: Tensor
    logprob: Tensor | None = None
    support: Tensor | None = None

    def select(self, rows: Tensor, first_prompt: int = 0, width: int | None = None) -> Completions:
        """The completions of these rows [M], without columns that are padding for all of them.

        first_prompt: is subtracted from `prompt_of_row`, where the rows' prompts are a slice of the batch. width: of
        the longest, in tokens, where that is known.
        """
        mask = self.mask[rows]
        width = max(1, int(mask.sum(1).max()) if width is None else width)
        return Completions(
            self.ids[rows, :width],
            mask[:, :width],
            self.finished[rows],
            self.prompt_of_row[rows] - first_prompt,
            None if self.logprob is None else self.logprob[rows, :width],
            None if self.support is None else self.support[rows, :width],
        )


class Engine(ABC):
    """What samples completions: `start` once; in every step `sync`, `complete` once or more, `rest`; then `close`.

    unwanted: whether the run was told to end, so that `complete` may return what it has: nobody will train on it.
    """

    unwanted: Callable[[], bool] = staticmethod(bool)

    @abstractmethod
    def start(self, policy: OmniPolicy, rank: int, world_size: int) -> None:
        """Called once on every rank before the first step, with the policy on its device."""

    @abstractmethod
    def sync(self, policy: OmniPolicy) -> None:
        """Takes over the policy's present weights: completions come from them until the next call."""

    @abstractmethod
    def complete(self, batch: Batch, rollout: Rollout, keys: Sequence[int]) -> Completions:
        """[N = B x group_size] completions of the batch's prompts.

        keys: [N] a number per completion that decides its draws, in engines that can draw so.
        """

    @abstractmethod
    def rest(self) -> None:
        """Gives memory back for the optimizer step; the next `sync` wakes the engine."""

    @abstractmethod
    def close(self) -> None:
        """Frees all that the engine holds; called when training ends, also where it fails."""


def completion_keys(uids: Sequence[int], group_size: int, *name: object) -> list[int]:
    """[B x group_size] keys that decide the completions' draws, prompt by prompt.

    uids: [B] of the questions. name: what else tells draws apart: a seed, the step, the purpose.
    """
    return [hash64(*name, uid, number) for uid in uids for number in range(group_size)]


def prompt_of_row(num_prompts: int, group_size: int, device: torch.device | None = None) -> Tensor:
    """[num_prompts x group_size] int64: 0, 0, ..., 1, 1, ...; the completions of a prompt are neighbours."""
    return torch.arange(num_prompts, device=device).repeat_interleave(group_size)
