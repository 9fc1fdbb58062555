"""The rollout server: one vLLM that samples for training processes on other nodes, with the weights they send.

An update comes in parts that are kept in a folder until all are there; only then does vLLM read them, and between the
first part and that moment nothing is sampled. Every connection has a thread (`connections.py`), and one at a time has
the engine.
"""

from __future__ import annotations

import math
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...boundary.environment import variable
from ...boundary.words import one_line, say
from ...datamodules.processors.omni import OmniProcessor
from ...errors import InputError
from ..policy.checkpoint import thinker_shapes
from ..policy.weights import CHUNK_BYTES
from .checked import Shapes, asked_in, check_weights, check_whole, checked_adapter, number_in, text_in
from .connections import LARGE, SMALL, RolloutServer
from .vllm_engine import VllmEngine
from .vllm_format import architecture, vocabulary_hash
from .wire import TOKEN_VARIABLE, Message, tensors_of

_MOST_PARTS = 100_000


class ServedEngine:
    """An engine behind a server: `status`, `complete`, and the messages of an update, `begin`, `part`s and `commit`.

    Every message takes (header, tensors) and answers with the same; InputError where it cannot be served.

    Args:
        engine: a started VllmEngine. identity: what clients check: checkpoint, vocabulary, architecture.
        shapes: of the model's tensors by name; updates of others are refused. None: they are not known.
    """

    actions: tuple[str, ...] = ("complete", "begin", "part", "commit")

    def __init__(self, engine: Any, identity: dict[str, str], shapes: Shapes | None = None) -> None:
        self.engine, self.identity, self.shapes = engine, identity, shapes
        self._lock = threading.Lock()
        self.version = self.base = ""  # of the weights to sample from; of the weights under adapters
        self._update: dict[str, Any] | None = None
        self._parts: tempfile.TemporaryDirectory[str] | None = None

    def most_bytes(self, name: str) -> int:
        """How long the body of a message may be; a part holds at least one tensor, in float32 or less."""
        if name == "part" and self.shapes is not None:
            return max(CHUNK_BYTES, 4 * max((math.prod(shape) for shape in self.shapes.values()), default=0)) + SMALL
        return LARGE if name in ("complete", "part") else SMALL

    def act(self, name: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """The answer to a message, once the engine is free; completions are refused at once while an update comes."""
        if name == "complete":
            self._refuse_while_updating()
        with self._lock:
            answer: Message = getattr(self, name)(header, tensors)
            return answer

    def status(self) -> dict[str, Any]:
        """What a client checks before it sends anything: identity, kind of updates, and versions of the weights."""
        state = {"version": self.version, "base": self.base, "updating": self._update is not None}
        return {**self.identity, "sync": self.engine.sync_mode, **state}

    def complete(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Completions of prompts, with the version of the weights they came from.

        InputError where the client wants another version, or an update is half-finished.
        """
        self._refuse_while_updating()
        version = text_in(header, "version")
        if not self.version or version != self.version:
            raise InputError(
                f"it has the weights {self.version or 'of no run'}, not {version}: it was started again, or "
                "another run uses it"
            )
        embedding = (self.shapes or {}).get("model.embed_tokens.weight", (0,))
        asked = asked_in(header, tensors, embedding[0])
        done = self.engine.generate(asked.prompts, asked.rollout, asked.keys, asked.tokens)
        return {"version": self.version}, tensors_of(done)

    def _refuse_while_updating(self) -> None:
        if self._update is not None:
            raise InputError("an update of its weights is half-finished; send it again")

    def begin(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Starts an update and forgets one that was never finished. kind: "merged", "base" or "adapter"."""
        kind, version = text_in(header, "kind"), text_in(header, "version")
        if kind not in ("merged", "base", "adapter") or (kind == "merged") != (self.engine.sync_mode == "merged"):
            raise InputError(f"it takes sync: {self.engine.sync_mode}; start it with --sync, or set the client's sync")
        config = checked_adapter(header.get("config")) if kind == "adapter" else None
        self._update = {"version": version, "kind": kind, "config": config, "names": {}}
        self._parts = tempfile.TemporaryDirectory(prefix="earwitness-update-")
        return {}, {}

    def part(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Stores one part of an update on the disk; a part that comes twice replaces itself.

        InputError for a tensor that the model does not have, or has in another shape.
        """
        folder, number = self._folder(header), number_in(header, "number", _MOST_PARTS)
        update = self._update or {}
        elsewhere = {name for part, names in update["names"].items() if part != number for name in names}
        if twice := sorted(elsewhere & tensors.keys()):
            raise InputError(f"{twice[0]} came in another part already")
        if self.shapes is not None:
            check_weights(update["kind"], tensors, self.shapes, update["config"])
        save_file(tensors, folder / f"{number:06d}.safetensors", {"format": "pt"})
        update["names"][number] = set(tensors)
        return {}, {}

    def commit(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Reads all parts into vLLM; a second time it does nothing, so that a lost answer can be asked for again.

        InputError where parts or tensors are missing.
        """
        version, parts = text_in(header, "version"), number_in(header, "parts", _MOST_PARTS)
        if self._update is None and version in (self.version, self.base):
            return {}, {}
        folder = self._folder(header)
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != parts:
            raise InputError(f"{len(files)} of the update's {parts} parts have come; send it again")
        update = self._update or {}
        if self.shapes is not None:
            check_whole(update["kind"], set().union(*update["names"].values()), self.shapes)
        self.version = ""
        if update["kind"] == "adapter":
            self.engine.update_weights(lambda: self.engine.load_adapter(_stored(files), update["config"]))
        else:
            self.engine.update_weights(lambda: self.engine.load_weights(_stored(files)))
        if update["kind"] == "base":
            self.base = update["version"]
        else:
            self.version = update["version"]
        self._update, self._parts = None, None
        return {}, {}

    def _folder(self, header: dict[str, Any]) -> Path:
        """Where the parts of the update in `header` lie. InputError where it is not the one that has begun."""
        if self._update is None or self._parts is None or self._update["version"] != header.get("version"):
            raise InputError(
                f"no update {one_line(header.get('version'), 80)} has begun; two runs must not share a server"
            )
        return Path(self._parts.name)


def _stored(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all tensors in the files, one at a time."""
    for path in files:
        with safe_open(path, "pt") as part:
            for name in part.keys():  # noqa: SIM118 - not a mapping
                yield name, part.get_tensor(name)


def serve(
    checkpoint: str, engine: VllmEngine, host: str = "127.0.0.1", port: int = 8437, without_token: bool = False
) -> None:
    """Starts vLLM on a checkpoint and serves it until the process is ended.

    without_token: let anyone who reaches another host than this one in. InputError where the address is taken, or a
    token is missing.
    """
    from transformers import AutoConfig

    token = variable(TOKEN_VARIABLE)
    if not token and not is_loopback(host) and not without_token:
        raise InputError(
            f"serve: anyone who reaches {host} could replace the weights; set {TOKEN_VARIABLE}, here and for training, "
            "or give --without-token"
        )
    processor = OmniProcessor.from_pretrained(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    thinker = getattr(config, "thinker_config", config)
    identity = {"checkpoint": checkpoint, "vocabulary": vocabulary_hash(processor.tokenizer)}
    identity["architecture"] = architecture(thinker)
    try:
        server = RolloutServer(ServedEngine(engine, identity, thinker_shapes(thinker)), (host, port), token)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"serve: cannot listen at {host}:{port} ({why}); set --host and --port") from None
    engine.open(checkpoint, engine.dtype)
    say(f"serving {checkpoint} at http://{host}:{server.server_port}", flush=True)
    server.serve_forever()


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host == "localhost" or host == "::1" or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None
