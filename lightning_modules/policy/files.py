"""Weights and model folders on the disk: written in pieces and beside, so that a model is whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...boundary.files import empty_folder, read_json, write_text
from ...boundary.words import is_name
from ...errors import InputError

Weights = Iterable[tuple[str, Tensor]]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD_BYTES = 4 << 30
# What an earlier export left in a folder and a new one does not continue; everything else there is kept.
_OURS = (
    *("model*.safetensors*", "adapter_*", "config.json", "generation_config.json", "spk_dict.pt"),
    *("tokenizer*", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template*"),
    *("preprocessor_config.json", "processor_config.json"),
)


def chunks(weights: Weights, limit_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The weights in dicts of at most `limit_bytes`; a larger tensor comes alone. Tensors are copied to the CPU."""
    part: dict[str, Tensor] = {}
    filled = 0
    for name, tensor in weights:
        size = tensor.numel() * tensor.element_size()
        if part and filled + size > limit_bytes:
            yield part
            part, filled = {}, 0
        part[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)  # contiguous, and a copy always
        filled += size
    if part:
        yield part


def write_weights(weights: Weights, folder: Path) -> dict[str, torch.dtype]:
    """Writes one file, or files of at most 4 GiB with the index that transformers expects; returns name -> dtype.

    No more than one file's tensors are in memory at a time.
    """
    written: list[list[str]] = []
    dtypes: dict[str, torch.dtype] = {}
    total = 0
    for shard in chunks(weights, _SHARD_BYTES):
        save_file(shard, folder / f"{len(written)}.partial", metadata={"format": "pt"})
        written.append(list(shard))
        dtypes |= {name: tensor.dtype for name, tensor in shard.items()}
        total += sum(t.numel() * t.element_size() for t in shard.values())
    several = len(written) > 1
    file_of: dict[str, str] = {}
    for number, names in enumerate(written):
        file = f"model-{number + 1:05d}-of-{len(written):05d}.safetensors" if several else SINGLE
        (folder / f"{number}.partial").rename(folder / file)
        file_of |= dict.fromkeys(names, file)
    if several:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": file_of})
    return dtypes


def write_json(path: Path, content: object) -> None:
    """Writes JSON as transformers does: indented, keys sorted, a newline at the end."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, as transformers chooses them; none where it has no such files.

    InputError where its index is damaged or names a file that is not there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    try:
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / INDEX}: not an index of weight files; copy the checkpoint again") from None
    for name in names:
        if not is_name(name):
            raise InputError(
                f"{folder / INDEX}: {name!r:.80} is no name of a file beside it; copy the checkpoint again"
            )
        if not (folder / str(name)).is_file():
            raise InputError(f"{folder}: its weights cannot be read ({name}, which {INDEX} lists, is missing)")
    return [folder / name for name in names]


def headers(folder: Path) -> dict[str, tuple[list[int], str]]:
    """The shape and dtype ("F32", "BF16", ...) of every tensor in a folder's safetensors files, by name.

    InputError where a file is damaged. The tensors themselves are not read.
    """
    found: dict[str, tuple[list[int], str]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    found[name] = part.get_shape(), part.get_dtype()
        except (OSError, SafetensorError) as error:
            raise InputError(f"{folder}: its weights cannot be read ({path.name}: {error})") from None
    return found


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a folder's safetensors files, bit for bit, one after the other from the disk."""
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def check_place(out: str | Path, source: str | Path | None = None) -> None:
    """Raises InputError where no model may be written to the folder `out`.

    source: folder or hub id of the model that training started from, which must not be replaced.
    """
    place = Path(os.path.realpath(out))
    if place.exists() and not place.is_dir():
        raise InputError(f"{out}: a file; a model is a folder")
    if os.path.ismount(place) or Path(os.getcwd()).is_relative_to(place):
        raise InputError(f"{out}: cannot be replaced as a whole; name a folder inside it")
    if source is not None and Path(os.path.realpath(source)) == place:
        raise InputError(f"{out}: the model that training started from is here; name another folder")


@contextmanager
def written_beside(out: str | Path) -> Iterator[Path]:
    """A folder to write a model into, which takes the place of `out` once everything is on the disk.

    Files that no export writes are kept. Where writing fails, `out` stays as it was: an InputError in one sentence.
    """
    check_place(out)
    place = Path(os.path.realpath(out))
    scratch, before = place.with_name(f".{place.name}.partial"), place.with_name(f".{place.name}.before")
    try:
        _settle(place, before)
        yield empty_folder(scratch)
        _flush(scratch)
        if place.exists():
            place.rename(before)
        scratch.rename(place)
        _settle(place, before)
    except (OSError, SafetensorError) as error:
        _settle(place, before)
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{out}: the model cannot be written ({reason}); what was there is as it was") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _settle(place: Path, before: Path) -> None:
    """Ends a replacement: the folder's other files come back from `before`, or the whole of it where nothing came."""
    if not before.exists():
        return
    if not place.exists():
        before.rename(place)
        return
    for entry in list(before.iterdir()):
        nested = (entry / "adapter_config.json").is_file()
        if not nested and not any(entry.match(pattern) for pattern in _OURS) and not (place / entry.name).exists():
            entry.rename(place / entry.name)
    shutil.rmtree(before)


def _flush(folder: Path) -> None:
    """Has the disk hold everything in the folder."""
    for path in [*(p for p in folder.rglob("*") if not p.is_symlink()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
