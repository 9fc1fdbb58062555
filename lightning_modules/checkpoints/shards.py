"""Sharded checkpoints: beside the trainer's file lies a folder that every rank wrote its parts of the tensors to.

The folder is of torch.distributed.checkpoint, under plain names: `weights.NAME` for every weight that trains, and
`optimizer.NAME.KEY` for its optimizer state. So any number of ranks reads it, sharded or not. The trainer's file
holds the rest, and says where the folder is (`shards`) and in which order the optimizer has the weights (`trained`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ...boundary.files import empty_folder
from ...errors import InputError

KEY = "shards"
_FILE = "trainer.ckpt"  # of a folder that is one checkpoint; other files have neighbours


def folder_for(file: Path, step: int) -> Path:
    """Where the shards of a trainer's file go. The folder's name tells the step where the file's may be replaced."""
    return file.with_name("shards") if file.name == _FILE else file.with_name(f"{file.name}.shards-{step}")


def remove_others(file: Path, keep: Path | None) -> None:
    """Removes the shards that belonged to the file before, but for those to `keep`; all of them where that is None."""
    for folder in file.parent.glob(f"{file.name}.shards-*"):
        if folder != keep:
            shutil.rmtree(folder)


def begun(folder: Path) -> Path:
    """An empty folder that `write` fills and `finished` gives its name; by one process."""
    return empty_folder(folder.with_name(f"{folder.name}.partial"))


class _Writer(FileSystemWriter):
    """A full disk is an OSError: torch's archives turn it into one about positions in a file."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))) from error


def write(tensors: dict[str, Any], folder: Path) -> None:
    """Every rank writes its parts of the tensors into a folder of `begun`; a collective operation.

    OSError, on all ranks, where one of them could not.
    """
    try:
        save(tensors, storage_writer=_Writer(folder, sync_files=True))
    except CheckpointException as error:  # no Exception; it holds the tracebacks of all ranks
        cause = next(cause for cause, _ in error.failures.values())
        raise (cause if isinstance(cause, OSError) else OSError(str(cause))) from error


def finished(partial: Path, folder: Path) -> None:
    """Gives a written folder its name; by one process, after all have written."""
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_into(tensors: dict[str, Any], folder: Path, alone: bool = False) -> None:
    """Fills the tensors, sharded or not, from the folder. alone: without other ranks. InputError for a missing one."""
    there = shapes_in(folder)
    for name, tensor in tensors.items():
        if name not in there:
            raise InputError(f"{folder}: holds no {name!r}; it was saved by a run that trained other parts")
        if (shape := there[name][0]) != tuple(tensor.shape):
            raise InputError(f"{folder}: {name!r} has the shape {list(shape)} there, {list(tensor.shape)} here")
    load(tensors, storage_reader=FileSystemReader(folder), no_dist=alone)


def read_whole(checkpoint: dict[str, Any], file: Path) -> dict[str, Any]:
    """The checkpoint as if one process had written it: tensors in `state_dict` and `optimizer_states`.

    checkpoint: what the trainer's file holds; without shards it is returned as it is.
    """
    if KEY not in checkpoint:
        return checkpoint
    folder = file.with_name(checkpoint[KEY])
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes_in(folder).items()}
    read_into(tensors, folder, alone=True)
    states = {name: tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    checkpoint["state_dict"] |= {name.removeprefix("weights."): tensor for name, tensor in states.items()}
    for state in checkpoint["optimizer_states"]:
        numbered = ((number, state_of(tensors, name)) for number, name in enumerate(checkpoint["trained"]))
        state["state"] = {number: found for number, found in numbered if found}
    return checkpoint


def state_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The optimizer state of the weight `name`, by key."""
    prefix = f"optimizer.{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def shapes_in(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name -> shape and dtype of every tensor that the folder holds. InputError where it is not whole."""
    try:
        kept: Any = FileSystemReader(folder).read_metadata().state_dict_metadata
    except (OSError, EOFError) as error:
        raise InputError(f"{folder}: no whole sharded checkpoint ({error})") from None
    return {name: (tuple(each.size), each.properties.dtype) for name, each in kept.items()}


def in_order(trained: Mapping[str, Tensor], optimizers: Sequence[Any]) -> dict[str, Tensor]:
    """The weights by name, in the order in which optimizers number them: group by group; then those they leave out."""
    names = {id(weight): name for name, weight in trained.items()}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    numbered = {names[id(weight)]: weight for group in groups for weight in group["params"] if id(weight) in names}
    return numbered | {name: weight for name, weight in trained.items() if name not in numbered}


def named_states(optimizer: Any, trained: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tensors of an optimizer's state, as a folder names them. trained: the weights by name."""
    found = {}
    for name, parameter in trained.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"optimizer.{name}.{key}"] = value
    return found
