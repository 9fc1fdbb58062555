"""The trainer commands fit, validate, test and predict: LightningCLI over complete YAML files.

Keys are constructor arguments. Interpolation (`${paths.out}`, `${oc.env:HOME}`) is resolved after all files and
command-line overrides are merged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any


def quiet() -> None:
    """Drops messages that tell a user nothing; whatever the environment sets stays as it is."""
    import logging
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for text in (
        "Your `IterableDataset` has `__len__`",
        "does not have many workers",
        "`isinstance.treespec",
        "Checkpoint directory .* exists and is not empty",
        "Found .* module.s. in eval mode",
        "LightningCLI's args parameter",
        "You defined a `validation_step` but have no `val_dataloader`",
        "Starting from v1.9.0, `tensorboardX`",
        "It is recommended to use `self.log",  # with sync_dist: what is logged is of all ranks already
        "Using ModelCheckpoint with manual optimization",
        "You're resuming from a checkpoint that ended before the epoch ended",  # positions are the data module's
    ):
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def main(args: Sequence[str] | None = None) -> None:
    """`earwitness fit|validate|test|predict --config FILE [--key value ...]`."""
    quiet()
    from .lightning_cli import EarwitnessCLI

    EarwitnessCLI(sys.argv[1:] if args is None else args)


def check(args: Sequence[str]) -> dict[str, Any]:
    """The configuration of a command line, once it is known that `main` would take it; nothing is loaded.

    Raises UsageError for a wrong key or value, and InputError for what a class refuses. Whether its paths exist is
    not looked at.
    """
    quiet()
    from .lightning_cli import EarwitnessCLI

    return EarwitnessCLI(args, parse_only=True).plain()
