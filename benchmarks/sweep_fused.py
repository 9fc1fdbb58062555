"""Times launch parameters of the fused GEMM on the GPU at hand; the best are written into kernels/tuning.py by hand.

python benchmarks/sweep_fused.py [--rows 2304]
"""

from __future__ import annotations

import argparse
from itertools import product
from statistics import median

import torch

from earwitness.kernels import triton_fused
from earwitness.kernels.numerators import NumeratorOptions
from earwitness.kernels.tuning import Config


def candidates() -> list[Config]:
    """Tiles whose stages may fit the shared memory; what does not is reported when it is launched."""
    tiles = ((128, 256, 64), (256, 128, 64), (128, 128, 64), (128, 128, 128))
    return [
        Config(*tile, group, warps, stages)
        for tile, group, warps, stages in product(tiles, (4, 8, 16), (4, 8), (2, 3, 4))
        if not (warps == 4 and tile[0] * tile[1] > 128 * 128)
    ]


def milliseconds(config: Config, x: torch.Tensor, w: torch.Tensor, t: torch.Tensor, repeats: int = 7) -> float:
    """Median of the numerators of one chunk."""
    triton_fused._config = lambda *_: config
    options, times = NumeratorOptions(1.0, None, False, True), []
    for k in range(repeats + 1):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        triton_fused.fused_numerators(x, w, t, options)
        stop.record()
        torch.cuda.synchronize()
        if k:
            times.append(start.elapsed_time(stop))
    return median(times)


def main() -> None:
    """Prints all configurations of both widths, fastest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_304)
    rows = parser.parse_args().rows
    for hidden, vocabulary in ((3_584, 152_064), (2_048, 151_936)):
        x = torch.randn(rows, hidden, device="cuda", dtype=torch.bfloat16)
        w = torch.randn(vocabulary, hidden, device="cuda", dtype=torch.bfloat16) * 0.02
        t = torch.randint(0, vocabulary, (rows,), device="cuda")
        found = []
        for config in candidates():
            try:
                found.append((milliseconds(config, x, w, t), config))
            except Exception as error:  # too much shared memory, or too many registers: not a candidate here
                print(f"{hidden} {tuple(config)}: {type(error).__name__}")
        for ms, config in sorted(found)[:12]:
            rate = 2 * rows * hidden * vocabulary / ms / 1e9
            print(f"{hidden} {tuple(config)}: {ms:.3f} ms, {rate:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
