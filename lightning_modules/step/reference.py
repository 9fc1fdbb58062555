"""The reference policy: adapters switched off, or a frozen copy, or none where the KL has no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..policy.omni import OmniPolicy
from ..policy.precision import compute_in
from ..policy.sharding import whole


class Reference:
    """The policy before training, also of a run that was resumed.

    make: loads it anew, for full fine-tuning; a LoRA policy contains it. dtype: that the policy computes in. offload:
    the copy lies on the CPU between uses, for its weights' worth of transfer per step. shard: divides the copy over the
    ranks, as the policy is.
    """

    def __init__(
        self,
        policy: OmniPolicy,
        make: Callable[[], OmniPolicy],
        dtype: torch.dtype,
        offload: bool = False,
        shard: Callable[[OmniPolicy, bool], None] | None = None,
    ) -> None:
        self.policy, self.offload = policy, offload
        self.copy = None if policy.adapted else make().requires_grad_(False)
        if self.copy is not None:
            compute_in(self.copy, dtype, convert=shard is None)
            if shard is not None:
                shard(self.copy, offload)

    @contextmanager
    def at(self, device: torch.device) -> Iterator[OmniPolicy]:
        """Inside, a policy on the device that gives the reference's log-probs; whole, where weights are sharded."""
        if self.copy is None:
            with whole(self.policy), self.policy.reference() as reference:
                yield reference
            return
        if self.copy.sharded:
            with whole(self.copy):
                yield self.copy
            return
        self.copy = self.copy.to(device)
        try:
            yield self.copy
        finally:
            if self.offload:
                self.copy = self.copy.to("cpu")
