"""Weights that train are stored in float32 and computed with in 16 bits; frozen ones have the computation's type.

Bfloat16 weights of 0.02 lie 1e-4 apart: optimizer steps of 1e-6 are rounded away. A module whose weights train shows,
under their names, copies in the type of the computation; `parameters()`, `state_dict()`, gradients and optimizer have
the float32 weights. That is what FSDP2's mixed precision does: where it has gathered a weight in the type of the
computation, or holds a shard of it, the weight itself is shown.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

_KEPT = "_computed_in"  # the attribute of a module that holds its Copies


class _Round(torch.autograd.Function):
    """The copy of a weight, with the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copies: list[Tensor]) -> Tensor:
        """The copy; it comes in a list, because it is not differentiated."""
        ctx.dtype = weight.dtype
        return copies[0].detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient in the weight's type, in which those of all uses and micro-batches are summed."""
        return grads[0].to(ctx.dtype), None


class Copies:
    """The copies of one module's weights in the type `dtype`, made anew when an optimizer step changed the weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._kept: dict[str, tuple[int, Tensor]] = {}

    def __deepcopy__(self, _: Any) -> Copies:
        return Copies(self.dtype)

    def forget(self) -> None:
        """Has every copy made anew at its next use."""
        self._kept = {}

    def of(self, name: str, weight: Tensor) -> Tensor:
        """What the module computes with in place of a weight of its own."""
        if weight.dtype == self.dtype or hasattr(weight, "full_tensor"):
            return weight
        version, copy = self._kept.get(name, (-1, weight))
        if version != weight._version or copy.device != weight.device:
            with torch.inference_mode(False), torch.no_grad():
                copy = weight.detach().to(self.dtype)
            self._kept[name] = weight._version, copy
        rounded: Tensor = _Round.apply(weight, [copy]) if torch.is_grad_enabled() else copy
        return rounded


def compute_in(policy: nn.Module, dtype: torch.dtype, training: bool = True, convert: bool = True) -> None:
    """Has a policy compute in `dtype`: its frozen weights have this type, those that train at least float32.

    training: False stores all weights in `dtype`, unless the policy has trained before. Buffers stay as they are.
    convert: False leaves the weights as they are, to be converted when they are sharded.
    Repeated calls, also with another type, lose nothing of the weights that train.
    """
    training = training or getattr(policy, "has_trained", False)
    policy.has_trained = training  # type: ignore[assignment]
    policy.compute_dtype = dtype  # type: ignore[assignment]
    stored = torch.promote_types(dtype, torch.float32)
    for module in policy.modules():
        weights = {name: p for name, p in module._parameters.items() if p is not None and p.is_floating_point()}
        trained = tuple(name for name, p in weights.items() if p.requires_grad and training)
        for name, weight in weights.items() if convert else ():
            weight.data = weight.data.to(stored if name in trained else dtype)
        if trained and stored != dtype:
            module.__class__ = _showing_copies(_plain(type(module)), trained)
            setattr(module, _KEPT, Copies(dtype))
        elif hasattr(module, _KEPT):
            delattr(module, _KEPT)
            module.__class__ = _plain(type(module))


def forget_copies(policy: nn.Module) -> None:
    """To be called when weights changed: optimizers may write to them without autograd's knowledge."""
    for module in policy.modules():
        if hasattr(module, _KEPT):
            getattr(module, _KEPT).forget()


@cache
def _showing_copies(kind: type, names: tuple[str, ...]) -> type:
    """The class with a property for each of these weights, under the name it had."""
    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_plain": kind}
    return type(kind.__name__, (kind,), own | {name: property(partial(_shown, name=name)) for name in names})


def _shown(module: nn.Module, name: str) -> Tensor:
    """What a module computes with under the name of one of its weights."""
    copies: Copies = getattr(module, _KEPT)
    weight = module._parameters[name]
    assert weight is not None
    return copies.of(name, weight)


def _plain(kind: type) -> type:
    """The class of a module as it was before `_showing_copies`."""
    plain: type = kind.__dict__.get("_plain", kind)
    return plain
