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

from .shards import read_whole


class WholeFile(TorchCheckpointIO):
    """Lightning's file format, written beside the target, flushed to the disk, and renamed.

    Addresses of object stores (s3://...) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint to `path`; what a killed run left half written is overwritten by the next call."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(".checkpoint.partial")
        try:
            with open(scratch, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is on the disk before ModelCheckpoint removes the old file
        finally:
            os.close(folder)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,
        whole: bool = True,
    ) -> dict[str, Any]:
        """The checkpoint under `path`, on the CPU; whole: with all tensors, also those in shards beside it."""
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return read_whole(checkpoint, Path(path)) if whole else checkpoint
