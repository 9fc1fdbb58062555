"""A step of a lab's whose runs can be counted; importing it costs nothing."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path


def work(
    out: str,
    text: str = "",
    source: str | list[str] | None = None,
    count: str | None = None,
    meet: tuple[str, str] | None = None,
    seconds: float = 0.0,
    fail: bool = False,
    stray: str | None = None,
) -> dict[str, str]:
    """Writes the sources' texts and `text` into a file, and its own name into `count` when it starts and ends.

    Variables of the environment in `text` are replaced by their values.
    meet: a file to make, and one to wait for. stray: file for the number of a process that it starts and leaves.
    """

    def note(what: str) -> None:
        if count:
            with open(count, "a") as file:
                file.write(f"{what} {Path(out).name}\n")

    note("start")
    if stray:
        Path(stray).write_text(str(subprocess.Popen(["sleep", "600"], start_new_session=True).pid))
    if meet:
        Path(meet[0]).touch()
        end = time.monotonic() + 30
        while not Path(meet[1]).exists():
            if time.monotonic() > end:
                raise TimeoutError(meet[1])
            time.sleep(0.01)
    time.sleep(seconds)
    print(f"working on {Path(out).name}")
    if fail:
        raise ValueError("a fault of the lab's")
    sources = [source] if isinstance(source, str) else source or []
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text("".join([*(Path(each).read_text() for each in sources), os.path.expandvars(text)]))
    note("end")
    return {"wrote": Path(out).name}
