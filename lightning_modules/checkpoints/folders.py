"""A folder per checkpoint: `step-00000120/` with `trainer.ckpt` and what a strategy adds; the file `last` names it.

A folder is written as `step-00000120.partial`, flushed to the disk and renamed; then `last` is replaced. Whatever
a run dies of, `last` names a whole checkpoint.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ...boundary.files import empty_folder, read_text, replacing
from ...errors import InputError
from .whole_file import flushed

FILE, POINTER, RECORD = "trainer.ckpt", "last", "run.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the `last` so many, and those of every `every`-th step (None: no others)."""

    last: int = 2
    every: int | None = None

    def __post_init__(self) -> None:
        if self.last < 1 or (self.every is not None and self.every < 1):
            raise InputError(f"keep: last and every must be at least 1, got {self.last} and {self.every}")

    def stays(self, steps: list[int]) -> set[int]:
        """Those of the steps that stay."""
        return {*sorted(steps)[-self.last :], *(step for step in steps if self.every and step % self.every == 0)}


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many trained steps lies."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's folder is of; None for any other path, also one that is half written."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def begun(folder: Path, step: int) -> Path:
    """An empty folder to write a checkpoint into, `finished` makes it the last; what was half written before goes."""
    for rest in folder.glob("step-*.partial"):
        empty_folder(rest).rmdir()
    return empty_folder(folder_of(folder, step).with_suffix(".partial"))


def finished(partial: Path, keep: Keep) -> Path:
    """Gives a written folder its name, has `last` name it, and removes the checkpoints that `keep` does not hold."""
    for path in sorted(partial.rglob("*"), reverse=True):
        flushed(path)
    flushed(partial)
    whole, folder = partial.with_suffix(""), partial.parent
    if whole.exists():  # of a run that was killed before `last` named it
        _remove(whole)
    partial.rename(whole)
    flushed(folder)
    with replacing(folder / POINTER) as file:
        file.write(f"{whole.name}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    flushed(folder)
    steps = {step: path for path in folder.iterdir() if (step := step_of(path)) is not None}
    for step in set(steps) - keep.stays(list(steps)):
        if steps[step] != whole:
            _remove(steps[step])
    return whole


def _remove(path: Path) -> None:
    """A folder that is half gone must not look whole."""
    doomed = path.with_name(f"{path.name}.old.partial")
    path.rename(doomed)
    shutil.rmtree(doomed)


def last_of(folder: Path) -> Path | None:
    """The file of the newest whole checkpoint of a run, None where there is none.

    folder: of its checkpoints. `last.ckpt` of Lightning's ModelCheckpoint counts where there is no folder.
    """
    steps = [path for path in folder.glob("step-*") if step_of(path) is not None and (path / FILE).is_file()]
    pointer = folder / POINTER
    if pointer.is_file():
        named = folder / read_text(pointer).strip()
        if named in steps:
            return named / FILE
    if steps:
        return max(steps, key=lambda path: step_of(path) or 0) / FILE
    older = folder / "last.ckpt"
    return older if older.is_file() else None


def checkpoint_at(path: str | Path) -> Path:
    """The file of the checkpoint that a path means: a file, its folder, a folder of checkpoints, or of a run.

    InputError where there is none, or none that is whole.
    """
    path = Path(path)
    if path.is_dir():
        if path.suffix == ".partial":
            raise InputError(f"{path} was still being written when its run ended{_beside(path)}")
        if (path / FILE).is_file():
            path = path / FILE
        else:
            found = last_of(path) or last_of(path / "checkpoints")
            if found is None:
                raise InputError(f"{path} holds no checkpoint; without --ckpt_path a run starts anew")
            path = found
    if not path.is_file():
        raise InputError(f"{path} is not there{_beside(path)}")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty, its run ended before it was written{_beside(path)}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is half written, or no checkpoint{_beside(path)}")
    return path


def _beside(path: Path) -> str:
    """The whole checkpoints next to one that is not, as the end of a sentence."""
    where = path.parent if step_of(path.parent) is None else path.parent.parent
    names = [each.name for each in sorted(where.glob("step-*")) if (each / FILE).is_file() and each != path.parent]
    names += [each.name for each in sorted(where.glob("*.ckpt")) if each != path and zipfile.is_zipfile(each)]
    there = ", ".join(names[-3:])
    return f"; whole ones beside it: {there}" if there else "; leave --ckpt_path out, and the run starts anew"


def moved_aside(folder: Path) -> Path | None:
    """Moves a run's checkpoints and its record to `NAME.1`, `NAME.2`, ...: the first that is free; None without any.

    What else lies in the folder stays.
    """
    ours = [path for name in ("step-*", "*.ckpt", POINTER, RECORD) for path in folder.glob(name)]
    if not ours:
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    aside.mkdir()
    for path in ours:
        path.rename(aside / path.name)
    return aside
