"""The rollout server: one vLLM that samples for training processes on other nodes, with the weights they send.

An update comes in parts that are kept in a folder until all are there; only then does vLLM read them, and between the
first part and that moment nothing is sampled. One request is served at a time; the others wait in the socket's queue.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...boundary.words import say
from ...datamodules.batch import Prompts
from ...datamodules.processors.omni import OmniProcessor
from ...errors import InputError
from .engine import Rollout
from .vllm_engine import VllmEngine
from .vllm_format import TokenIds, architecture, vocabulary_hash
from .wire import TOKEN_VARIABLE, Message, pack, tensors_of, unpack

_QUIET_S = 60.0  # a client that sends nothing for so long has gone


class ServedEngine:
    """An engine behind a server: `status`, `complete`, and the messages of an update, `begin`, `part`s and `commit`.

    Every message takes (header, tensors) and answers with the same; InputError where it cannot be served.

    Args:
        engine: a started VllmEngine. identity: what clients check: checkpoint, vocabulary, architecture.
    """

    def __init__(self, engine: Any, identity: dict[str, str]) -> None:
        self.engine, self.identity = engine, identity
        self.version = self.base = ""  # of the weights to sample from; of the weights under adapters
        self._update: dict[str, Any] | None = None
        self._parts: tempfile.TemporaryDirectory[str] | None = None

    def status(self) -> dict[str, Any]:
        """What a client checks before it sends anything: identity, kind of updates, and versions of the weights."""
        state = {"version": self.version, "base": self.base, "updating": self._update is not None}
        return {**self.identity, "sync": self.engine.sync_mode, **state}

    def complete(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Completions of prompts, with the version of the weights they came from.

        InputError where the client wants another version, or an update is half-finished.
        """
        if self._update is not None:
            raise InputError("an update of its weights is half-finished; send it again")
        if not self.version or header["version"] != self.version:
            raise InputError(
                f"it has the weights {self.version or 'of no run'}, not {header['version']}: it was started again, or "
                "another run uses it"
            )
        tokens = TokenIds.from_header(header["tokens"])
        done = self.engine.generate(Prompts(**tensors), Rollout(**header["rollout"]), header["keys"], tokens)
        return {"version": self.version}, tensors_of(done)

    def begin(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Starts an update and forgets one that was never finished. kind: "merged", "base" or "adapter"."""
        if (header["kind"] == "merged") != (self.engine.sync_mode == "merged"):
            raise InputError(f"it takes sync: {self.engine.sync_mode}; start it with --sync, or set the client's sync")
        self._update = {name: header.get(name) for name in ("version", "kind", "config")}
        self._parts = tempfile.TemporaryDirectory(prefix="earwitness-update-")
        return {}, {}

    def part(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Stores one part of an update on the disk; a part that comes twice replaces itself."""
        save_file(tensors, self._folder(header) / f"{int(header['number']):06d}.safetensors", {"format": "pt"})
        return {}, {}

    def commit(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Reads all parts into vLLM; a second time it does nothing, so that a lost answer can be asked for again.

        InputError where parts are missing.
        """
        if self._update is None and header["version"] in (self.version, self.base):
            return {}, {}
        folder = self._folder(header)
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != header["parts"]:
            raise InputError(f"{len(files)} of the update's {header['parts']} parts have come; send it again")
        update, self.version = self._update or {}, ""
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
        if self._update is None or self._parts is None or self._update["version"] != header["version"]:
            raise InputError(f"no update {header['version']} has begun; two runs must not share a server")
        return Path(self._parts.name)


def _stored(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all tensors in the files, one at a time."""
    for path in files:
        with safe_open(path, "pt") as part:
            for name in part.keys():  # noqa: SIM118 - not a mapping
                yield name, part.get_tensor(name)


class RolloutServer(HTTPServer):
    """A `ServedEngine` over HTTP: GET /status; POST /complete, /begin, /part, /commit.

    token: what clients must send as a bearer token; empty for none.
    """

    request_queue_size = 128

    def __init__(self, served: ServedEngine, address: tuple[str, int], token: str = "") -> None:
        self.served, self.token = served, token
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    """One request: refusals are JSON with an `error` that the client shows."""

    server: RolloutServer
    timeout = _QUIET_S

    def do_GET(self) -> None:
        if self.path != "/status":
            return self._refuse(404, f"no {self.path} here")
        if self._allowed():
            self._send(200, json.dumps(self.server.served.status()).encode())

    def do_POST(self) -> None:
        actions = {name: getattr(self.server.served, name) for name in ("complete", "begin", "part", "commit")}
        action = actions.get(self.path.removeprefix("/"))
        length = self.headers.get("Content-Length", "")
        if action is None or not length.isdigit():
            return self._refuse(404 if action is None else 411, f"no {self.path} here, or no Content-Length")
        if not self._allowed():
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return self._refuse(400, "the message is cut short")
        try:
            answer = pack(*action(*unpack(body)))
        except InputError as error:
            return self._refuse(409, str(error))
        except Exception as error:  # vLLM may raise anything; the client is to hear of it, and the server to live on
            say(traceback.format_exc(), file=sys.stderr)
            return self._refuse(500, f"{type(error).__name__}: {error}")
        return self._send(200, answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: what goes wrong is sent to the client, and traced where it is the server's fault."""

    def _allowed(self) -> bool:
        """Whether the client sent the server's token; refuses it otherwise."""
        sent, wanted = self.headers.get("Authorization", ""), f"Bearer {self.server.token}"
        if self.server.token and not hmac.compare_digest(sent.encode(), wanted.encode()):
            self._refuse(401, f"the client's {TOKEN_VARIABLE} is not the server's")
            return False
        return True

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(checkpoint: str, engine: VllmEngine, host: str = "127.0.0.1", port: int = 8437) -> None:
    """Starts vLLM on a checkpoint and serves it until the process is ended. InputError where the address is taken."""
    from transformers import AutoConfig

    processor = OmniProcessor.from_pretrained(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    identity = {"checkpoint": checkpoint, "vocabulary": vocabulary_hash(processor.tokenizer)}
    identity["architecture"] = architecture(getattr(config, "thinker_config", config))
    token = os.environ.get(TOKEN_VARIABLE, "")
    try:
        server = RolloutServer(ServedEngine(engine, identity), (host, port), token)
    except OSError as error:
        raise InputError(f"serve: cannot listen at {host}:{port} ({error.strerror}); set --host and --port") from None
    if not token and not host.startswith("127."):
        say(
            f"anyone who reaches {host} can use this server; set {TOKEN_VARIABLE}, here and for training",
            file=sys.stderr,
        )
    engine.open(checkpoint, engine.dtype)
    say(f"serving {checkpoint} at http://{host}:{server.server_port}", flush=True)
    server.serve_forever()
