"""Rewards and engines for the tests of GRPO, and a callback that keeps what a run logged."""

from __future__ import annotations

from dataclasses import replace

import lightning as L
import torch

from earwitness.curriculum.identity import hash64
from earwitness.lightning_modules.rollout.sampling import PolicyEngine


def flat(key: str) -> bool:
    """Whether `half` gives a question's completions equal rewards: about every other question."""
    return hash64("half", key) % 2 == 0


def half(completions, key, **columns):
    """Length, or the same for all."""
    return [0.7 if flat(k) else float(len(text)) for text, k in zip(completions, key, strict=True)]


def first_letter(completions, **columns):
    """Something that differs within most groups, and not with the length."""
    return [float(ord(text[0]) % 7) if text else 0.0 for text in completions]


class Kept(L.Callback):
    """What every step logged, and its experiences."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []
        self.experiences: list = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.logs.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.experiences.append(module.experiences)


class Changed(PolicyEngine):
    """The policy's completions, changed as told before anybody sees them."""

    def __init__(self, change) -> None:
        self.change = change

    def complete(self, batch, rollout, keys):
        return self.change(super().complete(batch, rollout, keys))


def backwards(done):
    """The same completions in the opposite order, each still with its own prompt."""
    order = torch.arange(len(done.ids)).flip(0)
    parts = {name: getattr(done, name)[order] for name in ("ids", "mask", "finished", "prompt_of_row", "logprob")}
    return replace(done, **parts)


def mislabelled(done):
    """What `repeat` in place of `repeat_interleave` does: prompts 0 1 2 0 1 2 for completions of 0 0 1 1 2 2."""
    count = int(done.prompt_of_row.max()) + 1
    return replace(done, prompt_of_row=torch.arange(count).repeat(len(done.ids) // count))
