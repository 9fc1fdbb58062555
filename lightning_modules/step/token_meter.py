"""What a GRPO step measures of its tokens, and the refusal of completions that another policy has sampled."""

from __future__ import annotations

from torch import Tensor, stack

from ...errors import InputError
from ..objectives.correction import importance
from ..objectives.differences import difference
from ..objectives.kl import kl
from ..objectives.losses import clip_metrics, ratio
from .grpo_metrics import Meter
from .policy_loss import PolicyLoss

_MOST_DIFFERENCE = 1.0  # nats per token; rounding and other kernels give hundredths


class TokenMeter(Meter):
    """A step's sums over its tokens.

    compared: whether the engine's log-probs are compared with the policy's. entropy: whether entropies are measured.
    """

    def __init__(self, compared: bool = True, entropy: bool = True) -> None:
        super().__init__()
        self.compared, self.entropy = compared, entropy
        self._gaps: list[Tensor] = []

    def measure(
        self, loss: PolicyLoss, logprob: Tensor, entropy: Tensor | None, sampled: Tensor | None, labels: Tensor
    ) -> None:
        """Adds one micro-batch: log-probs and entropies [n, C] of the policy, those of the engine, labels [n]."""
        mask, config, old = loss.mask, loss.config, logprob if loss.old is None else loss.old
        if loss.reference is not None:
            self.add("kl", kl(logprob, loss.reference, mask), labels)
        if loss.rollout is not None and config.correction is not None:
            weight, raw = importance(old, loss.rollout, mask, **vars(config.correction))
            self.add("correction", weight.expand_as(mask) * mask, labels)
            self.add("corrected", (raw != weight).expand_as(mask) * mask, labels)
        if self.compared and sampled is not None:
            gaps = difference(logprob, sampled, mask)[0].abs()
            self.add("gap", gaps, labels)
            self._gaps.append(stack([gaps.sum(), mask.sum().to(gaps.dtype)]))
        level, bounds = config.shown
        shown = ratio(logprob, old, mask, level).expand_as(mask)
        for name, values in clip_metrics(shown, loss.advantages, mask, bounds).items():
            self.add(name, values, labels)
        if entropy is not None:
            self.add("entropy", entropy * mask, labels)

    def refuse_strangers(self) -> None:
        """Raises InputError where the engine's log-probs are far off the policy's: something else was sampled from."""
        pairs: list[list[float]] = stack(self._gaps).tolist() if self._gaps else []
        for gap, tokens in pairs:
            if gap > _MOST_DIFFERENCE * max(tokens, 8.0):
                raise InputError(
                    f"the completions were not sampled from this policy: its log-probs differ from the engine's by "
                    f"{gap / tokens:.2f} nats per token; other weights, another temperature, or audio that belongs to "
                    "other prompts"
                )
