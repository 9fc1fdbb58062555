"""Knows how well the policy still answers without listening: the same questions under 30 s of silence."""

from __future__ import annotations

import torch
from torch import Tensor

from ...datamodules.audio.waves import SILENCE_S
from ...datamodules.batch import Batch
from ...datamodules.questions.answers import is_right, target_text
from ..policy.omni import OmniPolicy
from ..rollout.engine import completion_keys
from ..rollout.sampling import sample


def due(step: int, rate: float) -> bool:
    """Whether this step is probed: every 1/rate-th, the same on all ranks, so that none waits for another."""
    return int((step + 1) * rate) > int(step * rate)


def silent_prompts(policy: OmniPolicy, batch: Batch) -> Batch:
    """The batch's questions in the words and with the options as they were shown, over one silence encoded once."""
    targets = [target_text(s.question.answer) for s in batch.samples]
    return policy.processor.batch(batch.samples, SILENCE_S, targets).to(batch.weights.device)


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
    policy: OmniPolicy,
    batch: Batch,
    rows: slice,
    *,
    group_size: int,
    temperature: float,
    max_new_tokens: int,
    name: tuple,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """[rows] share of right answers among `group_size` sampled ones."""
    samples = batch.samples[rows]
    done = sample(
        policy,
        batch.prompts.select(rows),
        max_new_tokens=max_new_tokens,
        group_size=group_size,
        temperature=temperature,
        keys=completion_keys([s.question.uid for s in samples], group_size, "probe", *name),
        top_k=top_k,
        top_p=top_p,
    )
    texts = policy.processor.decode(done.ids, done.mask)
    truths = [s.question.answer for s in samples for _ in range(group_size)]
    right = [float(is_right(text, truth)) for text, truth in zip(texts, truths, strict=True)]
    return torch.tensor(right, dtype=torch.float64).view(-1, group_size).mean(1)
