"""The autograd functions around the numerators: what is kept for the backward pass, and what is made again.

N rows of hidden states are worked through in chunks, so that the numerators of one chunk are all that is held of the
vocabulary's size. In every backward pass the gradients for arguments that are no tensors are None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .numerators import (
    Backend,
    NumeratorOptions,
    Numerators,
    add_to_head,
    entropy_numerators,
    slopes,
    times_weight,
    wide,
)


class Setup(NamedTuple):
    """What forward and backward passes share: the backend, the rows per chunk, and the numerators' options."""

    backend: Backend
    chunk: int
    temperature: float
    exclude: Tensor | None
    entropy: bool

    def numerators(self, rows: Tensor, weight: Tensor, targets: Tensor, keep: bool, start: int) -> Numerators:
        """The numerators of the chunk that begins at row `start`; keep: also e, not only the statistics."""
        part = slice(start, start + self.chunk)
        options = NumeratorOptions(self.temperature, self.exclude, self.entropy, keep)
        return self.backend(rows[part], weight, targets[part], options)


def _collect(parts: list[Tensor], like: Tensor) -> Tensor:
    """The chunks' statistics end to end; [0] in the wide type of `like` where there is no chunk."""
    return torch.cat(parts) if parts else like.new_zeros(0, dtype=wide(like.dtype))


class Frozen(torch.autograd.Function):
    """Log-probs, entropies and lse [N] over a frozen head: d logprob / d rows [N, H] is formed here and saved.

    Nothing of the vocabulary's size is kept or made again. Without the option entropy, entropies are [0].
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, setup: Setup, _entropy_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """rows: [N, H]. weight: [V, H]. targets: [N]."""
        wanted = ctx.needs_input_grad[0]
        logprobs, entropies, lses, kept = [], [], [], []
        for start in range(0, len(rows), setup.chunk):
            numerators = setup.numerators(rows, weight, targets, wanted, start)
            logprobs.append(numerators.logprob)
            lses.append(numerators.lse)
            if numerators.entropy is not None:
                entropies.append(numerators.entropy)
            if wanted:
                part = slice(start, start + setup.chunk)
                kept.append(slopes(rows[part], weight, targets[part], numerators, setup.temperature))
        ctx.save_for_backward(torch.cat(kept) if kept else rows.new_zeros(rows.shape if wanted else 0))
        entropy, lse = _collect(entropies, rows), _collect(lses, rows)
        ctx.mark_non_differentiable(entropy, lse)
        return _collect(logprobs, rows), entropy, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor, _grad_entropy: Tensor, _grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the rows [N, H]."""
        (slope,) = ctx.saved_tensors
        return (grad_logprob[:, None] * slope).to(slope.dtype), None, None, None, None


class Recompute(torch.autograd.Function):
    """As Frozen, for any loss on top of a trainable head, and entropies with a gradient.

    The numerators are made again in the backward pass, chunk by chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, setup: Setup, entropy_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in Frozen. entropy_grad: whether the entropies have a gradient."""
        logprobs, entropies, lses = [], [], []
        for start in range(0, len(rows), setup.chunk):
            numerators = setup.numerators(rows, weight, targets, False, start)
            logprobs.append(numerators.logprob)
            lses.append(numerators.lse)
            if numerators.entropy is not None:
                entropies.append(numerators.entropy)
        ctx.setup, ctx.entropy_grad = setup, entropy_grad
        ctx.save_for_backward(rows, weight, targets)
        entropy, lse = _collect(entropies, rows), _collect(lses, rows)
        ctx.mark_non_differentiable(*((lse,) if entropy_grad else (entropy, lse)))
        return _collect(logprobs, rows), entropy, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor, grad_entropy: Tensor, _grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the rows [N, H] and of the head [V, H]."""
        rows, weight, targets = ctx.saved_tensors
        setup, dtype = ctx.setup, wide(rows.dtype)
        with torch.autocast(rows.device.type, enabled=False):
            to_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
            to_head = weight.new_zeros(weight.shape, dtype=dtype) if ctx.needs_input_grad[1] else None
            for start in range(0, len(rows), setup.chunk):
                part = slice(start, start + setup.chunk)
                numerators = setup.numerators(rows, weight, targets, True, start)
                gain = grad_logprob[part].to(dtype)
                if to_rows is not None:
                    to_rows[part] = (
                        slopes(rows[part], weight, targets[part], numerators, setup.temperature) * gain[:, None]
                    )
                if to_head is not None:
                    add_to_head(to_head, rows[part], targets[part], numerators, gain, setup.temperature)
                if ctx.entropy_grad:
                    slope = entropy_numerators(numerators, targets[part])
                    slope.mul_((-grad_entropy[part].to(dtype) / setup.temperature)[:, None])
                    if to_rows is not None:
                        to_rows[part] += times_weight(slope, weight).to(rows.dtype)
                    if to_head is not None:
                        to_head.addmm_(slope.T, rows[part].to(dtype))
        return to_rows, None if to_head is None else to_head.to(weight.dtype), None, None, None


class SinglePass(torch.autograd.Function):
    """A sum of losses of single tokens, and their log-probs [N]: gradients are formed while the numerators are there.

    The backward pass only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        setup: Setup,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        tokens: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """loss_of: (log-probs [C], tokens [C]) -> losses [C]. tokens: [N] what it is given for each row."""
        dtype = wide(rows.dtype)
        on_rows, on_head = ctx.needs_input_grad[:2]
        to_rows = torch.empty_like(rows) if on_rows else None
        to_head = weight.new_zeros(weight.shape, dtype=dtype) if on_head else None
        total, logprobs = rows.new_zeros((), dtype=dtype), []
        for start in range(0, len(rows), setup.chunk):
            part = slice(start, start + setup.chunk)
            numerators = setup.numerators(rows, weight, targets, on_rows or on_head, start)
            logprobs.append(numerators.logprob)
            with torch.enable_grad():
                at = numerators.logprob.detach().requires_grad_()
                loss = loss_of(at, tokens[part]).sum()
            total += loss.detach()
            if not (on_rows or on_head):
                continue
            (gain,) = torch.autograd.grad(loss, at)
            if to_rows is not None:
                to_rows[part] = slopes(rows[part], weight, targets[part], numerators, setup.temperature) * gain[:, None]
            if to_head is not None:
                add_to_head(to_head, rows[part], targets[part], numerators, gain, setup.temperature)
        logprob = _collect(logprobs, rows)
        ctx.save_for_backward(*(t for t in (to_rows, to_head) if t is not None))
        ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(logprob)
        return total, logprob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _grad_logprob: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the rows [N, H] and of the head [V, H]."""
        saved = list(ctx.saved_tensors)
        scale = float(grad_loss)
        scaled = [part if scale == 1.0 else part * scale for part in saved]  # the head's is too large to copy for 1
        to_rows = scaled.pop(0) if ctx.needs_input_grad[0] else None
        to_head = scaled.pop(0).to(ctx.dtype) if ctx.needs_input_grad[1] else None
        return to_rows, to_head, None, None, None, None
