"""The small files of a checkpoint, looked at before anything is made as they say: sizes decide what is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...boundary.files import open_regular, read_json
from ...errors import InputError

_JSON_BYTES = 16 << 20
_LARGEST = 256 << 20  # bytes of a tokenizer's files
_MOST_LAYERS, _MOST = 2_048, 1 << 26
_SMALL = {"feature_size": 4_096, "n_fft": 1 << 16, "sampling_rate": 1 << 18, "chunk_length": 1 << 13}
_SMALL |= {"n_samples": 1 << 28, "nb_max_frames": 1 << 20, "num_mel_bins": 4_096, "vocab_size": 1 << 22}
_CHECKED = ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json")
_READ = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")


def check_model_files(checkpoint: str | Path) -> None:
    """Raises InputError where a checkpoint's configuration is no JSON, or holds a size that no model has.

    checkpoint: folder, or hub id whose files are fetched.
    """
    for name in _CHECKED:
        path = _found(checkpoint, name)
        if path is None:
            continue
        for key, value in _numbers(read_json(path, _JSON_BYTES), str(path)):
            layers = "layers" in key or key == "depth"
            most = _MOST_LAYERS if layers else _SMALL.get(key, _MOST)
            if not -_MOST <= value <= most:
                raise InputError(f"{path}: {key} is {value:,}, no model has more than {most:,}")
    for name in _READ:
        path = Path(checkpoint) / name
        if path.is_file():
            with open_regular(path) as file:
                if file.seek(0, 2) > _LARGEST:
                    raise InputError(f"{path}: has more than {_LARGEST:,} bytes; copy the checkpoint again")


def _found(checkpoint: str | Path, name: str) -> Path | None:
    if Path(checkpoint).is_dir():
        path = Path(checkpoint) / name
        return path if path.is_file() else None
    if Path(checkpoint).exists() or name not in _CHECKED[:2]:
        return None
    from transformers.utils.hub import cached_file

    try:
        fetched = cached_file(str(checkpoint), name)
    except (OSError, ValueError):
        return None  # whoever reads the model says why
    return None if fetched is None else Path(fetched)


def _numbers(node: Any, where: str, key: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """(key, whole number) of all that stand in a JSON value."""
    if depth > 64:
        raise InputError(f"{where}: nests more than 64 levels deep")
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _numbers(value, where, str(name), depth + 1)
    elif isinstance(node, list):
        for value in node:
            yield from _numbers(value, where, key, depth + 1)
    elif isinstance(node, int) and not isinstance(node, bool):
        yield key, node
