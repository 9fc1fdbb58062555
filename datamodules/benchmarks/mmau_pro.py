"""MMAU-Pro (Kumar et al. 2025): of its 5,305 questions those with options about one recording."""

from __future__ import annotations

from .benchmark import Benchmark

MMAU_PRO = Benchmark(
    "mmau-pro",
    "mmau_pro",
    why_not="the published scorer compares texts by a neural embedding (NV-Embed-v2); take the strict number",
    facts=("open questions and those about several recordings are left out, and not counted",),
)
