"""CompA-R: instructions and answers about AudioSet clips, in a flat form and in one nested by clip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ...curriculum.identity import hash64
from ...errors import InputError
from ..questions.formats import TextFile
from .item import Found, Item

_EVENT = re.compile(r"\(([^()]+?)-(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\)")


def read_compa_r(folder: Path, found: Found) -> Iterator[Item]:
    """An item per instruction with a recording, of every JSON or JSONL file; test files by their names."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".jsonl")]
    if not files:
        raise InputError(f"{folder}: holds no .json or .jsonl file of CompA-R")
    seen: set[int] = set()
    clips: set[str] = set()
    for path in files:
        source = TextFile(path)
        split = "test" if "test" in path.stem.lower() else "train"
        for number, row in source:
            where = source.where(number)
            if isinstance(row, InputError) or not isinstance(row, dict):
                found.fault(str(row) if isinstance(row, InputError) else f"{where}: must be an object")
                continue
            pairs = _pairs(row)
            name = row.get("audio_id")
            if pairs is None or not isinstance(name, str) or not name.strip():
                found.fault(f"{where}: needs audio_id, and instruction and output as texts (or instruction_output)")
                continue
            found.counts["nested pairs" if "instruction_output" in row else "flat rows"] += len(pairs)
            if name == "empty":
                found.counts["without audio"] += len(pairs)
                continue
            found.counts["with audio"] += len(pairs)
            clips.add(_stem(name))
            for instruction, output in pairs:
                identity = hash64(_stem(name), instruction, output)
                if identity in seen:
                    found.counts["given twice"] += 1
                    continue
                seen.add(identity)
                yield _item(name, row, instruction, output, split, identity)
    found.counts["clips"] = len(clips)


def _pairs(row: dict[str, Any]) -> list[tuple[str, str]] | None:
    """(instruction, output) pairs of either form; None where one is no text."""
    given = row.get("instruction_output", [row])
    if not isinstance(given, list) or not all(isinstance(pair, dict) for pair in given):
        return None
    pairs = [(pair.get("instruction"), pair.get("output")) for pair in given]
    texts = [(a.strip(), b.strip()) for a, b in pairs if isinstance(a, str) and isinstance(b, str)]
    return texts if len(texts) == len(pairs) and all(a and b for a, b in texts) else None


def _stem(name: str) -> str:
    """YouTube's id where the name is `Y` and an id; the file's name without its ending otherwise."""
    stem = PurePosixPath(name).stem if "." in PurePosixPath(name).name else PurePosixPath(name).name
    return stem[1:] if re.fullmatch(r"Y[\w-]{11}", stem) else stem


def _item(name: str, row: dict[str, Any], instruction: str, output: str, split: str, identity: int) -> Item:
    """The item of a pair; what the file tells of the scene goes along as facts."""
    stem = _stem(name)
    facts: dict[str, Any] = {"instruction": instruction}
    if isinstance(row.get("caption"), str) and row["caption"].strip():
        facts["scene"] = row["caption"].strip()
    told = row.get("timestamp_events")
    if isinstance(told, str) and (events := _EVENT.findall(told)):
        facts["events"] = [{"text": t.strip(" ,"), "onset": float(a), "offset": float(b)} for t, a, b in events]
    return Item(
        "CompA-R",
        f"{stem}_{identity:016x}",
        split,
        (f"Y{stem}", stem, PurePosixPath(name).name, name.lstrip("/")),
        (output,),
        facts,
        types=("sound", "speech", "music"),
        origin=f"youtube:{stem}" if re.fullmatch(r"[\w-]{11}", stem) else "",
    )
