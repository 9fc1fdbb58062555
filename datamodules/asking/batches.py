"""Batch files in OpenAI's format: requests out in parts, answers in by their key.

`vllm run-batch` on the nodes of a cluster and the batch services of providers read and write them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ...boundary.files import made_folder
from ...errors import InputError
from .chat import MALFORMED, completion_of
from .ledger import Ledger
from .runner import Request, store

_URL = "/v1/chat/completions"


def export_requests(requests: Iterable[Request], folder: Path, role: str, lines: int = 5_000) -> list[Path]:
    """Writes requests as `folder/part-00000.jsonl`, ..., `lines` each, in place of those of an earlier export.

    role: of the ledger that the answers belong to; it stands in every `custom_id`. Returns the files.
    """
    made_folder(folder)
    for old in folder.glob("part-[0-9]*.jsonl"):
        if re.fullmatch(r"part-\d+", old.stem):
            old.unlink()
    parts: list[Path] = []
    seen: set[str] = set()

    def fresh() -> Iterator[Request]:
        for request in requests:
            if request.key not in seen:
                seen.add(request.key)
                yield request

    wanted = fresh()
    while batch := list(islice(wanted, lines)):
        path = folder / f"part-{len(parts):05d}.jsonl"
        scratch = path.with_suffix(".partial")
        with scratch.open("w", encoding="utf-8", errors="replace") as file:
            for request in batch:
                line = {"custom_id": f"{role}.{request.attempt}.{request.key}", "method": "POST", "url": _URL}
                file.write(json.dumps(line | {"body": request.body}, ensure_ascii=False) + "\n")
        scratch.replace(path)
        parts.append(path)
    return parts


def import_results(files: Iterable[Path], ledgers: Mapping[str, Ledger]) -> Counter[str]:
    """Adds the answers in result files to the ledgers by their role; returns what became of the lines.

    What failed there, and a line that was cut off, stays to be asked again. Raises InputError for a file that is none
    of results.
    """
    counts: Counter[str] = Counter()
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: no such file of results")
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    counts[_import(line, f"{path}:{number}", ledgers)] += 1
    for ledger in ledgers.values():
        ledger.sync()
    return counts


def _import(line: bytes, where: str, ledgers: Mapping[str, Ledger]) -> str:
    """What became of a line of results: stored, stored before, failed, cut off, or of another job."""
    try:
        result: Any = json.loads(line)
    except ValueError:
        if not line.endswith(b"\n"):
            return "cut off"
        raise InputError(f"{where}: not a line of results (JSON)") from None
    identity = result.get("custom_id") if isinstance(result, dict) else None
    if not isinstance(identity, str) or "response" not in result:
        raise InputError(f"{where}: not a line of results; it needs custom_id and response")
    found = re.fullmatch(r"(\w+)\.(\d{1,3})\.([0-9a-f]{32})", identity)
    if found is None or found[1] not in ledgers:
        return "of another job"
    response = result["response"] or {}
    if result.get("error") or response.get("status_code", 200) != 200:
        return "failed"
    try:
        completion = completion_of(response["body"])
    except MALFORMED:
        return "failed"
    stored = store(ledgers[found[1]], found[3], path_name(where), int(found[2]), completion)
    return "stored" if stored else "stored before"


def path_name(where: str) -> str:
    """The file and line of a place, without folders."""
    return where.rpartition("/")[2]
