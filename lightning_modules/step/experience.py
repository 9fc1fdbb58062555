"""What a rollout brought: completions, what they are worth, and which of them train.

Whatever belongs to a completion is looked up through `completions.prompt_of_row`: its prompt, recording, weight and
group cannot come apart, in whatever order an engine returns completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...datamodules.batch import Batch, Prompts, Sample
from ...datamodules.questions.answers import is_right
from ...datamodules.questions.prompts import prompt_text
from ..objectives.advantages import constant_groups
from ..objectives.rewards import Scored
from ..policy.said import Said
from ..rollout.engine import Completions, prompt_of_row
from .data_metrics import label_places


@dataclass
class Experience:
    """B prompts and their N = B x G completions.

    texts: N. scored: rewards [N]. silence: [B] how well the policy does without the audio, None where not asked.
    by_part: whether every reward has advantages of its own (GDPO), and not their sum alone.
    kept: [B] bool, prompts that train; the padding of a last batch never does. advantages: [N], given later.
    """

    batch: Batch
    completions: Completions
    texts: list[str]
    scored: Scored
    silence: Tensor | None = None
    by_part: bool = False
    kept: Tensor = field(init=False)
    advantages: Tensor = field(init=False)

    def __post_init__(self) -> None:
        counts = self.group.bincount(minlength=len(self.batch)).tolist()
        if len(counts) != len(self.batch) or len(set(counts)) != 1:
            raise ValueError(f"every prompt must have as many completions, got {counts}")
        self.group_size = counts[0]
        # [B, G] rows of each prompt's completions, on the CPU.
        self.rows = self.group.argsort(stable=True).view(-1, self.group_size)
        self.real = torch.tensor([s.weight > 0 for s in self.batch.samples])
        self.kept = self.real.clone()
        self.advantages = torch.zeros(len(self.texts), dtype=torch.float64)

    @cached_property
    def group(self) -> Tensor:
        """[N] number of each completion's prompt, on the CPU as rewards are."""
        return self.completions.prompt_of_row.cpu()

    @cached_property
    def lengths(self) -> Tensor:
        """[N] int64 tokens of every completion, on the CPU; fetched once."""
        return self.completions.mask.sum(1).cpu()

    def grouped(self, values: Tensor) -> Tensor:
        """[B, G] of values [N]."""
        return values[self.rows.to(values.device)]

    @property
    def constant(self) -> Tensor:
        """[B] bool: prompts whose completions are all worth the same, and which so have no advantage."""
        values = self.scored.parts.values() if self.by_part else [self.scored.total]
        flat = [self.grouped(constant_groups(each, self.group))[:, 0] for each in values]
        return torch.stack(flat).all(0)

    def accuracy(self) -> Tensor:
        """[B, G] float64, 1 where a completion's extracted answer is the right one."""
        truths = [self.batch.samples[prompt].question.answer for prompt in self.group.tolist()]
        right = [float(is_right(text, truth)) for text, truth in zip(self.texts, truths, strict=True)]
        return self.grouped(torch.tensor(right, dtype=torch.float64))

    def mask(self, truncated: bool) -> Tensor:
        """[N, C] 1 on the tokens that count in the loss; `truncated`: also those of completions that were cut."""
        counts = self.kept.to(self.completions.mask.device)[self.completions.prompt_of_row]
        if not truncated:
            counts = counts & self.completions.finished
        return self.completions.mask * counts[:, None]


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass: some prompts [b] of an experience, each with its whole group.

    numbers: [b] of the prompts in their experience. counts: False where the pass only keeps a rank busy.
    reference, old: [n, C] fixed log-probs of the n completions; None where they are not needed.
    """

    experience: Experience
    numbers: Tensor
    counts: bool = True
    reference: Tensor | None = None
    old: Tensor | None = None

    @cached_property
    def rows(self) -> Tensor:
        """[n] rows of the completions in their experience, group by group; on the CPU."""
        return self.experience.rows[self.numbers].reshape(-1)

    @cached_property
    def said(self) -> Said:
        """How long the n completions are."""
        return Said(self.experience.lengths[self.rows].tolist(), self.experience.group_size)

    @property
    def prompts(self) -> Prompts:
        """The b prompts, without more padding than they need."""
        return self.experience.batch.prompts.select(self.numbers)

    @property
    def advantages(self) -> Tensor:
        """[n] of the completions, on the CPU."""
        return self.experience.advantages[self.rows]

    @property
    def weights(self) -> Tensor:
        """[n] loss weights of the completions."""
        weights = self.experience.batch.weights
        return weights[self.experience.group[self.rows].to(weights.device, non_blocking=True)]

    @property
    def labels(self) -> Tensor:
        """[n] places in LABELS of the completions' labels, on the CPU."""
        return label_places(self.experience.batch.samples)[self.experience.group[self.rows]]

    @property
    def samples(self) -> list[Sample]:
        """The questions of the b prompts."""
        return [self.experience.batch.samples[number] for number in self.numbers.tolist()]

    @property
    def completions(self) -> Completions:
        """The n completions, whose `prompt_of_row` counts the prompts of this micro-batch."""
        whole = self.experience.completions
        rows = self.rows.to(whole.ids.device, non_blocking=True)
        chosen = whole.select(rows, width=max(self.said.lengths))
        fresh = prompt_of_row(len(self.numbers), self.experience.group_size, chosen.ids.device)
        return replace(chosen, prompt_of_row=fresh)

    def mask(self, width: int, truncated: bool) -> Tensor:
        """[n, width] 1 on the tokens that count in the loss; all 0 where the pass only keeps a rank busy."""
        mask = self.experience.mask(truncated)
        return mask[self.rows.to(mask.device, non_blocking=True), :width] * self.counts


def columns_of(
    batch: Batch, completions: Completions, texts: Sequence[str], max_new_tokens: int, silence: Tensor | None
) -> dict[str, list[Any]]:
    """What reward functions may ask for: one entry per completion, named by COLUMNS of `objectives/calling.py`."""
    rows = completions.prompt_of_row.tolist()
    samples = [batch.samples[prompt] for prompt in rows]
    asked = [prompt_text(s.style, s.question.question, s.choices) for s in samples]
    said = [row[:count] for row, count in zip(completions.ids.tolist(), completions.mask.sum(1).tolist(), strict=True)]
    columns: dict[str, list[Any]] = {
        "solution": [s.question.answer for s in samples],
        "choices": [list(s.choices) for s in samples],
        "question": [s.question.question for s in samples],
        "question_type": [s.question.question_type for s in samples],
        "label": [s.label for s in samples],
        "key": [s.question.key for s in samples],
        "group": rows,
        "num_tokens": [len(ids) for ids in said],
        "finished": completions.finished.tolist(),
        "max_new_tokens": [max_new_tokens] * len(rows),
        "prompts": asked,
        "messages": [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            for prompt, text in zip(asked, texts, strict=True)
        ],
        "completion_ids": said,
        "response_token_ids": said,
        "answer": [s.question.answer for s in samples],
    }
    if silence is not None:
        columns["silence"] = [float(silence[prompt]) for prompt in rows]
    return columns


def micro_batches(experiences: Sequence[Experience], size: int) -> list[MicroBatch]:
    """At most `size` prompts that train at a time; one that counts for nothing where none does: every rank has work."""
    work = []
    for experience in experiences:
        for numbers in experience.kept.nonzero().squeeze(1).split(size):
            if len(numbers):
                work.append(MicroBatch(experience, numbers))
    return work or [MicroBatch(experiences[0], torch.tensor([0]))]
