"""The processes that answer together, as torchrun, `lightning run` or SLURM started them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from ..ranks import Ranks

_PATIENCE = timedelta(days=30)  # of those that are done, for the others


def launched() -> tuple[int, int, int]:
    """This process's number, how many there are, and its number on this machine; (0, 1, 0) alone.

    Torch's and SLURM's variables say so; nothing is started.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    if "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        rank, world, local = (int(os.environ[name]) for name in names)
        return rank, world, local
    return 0, 1, 0


@contextmanager
def together() -> Iterator[Ranks]:
    """This process among those that were started together; they can wait for each other inside.

    Alone nothing is set up, and torch not asked.
    """
    rank, world, _ = launched()
    if world == 1:
        yield Ranks()
        return
    import torch.distributed as distributed

    if "MASTER_ADDR" not in os.environ:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    distributed.init_process_group("gloo", rank=rank, world_size=world, timeout=_PATIENCE)
    try:
        yield Ranks(rank, world)
    finally:
        distributed.destroy_process_group()
