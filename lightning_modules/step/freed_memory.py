"""Memory that a step let go of serves the next one: on a CPU handing it back and getting it anew costs time."""

from __future__ import annotations

import ctypes

_TRIM, _MAPPED = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_NEVER = 1 << 30
_MOST = 1 << 25  # that M_MMAP_THRESHOLD may be in older versions


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed, large tensors included; whether it can, as glibc does.

    A page that comes from the system is cleared first: for the 64 MiB of an embedding's gradient that takes longer than
    filling it in. The process then holds the most that it has needed, as it does on a GPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # The first call stops the library from raising the threshold by itself: it must not stay where it began.
    can = bool(mallopt(_MAPPED, _NEVER))
    return bool((can or mallopt(_MAPPED, _MOST)) and mallopt(_TRIM, _NEVER)) and can
