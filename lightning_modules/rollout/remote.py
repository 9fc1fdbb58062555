"""Knows how a training process samples from vLLM servers on other nodes, and brings them its weights.

With as many ranks as servers or more, rank r uses server r modulo their number; with fewer ranks, each splits its
prompts over its servers r, r + ranks, ... Rank 0 alone sends weights, to every server; the others take part in
gathering them where they are sharded, and all wait for the end.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from ...curriculum.identity import hash64
from ...datamodules.batch import Batch
from ...errors import InputError
from ..policy.omni import OmniPolicy
from ..policy.weights import (
    CHUNK_BYTES,
    Weights,
    adapter_config,
    adapter_weights,
    base_weights,
    chunks,
    merged_weights,
    without_vision,
)
from .engine import Completions, Engine, Rollout
from .requests import Tokens, architecture, joined, vocabulary_hash
from .wire import TOKEN, Message, pack, tensors_of, unpack

_FIRST_PAUSE_S = 0.5
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the nodes of one cluster need no proxy


class VllmServer(Engine):
    """Samples from servers that `earwitness serve` runs; one run per server.

    Args:
        urls: of the servers, like http://node7:8437. timeout_s: for one answer, waiting for other ranks' included.
        sync: "merged" sends all weights, adapters added; "adapter" sends the base once and then adapters alone.
        retries: of a request whose connection failed, after 0.5 s, 1 s, 2 s, ...
    """

    def __init__(
        self,
        urls: list[str],
        timeout_s: float = 600.0,
        sync: Literal["merged", "adapter"] = "merged",
        retries: int = 3,
    ) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        if not urls or any(not url.startswith(("http://", "https://")) for url in urls):
            raise InputError(f"engine.urls: {urls} must name servers, like http://node7:8437")
        if sync not in ("merged", "adapter"):
            raise InputError(f'engine.sync: {sync!r} is neither "merged" nor "adapter"')
        self.timeout_s, self.by, self.retries, self.version = timeout_s, sync, retries, ""
        self._updates = 0

    def start(self, policy: OmniPolicy, rank: int, world_size: int) -> None:
        """Checks that this rank's servers run and have the policy's vocabulary and shape. InputError otherwise."""
        if self.by == "adapter":
            adapter_config(policy)
        count = len(self.urls)
        self.rank, self.world_size, self.tokens = rank, world_size, Tokens.of(policy)
        self.mine = self.urls[rank::world_size] if world_size < count else [self.urls[rank % count]]
        ours = {
            "vocabulary": vocabulary_hash(policy.processor.tokenizer),
            "architecture": architecture(policy.base.config),
        }
        for url in self.urls if rank == 0 else self.mine:
            status = self._status(url)
            for name, value in {**ours, "sync": self.by}.items():
                if status.get(name) != value:
                    raise InputError(
                        f"{url}: its {name} is {status.get(name)}, the policy's {value}; "
                        f"serve {policy.checkpoint} there with --sync {self.by}"
                    )
        self._run = self._of_rank_0(f"{hash64(time.time_ns(), os.getpid()):016x}")

    def sync(self, policy: OmniPolicy) -> None:
        """Brings the policy's weights to all servers; on every rank it returns, or raises, together."""
        self._updates += 1
        self.version = f"{self._run}.{self._updates}"
        failure = ""
        if self.by == "adapter":
            failure = self._of_rank_0(self._bring_base(policy))
        if not failure:
            if self.by == "adapter":
                sent = self._bring(policy, "adapter", self.version, adapter_weights(policy), adapter_config(policy))
            else:
                sent = self._bring(policy, "merged", self.version, without_vision(merged_weights(policy)))
            failure = self._of_rank_0(sent)
        if failure:
            raise InputError(failure)

    def complete(self, batch: Batch, rollout: Rollout, keys: Sequence[int]) -> Completions:
        """[N = B x group_size] completions, from the weights of the last `sync` and no others."""
        prompts, size = batch.prompts, rollout.group_size
        count = min(len(self.mine), len(prompts))
        edges = [len(prompts) * number // count for number in range(count + 1)]
        parts: list[tuple[str, str, dict[str, Any], dict[str, Tensor]]] = []
        for url, first, last in zip(self.mine, edges, edges[1:], strict=False):
            header: dict[str, Any] = {"version": self.version, "rollout": asdict(rollout)}
            header["tokens"] = self.tokens.header()
            header["keys"] = [int(key) for key in keys[first * size : last * size]]
            parts.append((url, "complete", header, tensors_of(prompts.select(slice(first, last)))))
        found = []
        for (url, *_), (about, tensors) in zip(parts, self._at_once(parts), strict=True):
            if about.get("version") != self.version:
                raise InputError(f"{url}: sampled with the weights {about.get('version')}, not with {self.version}")
            found.append(Completions(**tensors))
        return joined(found, self.tokens.pad, prompts.suffix_ids.device)

    def rest(self) -> None:
        """The servers' memory is their own."""

    def close(self) -> None:
        """The servers go on."""

    def _bring_base(self, policy: OmniPolicy) -> str:
        """Adapters mean something on their own base only: a server that has not got it yet gets it first."""
        lacking: list[str] = []
        failure = ""
        if self.rank == 0:
            try:
                lacking = [url for url in self.urls if self._status(url).get("base") != f"{self._run}.base"]
            except InputError as error:
                failure = str(error)
        if self._of_rank_0(bool(lacking)):
            weights = without_vision(base_weights(policy))
            failure = failure or self._bring(policy, "base", f"{self._run}.base", weights, urls=lacking)
        return failure

    def _bring(
        self,
        policy: OmniPolicy,
        kind: str,
        version: str,
        weights: Weights,
        config: dict[str, Any] | None = None,
        urls: list[str] | None = None,
    ) -> str:
        """Sends one update from rank 0; returns what went wrong, or nothing.

        The other ranks, and rank 0 after a failure, read sharded weights to the end: gathering them takes all ranks.
        """
        failure, urls = "", self.urls if urls is None else urls
        if self.rank == 0:
            try:
                self._at_once(
                    [(url, "begin", {"version": version, "kind": kind, "config": config}, {}) for url in urls]
                )
                parts = 0
                for part in chunks(weights, CHUNK_BYTES):
                    self._at_once([(url, "part", {"version": version, "number": parts}, part) for url in urls])
                    parts += 1
                self._at_once([(url, "commit", {"version": version, "parts": parts}, {}) for url in urls])
            except InputError as error:
                failure = str(error)
        if policy.sharded:
            for _ in weights:
                pass
        return failure

    def _of_rank_0(self, value: Any) -> Any:
        """Rank 0's value on every rank; all ranks wait for it."""
        if self.world_size == 1 or not torch.distributed.is_initialized():
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def _at_once(self, messages: list[tuple[str, str, dict[str, Any], dict[str, Tensor]]]) -> list[Message]:
        """The servers' answers, in the order of the messages; the first failure is raised when all have ended."""
        with ThreadPoolExecutor(max_workers=max(1, len(messages))) as pool:
            waiting = [pool.submit(self._post, *message) for message in messages]
        return [each.result() for each in waiting]

    def _status(self, url: str) -> dict[str, Any]:
        try:
            status = json.loads(self._ask(url, "status", None))
        except json.JSONDecodeError:
            status = {}
        if "vocabulary" not in status:
            raise InputError(f"{url}: something else than `earwitness serve` answers there")
        return status

    def _post(self, url: str, path: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        return unpack(self._ask(url, path, pack(header, tensors)))

    def _ask(self, url: str, path: str, body: bytes | None) -> bytes:
        """One answer. Every message may be sent twice, so a connection that fails is tried again."""
        headers = {"Content-Type": "application/octet-stream"}
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        pause_s = _FIRST_PAUSE_S
        for attempt in range(self.retries + 1):
            try:
                with _DIRECT.open(
                    urllib.request.Request(f"{url}/{path}", body, headers), timeout=self.timeout_s
                ) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                raise InputError(f"{url}: {_reason(error)}") from None
            except (OSError, http.client.HTTPException) as error:
                why = getattr(error, "reason", error)
                if isinstance(why, TimeoutError):
                    raise InputError(
                        f"{url}: no answer within engine.timeout_s: {self.timeout_s:g}; raise it"
                    ) from None
                if attempt == self.retries:
                    break
            time.sleep(pause_s)
            pause_s *= 2
        raise InputError(
            f"{url}: nobody answers ({why or type(why).__name__}); start `earwitness serve` there and resume"
        )


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        message = json.loads(error.read())["error"]
    except (ValueError, KeyError, OSError):
        message = error.reason
    return f"{message} (HTTP {error.code}{'; see its log' if error.code >= 500 else ''})"
