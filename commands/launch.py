"""The command `lightning run`: starts the processes of a run, or runs in this one."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from ..boundary.words import say


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
    return _launched([*_elastic(options), "-m", "earwitness", *rest], options.silent_s)


def _launched(words: Sequence[str], silent_s: float) -> None:
    """Runs torchrun; where a process of the run, or a signal, ends it, leaves with its code and one sentence."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import main as torchrun

    # Processes that are started anew would read the addresses of those before them: the store they meet at is the same.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds for a step to end after SIGTERM
    threading.Thread(target=_watch_connections, args=[silent_s], daemon=True).start()
    try:
        torchrun(words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        say(
            f"error: rank {rank} ended with code {code}, see above; with it all processes of this node", file=sys.stderr
        )
        sys.exit(code if code > 0 else 128 - code)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except (RendezvousError, DistError) as error:
        says = str(error).strip().splitlines()[0]
        sys.exit(f"error: the nodes do not meet ({says}); start the same command on all of them")


def _watch_connections(silent_s: float) -> None:
    """Has the agents of hosts that were lost not be waited for; they connect anew all the time."""
    from ..lightning_modules.connections import end_when_silent

    while True:
        end_when_silent(silent_s)
        time.sleep(silent_s / 6)


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
    parser.add_argument("--silent-s", type=float, default=60.0, help="seconds after which a silent node is lost")
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
