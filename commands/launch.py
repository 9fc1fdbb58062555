"""The command `lightning run`: starts the processes of a run, or runs in this one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any


def lightning_main(argv: Sequence[str] | None = None) -> Any:
    """`lightning run [--devices N] [--num-nodes N ...] [--] fit --config FILE`.

    Lightning itself has no such command any more; the name belongs to lightning-sdk, which gets everything but `run`.
    With --devices the processes are started by torchrun; without, or inside torchrun or SLURM, this process runs.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] != ["run"]:
        try:
            from lightning_sdk.cli.entrypoint import main_cli
        except ImportError:
            sys.exit(
                "usage: lightning run [--devices N] [--num-nodes N] [--] {fit,validate,test,predict} --config FILE"
            )
        return main_cli()
    parser = argparse.ArgumentParser("lightning run", allow_abbrev=False)
    parser.add_argument("--devices", "--nproc-per-node", help="processes per node; started by torchrun")
    parser.add_argument("--num-nodes", type=int, default=1, help="nodes; the same command runs on each of them")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this node, from 0")
    parser.add_argument("--main-address", default="127.0.0.1", help="address of node 0")
    parser.add_argument("--main-port", type=int, default=29400, help="free port of node 0")
    if "--" in argv:
        split = argv.index("--")
        options, rest = parser.parse_args(argv[1:split]), argv[split + 1 :]
    else:
        options, rest = parser.parse_known_args(argv[1:])
    if rest[:1] == ["model"]:  # the spelling of Lightning before 2.3
        rest = rest[1:]
    if options.devices is None or "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ:
        from .cli import main as command

        return command(rest)
    from torch.distributed.run import main as torchrun

    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]  # a free port
    if options.num_nodes > 1:
        meeting = [f"--node-rank={options.node_rank}", f"--master-addr={options.main_address}"]
        meeting.append(f"--master-port={options.main_port}")
    processes = [f"--nproc-per-node={options.devices}", f"--nnodes={options.num_nodes}"]
    return torchrun([*processes, *meeting, "-m", "earwitness", *rest])
