"""Log-probs of tokens, and sums of losses of single tokens, with ignored tokens dropped and everything checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backends import choose
from .functions import Frozen, Recompute, Setup, SinglePass, without_autocast
from .numerators import wide

_FEW = 200  # kept tokens whose rows of the head are looked up; of more, the whole vocabulary is masked


class TokenLoss(NamedTuple):
    """The sum of a loss of single tokens, a scalar; without a gradient, of the targets' shape, log-probs and entropies.

    entropy: None where it was not asked for.
    """

    loss: Tensor
    logprob: Tensor
    entropy: Tensor | None


class LogProbOutput(NamedTuple):
    """Float32 (float64 for float64 input) tensors of the targets' shape; 0 where the target is ignored."""

    logprob: Tensor
    entropy: Tensor | None
    lse: Tensor | None = None


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    exclude: Tensor | None = None,
    support: Tensor | None = None,
    return_entropy: bool = False,
    entropy_grad: bool = False,
    return_lse: bool = False,
    backend: str = "auto",
    max_workspace_bytes: int | None = None,
    validate_targets: bool = True,
    places: Tensor | None = None,
) -> LogProbOutput:
    """Log-probability of each target token.

    Args:
        hidden: [..., H] final hidden states. weight: [V, H] lm_head, same dtype. targets: [...] integers.
        temperature: divides the logits; positive and finite.
        ignore_index: targets of this value get log-prob 0, entropy 0 and an exactly zero gradient.
        exclude: [E] token ids whose probability is 0, as in a sampler that suppresses them.
        support: [..., K] token ids that a truncating sampler (top-k, top-p) kept, padded with -1: probabilities are
            renormalised over them, so that importance ratios agree with it. Every target must be among its ids. Up to
            200 of them are looked up in the head, for more the whole vocabulary is masked.
        return_entropy: also the entropy in nats of the same distribution; `entropy_grad` makes it differentiable.
        return_lse: also the log of the sum of exponentials of the logits over the temperature, without a gradient.
        backend: "auto", "torch", "triton_rows" or "triton_fused".
        max_workspace_bytes: bound on the logits held at a time; sets the chunk length. See `backends.workspace`.
        validate_targets: check that targets are token ids; costs a synchronisation on GPUs. Unchecked, a target
            outside the vocabulary gives NaN, an excluded one -inf, never another number.
        places: [K] int64 where the flattened targets are not ignored, if that is known: finding out costs another one.

    Raises ValueError for wrong shapes, a bad temperature, and targets outside the vocabulary, excluded from it or
    outside their support; TypeError for a head that is not a plain tensor or of another dtype.
    """
    tokens = _kept(hidden, weight, targets, temperature, ignore_index, places)
    if validate_targets:
        _check_targets(tokens, len(weight), ignore_index, exclude)
    want_entropy = return_entropy or entropy_grad
    with without_autocast(hidden.device):
        sets = None if support is None else _sets_of(tokens, support.reshape(targets.numel(), -1), validate_targets)
        if sets is not None and (sets.shape[1] <= _FEW or entropy_grad):
            logprob, entropy, lse = _over_support(tokens.rows, weight, tokens.wanted, sets, temperature)
        else:
            wide_backend = backend if sets is None else "torch"
            make, chunk = choose(wide_backend, tokens.rows, weight, max_workspace_bytes)
            setup = Setup(make, chunk, temperature, exclude if sets is None else None, want_entropy, sets)
            safe = tokens.wanted if validate_targets else tokens.wanted.where(tokens.inside, 0)
            function = Recompute if weight.requires_grad or entropy_grad else Frozen
            logprob, entropy, lse = function.apply(tokens.rows, weight, safe, setup, entropy_grad)  # type: ignore[no-untyped-call]
    if not validate_targets:
        logprob = logprob.where(tokens.inside, torch.nan)
    return LogProbOutput(
        _put_back(logprob, tokens.place, targets),
        _put_back(entropy, tokens.place, targets) if want_entropy else None,
        _put_back(lse, tokens.place, targets) if return_lse else None,
    )


def linear_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    exclude: Tensor | None = None,
    return_entropy: bool = False,
    backend: str = "auto",
    max_workspace_bytes: int | None = None,
    validate_targets: bool = True,
    places: Tensor | None = None,
) -> TokenLoss:
    """The sum of a loss of single tokens in one pass; a trainable head costs 6NHV.

    loss_of(logprob [C], tokens [C]) -> [C] or their sum: losses of the tokens at these places of the flattened targets;
    its derivative is taken by autograd while the chunk's numerators are there. It must not couple tokens. The head's
    gradient is made once and handed over, so one backward pass is all there is. Arguments and errors are those of
    `linear_logprob`.
    """
    tokens = _kept(hidden, weight, targets, temperature, ignore_index, places)
    if validate_targets:
        _check_targets(tokens, len(weight), ignore_index, exclude)
    with without_autocast(hidden.device):
        make, chunk = choose(backend, tokens.rows, weight, max_workspace_bytes)
        setup = Setup(make, chunk, temperature, exclude, return_entropy)
        safe = tokens.wanted if validate_targets else tokens.wanted.where(tokens.inside, 0)
        arguments = (tokens.rows, weight, safe, setup, loss_of, tokens.place)
        loss, logprob, entropy = SinglePass.apply(*arguments)  # type: ignore[no-untyped-call]
    if not validate_targets:
        loss, logprob = loss.where(tokens.inside.all(), torch.nan), logprob.where(tokens.inside, torch.nan)
    seen = _put_back(entropy, tokens.place, targets) if return_entropy else None
    return TokenLoss(loss, _put_back(logprob, tokens.place, targets), seen)


class _Tokens(NamedTuple):
    """The K tokens that are not ignored.

    rows: [K, H] states. wanted: [K] targets. inside: [K] whether they are token ids. place: [K] in the flat targets.
    """

    rows: Tensor
    wanted: Tensor
    inside: Tensor
    place: Tensor


def _kept(
    hidden: Tensor, weight: Any, targets: Tensor, temperature: float, ignore_index: int, place: Tensor | None
) -> _Tokens:
    """The tokens that are not ignored; TypeError or ValueError where the arguments cannot be computed with."""
    hidden = _checked(hidden, weight, targets, temperature)
    flat = targets.reshape(-1)
    if place is None:
        place = (flat != ignore_index).nonzero().squeeze(1)
    wanted = flat[place].long()
    rows = hidden.reshape(-1, hidden.shape[-1])[place]
    return _Tokens(rows, wanted, (wanted >= 0) & (wanted < len(weight)), place)


def _put_back(part: Tensor, kept: Tensor, targets: Tensor) -> Tensor:
    """[...] in the shape of targets: the kept tokens' values [K] in their places, 0 elsewhere."""
    return part.new_zeros(targets.numel()).index_copy(0, kept, part).reshape(targets.shape)


def _checked(hidden: Tensor, weight: Any, targets: Tensor, temperature: float) -> Tensor:
    """hidden, cast to the head's type under autocast; TypeError or ValueError where the arguments do not fit."""
    if type(weight) not in (Tensor, torch.nn.Parameter):
        raise TypeError(f"weight must be a plain tensor, got {type(weight).__name__}; {_advice(weight)}")
    kind = hidden.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        hidden = hidden.to(weight.dtype)
    if hidden.dtype != weight.dtype:
        raise TypeError(f"hidden is {hidden.dtype} and weight {weight.dtype}; they must agree")
    if targets.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"targets must be int64 or int32, got {targets.dtype}")
    if weight.ndim != 2 or hidden.shape[-1:] != weight.shape[1:] or hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"shapes must be hidden [..., H], weight [V, H], targets [...]; got {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)}, {tuple(targets.shape)}"
        )
    if isinstance(temperature, bool) or not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return hidden


def _advice(weight: Any) -> str:
    """How to get a plain tensor out of what was given as the head."""
    if hasattr(weight, "base_layer"):
        return "the lm_head is wrapped by an adapter, which would be lost; merge it, or leave the lm_head out of it"
    if hasattr(weight, "full_tensor"):
        return "gather it with .full_tensor() first"
    return "gather or unwrap the lm_head" + (" and pass its .weight" if hasattr(weight, "weight") else "")


def _check_targets(tokens: _Tokens, size: int, ignore_index: int, exclude: Tensor | None) -> None:
    """Raises ValueError for targets outside the vocabulary of `size` tokens, or excluded from it."""
    if not tokens.inside.all():
        raise ValueError(f"targets must lie in [0, {size}) or be {ignore_index}")
    if exclude is not None and torch.isin(tokens.wanted, exclude).any():
        raise ValueError("a target is among the excluded token ids; its probability is 0")


def _sets_of(tokens: _Tokens, support: Tensor, validate: bool) -> Tensor:
    """[K, ids] what was kept of the tokens' [N, ids]; ValueError where a target is not among its own, if asked."""
    sets = support[tokens.place]
    if validate and not (sets == tokens.wanted[:, None]).any(1).all():
        raise ValueError("a target is not in its support; a truncating sampler cannot have drawn it")
    return sets


def _over_support(
    rows: Tensor, weight: Tensor, targets: Tensor, support: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob, entropy and lse [N] over each row's ids in support [N, K]; K is small, so plain autograd serves."""
    valid = support >= 0
    scores, step = [], max(1, (1 << 24) // max(1, support.shape[1] * rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        words = torch.nn.functional.embedding(support[part].clamp(min=0), weight).to(wide(rows.dtype))
        scores.append((words * rows[part, None].to(wide(rows.dtype))).sum(-1) / temperature)
    z = torch.cat(scores) if scores else rows.new_zeros(support.shape, dtype=wide(rows.dtype)) + 0 * weight.sum()
    z = z.masked_fill(~valid, -torch.inf)
    logp = torch.log_softmax(z, -1)
    at = (support == targets[:, None]).to(torch.int64).argmax(1, keepdim=True)
    finite = logp.masked_fill(~valid, 0.0)
    entropy = -(finite.exp() * finite).masked_fill(~valid, 0.0).sum(-1)
    return logp.gather(1, at).squeeze(1), entropy, torch.logsumexp(z, -1).detach()
