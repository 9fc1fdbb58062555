"""LightningCLI over complete YAML files: it parses, checks what can be checked before anything is loaded, and runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jsonargparse
import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningCLI

from ...boundary.words import say
from ...errors import InputError
from ...lightning_modules.callbacks.progress import progress_bar
from ...lightning_modules.connections import lost
from ..checks.paths import missing_path
from ..checks.trainer import check_questions, trainer_reads
from . import continuing
from .explain import UsageError, merged, readable, reason
from .run_facts import RunFacts, texts_of, with_tensorboard

jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


@dataclass
class Paths:
    """Where things are, to be interpolated as `${paths.out}`; files and command line override them one by one.

    Args:
        data: folder of the shards. labels: label table, None without one. model: checkpoint folder or hub id.
        out: folder of the run.
    """

    data: str = "data"
    labels: str | None = "runs/labels/labels.arrow"
    model: str = "Qwen/Qwen2.5-Omni-7B"
    out: str = "runs/default"


# What stands at the top of a file, where a type says all about it.
_TOP = {"seed_everything": bool | int | None, "threads": int, "paths": Paths, "ckpt_path": str | None, "fresh": bool}


class EarwitnessCLI(LightningCLI):
    """The LightningCLI of earwitness; a wrong key or value is a UsageError, what a class refuses an InputError.

    parse_only: the model, the data module and the callbacks are made, and nothing is loaded or run.
    """

    def __init__(self, args: Sequence[str], parse_only: bool = False) -> None:
        self.words, self.parse_only = readable(args), parse_only
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
            load_from_checkpoint_support=not parse_only,
        )

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Adds `paths`, `threads` and `fresh` to LightningCLI's own keys."""
        parser.add_class_arguments(Paths, "paths")
        parser.add_argument("--threads", type=int, default=0, help="CPU threads per process; 0: torch decides")
        parser.add_argument("--fresh", action="store_true", help="fit anew; older checkpoints are moved aside")

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parses files and command line; a UsageError in one sentence for what is wrong in them."""
        try:
            super().parse_arguments(parser, args)
        except Exception as error:  # jsonargparse, OmegaConf and the classes' modules each have their own
            sentence = reason(error, lambda: merged(self.words), self._top())
            raise UsageError(sentence or f"{type(error).__name__}: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Lightning's reads a configuration out of the checkpoint; here files and command line say all of it."""

    def _top(self) -> dict[str, Any]:
        """The keys that a file may have at its top, with their types where these are known."""
        actions = self._subcommand_parsers[self.words[0]]._actions
        names = sorted({action.dest.split(".")[0] for action in actions} - {"help", "config"})
        return {name: _TOP.get(name, Any) for name in names}

    def plain(self) -> dict[str, Any]:
        """The parsed configuration as mappings and lists, without the names of its files."""
        whole: dict[str, Any] = self.config[self.subcommand].as_dict()
        return {name: value for name, value in whole.items() if name != "config"}

    def instantiate_classes(self) -> None:
        """Makes model, data and trainer, once what can be checked without them was; InputError in one sentence."""
        check_questions(self.words[0], self.plain())
        try:
            if self.parse_only:
                self._make_light_parts()
            else:
                super().instantiate_classes()
        except Exception as error:
            sentence = reason(error, self.plain, self._top())
            if sentence is None:  # a fault of a class, not of the file
                raise
            raise InputError(sentence) from error

    def _make_light_parts(self) -> None:
        """Makes what has rules of its own; no policy, trainer or logger."""
        config = self.config.clone()
        for name in ("logger", "strategy", "plugins", "profiler"):
            config[self.subcommand].trainer[name] = None
        self.parser.instantiate_classes(config)

    def instantiate_trainer(self, **options: Any) -> Any:
        """The trainer, once the paths that the command reads are known to exist."""
        if missing := missing_path(trainer_reads(self.words[0], self.plain())):
            raise InputError(missing)
        if self.plain()["trainer"].get("default_root_dir") is None:
            options["default_root_dir"] = continuing.run_root(self.plain())
        try:
            trainer: Any = super().instantiate_trainer(**options)
            if self.words[0] == "fit":
                with_tensorboard(trainer)
                trainer.callbacks.append(RunFacts(self.plain(), texts_of(self.words), self.plain()["paths"]["out"]))
            return trainer
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError(f"trainer: {str(error).strip().splitlines()[0]}") from error

    def before_fit(self) -> None:
        """Has the run go on where it stopped; says so."""
        start = continuing.prepared(self.plain(), self.trainer)
        self.config_init[self.subcommand]["ckpt_path"] = start.checkpoint
        if self.trainer.is_global_zero:
            for sentence in start.said:
                say(sentence, flush=True)

    def _resolve_checkpoint(self) -> None:
        given = self.config_init[self.subcommand].get("ckpt_path")
        found = continuing.resolved(given, continuing.checkpoints_folder(self.plain()))
        self.config_init[self.subcommand]["ckpt_path"] = found

    before_validate = before_test = before_predict = _resolve_checkpoint

    def before_instantiate_classes(self) -> None:
        """Sets the threads of this process before anything computes."""
        threads = self.config[self.subcommand].threads
        if threads and not self.parse_only:
            torch.set_num_threads(threads)

    def _run_subcommand(self, subcommand: str) -> None:
        if self.parse_only:
            return
        try:
            super()._run_subcommand(subcommand)
        except RuntimeError as error:
            if (sentence := lost(error)) is None:
                raise
            raise InputError(sentence) from error
