"""A callback that watches whether the policy comes to need the audio: its accuracy on the batch without it."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L

from ...errors import InputError
from ..step.data_metrics import mean_by_label


class SilentProbe(L.Callback):
    """Logs `silent/{label}`: accuracy of the present policy on the batch's questions under 30 s of silence.

    Args:
        every_n_steps: optimizer steps between two probes. how: "option_logprob" scores the options, without noise;
            "rollout" samples a group as in training (GRPO only).
    """

    def __init__(self, every_n_steps: int = 25, how: Literal["option_logprob", "rollout"] = "option_logprob") -> None:
        if every_n_steps < 1:
            raise InputError(f"SilentProbe: every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps, self.how = every_n_steps, how

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Before the step, so that the policy has not seen these questions yet."""
        if batch.step % self.every_n_steps:
            return
        accuracy = pl_module.silent_accuracy(batch, self.how)
        means = mean_by_label(accuracy, batch.samples, pl_module.ranks)
        pl_module.log_dict({f"silent/{label}": mean for label, mean in means.items()})
