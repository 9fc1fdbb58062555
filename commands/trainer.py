"""YAML to a run: LightningCLI over complete files.

Keys are constructor arguments. Interpolation (`${paths.out}`, `${oc.env:HOME}`) is resolved after all files and
command-line overrides are merged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any


class Paths:
    """Where things are, to be interpolated as `${paths.out}`; files and command line override them one by one.

    Args:
        data: folder of the shards and labels. model: checkpoint folder or hub id. out: folder of the run.
    """

    def __init__(self, data: str = "data", model: str = "Qwen/Qwen2.5-Omni-7B", out: str = "runs/default") -> None:
        self.data, self.model, self.out = data, model, out


def _quiet() -> None:
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
        "Using ModelCheckpoint with manual optimization",
    ):
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def cli_class(parse_only: bool = False) -> type:
    """The LightningCLI of earwitness; with `parse_only` nothing is built, the configuration is only checked."""
    import jsonargparse
    import lightning as L
    from lightning.pytorch.cli import LightningCLI

    from ..lightning_modules.callbacks.progress import progress_bar

    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

    class EarwitnessCLI(LightningCLI):
        def __init__(self, args: Sequence[str]) -> None:
            super().__init__(
                L.LightningModule,
                L.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
                save_config_callback=None,
                trainer_defaults={"callbacks": [progress_bar()]},
                args=list(args),
            )

        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_class_arguments(Paths, "paths")
            parser.add_argument("--threads", type=int, default=0, help="CPU threads per process; 0: torch decides")

        if parse_only:

            def instantiate_classes(self) -> None:
                return

            def _run_subcommand(self, subcommand: str) -> None:
                return

        else:

            def before_instantiate_classes(self) -> None:
                import torch

                threads = self.config[self.subcommand].threads
                if threads:
                    torch.set_num_threads(threads)

    return EarwitnessCLI


def main(args: Sequence[str] | None = None) -> None:
    """`earwitness fit|validate|test|predict --config FILE [--key value ...]`."""
    _quiet()
    cli_class()(sys.argv[1:] if args is None else args)


def check(args: Sequence[str]) -> None:
    """Parses a command line as `main` would, without loading anything; exits with 2 on a wrong key or value."""
    _quiet()
    cli_class(parse_only=True)(args)
