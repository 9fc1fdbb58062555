"""Estimates of the KL divergence of the policy from a reference, token by token, in nats.

With d = log policy - log reference of a token that the policy drew (Schulman 2020, "Approximating KL divergence"):

    name   value               unbiased value       gradient by the log-prob     expected gradient, on-policy
    k1     d                   yes                  1                            0: as a penalty it does nothing
    k2     d^2 / 2             no                   d                            of KL(policy || reference)
    k3     exp(-d) + d - 1     yes, and never < 0   1 - exp(-d)                  of KL(reference || policy)
    k3+    that of k3          yes                  d, that of k2                of KL(policy || reference)

k3 is differentiated as written, as by the paper's trainer, ms-swift and TRL; k3+ is verl's. `ratio` multiplies an
estimate by the importance ratio with its gradient (TRL's use_bias_correction_kl): the value is then that of samples
from the present policy, and on-policy k3 has the gradient d. Nothing is clamped (ms-swift clamps d and k3).

An estimator of your own is a function like `k1` to `k3`, named by its import path (`kl: my_lab.kl.mine`):

    def mine(logprob, reference):       # [N, C] log-probs of the drawn tokens, in nats, the first with a gradient
        return (logprob - reference).abs()     # [N, C], one estimate per token from that token alone

Masked tokens reach it with both log-probs 0, and what it returns for them is dropped. Its derivative must be finite
where the two are equal, which they are on masked tokens and before the first step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...configs.plugins import Guarded, function_named
from ...errors import InputError
from .differences import difference


def k1(logprob: Tensor, reference: Tensor) -> Tensor:
    """The log ratio d itself: unbiased, of either sign, and without an expected gradient."""
    return logprob - reference


def k2(logprob: Tensor, reference: Tensor) -> Tensor:
    """d^2 / 2: biased by terms of third order, with the gradient d."""
    return (logprob - reference).square() / 2


def k3(logprob: Tensor, reference: Tensor) -> Tensor:
    """exp(-d) + d - 1: unbiased, never negative, with the gradient 1 - exp(-d); the paper's."""
    return torch.expm1(reference - logprob) + (logprob - reference)


def k3_plus(logprob: Tensor, reference: Tensor) -> Tensor:
    """k3's value with k2's gradient: both unbiased for KL(policy || reference) on-policy."""
    slope = k2(logprob, reference)
    return k3(logprob, reference).detach() + (slope - slope.detach())


Estimator = Callable[[Tensor, Tensor], Tensor]

ESTIMATORS: dict[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3, "k3+": k3_plus}


def kl_named(name: str, where: str = "kl") -> Estimator:
    """The estimator of that name in ESTIMATORS, or the user's function at that import path.

    where: the key of the configuration, for messages. InputError where there is neither.
    """
    function = function_named(name, ESTIMATORS, where)
    return function if name in ESTIMATORS else Guarded(function, name, where, "logprob, reference")


def kl(
    logprob: Tensor, reference: Tensor, mask: Tensor, *, estimator: str = "k3", ratio: Tensor | None = None
) -> Tensor:
    """[N, C] estimate of KL(policy || reference) per token, in nats; 0 outside the mask.

    logprob, reference, mask: [N, C]. ratio: [N, C] or [N, 1], policy over old policy, differentiable; None: no bias
    correction. A token whose log-prob is not finite under either policy is treated as masked. InputError for an
    estimator that cannot be found (see `kl_named`) or that does not return one estimate per token.
    """
    counts = difference(logprob, reference, mask)[1]
    zero = torch.zeros_like(logprob)
    estimate = kl_named(estimator)(torch.where(counts, logprob, zero), torch.where(counts, reference, zero))
    if not isinstance(estimate, Tensor) or estimate.shape != logprob.shape:
        # A mean over tokens would broadcast into a loss without complaint.
        got = f"shape {list(estimate.shape)}" if isinstance(estimate, Tensor) else type(estimate).__name__
        raise InputError(f"kl {estimator!r}: one estimate per token is needed, shape {list(logprob.shape)}; got {got}")
    if ratio is not None:
        estimate = estimate * torch.where(counts, ratio, torch.zeros_like(ratio))
    return torch.where(counts, estimate, zero)
