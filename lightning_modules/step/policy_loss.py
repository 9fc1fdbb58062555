"""A micro-batch's policy loss: of all its log-probs, or token by token while the head's numbers are there.

Both ways are the same function of `objectives/losses.py`: in the second, every token is a completion of its own, with
the weight that it has in the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import Tensor

from ..objectives.correction import importance
from ..objectives.grpo_config import GRPOConfig
from ..objectives.kl import kl
from ..objectives.losses import SHARES, Loss, ratio


@dataclass(frozen=True)
class PolicyLoss:
    """What the loss of n completions of C tokens depends on, but for the policy's own log-probs.

    mask: [n, C]. advantages, weights: [n]. old, reference, rollout: [n, C] log-probs of the policy before the update,
    the reference, and the engine that sampled; None where they are not used, or old is the policy's own.
    denominator: the step's.
    """

    loss: Loss
    config: GRPOConfig
    denominator: float
    mask: Tensor
    advantages: Tensor
    weights: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    rollout: Tensor | None = None

    @property
    def by_token(self) -> bool:
        """Whether the loss is a sum over tokens once the policy's log-probs of other tokens are not known."""
        correction = self.config.correction
        return self.loss.function in SHARES and (
            correction is None or correction.level == "token" or self.old is not None
        )

    def of_all(self, logprob: Tensor) -> Tensor:
        """The loss, a scalar, of the policy's log-probs [n, C]."""
        old = logprob.detach() if self.old is None else self.old
        return self._value(
            logprob, old, self.mask, self.advantages, self.reference, self._correction(old), self.weights
        )

    def of_tokens(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(log-probs [K], their places in the flat mask [K]) -> the loss of these tokens, a scalar."""
        width, weights = self.mask.shape[1], self.weights
        if SHARES[self.loss.function] == "completion":
            counts = self.mask != 0 if self.old is None else (self.mask != 0) & self.old.isfinite()
            weights = weights / counts.sum(-1).clamp(min=1)
        whole = None if self.old is None else self._correction(self.old)

        def value(logprob: Tensor, places: Tensor) -> Tensor:
            def at(values: Tensor | None) -> Tensor | None:
                return None if values is None else values.reshape(-1)[places][:, None]

            now, rows, mask = logprob[:, None], places // width, self.mask.reshape(-1)[places][:, None]
            old, correction = at(self.old), None if whole is None else at(whole.expand_as(self.mask))
            if old is None:
                old = now.detach()
                correction = self._correction(old, at(self.rollout), mask)
            given = (now, old, mask, self.advantages[rows], at(self.reference), correction, weights[rows])
            return self._value(*given)

        return value

    def _value(
        self,
        logprob: Tensor,
        old: Tensor,
        mask: Tensor,
        advantages: Tensor,
        reference: Tensor | None,
        correction: Tensor | None,
        weights: Tensor,
    ) -> Tensor:
        penalty, config = None, self.config
        if reference is not None:
            weight = ratio(logprob, old, mask) if config.kl_correction else None
            penalty = config.beta * kl(logprob, reference, mask, estimator=config.kl, ratio=weight)
        more = {"penalty": penalty, "correction": correction, "weights": weights}
        function, denominator = self.loss.function, self.denominator
        found: Tensor = function(logprob, old, advantages, mask, denominator=denominator, clip=config.clip, **more)
        return found

    def _correction(self, old: Tensor, rollout: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The importance weight from the engine's distribution to the policy's, where one is wanted."""
        rollout = self.rollout if rollout is None else rollout
        if self.config.correction is None or rollout is None:
            return None
        mask = self.mask if mask is None else mask
        return importance(old.detach(), rollout, mask, **asdict(self.config.correction))[0]
