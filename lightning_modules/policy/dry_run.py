"""A step without memory: floats have a shape and no content, and what would be allocated is counted.

Numbers that decide shapes (ids, masks, lengths) are computed as always; they are small. Floats lie on the meta device.
Attention is that of the fused kernels: it keeps what it read, what it gave, and one number per row.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

_FACTORIES = ("arange", "zeros", "ones", "full", "empty", "scalar_tensor", "tensor")


class Allocated(TorchDispatchMode):
    """Counts the bytes of storages that come to be inside and are still there; peak: the most at a time.

    Works on ordinary tensors, too: that is how a dry run is compared with a real one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what it allocated."""
        out = self.run(func, args, kwargs or {})
        given = {id(t.untyped_storage()) for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), given)
        return out

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation itself."""
        return func(*args, **kwargs)

    def _count(self, storage: Any, given: set[int]) -> None:
        name = id(storage)
        if name in self._alive or name in given:
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            del self._alive[name]

        self._alive[name] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class DryRun(Allocated):
    """Allocated, with floats on the meta device and everything else on the CPU."""

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """On the meta device where a float of it lies there."""
        kwargs = dict(kwargs)
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        on_meta = any(t.is_meta for t in tensors)
        wanted = kwargs.get("device")
        if name == "_to_copy" and wanted is not None and not on_meta:
            kwargs["device"] = torch.device("cpu")
        if any(name.startswith(one) for one in _FACTORIES) and not on_meta and wanted is not None:
            whole = kwargs.get("dtype") not in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
            kwargs["device"] = torch.device("cpu" if whole or kwargs.get("dtype") is None else wanted)
        if not on_meta:
            return func(*args, **kwargs)
        if name in ("index", "index_put", "index_put_"):
            args = (args[0], _numbers(args[1]), *args[2:])
        args, kwargs = tree_map_only(Tensor, _to_meta, (args, kwargs))
        return func(*args, **kwargs)


def _to_meta(tensor: Tensor) -> Tensor:
    return (
        tensor
        if tensor.is_meta
        else torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    )


def _numbers(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Masks as numbers: how many places they choose is known here."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            found += list(index.nonzero(as_tuple=True))
        else:
            found.append(index)
    return found


class _Fused(torch.autograd.Function):
    """Attention as the fused kernels do it: scores are never kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Keeps what the backward pass of the kernels needs; like them, lays heads side by side within a position."""
        batch, heads, length, _ = query.shape
        out = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, rows, bias)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the shapes of what was read."""
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


class _Head(torch.autograd.Function):
    """Log-probs [N] as the kernels make them: numerators of one chunk at a time, a float32 gradient of the head."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, workspace: int) -> Tensor:
        """Keeps rows or, over a frozen head, what becomes their gradient."""
        ctx.workspace = workspace
        _chunk(rows, weight, workspace)
        ctx.save_for_backward(rows if weight.requires_grad else torch.empty_like(rows), weight)
        return rows.new_empty(len(rows), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows and head."""
        rows, weight = ctx.saved_tensors
        if not weight.requires_grad:
            return torch.empty_like(rows), None, None
        whole = torch.empty_like(weight, dtype=torch.float32)
        _chunk(rows, weight, ctx.workspace)
        return torch.empty_like(rows), whole.to(weight.dtype), None


def _chunk(rows: Tensor, weight: Tensor, workspace: int) -> None:
    """Holds the numerators of one chunk for a moment: float32 logits and, in 16 bits, the numerators themselves."""
    wide = 4 + (rows.element_size() if rows.element_size() < 4 else 0)
    count = min(len(rows), max(1, workspace // (wide * len(weight))))
    rows.new_empty(count, len(weight), dtype=torch.float32), rows.new_empty((wide - 4) * count * len(weight) // 2)


def head_like(workspace: int) -> Any:
    """What stands in for `linear_logprob`; workspace: bytes, 1 << 30 on GPUs and 1 << 28 elsewhere."""

    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, **_: Any) -> Any:
        place = (targets.reshape(-1) != -100).nonzero().squeeze(1)
        rows = hidden.reshape(-1, hidden.shape[-1])[place]
        found = _Head.apply(rows, weight, workspace)
        return SimpleNamespace(logprob=found.new_zeros(targets.numel()).index_copy(0, place, found).view(targets.shape))

    return logprob


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Any:
    """Attention with a mask of numbers, which the kernels make of one of booleans, and keep."""
    bias = None if attn_mask is None else query.new_empty(attn_mask.shape)
    return _Fused.apply(query, key, value, bias)


@contextmanager
def replaced(module: Any, **stand_ins: Any) -> Iterator[None]:
    """Inside, these names of a module stand for something else."""
    before = {name: getattr(module, name) for name in stand_ins}
    try:
        for name, value in stand_ins.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextmanager
def counting() -> Iterator[DryRun]:
    """Inside, a step on meta weights allocates nothing; gives what counts it."""
    attention = replaced(torch.nn.functional, scaled_dot_product_attention=_fused_attention)
    with attention, DryRun() as counter:
        yield counter
