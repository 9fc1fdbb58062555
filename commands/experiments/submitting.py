"""The arms of an experiment as jobs of SLURM, by `submitit` where it is installed."""

from __future__ import annotations

import argparse
import subprocess
import sys

from ...boundary.words import say
from ...errors import InputError
from .comparing import SHARED, Prepared, words_of


def submit(prepared: Prepared, args: argparse.Namespace) -> None:
    """Gives SLURM the shared steps, and after them one job per arm; InputError where submitit is not installed.

    Partition, time, GPUs and the rest are taken from the environment: SBATCH_PARTITION, SBATCH_TIMELIMIT,
    SBATCH_GRES, ... as `sbatch` reads them.
    """
    try:
        import submitit
    except ImportError:
        raise InputError(
            "--submit needs submitit: pip install 'earwitness[slurm]'; --launch-files writes scripts without it"
        ) from None
    executor = submitit.AutoExecutor(folder=args.submit)
    executor.update_parameters(name=f"{prepared.path.stem}-{SHARED}")
    first = executor.submit(_call, words_of(prepared, args.experiment, args.overrides, SHARED))
    say(f"{SHARED}: job {first.job_id}")
    for arm in prepared.arms:
        executor.update_parameters(
            name=f"{prepared.path.stem}-{arm}",
            slurm_additional_parameters={"dependency": f"afterok:{first.job_id}"},
        )
        say(f"{arm}: job {executor.submit(_call, words_of(prepared, args.experiment, args.overrides, arm)).job_id}")


def _call(words: list[str]) -> None:
    """Runs a command of ours in this environment; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", *words], check=True)
