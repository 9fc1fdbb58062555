"""Atomic checkpoints: under its name lies a whole checkpoint, on the disk, or the one that was there before.

Lightning 2.6 writes to the system's folder for temporary files and moves the file from there. Between two file systems
that is a copy: a run that is killed meanwhile leaves half a checkpoint, also in the place of a good `last.ckpt`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ...boundary.files import replacing
from ...errors import InputError
from .shards import read_whole


class WholeFile(TorchCheckpointIO):
    """Lightning's file format, written beside the target, flushed to the disk, and renamed.

    Addresses of object stores (s3://...) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint to `path`; what a killed run left half written is overwritten by the next call.

        InputError where the disk does not take it; what lay under the name is then as it was.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        try:
            _write(checkpoint, target)
        except (OSError, RuntimeError) as error:  # torch's writer turns what the file system says into the latter
            raise unwritten(target, error) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,
        whole: bool = True,
    ) -> dict[str, Any]:
        """The checkpoint under `path`, on the CPU; InputError where it is not whole.

        weights_only: None and True read tensors, numbers and texts alone, and run no code that a file brings. whole:
        with all tensors, also those in shards beside it.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location, weights_only=weights_only is not False)
        except Exception as error:  # bytes that are none of its own can end an unpickler in any way
            says = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} is no whole checkpoint ({says}); continue from another one") from error
        return read_whole(checkpoint, Path(path)) if whole else checkpoint


def unwritten(target: Path, error: BaseException) -> InputError:
    """What to say of a checkpoint that the disk did not take; target: its file or folder."""
    cause = error if isinstance(error, OSError) else error.__context__
    says = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).strip().splitlines()[0]
    return InputError(
        f"{target} could not be written ({says}); what was saved before it is whole: make room, "
        "and the same command continues from there"
    )


def flushed(path: Path) -> None:
    """Has the file or folder on the disk before it returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    with replacing(target) as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    flushed(target.parent)  # the new name is on the disk before ModelCheckpoint removes the old file
