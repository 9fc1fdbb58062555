"""Which backend makes the numerators: by device, type and shape, with the reason in the log."""

from __future__ import annotations

import logging
import os

import torch
from torch import Tensor

from .numerators import Backend, torch_numerators

LOG = logging.getLogger("earwitness.kernels")
NAMES = ("auto", "torch", "triton_rows", "triton_fused")
_logged: set[tuple[str, str]] = set()  # what was chosen and why, so that it is logged once


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose(name: str, rows: Tensor, weight: Tensor, workspace_bytes: int | None) -> tuple[Backend, int]:
    """The backend for states rows [N, H] and head weight [V, H], and how many rows fit its workspace.

    name: one of NAMES. workspace_bytes: by default `workspace`. Raises ValueError where a named backend cannot
    run on this device, type or shape.
    """
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(NAMES)}, got {name!r}")
    chosen, reason = (name, "as asked") if name != "auto" else _automatic(rows)
    if (chosen, reason) not in _logged:
        _logged.add((chosen, reason))
        LOG.info("log-probs by %s: %s", chosen, reason)
    bytes_per_logit = {"triton_rows": 4, "triton_fused": 0}.get(chosen, 0) + max(rows.dtype.itemsize, 2)
    if chosen == "torch":
        # float32 logits (float64 stays), and on GPUs the numerators once more in the states' type
        bytes_per_logit = max(4, rows.dtype.itemsize) + (rows.dtype.itemsize if rows.is_cuda else 0)
    if workspace_bytes is None:
        workspace_bytes = workspace(weight)
    chunk = _whole_waves(max(1, workspace_bytes // (bytes_per_logit * len(weight))), rows.is_cuda)
    if chosen == "torch":
        return torch_numerators, chunk
    _check_triton(chosen, rows, weight)
    if chosen == "triton_rows":
        from .triton_rows import rows_numerators

        return rows_numerators, chunk
    from .triton_fused import fused_numerators

    return fused_numerators, chunk


def workspace(weight: Tensor) -> int:
    """Bytes of logits to hold at a time: on GPUs 1 GiB, elsewhere half of a head [V, H], from 64 to 256 MiB."""
    if weight.is_cuda:
        return 1 << 30
    return min(max(weight.numel() * 4 // 2, 1 << 26), 1 << 28)


def _automatic(rows: Tensor) -> tuple[str, str]:
    """The name of the backend for these states, and the reason."""
    if rows.device.type != "cuda":
        return "torch", f"no NVIDIA GPU holds the states ({rows.device.type})"
    if rows.dtype not in (torch.bfloat16, torch.float16):
        return "torch", f"{rows.dtype} products are not Tensor Core products in 16 bits"
    if torch.cuda.get_device_capability(rows.device) < (8, 0):
        return "torch", "the GPU is older than compute capability 8.0"
    # The fused GEMM is chosen by name until it has been measured to be the faster one.
    return "triton_rows", "16-bit states on a GPU of compute capability 8.0 or later"


def _check_triton(name: str, rows: Tensor, weight: Tensor) -> None:
    """Raises ValueError where a Triton backend cannot run."""
    if name == "triton_fused" and rows.dtype == torch.float16:
        raise ValueError("backend 'triton_fused' takes bfloat16: its numerators leave the range of float16")
    if name == "triton_fused" and rows.shape[-1] * rows.dtype.itemsize % 16:
        raise ValueError(f"backend 'triton_fused' needs rows of a multiple of 16 bytes, got {rows.shape[-1]} numbers")
    if interpreting():
        return
    if rows.device.type != "cuda" or torch.cuda.get_device_capability(rows.device) < (8, 0):
        raise ValueError(f"backend {name!r} needs an NVIDIA GPU of compute capability 8.0 or later, got {rows.device}")
    if name == "triton_fused" and torch.cuda.get_device_capability(rows.device) < (9, 0):
        raise ValueError("backend 'triton_fused' needs the bulk copies of compute capability 9.0 or later")


def _whole_waves(rows: int, on_gpu: bool) -> int:
    """Rows of a chunk: on GPUs a multiple of 1,152, whose tiles fill 132 cores to 95 %, or at least of a tile's 128."""
    if not on_gpu:
        return rows
    for step in (1_152, 128):
        if rows >= step:
            return rows // step * step
    return rows
