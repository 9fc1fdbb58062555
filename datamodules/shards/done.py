"""What a finished packing was made of, so that the same command says at once that there is nothing to do.

`packing.arrow` lists the recordings; its metadata holds a hash of the arguments, of the annotations' sizes and times of
change, the same of the recordings, the sizes of all that was written, and the counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ...curriculum.table import read_arrow, write_arrow
from ...errors import InputError
from .spool import Spool, paths

_ABOUT, _RECORD = b"earwitness", "packing.arrow"


def stamp(path: Path) -> tuple[int, int] | str:
    """Size and time of change of a file, or "missing"."""
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return state.st_size, state.st_mtime_ns


def packed_recordings(folder: str | Path, root: str | Path) -> list[str]:
    """The recordings that a finished packing into the folder read, none where that is not known; root: their folder."""
    try:
        names = read_arrow(Path(folder) / _RECORD).column("path").to_pylist()
    except (InputError, pa.ArrowException, OSError, LookupError, ValueError):
        return []
    return [str(Path(root) / name) for name in names if name]


class Done:
    """The record of one packing into a folder. made_of: hash of its arguments. root: folder of the recordings."""

    def __init__(self, folder: Path, made_of: str, root: str) -> None:
        self.folder, self.made_of, self.root = folder, made_of, Path(root)
        self.file = folder / _RECORD
        self.paths = pa.array([], pa.string())
        self.stamps = ""

    def counts(self) -> dict[str, int | float] | None:
        """The counts of a finished packing of the very same input whose results still lie there; else None."""
        try:
            table = read_arrow(self.file)
            about = json.loads(table.schema.metadata[_ABOUT])
            if about["made_of"] != self.made_of or about["written"] != self._written():
                return None
            if about["stamps"] != self._stamps(iter(table.column("path").to_pylist())):
                return None
            counts: dict[str, int | float] = about["counts"]
            return counts
        except (InputError, pa.ArrowException, OSError, LookupError, TypeError, ValueError):
            return None

    def remember(self, spool: Spool) -> None:
        """Takes the state of the recordings, before they are read; the record of an earlier packing is void."""
        self.file.unlink(missing_ok=True)
        offsets, begins = spool.sealed()
        self.paths = pa.array(paths(str(spool.path), offsets[begins[:-1]]), pa.string())
        self.stamps = self._stamps(path.as_py() for path in self.paths)

    def write(self, counts: dict[str, int | float]) -> None:
        """Records that all is written."""
        about = {"made_of": self.made_of, "stamps": self.stamps, "written": self._written(), "counts": counts}
        table = pa.table({"path": self.paths}).replace_schema_metadata({_ABOUT: json.dumps(about)})
        write_arrow(table, self.file, compression="zstd")

    def _stamps(self, names: Iterator[str]) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name in names:
            digest.update(f"{name}\0{stamp(self.root / name) if name else ''}\n".encode())
        return digest.hexdigest()

    def _written(self) -> dict[str, int]:
        """Name -> size of the files of a packing."""
        names = ("shard-*.tar", "index.arrow", "*.quarantine.jsonl")
        return {path.name: path.stat().st_size for name in names for path in sorted(self.folder.glob(name))}
