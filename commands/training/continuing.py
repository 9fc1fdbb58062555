"""Where a run goes on: the same `fit` command continues from its own last checkpoint, `--fresh` starts anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import InputError
from ...lightning_modules.callbacks.run_folder import RunFolder
from ...lightning_modules.checkpoints.folders import checkpoint_at, last_of, moved_aside, step_of
from ...lightning_modules.checkpoints.logs import continued
from ...lightning_modules.checkpoints.run_record import read_record, record_of, refuse_other_configuration

_LIGHTNING = ("best", "hpc", "registry")  # words of Lightning's for a checkpoint


class Start(NamedTuple):
    """checkpoint: the file that a run goes on from, None for a new one. said: what to print of it."""

    checkpoint: str | None
    said: list[str]


def checkpoints_folder(config: Mapping[str, Any]) -> Path | None:
    """Where a run saves: the folder of its callback `earwitness.Checkpoints`, else of Lightning's ModelCheckpoint."""
    callbacks = (config.get("trainer") or {}).get("callbacks") or ()
    for name, key in ((".Checkpoints", "folder"), (".ModelCheckpoint", "dirpath")):
        for each in callbacks if isinstance(callbacks, list) else [callbacks]:
            if isinstance(each, Mapping) and str(each.get("class_path")).endswith(name):
                folder = (each.get("init_args") or {}).get(key)
                if folder and "://" not in str(folder):
                    return Path(folder)
    return None


def run_root(config: Mapping[str, Any]) -> str:
    """The folder of a run, where what has no place of its own goes, and not into the working directory."""
    folder = checkpoints_folder(config)
    return str((config.get("paths") or {}).get("out") or "." if folder is None else folder.parent)


def resolved(given: str | None, folder: Path | None) -> str | None:
    """The checkpoint that `--ckpt_path` means; InputError where it is none or not whole."""
    if given is None or given.split(":")[0] in _LIGHTNING or "://" in given:
        return given
    if given == "last" and not Path(given).exists():
        if folder is None:
            raise InputError(
                "ckpt_path: `last` needs a callback earwitness.Checkpoints, whose folder it is looked for in"
            )
        found = last_of(folder)
        return None if found is None else str(checkpoint_at(found))
    try:
        return str(checkpoint_at(given))
    except InputError as error:
        raise InputError(f"ckpt_path: {error}") from error


def prepared(config: Mapping[str, Any], trainer: Any) -> Start:
    """Decides from what a `fit` goes on, gives the trainer the record of the run, and its loggers their versions.

    Every rank decides by itself, from what lies there before any of them writes; that they agree is checked later.
    """
    folder, given = checkpoints_folder(config), config.get("ckpt_path")
    record = record_of(config)
    fresh = bool(config.get("fresh")) and not _restarted()
    if fresh and given:
        raise InputError("--fresh starts anew, --ckpt_path continues: leave one of them out")
    said: list[str] = []
    then = None if folder is None or fresh else read_record(folder)
    if fresh:
        aside = moved_aside(folder) if folder is not None and trainer.is_global_zero else None
        said = [f"the old checkpoints are now in {aside}"] if aside else []
    path = None if fresh else resolved(given, folder)
    if folder is not None and not fresh:
        last = last_of(folder)
        if last is not None:
            if given is None:
                path = str(checkpoint_at(last))
            if then is None and given is None:
                raise InputError(
                    f"{folder} holds checkpoints of a run whose configuration is not known; continue it with "
                    f"--ckpt_path {last}, or start anew with --fresh, which moves them aside"
                )
            if then is not None and path is not None and Path(path).resolve().is_relative_to(folder.resolve()):
                said = refuse_other_configuration(folder, then, record)
            elif given is not None and path != given and folder.resolve() not in Path(path or "").resolve().parents:
                said = [f"{folder} holds checkpoints of its own, which are not continued"]
    step = step_of(Path(path).parent) if path else None
    if then is not None and (path or then["configuration"] == record["configuration"]):
        continued(trainer.loggers, then.get("logs", {}), step or 0)
    if path:
        said.append(f"continuing from {path}")
    trainer.callbacks.insert(0, RunFolder(record, folder, Path(path) if path else None))
    return Start(path, said)


def _restarted() -> bool:
    """Whether SLURM or torchrun started the same command again: `--fresh` was for its first start."""
    return any(int(os.environ.get(name) or 0) for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
