"""What `trainer.precision` means here: the type that the policy computes in, and nothing else.

Lightning's plugins cast whole batches and whole modules, loss weights, positions and counts included, and change
torch's default type. Batches stay as they are here, and what is to be learnt is kept in float32 under every precision.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision

_TYPES = {
    "64-true": torch.float64,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "16-mixed": torch.float16,
}
_FIRST_SCALE, _GROWTH_STEPS = 65_536.0, 2_000


class PolicyPrecision(Precision):
    """Stands in for Lightning's plugin of the same `precision`.

    loss_scale: what losses are multiplied with before the backward pass, so that float16 gradients do not vanish; 1 for
    other types.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision  # type: ignore[assignment]
        self.loss_scale = _FIRST_SCALE if self.scales else 1.0
        self._good_steps = 0

    @property
    def scales(self) -> bool:
        """Whether losses are scaled: in float16."""
        return _TYPES.get(self.precision) == torch.float16

    def compute_dtype(self, loaded: torch.dtype) -> torch.dtype:
        """The type to compute in; with "32-true", the default, that which the policy was `loaded` in."""
        return _TYPES.get(self.precision, loaded)

    def smaller_scale(self) -> bool:
        """Halves the scale after a gradient that was not finite; False where that is not what was wrong."""
        self._good_steps = 0
        if not self.scales or self.loss_scale <= 1:
            return False
        self.loss_scale /= 2
        return True

    def stepped(self) -> None:
        """Counts a good step; the scale doubles after 2,000 of them."""
        self._good_steps += 1
        if self.scales and self._good_steps % _GROWTH_STEPS == 0:
            self.loss_scale *= 2

    def state_dict(self) -> dict[str, Any]:
        """The scale and the good steps since it last fell; empty where nothing is scaled."""
        return {"loss_scale": self.loss_scale, "good_steps": self._good_steps} if self.scales else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the scale of `state_dict`."""
        self.loss_scale, self._good_steps = state_dict["loss_scale"], state_dict["good_steps"]


def precision_of(trainer: L.Trainer) -> PolicyPrecision:
    """The trainer's precision, which from now on is a PolicyPrecision; a lab's own plugin stays beside it."""
    strategy: Any = trainer.strategy
    present = strategy._precision_plugin or Precision()
    if isinstance(present, PolicyPrecision):
        return present
    meant = PolicyPrecision(str(present.precision))
    if type(present).__module__.startswith(("lightning.", "pytorch_lightning.")):
        strategy._precision_plugin = meant
    return meant
