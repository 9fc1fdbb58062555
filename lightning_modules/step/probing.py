"""How well the policy answers without listening: the same questions under 30 s of silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ...datamodules.audio.signals import SILENCE_S
from ...datamodules.batch import Batch
from ...datamodules.questions.answers import is_right, target_text
from ...errors import InputError
from ..policy.omni import OmniPolicy
from ..policy.sharding import whole
from ..rollout.engine import Rollout, completion_keys
from ..rollout.sampling import sample


def due(step: int, rate: float) -> bool:
    """Whether this step is probed: every 1/rate-th, the same on all ranks, so that none waits for another."""
    return int((step + 1) * rate) > int(step * rate)


def silent_accuracy(
    policy: OmniPolicy,
    batch: Batch,
    rows: Sequence[slice],
    how: str = "option_logprob",
    rollout: Rollout | None = None,
) -> Tensor:
    """[B] float64 in [0, 1], on the CPU: accuracy of the present policy without the audio.

    rows: the micro-batches to ask in. how: "option_logprob", the probability of the right option among the options, or
    "rollout", the share of right answers of a group sampled as `rollout` says; an InputError where there is none.
    """
    silent = silent_prompts(policy, batch)
    ask: Callable[[slice], Tensor] = partial(option_accuracy, policy, silent)
    if how == "rollout":
        if rollout is None:
            raise InputError("a probe by rollout needs a module that samples, as GRPO does; use how: option_logprob")
        ask = partial(rollout_accuracy, policy, silent, rollout=rollout, name=(rollout.seed, batch.step))
    with whole(policy):
        return torch.cat([ask(part) for part in rows]).cpu()


def silent_prompts(policy: OmniPolicy, batch: Batch) -> Batch:
    """The batch's questions in the words and with the options as they were shown, over one silence encoded once."""
    targets = [target_text(s.question.answer) for s in batch.samples]
    silent: Batch = policy.processor.batch(batch.samples, SILENCE_S, targets).to(batch.weights.device)
    return silent


@torch.no_grad()
def option_accuracy(policy: OmniPolicy, batch: Batch, rows: slice) -> Tensor:
    """[rows] probability of the right option among the options, each scored as a whole answer with its end token.

    One reading of the prompt and one pass over its options; no sampling noise. Where the prompt asks for thinking, the
    answers are scored without any: what can be told at once. `rollout_accuracy` lets it think.
    """
    samples = batch.samples[rows]
    counts = [len(s.choices) for s in samples]
    ids, mask = policy.processor.targets([target_text(choice) for s in samples for choice in s.choices])
    device = batch.weights.device
    prompt_of_row = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)).to(device)
    logprob = policy(batch.prompts.select(rows), ids.to(device), mask.to(device), prompt_of_row).logprob
    right = []
    for s, scores in zip(samples, logprob.double().sum(1).split(counts), strict=True):
        same = torch.tensor([choice == s.question.answer for choice in s.choices], device=device)
        right.append(scores.softmax(0)[same].sum())
    return torch.stack(right)


def rollout_accuracy(
    policy: OmniPolicy, batch: Batch, rows: slice, *, rollout: Rollout, name: tuple[object, ...]
) -> Tensor:
    """[rows] float64, share of right answers among a group sampled as in training.

    name: what the draws are named by, besides the question.
    """
    samples = batch.samples[rows]
    size = rollout.group_size
    completions = sample(
        policy,
        batch.prompts.select(rows),
        max_new_tokens=rollout.max_new_tokens,
        group_size=size,
        temperature=rollout.temperature,
        keys=completion_keys([s.question.uid for s in samples], size, "probe", *name),
        top_k=rollout.top_k,
        top_p=rollout.top_p,
    )
    texts = policy.processor.decode(completions.ids, completions.mask)
    truths = [s.question.answer for s in samples for _ in range(size)]
    right = [float(is_right(text, truth)) for text, truth in zip(texts, truths, strict=True)]
    return torch.tensor(right, dtype=torch.float64).view(-1, size).mean(1)
