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
    With --devices the processes are started by torchrun; without, or inside torchrun or SLURM, this process runs. With
    --max-restarts all are started anew when one ends, and go on from the last checkpoint.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] != ["run"]:
        try:
            from lightning_sdk.cli.entrypoint import main_cli
        except ImportError:
            sys.exit(
                "usage: lightning run [--devices N] [--num-nodes N] [--max-restarts N] [--] "
                "{fit,validate,test,predict} --config FILE"
            )
        return main_cli()
    parser = _parser()
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

    return torchrun([*_elastic(options), "-m", "earwitness", *rest])


def _parser() -> argparse.ArgumentParser:
    """The options of `lightning run`; what else there is belongs to the command that it starts."""
    parser = argparse.ArgumentParser("lightning run", allow_abbrev=False)
    parser.add_argument("--devices", "--nproc-per-node", help="processes per node; started by torchrun")
    parser.add_argument("--num-nodes", type=int, default=1, help="nodes; the same command runs on each of them")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this node, from 0; not with --rdzv-id")
    parser.add_argument("--main-address", default="127.0.0.1", help="address of node 0")
    parser.add_argument("--main-port", type=int, default=29400, help="free port of node 0")
    parser.add_argument("--rdzv-id", help="name of the job: nodes that say the same one meet, in any order")
    parser.add_argument("--local-address", help="address of this node, where its name leads the others nowhere")
    parser.add_argument("--max-restarts", type=int, default=0, help="how often all processes start anew when one ends")
    return parser


def _elastic(options: argparse.Namespace) -> list[str]:
    """Torchrun's options: how many processes, where they meet, and how often they may be started anew.

    One node meets at a free port of its own. Several meet at that of node 0, by their numbers or, where the job has a
    name, in any order; only then a node that was lost may come back.
    """
    words = [f"--nproc-per-node={options.devices}", f"--nnodes={options.num_nodes}"]
    words += [f"--max-restarts={options.max_restarts}"]
    if options.local_address:
        words.append(f"--local-addr={options.local_address}")
    if options.num_nodes == 1:
        return [*words, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={options.rdzv_id or 'one'}"]
    if options.rdzv_id:
        where = f"{options.main_address}:{options.main_port}"
        if options.local_address:  # torch looks for node 0 among what the host's name stands for, which may be nothing
            words.append(f"--rdzv-conf=is_host={str(options.local_address == options.main_address).lower()}")
        return [*words, "--rdzv-backend=c10d", f"--rdzv-endpoint={where}", f"--rdzv-id={options.rdzv_id}"]
    words += [f"--node-rank={options.node_rank}", f"--master-addr={options.main_address}"]
    return [*words, f"--master-port={options.main_port}"]
