"""Our LightningCLI: complete files, one line for what is wrong in them, and every check before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jsonargparse
import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningCLI

from ..errors import InputError
from ..lightning_modules.callbacks.progress import progress_bar
from .checks import check_questions, missing_path, trainer_reads
from .explain import UsageError, merged, reason

jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


@dataclass
class Paths:
    """Where things are, to be interpolated as `${paths.out}`; files and command line override them one by one.

    Args:
        data: folder of the shards and labels. model: checkpoint folder or hub id. out: folder of the run.
    """

    data: str = "data"
    model: str = "Qwen/Qwen2.5-Omni-7B"
    out: str = "runs/default"


# What stands at the top of a file, where a type says all about it.
_TOP = {"seed_everything": bool | int | None, "threads": int, "paths": Paths, "ckpt_path": str | None}


class EarwitnessCLI(LightningCLI):
    """Runs a trainer command; args: the words after `earwitness`, beginning with fit, validate, test or predict.

    Raises UsageError for a wrong key or value, and InputError for what a class refuses or a path that is not there.
    """

    runs = True

    def __init__(self, args: Sequence[str]) -> None:
        self.words = list(args)
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False, "exit_on_error": False},
            save_config_callback=None,
            trainer_defaults={"callbacks": [progress_bar()]},
            args=self.words,
            load_from_checkpoint_support=self.runs,
        )

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Adds `paths` and `threads` to Lightning's own keys."""
        parser.add_class_arguments(Paths, "paths")
        parser.add_argument("--threads", type=int, default=0, help="CPU threads per process; 0: torch decides")

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parses files and words; whatever is wrong with them is one UsageError."""
        try:
            super().parse_arguments(parser, args)
        except Exception as error:  # jsonargparse, OmegaConf and the classes' modules each have their own
            sentence = reason(error, lambda: merged(self.words), self._top())
            raise UsageError(sentence or f"{type(error).__name__}: {error}") from error

    def _top(self) -> dict[str, Any]:
        """The keys that a file may have at its top, with their types where these are known."""
        actions = self._subcommand_parsers[self.words[0]]._actions
        names = sorted({action.dest.split(".")[0] for action in actions} - {"help", "config"})
        return {name: _TOP.get(name, Any) for name in names}

    def plain(self) -> dict[str, Any]:
        """The parsed configuration as mappings and lists, without the names of its files."""
        whole: dict[str, Any] = self.config[self.subcommand].as_dict()
        return {name: value for name, value in whole.items() if name != "config"}

    def before_instantiate_classes(self) -> None:
        """Sets the number of threads."""
        if threads := self.config[self.subcommand].threads:
            import torch

            torch.set_num_threads(threads)

    def instantiate_classes(self) -> None:
        """Checks the stage and makes everything; a fault of a class, and not of the file, is raised as it is."""
        check_questions(self.words[0], self.plain())
        try:
            self._make()
        except Exception as error:
            sentence = reason(error, self.plain, self._top())
            if sentence is None:
                raise
            raise InputError(sentence) from error

    def _make(self) -> None:
        super().instantiate_classes()

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """The trainer, once all paths that the run reads are there."""
        if missing := missing_path(trainer_reads(self.words[0], self.plain())):
            raise InputError(missing)
        try:
            return super().instantiate_trainer(**options)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError(f"trainer: {str(error).strip().splitlines()[0]}") from error


class Checked(EarwitnessCLI):
    """Makes the model, the data module and the callbacks, which have rules of their own; loads and runs nothing."""

    runs = False

    def before_instantiate_classes(self) -> None:
        """Leaves the number of threads as it is."""

    def _make(self) -> None:
        config = self.config.clone()
        for name in ("logger", "strategy", "plugins", "profiler"):  # these may touch disk or devices
            config[self.subcommand].trainer[name] = None
        self.parser.instantiate_classes(config)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""
