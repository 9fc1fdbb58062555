"""Numerators from float32 logits of a library GEMM and one Triton kernel that reads each row twice.

First the row's largest logit and the sum against it, online; then the numerators, in the states' type, with 0 at the
target. The float32 logits are exact to the accumulator; numerators in 16 bits only have a relative error.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numerators import Numerators, Request, logits

BLOCK = 4_096
_LOG2E = 1.4426950408889634


@triton.jit
def _rows_kernel(
    z_ptr,
    e_ptr,
    target_ptr,
    excluded_ptr,
    rest_ptr,
    total_ptr,
    logprob_ptr,
    lse_ptr,
    entropy_ptr,
    V,
    z_stride,
    e_stride,
    scale,
    HAS_EXCLUDED: tl.constexpr,
    ENTROPY: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One program per row; all sums in float32, exponents in base 2."""
    row = tl.program_id(0).to(tl.int64)
    z_row = z_ptr + row * z_stride
    target = tl.load(target_ptr + row)
    at_target = tl.load(z_row + target) * scale
    top = tl.full((), float("-inf"), tl.float32)
    rest = tl.full((), 0.0, tl.float32)
    spread = tl.full((), 0.0, tl.float32)
    for start in range(0, V, BLOCK_V):
        columns = start + tl.arange(0, BLOCK_V)
        known = columns < V
        z = tl.load(z_row + columns, mask=known, other=float("-inf")) * scale
        if HAS_EXCLUDED:
            barred = tl.load(excluded_ptr + columns, mask=known, other=1)
            z = tl.where(barred != 0, float("-inf"), z)
        z = tl.where(known & (columns != target), z, float("-inf"))
        higher = tl.maximum(tl.maximum(top, tl.max(z, 0)), at_target)
        keep = tl.exp2(top - higher)
        e = tl.exp2(z - higher)
        if ENTROPY:
            # sum of e (z - top), moved to the new top with the old sum; -inf x 0 is 0
            distance = tl.where(e > 0, z - higher, 0.0)
            spread = keep * (spread + tl.where(rest > 0, rest * (top - higher), 0.0)) + tl.sum(e * distance, 0)
        rest = rest * keep + tl.sum(e, 0)
        top = higher
    e_target = tl.exp2(at_target - top)
    total = rest + e_target
    log_total = tl.log2(total)
    logprob = (at_target - top) - log_total
    # log2(1 + x) loses small x; a series is exact to float32 below 2^-6
    x = rest / e_target
    small = -1.4426950408889634 * (x * (1.0 - x * (0.5 - x * (0.3333333333 - x * 0.25))))
    logprob = tl.where(x < 0.015625, small, logprob)
    LN2: tl.constexpr = 0.6931471805599453
    tl.store(rest_ptr + row, rest)
    tl.store(total_ptr + row, total)
    tl.store(logprob_ptr + row, logprob * LN2)
    tl.store(lse_ptr + row, (top + log_total) * LN2)
    if ENTROPY:
        own = tl.where(e_target > 0, e_target * (at_target - top), 0.0)
        tl.store(entropy_ptr + row, (log_total - (spread + own) / total) * LN2)
    if KEEP:
        for start in range(0, V, BLOCK_V):
            columns = start + tl.arange(0, BLOCK_V)
            known = columns < V
            z = tl.load(z_row + columns, mask=known, other=float("-inf")) * scale
            if HAS_EXCLUDED:
                barred = tl.load(excluded_ptr + columns, mask=known, other=1)
                z = tl.where(barred != 0, float("-inf"), z)
            e = tl.where(columns != target, tl.exp2(z - top), 0.0)
            tl.store(e_ptr + row * e_stride + columns, e.to(e_ptr.dtype.element_ty), mask=known)


def rows_numerators(rows: Tensor, weight: Tensor, targets: Tensor, request: Request) -> Numerators:
    """As `torch_numerators`; e has the states' type."""
    if rows.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"backend 'triton_rows' takes float32 and 16-bit states, got {rows.dtype}")
    z = logits(rows, weight, 1.0)
    count, size = z.shape
    e = torch.empty(count, size, dtype=rows.dtype, device=rows.device) if request.keep else z
    stats = torch.empty(5, count, dtype=torch.float32, device=rows.device)
    excluded = _mask(request.exclude, size, rows.device)
    if count:
        _rows_kernel[(count,)](
            z,
            e,
            targets,
            excluded if excluded is not None else z,
            *stats,
            size,
            z.stride(0),
            e.stride(0),
            _LOG2E / request.temperature,
            HAS_EXCLUDED=excluded is not None,
            ENTROPY=request.entropy,
            KEEP=request.keep,
            BLOCK_V=BLOCK,
            num_warps=8,
        )
    rest, total, logprob, lse, entropy = stats
    return Numerators(e if request.keep else None, rest, total, logprob, lse, entropy if request.entropy else None)


def _mask(exclude: Tensor | None, size: int, device: torch.device) -> Tensor | None:
    """[V] int8, 1 at the excluded ids."""
    if exclude is None or not len(exclude):
        return None
    return torch.zeros(size, dtype=torch.int8, device=device).index_fill_(0, exclude, 1)
