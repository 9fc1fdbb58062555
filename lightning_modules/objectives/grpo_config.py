"""What GRPO optimises: which loss, in what trust region, against which reference, for whose advantages."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError
from .advantages import SCALES, advantages_named
from .correction import Correction
from .kl import kl_named
from .losses import Clip, loss_named


@dataclass
class GRPOConfig:
    """The paper's by default: a mean over sequences, ratios in [0.8, 1.2], 0.001 times k3.

    Args:
        loss: grpo, dapo, bnpo, dr_grpo, gspo, cispo, sapo, or the import path of a function with their signature.
        low, high, delta: ratios are clipped to [1 - low, 1 + high]; delta bounds the unclipped ratio. For cispo `high`
            is the largest ratio itself.
        beta: weight of the KL to the reference; with 0 none is kept. kl: its estimator, k1, k2, k3, k3+ or an
            import path (`objectives/kl.py`).
        kl_correction: multiply the estimate by the ratio, which makes it unbiased off-policy.
        advantages: scaled by the "group"'s deviation, the "batch"'s, by "none", or every reward alone ("gdpo"); or the
            import path of a function (`objectives/advantages.py`).
        leave_one_out: compare a completion with the others of its group, not with all.
        correction: importance weights from the engine that sampled to the policy; none by default.
        drop_empty: leave completions without a token that counts out of the denominator too.
        mask_truncated: completions that were cut do not count.
        offload_reference: with full fine-tuning, keep the frozen copy on the CPU between uses.
        entropy_every: steps from one measurement of the policy's entropy (`train/entropy`) to the next; 0 for none.
    """

    loss: str = "grpo"
    low: float = 0.2
    high: float = 0.2
    beta: float = 0.001
    delta: float | None = None
    kl: str = "k3"
    kl_correction: bool = False
    advantages: str = "group"
    leave_one_out: bool = False
    correction: Correction | None = None
    drop_empty: bool = False
    mask_truncated: bool = False
    offload_reference: bool = False
    entropy_every: int = 10

    def __post_init__(self) -> None:
        advantages_named(self.advantages, "objective.advantages")
        kl_named(self.kl, "objective.kl")
        if self.leave_one_out and self.advantages not in SCALES:
            raise InputError(f"objective: {self.advantages} has no leave_one_out")
        if self.entropy_every < 0:
            raise InputError(f"objective.entropy_every: a number of steps, or 0 for never, got {self.entropy_every}")
        if self.beta < 0:
            raise InputError(f"objective.beta: {self.beta} must not be negative")
        if self.loss == "cispo" and self.high < 1:
            raise InputError(f"objective.high: for cispo the largest ratio itself, at least 1, as 5.0; got {self.high}")
        loss_named(self.loss)
        Clip(self.low, self.high, self.delta)

    def measures_entropy(self, step: int) -> bool:
        """Whether this step of the stage measures the policy's entropy."""
        return self.entropy_every > 0 and step % self.entropy_every == 0

    @property
    def clip(self) -> Clip:
        """The trust region."""
        return Clip(self.low, self.high, self.delta)

    @property
    def shown(self) -> tuple[str, Clip]:
        """The ratio's level and the bounds at which a token loses its gradient, for the log."""
        bounds = Clip(1.0, self.high - 1) if self.loss == "cispo" else self.clip
        return "sequence" if self.loss == "gspo" else "token", bounds
