"""The autograd functions around the numerators: what is kept for the backward pass, and what is made again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .numerators import (
    Backend,
    Numerators,
    Request,
    add_to_head,
    entropy_numerators,
    slopes,
    times_weight,
    wide,
)


class Setup(NamedTuple):
    """What all passes share: the backend, the rows per chunk, and the options of the numerators."""

    backend: Backend
    chunk: int
    temperature: float
    exclude: Tensor | None
    entropy: bool

    def numerators(self, rows: Tensor, weight: Tensor, targets: Tensor, keep: bool, start: int) -> Numerators:
        """Those of the chunk that begins at row `start`; `keep`: also e, not only the statistics."""
        part = slice(start, start + self.chunk)
        request = Request(self.temperature, self.exclude, self.entropy, keep)
        return self.backend(rows[part], weight, targets[part], request)


def _collect(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(parts) if parts else like.new_zeros(0, dtype=wide(like.dtype))


class Frozen(torch.autograd.Function):
    """Nothing of the vocabulary's size is kept or made again: d logprob / d hidden [N, H] is saved instead."""

    @staticmethod
    def forward(ctx, rows, weight, targets, setup, _entropy_grad):
        wanted = ctx.needs_input_grad[0]
        logprobs, entropies, lses, kept = [], [], [], []
        for start in range(0, len(rows), setup.chunk):
            found = setup.numerators(rows, weight, targets, wanted, start)
            logprobs.append(found.logprob)
            lses.append(found.lse)
            if setup.entropy:
                entropies.append(found.entropy)
            if wanted:
                part = slice(start, start + setup.chunk)
                kept.append(slopes(rows[part], weight, targets[part], found, setup.temperature))
        ctx.save_for_backward(torch.cat(kept) if kept else rows.new_zeros(rows.shape if wanted else 0))
        entropy, lse = _collect(entropies, rows), _collect(lses, rows)
        ctx.mark_non_differentiable(entropy, lse)
        return _collect(logprobs, rows), entropy, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprob, _grad_entropy, _grad_lse):
        (slope,) = ctx.saved_tensors
        return (grad_logprob[:, None] * slope).to(slope.dtype), None, None, None, None


class Recompute(torch.autograd.Function):
    """Any loss on top of a trainable head, and entropies with a gradient: numerators are made again, chunk by chunk."""

    @staticmethod
    def forward(ctx, rows, weight, targets, setup, entropy_grad):
        logprobs, entropies, lses = [], [], []
        for start in range(0, len(rows), setup.chunk):
            found = setup.numerators(rows, weight, targets, False, start)
            logprobs.append(found.logprob)
            lses.append(found.lse)
            if setup.entropy:
                entropies.append(found.entropy)
        ctx.setup, ctx.entropy_grad = setup, entropy_grad
        ctx.save_for_backward(rows, weight, targets)
        entropy, lse = _collect(entropies, rows), _collect(lses, rows)
        ctx.mark_non_differentiable(*((lse,) if entropy_grad else (entropy, lse)))
        return _collect(logprobs, rows), entropy, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprob, grad_entropy, _grad_lse):
        rows, weight, targets = ctx.saved_tensors
        setup, dtype = ctx.setup, wide(rows.dtype)
        with torch.autocast(rows.device.type, enabled=False):
            to_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
            to_head = weight.new_zeros(weight.shape, dtype=dtype) if ctx.needs_input_grad[1] else None
            for start in range(0, len(rows), setup.chunk):
                part = slice(start, start + setup.chunk)
                found = setup.numerators(rows, weight, targets, True, start)
                gain = grad_logprob[part].to(dtype)
                if to_rows is not None:
                    to_rows[part] = slopes(rows[part], weight, targets[part], found, setup.temperature) * gain[:, None]
                if to_head is not None:
                    add_to_head(to_head, rows[part], targets[part], found, gain, setup.temperature)
                if ctx.entropy_grad:
                    slope = entropy_numerators(found, targets[part])
                    slope.mul_((-grad_entropy[part].to(dtype) / setup.temperature)[:, None])
                    if to_rows is not None:
                        to_rows[part] += times_weight(slope, weight).to(rows.dtype)
                    if to_head is not None:
                        to_head.addmm_(slope.T, rows[part].to(dtype))
        return to_rows, None if to_head is None else to_head.to(weight.dtype), None, None, None


class SinglePass(torch.autograd.Function):
    """A loss that is known here: its gradients are formed with the numerators at hand, and scaled in the backward."""

    @staticmethod
    def forward(ctx, rows, weight, targets, setup, loss_of, tokens):
        dtype = wide(rows.dtype)
        on_rows, on_head = ctx.needs_input_grad[:2]
        to_rows = torch.empty_like(rows) if on_rows else None
        to_head = weight.new_zeros(weight.shape, dtype=dtype) if on_head else None
        total, logprobs = rows.new_zeros((), dtype=dtype), []
        for start in range(0, len(rows), setup.chunk):
            part = slice(start, start + setup.chunk)
            found = setup.numerators(rows, weight, targets, on_rows or on_head, start)
            logprobs.append(found.logprob)
            with torch.enable_grad():
                at = found.logprob.detach().requires_grad_()
                loss = loss_of(at, tokens[part]).sum()
            total += loss.detach()
            if not (on_rows or on_head):
                continue
            (gain,) = torch.autograd.grad(loss, at)
            if to_rows is not None:
                to_rows[part] = slopes(rows[part], weight, targets[part], found, setup.temperature) * gain[:, None]
            if to_head is not None:
                add_to_head(to_head, rows[part], targets[part], found, gain, setup.temperature)
        logprob = _collect(logprobs, rows)
        ctx.save_for_backward(*(t for t in (to_rows, to_head) if t is not None))
        ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(logprob)
        return total, logprob

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _grad_logprob):
        saved = list(ctx.saved_tensors)
        scale = float(grad_loss)
        scaled = [part if scale == 1.0 else part * scale for part in saved]  # the head's is too large to copy for 1
        to_rows = scaled.pop(0) if ctx.needs_input_grad[0] else None
        to_head = scaled.pop(0).to(ctx.dtype) if ctx.needs_input_grad[1] else None
        return to_rows, to_head, None, None, None, None
