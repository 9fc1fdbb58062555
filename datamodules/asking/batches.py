"""Batch files in OpenAI's format: requests out in parts, answers in by their key.

`vllm run-batch` on the nodes of a cluster and the batch services of providers read and write them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import InputError
from .chat import MALFORMED, completion_of
from .ledger import Ledger
from .runner import Request, store

_URL = "/v1/chat/completions"


def export_requests(requests: Iterable[Request], folder: Path, lines: int = 5_000) -> list[Path]:
    """Writes requests as `folder/part-00000.jsonl`, ..., `lines` each, in place of those of an earlier export.

    Returns the files. The last appears when all are whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("part-*.jsonl*"):
        if ".out" not in old.name:
            old.unlink()
    parts: list[Path] = []
    batch: list[str] = []
    names: dict[str, str] = {}

    def write() -> None:
        path = folder / f"part-{len(parts):05d}.jsonl"
        scratch = path.with_suffix(".jsonl.partial")
        scratch.write_text("".join(batch), "utf-8", "replace")
        scratch.replace(path)
        parts.append(path)
        batch.clear()

    for request in requests:
        if request.key in names:
            continue
        names[request.key] = f"{request.attempt} {request.name}"
        line = {"custom_id": request.key, "method": "POST", "url": _URL, "body": request.body}
        batch.append(json.dumps(line, ensure_ascii=False) + "\n")
        if len(batch) == lines:
            write()
    if batch:
        write()
    (folder / "asked.json").write_text(json.dumps(names, ensure_ascii=False), "utf-8", "replace")
    return parts


def import_results(files: Iterable[Path], ledgers: dict[str, Ledger]) -> Counter[str]:
    """Adds the answers in result files to the ledgers; returns what became of the lines.

    ledgers: folder name of an export -> its ledger; a result goes where its key was exported. What failed there, and a
    line that was cut off, stays to be asked again. Raises InputError for a file that is none of results.
    """
    counts: Counter[str] = Counter()
    homes = _homes(ledgers)
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: no such file of results")
        data = path.read_bytes()
        lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            if line.strip():
                last = number == len(lines)
                counts[_import(line, f"{path}:{number}", last, ledgers, homes)] += 1
    for ledger in ledgers.values():
        ledger.sync()
    return counts


def _homes(ledgers: dict[str, Ledger]) -> dict[str, tuple[str, int, str]]:
    """key -> (ledger, attempt, name) of all that was exported beside the ledgers."""
    homes: dict[str, tuple[str, int, str]] = {}
    for name, ledger in ledgers.items():
        asked = ledger.path.parent.parent.parent / "export" / name / "asked.json"
        if asked.is_file():
            for key, text in json.loads(asked.read_text("utf-8")).items():
                attempt, _, who = text.partition(" ")
                homes[key] = (name, int(attempt), who)
    return homes


def _import(
    line: bytes, where: str, last: bool, ledgers: dict[str, Ledger], homes: dict[str, tuple[str, int, str]]
) -> str:
    """What became of a line of results: stored, stored before, failed, cut off, or of another job."""
    try:
        result: Any = json.loads(line)
    except ValueError:
        if last:
            return "cut off"
        raise InputError(f"{where}: not a line of results (JSON)") from None
    key = result.get("custom_id") if isinstance(result, dict) else None
    if not isinstance(key, str) or "response" not in result:
        raise InputError(f"{where}: not a line of results; it needs custom_id and response")
    if key not in homes:
        return "of another job"
    name, attempt, who = homes[key]
    response = result["response"] or {}
    if result.get("error") or response.get("status_code", 200) != 200:
        return "failed"
    try:
        completion = completion_of(response["body"])
    except MALFORMED:
        return "failed"
    return "stored" if store(ledgers[name], key, who, attempt, completion) else "stored before"
