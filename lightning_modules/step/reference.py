"""The reference policy: adapters switched off, or a frozen copy, or none where the KL has no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..policy.omni import OmniPolicy
from ..policy.precision import compute_in


class Reference:
    """The policy before training, also of a run that was resumed.

    make: loads it anew, for full fine-tuning; a LoRA policy contains it. dtype: that the policy computes in. offload:
    the copy lies on the CPU between uses, for its weights' worth of transfer per step.
    """

    def __init__(
        self, policy: OmniPolicy, make: Callable[[], OmniPolicy], dtype: torch.dtype, offload: bool = False
    ) -> None:
        self.policy, self.offload = policy, offload
        self.copy = None if policy.adapted else make().requires_grad_(False)
        if self.copy is not None:
            compute_in(self.copy, dtype)

    @contextmanager
    def at(self, device: torch.device) -> Iterator[OmniPolicy]:
        """Inside, a policy on the device that gives the reference's log-probs."""
        if self.copy is None:
            with self.policy.reference() as reference:
                yield reference
            return
        self.copy = self.copy.to(device)
        try:
            yield self.copy
        finally:
            if self.offload:
                self.copy = self.copy.to("cpu")
