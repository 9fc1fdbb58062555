"""The quarantine: samples that could not be read are written to a file and counted, and too many stop the run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from ...boundary.files import bounded_lines, made_folder, open_regular, open_to_append
from ...errors import InputError
from ..batch import Replaced


class Quarantine:
    """The bad samples of one rank, in `FOLDER/quarantine-rankN.jsonl`, or only counted without a folder.

    limit: as many distinct ones are accepted. Lines are appended whole, so that several loaders share a rank's file.
    """

    def __init__(self, folder: str | None, rank: int, limit: int) -> None:
        self.path = Path(folder) / f"quarantine-rank{rank}.jsonl" if folder else None
        self.limit = limit
        self.reasons: dict[int, str] = {}  # by uid

    def add(self, bad: Replaced) -> None:
        """Writes a bad sample to the file and counts it; raises InputError, with the list, beyond the limit."""
        known = bad.uid in self.reasons
        self.reasons[bad.uid] = bad.reason
        if self.path is not None:
            made_folder(self.path.parent)
            line = json.dumps(asdict(bad), ensure_ascii=False) + "\n"
            with open_to_append(self.path) as file:
                os.write(file.fileno(), line.encode(errors="backslashreplace"))  # a path need not be UTF-8
        if not known:
            self.check()

    def count(self, bad: Replaced) -> None:
        """Counts a bad sample that a loader process has written down; raises InputError beyond the limit."""
        if bad.uid not in self.reasons:
            self.reasons[bad.uid] = bad.reason
            self.check()

    def check(self) -> None:
        """Raises InputError, with the first 20 reasons, where more distinct samples are bad than the limit."""
        if len(self.reasons) > self.limit:
            shown = "\n  ".join(list(self.reasons.values())[:20])
            more = f"\n  and {len(self.reasons) - 20} more" if len(self.reasons) > 20 else ""
            file = f"; all are in {self.path}" if self.path else ""
            count = len(self.reasons)
            raise InputError(
                f"{count} bad samples, more than the {self.limit} of reading.max_bad{file}:\n  {shown}{more}"
            )


def read_quarantine(folder: str | Path) -> list[Replaced]:
    """The bad samples of all ranks of a run, each once per stage and step; InputError for a damaged line."""
    samples: dict[tuple[int, str, int], Replaced] = {}
    for path in sorted(Path(folder).glob("quarantine-rank*.jsonl")):
        with open_regular(path) as file:
            for number, line in enumerate(bounded_lines(file, 1 << 20, str(path)), 1):
                try:
                    bad = Replaced(**json.loads(line))
                    samples[bad.uid, bad.stage, bad.step] = bad
                except (ValueError, TypeError, RecursionError):
                    raise InputError(f"{path}:{number}: not a line of a quarantine file") from None
    return list(samples.values())
