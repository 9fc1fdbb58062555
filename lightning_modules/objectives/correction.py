"""Importance weights that correct for sampling with an engine whose log-probs are not the trained policy's.

The rollout engine's log-probs differ from the trainer's by its kernels, its precision and the age of its weights. The
importance weight exp(old - rollout) is fixed when the completions are made, has no gradient and multiplies the policy
part of the loss alone, as in TRL (ms-swift lets it multiply the KL penalty too).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from .differences import difference

LEVELS = ("token", "sequence")
WAYS = ("truncate", "mask")


@dataclass
class Correction:
    """Settings: weight the loss by old / rollout probability, kept within bounds.

    Args:
        level: "token", a weight per token, or "sequence", the product over a completion's tokens.
        how: "truncate" clamps a weight to [floor, cap]; "mask" makes it 0 outside.
        cap, floor: the bounds; 0 <= floor < cap. TRL's cap is 3, ms-swift's 2.
    """

    level: str = "token"
    how: str = "truncate"
    cap: float = 2.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        """InputError for a level or `how` that is not known, or where 0 <= floor < cap does not hold."""
        _check_known("level", self.level, LEVELS)
        _check_known("how", self.how, WAYS)
        if not 0 <= self.floor < self.cap:
            raise InputError(f"correction: 0 <= floor < cap is needed; got floor {self.floor}, cap {self.cap}")


def importance(
    old: Tensor, rollout: Tensor, mask: Tensor, *, level: str, how: str, cap: float, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(weight, raw): old / rollout probability within its bounds, and before they apply; neither has a gradient.

    old, rollout: [N, C] log-probs; mask: [N, C]; the other arguments as in `Correction`. The results are [N, C] for
    level "token", where the raw weight is 1 outside the mask, and [N, 1] for "sequence": the product over the tokens,
    not their geometric mean, and 1 for a completion without tokens. A token whose log-prob is not finite on either side
    is treated as masked. InputError for an unknown level or `how`.
    """
    _check_known("level", level, LEVELS)
    _check_known("how", how, WAYS)
    gap, _ = difference(old.detach(), rollout.detach(), mask)
    raw = (gap.sum(-1, keepdim=True) if level == "sequence" else gap).exp()
    if how == "truncate":
        return raw.clamp(floor, cap), raw
    # Not a product with 0: a long completion's raw weight may be inf.
    return torch.where((raw >= floor) & (raw <= cap), raw, torch.zeros_like(raw)), raw


def _check_known(what: str, got: str, known: tuple[str, ...]) -> None:
    """InputError where `got` is none of the known values of `what`."""
    if got not in known:
        raise InputError(f"correction: no {what} {got!r}; there are {', '.join(known)}")
