"""Numerators straight out of a GEMM: logits never exist, not even for a chunk.

A persistent Triton GEMM over tiles of [rows, vocabulary] turns each accumulator tile into numerators anchored at the
row's own target, e = exp2((z_v - z_y) log2(e) / T - s) with s = 40 nats, 0 at the target, and stores them in 16 bits
with the tile's row sums in float32. The anchor needs one dot product per row beforehand, and neither a running largest
logit, nor a rescaling, nor an atomic: sums over tiles are added afterwards, in a fixed order.

Numerators have a window: where a logit exceeds the target's by more than about 127 nats (times the temperature), a
row's sum overflows to infinity, and these rows are made again from float32 logits. Far below it they flush to 0: a
token e^-47 times as likely as the target has no part in its gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numerators import NumeratorOptions, Numerators
from .triton_rows import excluded_mask, rows_numerators
from .tuning import INTERPRETED, Config, config_for

SHIFT = 40.0  # nats
_LOG2E = 1.4426950408889634


@triton.jit
def _anchor_kernel(x_ptr, w_ptr, target_ptr, anchor_ptr, H, x_stride, w_stride, scale, BLOCK_H: tl.constexpr):
    """anchor[row] = scale x . W[target], in float32."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(target_ptr + row).to(tl.int64)
    total = tl.full((), 0.0, tl.float32)
    for start in range(0, H, BLOCK_H):
        k = start + tl.arange(0, BLOCK_H)
        x = tl.load(x_ptr + row * x_stride + k, mask=k < H, other=0.0).to(tl.float32)
        w = tl.load(w_ptr + target * w_stride + k, mask=k < H, other=0.0).to(tl.float32)
        total += tl.sum(x * w, 0)
    tl.store(anchor_ptr + row, total * scale)


@triton.jit
def _fused_kernel(
    x_desc,
    w_desc,
    e_desc,
    anchor_ptr,
    target_ptr,
    excluded_ptr,
    sum_ptr,
    spread_ptr,
    C,
    V,
    H,
    scale,
    shift,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    PROGRAMS: tl.constexpr,
    HAS_EXCLUDED: tl.constexpr,
    ENTROPY: tl.constexpr,
    KEEP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Each program takes every PROGRAMS-th tile. scale is log2(e) / T, shift is in bits."""
    tiles_m = tl.cdiv(C, BLOCK_M)
    tiles_n = tl.cdiv(V, BLOCK_N)
    per_group = GROUP_M * tiles_n
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=True):
        group = tile // per_group
        first = group * GROUP_M
        width = tl.minimum(tiles_m - first, GROUP_M)
        tile_m = first + (tile % per_group) % width
        tile_n = (tile % per_group) // width
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, H, BLOCK_K):
            x = x_desc.load([tile_m * BLOCK_M, k])
            w = w_desc.load([tile_n * BLOCK_N, k])
            if UPCAST:  # the interpreter multiplies the bit patterns of bfloat16
                x = x.to(tl.float32)
                w = w.to(tl.float32)
            acc = tl.dot(x, w.T, acc)
        rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        anchor = tl.load(anchor_ptr + rows, mask=rows < C, other=0.0)
        target = tl.load(target_ptr + rows, mask=rows < C, other=-1)
        bits = acc * scale - (anchor + shift)[:, None]
        live = (columns[None, :] < V) & (columns[None, :] != target[:, None]) & (rows[:, None] < C)
        if HAS_EXCLUDED:
            barred = tl.load(excluded_ptr + columns, mask=columns < V, other=1)
            live = live & (barred == 0)[None, :]
        e = tl.where(live, tl.exp2(bits), 0.0)
        place = tile_n.to(tl.int64) * C + rows
        tl.store(sum_ptr + place, tl.sum(e, 1), mask=rows < C)
        if ENTROPY:
            distance = tl.where(e > 0, bits + shift, 0.0)
            tl.store(spread_ptr + place, tl.sum(e * distance, 1), mask=rows < C)
        if KEEP:
            e_desc.store([tile_m * BLOCK_M, tile_n * BLOCK_N], e.to(e_desc.dtype))


def fused_numerators(rows: Tensor, weight: Tensor, targets: Tensor, options: NumeratorOptions) -> Numerators:
    """As `torch_numerators`, anchored at z_y / T + s instead of the row's largest logit; e has the states' type.

    Raises ValueError for other types.
    """
    if rows.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"backend 'triton_fused' takes float32 and 16-bit states, got {rows.dtype}")
    count, size = len(rows), len(weight)
    rows, weight = rows.contiguous(), weight.contiguous()
    config = _config(rows, options.entropy)
    wide: Any = {"dtype": torch.float32, "device": rows.device}
    anchor = torch.empty(count, **wide)
    tiles = triton.cdiv(size, config.block_n)
    sums = torch.empty(tiles, count, **wide)
    spreads = torch.empty(tiles, count, **wide) if options.entropy else sums
    # Bulk copies want rows that begin at multiples of 16 bytes.
    width = -(-size // 8) * 8
    e = torch.empty(count, width, dtype=rows.dtype, device=rows.device)[:, :size] if options.keep else rows
    excluded = excluded_mask(options.exclude, size, rows.device)
    if count:
        scale = _LOG2E / options.temperature
        strides = (rows.stride(0), weight.stride(0))
        _anchor_kernel[(count,)](rows, weight, targets, anchor, rows.shape[1], *strides, scale, BLOCK_H=1_024)
        _launch(rows, weight, e, anchor, targets, excluded, sums, spreads, scale, options, config)
    return _finish(rows, weight, targets, options, anchor, sums, spreads, e)


def _config(rows: Tensor, entropy: bool) -> Config:
    """The launch parameters for these states; small tiles where the kernel is interpreted."""
    if not rows.is_cuda:
        return INTERPRETED
    major, minor = torch.cuda.get_device_capability(rows.device)
    return config_for(10 * major + minor, rows.shape[1], entropy)


def _launch(
    rows: Tensor,
    weight: Tensor,
    e: Tensor,
    anchor: Tensor,
    targets: Tensor,
    excluded: Tensor | None,
    sums: Tensor,
    spreads: Tensor,
    scale: float,
    options: NumeratorOptions,
    config: Config,
) -> None:
    """Runs the GEMM: fills e [C, V], sums and spreads [tiles, C]."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    count, size = len(rows), len(weight)
    tiles = triton.cdiv(count, config.block_m) * triton.cdiv(size, config.block_n)
    cores = torch.cuda.get_device_properties(rows.device).multi_processor_count if rows.is_cuda else 3
    block_e = [config.block_m, config.block_n] if options.keep else [config.block_m, config.block_k]
    _fused_kernel[(min(cores, tiles),)](
        TensorDescriptor.from_tensor(rows, [config.block_m, config.block_k]),
        TensorDescriptor.from_tensor(weight, [config.block_n, config.block_k]),
        TensorDescriptor.from_tensor(e, block_e),
        anchor,
        targets,
        excluded if excluded is not None else targets,
        sums,
        spreads,
        count,
        size,
        rows.shape[1],
        scale,
        SHIFT * _LOG2E,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        GROUP_M=config.group_m,
        PROGRAMS=min(cores, tiles),
        HAS_EXCLUDED=excluded is not None,
        ENTROPY=options.entropy,
        KEEP=options.keep,
        UPCAST=not rows.is_cuda,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def _finish(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    options: NumeratorOptions,
    anchor: Tensor,
    sums: Tensor,
    spreads: Tensor,
    e: Tensor,
) -> Numerators:
    """Sums over tiles to statistics; rows outside the window are made again from float32 logits."""
    own = torch.exp(torch.tensor(-SHIFT, dtype=torch.float32, device=rows.device))  # the target's own numerator
    rest = sums.sum(0)
    total = rest + own
    # The plain log where rest / own would overflow; log1p where the token is likely.
    logprob = torch.where(rest > 1e-3, -(total.log() + SHIFT), -torch.log1p(rest / own))
    at_target = anchor / _LOG2E
    # Entropy = -sum p log p with log p_v = d_v + logprob, d_v = z_v - z_y in nats; spreads hold e d in bits.
    entropy = (-logprob - spreads.sum(0) / _LOG2E / total) if options.entropy else None
    kept = e if options.keep else None
    numerators = Numerators(kept, rest, total, logprob, at_target - logprob, entropy)
    outside = ~torch.isfinite(total if entropy is None else total + entropy)
    return _mended(rows, weight, targets, options, numerators, outside) if outside.any() else numerators


def _mended(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    options: NumeratorOptions,
    numerators: Numerators,
    outside: Tensor,
) -> Numerators:
    """The numerators with those of the rows `outside` [C] replaced by numerators from float32 logits."""
    place = outside.nonzero().squeeze(1)
    again = rows_numerators(rows[place], weight, targets[place], options)

    def put(old: Any, new: Any) -> Any:
        return None if old is None else old.index_copy(0, place, new)

    return Numerators(*(put(old, new) for old, new in zip(numerators, again, strict=True)))
