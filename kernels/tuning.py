"""Launch parameters of the fused GEMM by architecture and width of the states; nothing is tuned at run time.

`benchmarks/sweep_fused.py` prints candidates for a GPU; its winners are written here by hand.
"""

from __future__ import annotations

from typing import NamedTuple


class Config(NamedTuple):
    """Tile sizes, rows of tiles per group (so that tiles of the head stay in the cache), warps and pipeline stages."""

    block_m: int = 128
    block_n: int = 256
    block_k: int = 64
    group_m: int = 8
    num_warps: int = 8
    num_stages: int = 3


# (compute capability, width of the states) -> config; the default fits 227 KiB of shared memory with the numerators.
TABLE: dict[tuple[int, int], Config] = {}
WITH_ENTROPY = Config(block_n=128)  # its second sum does not fit the registers beside a tile of 256
INTERPRETED = Config(32, 128, 64, 4)


def config_for(capability: int, width: int, entropy: bool) -> Config:
    """The config measured for the nearest width of the states on this architecture, else the default.

    capability: of the GPU, e.g. 90. width: H of the states. entropy: whether its second sum is made too.
    """
    if entropy:
        return WITH_ENTROPY
    known = [(abs(w - width), c) for (arch, w), c in TABLE.items() if arch == capability]
    return min(known, key=lambda entry: entry[0])[1] if known else Config()
