"""Numerators from float32 logits of a library GEMM and one Triton kernel that reads each row twice.

First the row's largest logit and the sum against it, online; then the numerators, in the states' type, with 0 at the
target. The float32 logits are exact to the accumulator; numerators in 16 bits only have a relative error.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numerators import NumeratorOptions, Numerators, logits

BLOCK = 4_096
_LOG2E = 1.4426950408889634


@triton.jit
def _scaled(z_row, excluded_ptr, columns, V, scale, HAS_EXCLUDED: tl.constexpr):
    """[BLOCK_V] logits in bits; -inf beyond the vocabulary and at excluded ids."""
    known = columns < V
    z = tl.load(z_row + columns, mask=known, other=float("-inf")) * scale
    if HAS_EXCLUDED:
        barred = tl.load(excluded_ptr + columns, mask=known, other=1)
        z = tl.where(barred != 0, float("-inf"), z)
    return z


@triton.jit
def _log2_sure(x):
    """-log2(1 + x) for x < 2^-6, where log2(1 + x) would lose it: four terms are exact to float32."""
    return -1.4426950408889634 * (x * (1.0 - x * (0.5 - x * (0.3333333333 - x * 0.25))))


@triton.jit
def _rows_kernel(
    z_ptr,
    e_ptr,
    target_ptr,
    excluded_ptr,
    stats_ptr,
    C,
    V,
    z_stride,
    e_stride,
    scale,
    HAS_EXCLUDED: tl.constexpr,
    ENTROPY: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One program per row; sums in float32, exponents in base 2. stats [5, C]: rest, total, logprob, lse, entropy."""
    row = tl.program_id(0).to(tl.int64)
    z_row = z_ptr + row * z_stride
    target = tl.load(target_ptr + row)
    at_target = tl.load(z_row + target) * scale
    top = at_target
    rest = tl.full((), 0.0, tl.float32)
    spread = tl.full((), 0.0, tl.float32)
    for start in range(0, V, BLOCK_V):
        columns = start + tl.arange(0, BLOCK_V)
        z = _scaled(z_row, excluded_ptr, columns, V, scale, HAS_EXCLUDED)
        z = tl.where(columns != target, z, float("-inf"))
        higher = tl.maximum(top, tl.max(z, 0))
        e = tl.exp2(z - higher)
        if ENTROPY:  # sum of e (z - top): the old part moves to the new top
            spread = tl.exp2(top - higher) * (spread + rest * (top - higher))
            spread += tl.sum(tl.where(e > 0, e * (z - higher), 0.0), 0)
        rest = rest * tl.exp2(top - higher) + tl.sum(e, 0)
        top = higher
    e_target = tl.exp2(at_target - top)
    total = rest + e_target
    log_total = tl.log2(total)
    ratio = rest / e_target
    logprob = tl.where(ratio < 0.015625, _log2_sure(ratio), at_target - top - log_total)
    tl.store(stats_ptr + row, rest)
    tl.store(stats_ptr + C + row, total)
    tl.store(stats_ptr + 2 * C + row, logprob * 0.6931471805599453)
    tl.store(stats_ptr + 3 * C + row, (top + log_total) * 0.6931471805599453)
    if ENTROPY:
        spread += e_target * (at_target - top)
        tl.store(stats_ptr + 4 * C + row, (at_target - top - logprob - spread / total) * 0.6931471805599453)
    if KEEP:
        for start in range(0, V, BLOCK_V):
            columns = start + tl.arange(0, BLOCK_V)
            z = _scaled(z_row, excluded_ptr, columns, V, scale, HAS_EXCLUDED)
            e = tl.where(columns != target, tl.exp2(z - top), 0.0)
            tl.store(e_ptr + row * e_stride + columns, e.to(e_ptr.dtype.element_ty), mask=columns < V)


def rows_numerators(rows: Tensor, weight: Tensor, targets: Tensor, options: NumeratorOptions) -> Numerators:
    """As `torch_numerators`, by one program per row; e has the states' type. Raises ValueError for other types."""
    if rows.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"backend 'triton_rows' takes float32 and 16-bit states, got {rows.dtype}")
    z = logits(rows, weight, 1.0)
    count, size = z.shape
    e = torch.empty(count, size, dtype=rows.dtype, device=rows.device) if options.keep else z
    stats = torch.empty(5, count, dtype=torch.float32, device=rows.device)
    excluded = excluded_mask(options.exclude, size, rows.device)
    if count:
        _rows_kernel[(count,)](
            z,
            e,
            targets,
            targets if excluded is None else excluded,
            stats,
            count,
            size,
            z.stride(0),
            e.stride(0),
            _LOG2E / options.temperature,
            HAS_EXCLUDED=excluded is not None,
            ENTROPY=options.entropy,
            KEEP=options.keep,
            BLOCK_V=BLOCK,
            num_warps=8,
        )
    rest, total, logprob, lse, entropy = stats
    return Numerators(e if options.keep else None, rest, total, logprob, lse, entropy if options.entropy else None)


def excluded_mask(exclude: Tensor | None, size: int, device: torch.device) -> Tensor | None:
    """[V] int8, 1 at the excluded ids [E]; None where there are none. size: V."""
    if exclude is None or not len(exclude):
        return None
    return torch.zeros(size, dtype=torch.int8, device=device).index_fill_(0, exclude, 1)
