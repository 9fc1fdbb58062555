"""The autograd functions around the numerators: what is kept for the backward pass, and what is made again.

N rows of hidden states are worked through in chunks, so that the numerators of one chunk are all that is held of the
vocabulary's size. In every backward pass the gradients for arguments that are no tensors are None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
    torch_numerators,
    wide,
)


class Setup(NamedTuple):
    """What forward and backward passes share: the backend, the rows per chunk, and the numerators' options.

    support: [N, K] of all rows, None where every token has a probability.
    """

    backend: Backend
    chunk: int
    temperature: float
    exclude: Tensor | None
    entropy: bool
    support: Tensor | None = None

    def chunks(self, rows: Tensor, weight: Tensor, targets: Tensor, keep: bool) -> Iterator[tuple[slice, Numerators]]:
        """Chunk by chunk which rows [N, H] it has and their numerators; keep: also e, not only the statistics.

        The next chunk's may lie where the last one's were: whoever is done with them lets go of them.
        """
        out = None
        if self.backend is torch_numerators and not rows.is_cuda and len(rows) > self.chunk:
            out = rows.new_empty(self.chunk, len(weight), dtype=wide(rows.dtype))
        for start in range(0, len(rows), self.chunk):
            part = slice(start, start + self.chunk)
            support = None if self.support is None else self.support[part]
            options = NumeratorOptions(self.temperature, self.exclude, self.entropy, keep, support, out)
            yield part, self.backend(rows[part], weight, targets[part], options)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, nothing is cast on the device; where it knows no autocast, nothing is."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


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
        for part, numerators in setup.chunks(rows, weight, targets, wanted):
            logprobs.append(numerators.logprob)
            lses.append(numerators.lse)
            if numerators.entropy is not None:
                entropies.append(numerators.entropy)
            if wanted:
                kept.append(slopes(rows[part], weight, targets[part], numerators, setup.temperature))
            del numerators
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
        for _, numerators in setup.chunks(rows, weight, targets, False):
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
        with without_autocast(rows.device):
            to_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
            to_head = _head_gradient(weight, len(rows)) if ctx.needs_input_grad[1] else None
            for part, numerators in setup.chunks(rows, weight, targets, True):
                gain = grad_logprob[part].to(dtype)
                if to_rows is not None:
                    to_rows[part] = (
                        slopes(rows[part], weight, targets[part], numerators, setup.temperature) * gain[:, None]
                    )
                if to_head is not None:
                    temperature, fresh = setup.temperature, part.start == 0
                    add_to_head(to_head, rows[part], targets[part], numerators, gain, temperature, fresh)
                if ctx.entropy_grad:
                    slope = entropy_numerators(numerators, targets[part])
                    slope.mul_((-grad_entropy[part].to(dtype) / setup.temperature)[:, None])
                    if to_rows is not None:
                        to_rows[part] += times_weight(slope, weight).to(rows.dtype)
                    if to_head is not None:
                        to_head.addmm_(slope.T, rows[part].to(dtype))
                    del slope
                del numerators
        return to_rows, None if to_head is None else to_head.to(weight.dtype), None, None, None


class SinglePass(torch.autograd.Function):
    """A sum of losses of single tokens, their log-probs [N] and entropies [N] ([0] without the option entropy).

    Gradients are formed while the numerators are there; the backward pass scales them in place and gives them away.
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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """loss_of: (log-probs [C], tokens [C]) -> losses [C]. tokens: [N] what it is given for each row."""
        on_rows, on_head = ctx.needs_input_grad[:2]
        to_rows = torch.empty_like(rows) if on_rows else None
        to_head = _head_gradient(weight, len(rows)) if on_head else None
        total, logprobs, entropies = rows.new_zeros((), dtype=wide(rows.dtype)), [], []
        for part, numerators in setup.chunks(rows, weight, targets, on_rows or on_head):
            logprobs.append(numerators.logprob)
            if numerators.entropy is not None:
                entropies.append(numerators.entropy)
            with torch.enable_grad():
                at = numerators.logprob.detach().requires_grad_()
                loss = loss_of(at, tokens[part]).sum()
            total += loss.detach()
            if not (on_rows or on_head):
                continue
            (gain,) = torch.autograd.grad(loss, at)
            if to_rows is not None:
                slope = slopes(rows[part], weight, targets[part], numerators, setup.temperature)
                torch.mul(slope, gain[:, None].to(slope.dtype), out=to_rows[part])
            if to_head is not None:
                temperature, fresh = setup.temperature, part.start == 0
                add_to_head(to_head, rows[part], targets[part], numerators, gain, temperature, fresh)
            del numerators
        logprob, entropy = _collect(logprobs, rows), _collect(entropies, rows)
        # Not saved as autograd saves tensors: what it holds it has to copy when a weight takes it as its gradient.
        ctx.made, ctx.dtype = [to_rows, to_head], weight.dtype
        ctx.mark_non_differentiable(logprob, entropy)
        return total, logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_rest: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the rows [N, H] and of the head [V, H]; RuntimeError in a second backward pass."""
        if not ctx.made:
            raise RuntimeError("a single-pass loss has one backward pass; its gradients were given away in the first")
        to_rows, to_head = ctx.made
        ctx.made = []
        for part in (to_rows, to_head):
            if part is not None:
                part.mul_(grad_loss)
        return to_rows, None if to_head is None else to_head.to(ctx.dtype), None, None, None, None


def _head_gradient(weight: Tensor, rows: int) -> Tensor:
    """[V, H] in the wide type for the gradient of so many rows; without content where a first chunk will write it."""
    make = torch.empty_like if rows else torch.zeros_like
    return make(weight, dtype=wide(weight.dtype), requires_grad=False, memory_format=torch.contiguous_format)
