"""The record beside a run's checkpoints: its configuration, the model it started from, the versions of its logs.

A folder that is used again is compared with it: checkpoints of one configuration are not continued with another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...boundary.environment import hidden_in
from ...boundary.files import open_regular, read_json, write_text
from ...curriculum.plan.fingerprint import differences
from ...errors import InputError
from .folders import RECORD

# What changes neither weights nor the order of training; the data module compares its own part with the checkpoint.
_FREE = ("paths", "threads", "ckpt_path", "fresh", "weights_only", "data")
_TRAINER = ("precision",)  # of the trainer's keys, what does
_MODEL = ("micro_batch_size", "max_new_tokens", "engine", "policy.init_args.gradient_checkpointing")
# What may be extended, and is said.
_SAID = ("max_steps", "limit_train_batches")
_QUIET_CALLBACKS = ("Checkpoint", "Checkpoints", "Bar", "Progress", "Policy", "Table", "Probe", "Watchdog", "Monitor")
_SAMPLED_BYTES, _SAMPLES = 4096, 64


def record_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What is remembered of a run; configuration: its resolved files and command line."""
    plain = json.loads(json.dumps(configuration, default=str))
    policy = _at(plain, "model.init_args.policy.init_args.checkpoint")
    return {"configuration": plain, "model": model_fingerprint(policy) if isinstance(policy, str) else None}


def model_fingerprint(checkpoint: str) -> str | None:
    """16 digits of a checkpoint folder's configuration and weights (their sizes and samples); None for a hub id."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted((*folder.glob("config.json"), *folder.glob("*.safetensors"))):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open_regular(path) as file:
            for number in range(_SAMPLES if size > _SAMPLES * _SAMPLED_BYTES else 1):
                file.seek(size * number // _SAMPLES)
                digest.update(file.read(_SAMPLED_BYTES if size > _SAMPLES * _SAMPLED_BYTES else size))
    return digest.hexdigest()


def decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record in which ranks must agree: what changes the weights, and how long they validate.

    What is read from a node's own disk, and how, may differ.
    """
    data = _at(record["configuration"], "data.init_args")
    asked = {"validation": data.get("validation")} if isinstance(data, Mapping) else {}
    return {"configuration": _compared(record["configuration"]) | asked, "model": record["model"]}


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a folder of checkpoints; None where there is none."""
    path = folder / RECORD
    try:
        record = read_json(path) if path.is_file() else None
    except InputError as error:
        raise InputError(f"{path} is no JSON ({error}); start anew with --fresh") from error
    if record is not None and not (isinstance(record, dict) and isinstance(record.get("configuration"), dict)):
        raise InputError(f"{path} is not the record of a run; start anew with --fresh")
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes it beside the checkpoints, whole."""
    write_text(folder / RECORD, json.dumps(hidden_in(record), indent=1), private=True)


def refuse_other_configuration(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Raises InputError where a record `then` and one of `now` would train other weights, naming what differs.

    Returns a sentence for each key by which the run becomes longer or shorter.
    """
    found = list(_changes(then, now))
    if found:
        names = ", ".join(f"{key} was {_short(old)}, is {_short(new)}" for key, old, new in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise InputError(
            f"{folder} holds a run of another configuration: {names}{more}; set it back to continue, or start anew "
            "with --fresh, which moves the old checkpoints aside"
        )
    said = []
    for key in _SAID:
        old, new = (_at(each["configuration"], f"trainer.{key}") for each in (then, now))
        if old != new:
            said.append(f"trainer.{key} was {old}, is {new}" + (", also for the schedule" * (key == "max_steps")))
    return said


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    path = "model.init_args.policy.init_args.checkpoint"
    same_model = then.get("model") is not None and then.get("model") == now.get("model")
    if not same_model and then.get("model") is not None and now.get("model") is not None:
        yield path, f"{_at(then['configuration'], path)} ({then['model']})", f"of other content ({now['model']})"
    old, new = (_compared(hidden_in(each["configuration"])) for each in (then, now))
    for key, a, b in differences(old, new):
        # A key that the record lacks is newer than the record.
        if (key != path or then.get("model") is None or now.get("model") is None) and _has(old, key):
            yield key, a, b


def _compared(configuration: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in json.loads(json.dumps(configuration)).items() if key not in _FREE}
    trainer = plain.get("trainer") or {}
    plain["trainer"] = {key: trainer.get(key) for key in _TRAINER}
    plain["trainer"]["callbacks"] = [
        each
        for each in trainer.get("callbacks") or ()
        if isinstance(each, Mapping) and not str(each.get("class_path")).endswith(_QUIET_CALLBACKS)
    ]
    for key in _MODEL:
        *parents, name = f"model.init_args.{key}".split(".")
        holder = _at(plain, ".".join(parents))
        if isinstance(holder, dict):
            holder.pop(name, None)
    return plain


def _at(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _has(node: Any, path: str) -> bool:
    *parents, name = path.split(".")
    holder = _at(node, ".".join(parents)) if parents else node
    return "[" in path or (isinstance(holder, Mapping) and name in holder)


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else f"{text[:77]}..."
