"""Compiles every Triton kernel for compute capability 9.0 and reads the machine code; needs no GPU.

    python tests/compile_gate.py

Runs in a process of its own: in the interpreter's mode kernels cannot be compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from earwitness.kernels import triton_fused, triton_rows
from earwitness.kernels.tuning import TABLE, WITH_ENTROPY, Config

SHARED_LIMIT, REGISTER_LIMIT = 232_448, 255
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compiled(kernel, types: dict[str, str], constants: dict, **options) -> dict[str, int]:
    """Shared memory, registers, and counts of instructions of one kernel."""
    source = ASTSource(fn=kernel, signature=types | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(made.asm["cubin"])
        usage = subprocess.run([TOOL, "-res-usage", path], capture_output=True, text=True, check=True).stdout
        code = subprocess.run([TOOL, "--dump-sass", path], capture_output=True, text=True, check=True).stdout
    found = {"shared": made.metadata.shared, "registers": int(re.findall(r"REG:(\d+)", usage)[-1])}
    return found | {
        name: len(re.findall(rf"\b{name}\b", code)) for name in ("HGMMA", "UTMALDG", "UTMASTG", "LDL", "STL")
    }


def fused(config: Config, keep: bool, entropy: bool) -> dict[str, int]:
    """The fused GEMM in bfloat16."""
    m, n, k = config.block_m, config.block_n, config.block_k
    types = {
        "x_desc": f"tensordesc<bf16[{m}, {k}]>",
        "w_desc": f"tensordesc<bf16[{n}, {k}]>",
        "e_desc": f"tensordesc<bf16[{m}, {n if keep else k}]>",
        **{f"{name}_ptr": "*fp32" for name in ("anchor", "sum", "spread")},
        "target_ptr": "*i64",
        "excluded_ptr": "*i8",
        **dict.fromkeys(("C", "V", "H"), "i32"),
        **dict.fromkeys(("scale", "shift"), "fp32"),
    }
    constants = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": config.group_m, "PROGRAMS": 132}
    constants |= {"HAS_EXCLUDED": True, "ENTROPY": entropy, "KEEP": keep, "UPCAST": False}
    return compiled(
        triton_fused._fused_kernel, types, constants, num_warps=config.num_warps, num_stages=config.num_stages
    )


def main() -> None:
    """Prints what was found; exits with 1 where a bound is broken."""
    broken = []
    plain = [(config, keep, False) for config in {Config(), *TABLE.values()} for keep in (True, False)]
    for config, keep, entropy in [*plain, (WITH_ENTROPY, True, True), (WITH_ENTROPY, False, True)]:
        found = fused(config, keep, entropy)
        print(f"fused {tuple(config)} keep={keep} entropy={entropy}: {found}")
        good = found["HGMMA"] and found["UTMALDG"] and (not keep or found["UTMASTG"])
        if not good or found["LDL"] or found["STL"] or found["shared"] > SHARED_LIMIT:
            broken.append(f"fused {tuple(config)} keep={keep} entropy={entropy}")
    anchor = {"x_ptr": "*bf16", "w_ptr": "*bf16", "target_ptr": "*i64", "anchor_ptr": "*fp32"}
    anchor |= dict.fromkeys(("H", "x_stride", "w_stride"), "i32") | {"scale": "fp32"}
    rows = {"z_ptr": "*fp32", "e_ptr": "*bf16", "target_ptr": "*i64", "excluded_ptr": "*i8", "stats_ptr": "*fp32"}
    rows |= dict.fromkeys(("C", "V", "z_stride", "e_stride"), "i32") | {"scale": "fp32"}
    flags = {"HAS_EXCLUDED": True, "ENTROPY": True, "KEEP": True, "BLOCK_V": triton_rows.BLOCK}
    others = {
        "anchor": compiled(triton_fused._anchor_kernel, anchor, {"BLOCK_H": 1_024}),
        "rows": compiled(triton_rows._rows_kernel, rows, flags, num_warps=8),
    }
    for name, found in others.items():
        print(f"{name}: {found}")
        if found["LDL"] or found["STL"] or found["registers"] > REGISTER_LIMIT:
            broken.append(name)
    if broken:
        sys.exit("out of bounds: " + "; ".join(broken))
    print("all kernels within bounds")


if __name__ == "__main__":
    main()
