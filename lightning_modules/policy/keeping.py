"""What a decoder layer keeps for the backward pass: each number once, and nothing that is cheap to make again.

Norms, the gate of the MLP and rotary embeddings are functions of few tensors, but autograd keeps what lies between
their steps. Here they keep what enters them; and what linear layers read from them is made anew when its gradient
needs it. The numbers are transformers'.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def keep_little(decoder: Any) -> None:
    """Has the layers of transformers' text model keep little; layers whose parts are not known stay as they are."""
    norms = [decoder.norm]
    for layer in decoder.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
        known = all(hasattr(layer.mlp, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn"))
        if known and type(layer.mlp.act_fn).__name__ in ("SiLU", "SiLUActivation"):
            layer.mlp.forward = _Gating(layer.mlp)
    for norm in norms:
        if type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon"):
            norm.forward = _Norming(norm)


@contextmanager
def read_from_norm(states: Tensor) -> Iterator[None]:
    """Inside, layers that read what a norm made keep nothing of it; it is made anew from what the norm keeps."""
    kept = states.grad_fn
    if not isinstance(kept, _Norm._backward_cls):
        yield
        return
    with _made_again(states, lambda: _Norm.again(kept)):
        yield


@contextmanager
def whole_layers() -> Iterator[None]:
    """Inside, in this thread, nothing is made anew piece by piece: a whole layer is; hooks would keep its pieces."""
    before = getattr(_LOCAL, "whole", False)
    _LOCAL.whole = True
    try:
        yield
    finally:
        _LOCAL.whole = before


def rotated(states: Tensor, rotary: Any) -> Tensor:
    """Queries or keys [N, heads, L, width] turned by their positions, which are the same along all three axes."""
    cos, sin = (part[0][:, None] if part.ndim == 4 else part[:, None] for part in rotary)
    if not torch.is_grad_enabled():
        return _turn(states, cos, sin)
    turned: Tensor = _Turn.apply(states, cos, sin)
    return turned


class _Norming:
    """A norm's `forward`; its module is kept in a tuple, since a module must not contain itself."""

    def __init__(self, norm: Any) -> None:
        self.norm = (norm,)

    def __call__(self, hidden_states: Tensor) -> Tensor:
        (norm,) = self.norm
        if not torch.is_grad_enabled():
            return _norm(hidden_states, norm.weight, norm.variance_epsilon)[0]
        out: Tensor = _Norm.apply(hidden_states, norm.weight, norm.variance_epsilon)
        return out


class _Gating:
    """An MLP's `forward`, as `_Norming`."""

    def __init__(self, mlp: Any) -> None:
        self.mlp = (mlp,)

    def __call__(self, hidden_state: Tensor) -> Any:
        (mlp,) = self.mlp
        if not torch.is_grad_enabled():
            return mlp.down_proj(_gate(mlp.gate_proj(hidden_state), mlp.up_proj(hidden_state)))
        with read_from_norm(hidden_state):
            gate, up = mlp.gate_proj(hidden_state), mlp.up_proj(hidden_state)
        product = _Gate.apply(gate, up)
        gate, up = gate.detach(), up.detach()
        with _made_again(product, lambda: _gate(gate, up)):
            return mlp.down_proj(product)


class _Again:
    """Hooks for saved tensors: instead of one certain tensor they keep how it is made."""

    def __init__(self, tensor: Tensor, make: Callable[[], Tensor]) -> None:
        self._storage, self._size, self._make = tensor.untyped_storage()._cdata, tensor.numel(), make
        self._dtype = tensor.dtype
        self._left = 0
        self._made: Tensor | None = None

    def pack(self, tensor: Tensor) -> Any:
        """What is kept for a tensor: the shape, where it is the one or a view of all of it in its order."""
        same = tensor.untyped_storage()._cdata == self._storage and tensor.numel() == self._size
        if not same or tensor.dtype != self._dtype or not tensor.is_contiguous():
            return tensor
        self._left += 1
        return tensor.shape

    def unpack(self, kept: Any) -> Tensor:
        """The tensor; made once for all that kept it."""
        if isinstance(kept, Tensor):
            return kept
        made = self._make() if self._made is None else self._made
        self._left -= 1
        self._made = made if self._left > 0 else None
        return made.view(kept)


_LOCAL = threading.local()


@contextmanager
def _made_again(tensor: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, whatever wants to keep this tensor for its backward pass keeps `make` instead."""
    if getattr(_LOCAL, "whole", False) or not tensor.requires_grad:
        yield
        return
    again = _Again(tensor, make)
    with torch.autograd.graph.saved_tensors_hooks(again.pack, again.unpack):
        yield


def _norm(states: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The states over their root mean square, times the weight; and one over it [..., 1], in float32."""
    wide = states.to(torch.float32)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(states.dtype), scale


def _gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) x up."""
    return nn.functional.silu(gate).mul_(up)


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """states x cos + (states turned by a quarter) x sin."""
    first, second = states.chunk(2, -1)
    return (states * cos).add_(torch.cat([-second, first], -1).mul_(sin))


class _Norm(torch.autograd.Function):
    """weight x (states / root mean square), in float32 but for the weight; keeps the states and one number of each."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """states: [..., H]. weight: [H]."""
        out, scale = _norm(states, weight, epsilon)
        ctx.save_for_backward(states, weight, scale)
        ctx.unpacked = None
        return out

    @staticmethod
    def _unpacked(ctx: Any) -> Any:
        """What was saved: asked for once in a backward pass, as hooks around may need it."""
        return ctx.saved_tensors if ctx.unpacked is None else ctx.unpacked

    @staticmethod
    def again(ctx: Any) -> Tensor:
        """What `forward` returned."""
        ctx.unpacked = states, weight, scale = _Norm._unpacked(ctx)
        made: Tensor = weight.detach() * (states.detach().to(torch.float32) * scale).to(states.dtype)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of states and weight."""
        states, weight, scale = _Norm._unpacked(ctx)
        ctx.unpacked = None
        unit = states.to(torch.float32) * scale
        to_weight = to_states = None
        if ctx.needs_input_grad[1]:
            to_weight = (grad * unit.to(states.dtype)).flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            inward = (grad * weight).to(torch.float32)
            along = (inward * unit).mean(-1, keepdim=True)
            to_states = inward.sub_(unit.mul_(along)).mul_(scale).to(states.dtype)
        return to_states, to_weight, None


class _Gate(torch.autograd.Function):
    """silu(gate) x up; keeps gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up: of one shape."""
        ctx.save_for_backward(gate, up)
        return _gate(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of gate and up."""
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), nn.functional.silu(gate).mul_(grad)


class _Turn(torch.autograd.Function):
    """states x cos + (states turned by a quarter) x sin; keeps cosines and sines."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """states: [N, heads, L, width]. cos, sin: [N, 1, L, width]."""
        ctx.save_for_backward(cos, sin)
        return _turn(states, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the states: turned back."""
        cos, sin = ctx.saved_tensors
        first, second = (grad * sin).chunk(2, -1)
        return (grad * cos).add_(torch.cat([second, -first], -1)), None, None
