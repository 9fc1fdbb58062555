"""Recordings below a folder, found under any of the names that downloaders give them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...curriculum.identity import hash64
from ...errors import InputError
from ..audio.kinds import EXTENSIONS


class AudioFiles:
    """The recordings below `root / folder`: their names, with and without endings.

    A name is looked for as it is, then with any ending of a recording, then in any folder; then all this without regard
    to capitals.
    """

    def __init__(self, root: str | Path, folder: str = "") -> None:
        top = Path(root) / folder
        if not top.is_dir():
            raise InputError(f"{top}: no such folder of recordings")
        self.paths: dict[str, str] = {}
        self.folded: dict[str, str] = {}
        self.count = 0
        for place, folders, names in os.walk(top):
            folders.sort()
            within = os.path.relpath(place, top)
            for name in sorted(names):
                stem, dot, ending = name.rpartition(".")
                if not dot or ending.lower() not in EXTENSIONS or name.startswith("._"):
                    continue
                self.count += 1
                local = name if within == "." else f"{within}/{name}"
                path = local if folder in ("", ".") else f"{folder.rstrip('/')}/{local}"
                for key in (local, local.rpartition(".")[0], name, stem):
                    self.paths.setdefault(key, path)

    def find(self, names: Sequence[str]) -> str:
        """The path below the root of the first name that is there, "" where none is."""
        wanted = [key for name in names for key in ((name, name.rpartition(".")[0]) if _ends(name) else (name,))]
        for key in wanted:
            if path := self.paths.get(key):
                return path
        if not self.folded:
            for key, path in self.paths.items():
                self.folded.setdefault(key.casefold(), path)
        return next((self.folded[key.casefold()] for key in wanted if key.casefold() in self.folded), "")


def recordings_stamp(root: str | Path, folder: str = "") -> str:
    """A mark of the names of all files below `root / folder`: another one where a recording came or went."""
    total, count = 0, 0
    for place, _, names in os.walk(Path(root) / folder):
        for name in names:
            total ^= hash64(place, name)
            count += 1
    return f"{count} {total:016x}"


def _ends(name: str) -> bool:
    """Whether a name ends as recordings do."""
    return name.rpartition(".")[2].lower() in EXTENSIONS and "." in name
