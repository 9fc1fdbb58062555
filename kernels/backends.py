"""Which backend makes the numerators: by device, type and shape, with the reason in the log."""

from __future__ import annotations

import logging
import os

import torch
from torch import Tensor

from .numerators import Backend, torch_numerators

LOG = logging.getLogger("earwitness.kernels")
NAMES = ("auto", "torch", "triton_rows", "triton_fused")
_said: set[tuple[str, str]] = set()


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose(name: str, rows: Tensor, weight: Tensor, workspace_bytes: int) -> tuple[Backend, int]:
    """The backend, and how many rows fit its workspace; ValueError where a named one cannot run."""
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(NAMES)}, got {name!r}")
    found, reason = (name, "as asked") if name != "auto" else _automatic(rows)
    if (found, reason) not in _said:
        _said.add((found, reason))
        LOG.info("log-probs by %s: %s", found, reason)
    if found == "torch":
        return torch_numerators, _chunk(workspace_bytes, len(weight), 4 if rows.dtype.itemsize == 4 else 8)
    _check_triton(found, rows, weight)
    if found == "triton_rows":
        from .triton_rows import rows_numerators

        return rows_numerators, _chunk(workspace_bytes, len(weight), 4 + rows.dtype.itemsize)
    from .triton_fused import fused_numerators

    return fused_numerators, _chunk(workspace_bytes, len(weight), rows.dtype.itemsize)


def _automatic(rows: Tensor) -> tuple[str, str]:
    if rows.device.type != "cuda":
        return "torch", f"no NVIDIA GPU holds the states ({rows.device.type})"
    if rows.dtype not in (torch.bfloat16, torch.float16):
        return "torch", f"{rows.dtype} products are not Tensor Core products in 16 bits"
    if torch.cuda.get_device_capability(rows.device) < (8, 0):
        return "torch", "the GPU is older than compute capability 8.0"
    # The fused GEMM is chosen by name until it has been measured to be the faster one.
    return "triton_rows", "16-bit states on a GPU of compute capability 8.0 or later"


def _check_triton(name: str, rows: Tensor, weight: Tensor) -> None:
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


def _chunk(workspace_bytes: int, vocabulary: int, bytes_per_logit: int) -> int:
    return max(1, workspace_bytes // (bytes_per_logit * vocabulary))
