"""Budgets, and what a sample costs: tokens and FLOPs from the length of its recording.

FLOPs: 2P per token read, 6P per token trained on; P parameters. SFT trains on T_p + T_r tokens. GRPO with a shared
prompt reads T_p once and G completions of T_r tokens when it samples, when it takes the reference's log-probs, and
three times that when it trains; without sharing (most trainers) every completion's log-prob reads the prompt again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from math import ceil, isfinite

import numpy as np

from ...errors import InputError
from ..arrays import Floats

UNITS = ("samples", "fraction", "steps", "hours", "flops")


@dataclass(frozen=True)
class Budget:
    """How much a stage takes: one of the units, or `epochs` alone for the whole pool.

    samples: rows, each presented `epochs` times. fraction: the same as a share of the pool. steps: optimizer steps of
    one batch each. hours: of recordings presented. flops: floating-point operations, after `cost`.
    at_most: share of what is left of the pool, rounded up to a row; a budget beyond it is cut to that, whatever its
    unit, so that the same file fits a corpus of any size.
    Raises InputError for no unit, several, or a value that is not positive.
    """

    samples: int | None = None
    fraction: float | None = None
    steps: int | None = None
    hours: float | None = None
    flops: float | None = None
    epochs: int | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in UNITS if getattr(self, name) is not None]
        if len(given) > 1 or (not given and self.epochs is None):
            raise InputError(
                f"a budget needs exactly one of samples, fraction, steps, hours and flops, or epochs alone; got "
                f"{given or 'none'}"
            )
        for name in given:
            value = getattr(self, name)
            whole = name in ("samples", "steps")
            kind = int if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not isfinite(value):
                raise InputError(f"budget {name} must be a {'whole ' if whole else ''}number, got {value!r}")
            if not value > 0 or (name == "fraction" and value > 1):
                raise InputError(f"budget {name} must be positive (a fraction at most 1), got {value}")
        if self.at_most is not None and not 0 < self.at_most <= 1:
            raise InputError(
                f"budget at_most is a share of what is left, more than 0 and at most 1; got {self.at_most}"
            )
        epochs = 1 if self.epochs is None else self.epochs
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise InputError(f"budget epochs must be a whole number of at least 1, got {epochs!r}")
        if epochs != 1 and given and given[0] not in ("samples", "fraction"):
            raise InputError(f"budget epochs are not combined with {given[0]}; got {epochs}")
        object.__setattr__(self, "epochs", epochs)

    @property
    def unit(self) -> str:
        """Which unit is given; "fraction" where the epochs stand alone."""
        return next((name for name in UNITS if getattr(self, name) is not None), "fraction")

    def scaled(self, factor: float) -> Budget:
        """The budget times a factor, for arms that are to match in cost; InputError beyond the whole pool."""
        if self.unit == "fraction":
            share = (1.0 if self.fraction is None else self.fraction) * factor
            if share > 1:
                raise InputError(f"a fraction of {share:.3f} is more than the whole pool; give the arm another budget")
            return replace(self, fraction=share)
        value = getattr(self, self.unit) * factor
        if self.unit in ("samples", "steps"):
            value = max(1, round(value))
        return replace(self, **{self.unit: value})

    def rows(self, batch_size: int, pool: int, left: int) -> tuple[int, int]:
        """How many rows a budget in samples, steps or a fraction names, and how many of them `at_most` grants.

        pool, left: rows of the pool, and those of them that no other stage has taken.
        """
        if self.steps is not None:
            named = self.steps * batch_size
        elif self.samples is not None:
            named = self.samples
        else:
            share = Fraction(1) if self.fraction is None else Fraction(str(self.fraction))
            named = int(share * pool)  # 0.29 of 100 is 29, not 28
        return named, named if self.at_most is None else min(named, ceil(Fraction(str(self.at_most)) * left))


@dataclass(frozen=True)
class Cost:
    """What tokens and FLOPs are estimated from; the defaults are Qwen2.5-Omni-7B's thinker and the paper's prompt.

    Raises InputError for a negative number.

    Args:
        parameters: of the model. audio_tokens_per_s, max_audio_s: of its audio encoder.
        prompt_tokens, answer_tokens, completion_tokens: text per question, per SFT target, per sampled completion.
        group_size: completions per prompt. old, reference: whether their log-probs are computed.
        shared_prompt: a prompt is read once for its group, as here; most trainers read it per completion.
    """

    parameters: float = 7.6e9
    audio_tokens_per_s: float = 25.0
    max_audio_s: float = 300.0
    prompt_tokens: float = 110.0
    answer_tokens: float = 12.0
    completion_tokens: float = 16.0
    group_size: int = 8
    old: bool = False
    reference: bool = True
    shared_prompt: bool = True

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not isinstance(value, (bool, int, float)):
                raise InputError(f"cost {f.name} must be a number, got {value!r}")
            if not value >= 0 or (f.name == "group_size" and value < 1):
                least = "must be at least 1" if f.name == "group_size" else "must not be negative"
                raise InputError(f"cost {f.name} {least}, got {value!r}")

    def tokens(self, algorithm: str, duration_s: Floats) -> Floats:
        """[N] tokens of one presentation of recordings of [N] seconds: the prompts with them, and the completions."""
        written = self.answer_tokens if algorithm == "sft" else self.group_size * self.completion_tokens
        return self._prompt(duration_s) + written

    def flops(self, algorithm: str, duration_s: Floats) -> Floats:
        """[N] floating-point operations of one presentation of recordings of [N] seconds."""
        prompt = self._prompt(duration_s)
        if algorithm == "sft":
            return 6 * self.parameters * (prompt + self.answer_tokens)
        sampled = self.group_size * self.completion_tokens
        repeats = 1 if self.shared_prompt else self.group_size
        passes = 6 + 2 * self.old + 2 * self.reference
        return self.parameters * (2 * (prompt + sampled) + passes * (repeats * prompt + sampled))

    def _prompt(self, duration_s: Floats) -> Floats:
        """[N] tokens of the prompts, audio and text."""
        audio: Floats = np.minimum(np.asarray(duration_s, float), self.max_audio_s) * self.audio_tokens_per_s
        return audio + self.prompt_tokens
