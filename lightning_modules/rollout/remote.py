"""The engine that samples from vLLM servers on other nodes, and sends them the policy's weights.

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

from ...boundary.environment import variable
from ...boundary.words import one_line
from ...curriculum.identity import hash64
from ...datamodules.batch import Batch
from ...datamodules.storage.address import redacted
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
from .checked import completions_in
from .engine import Completions, Engine, Rollout
from .vllm_format import TIES, TokenIds, architecture, concatenated, vocabulary_hash
from .wire import TOKEN_VARIABLE, Message, pack, tensors_of, unpack

_FIRST_PAUSE_S = 0.5
_SMALL = 1 << 20  # bytes of an answer without tensors


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **more: Any) -> None:
        """Follows none: the token would go along to whichever host is named."""


# The nodes of one cluster need no proxy.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


class VllmServer(Engine):
    """Samples from servers that `earwitness serve` runs; one run per server.

    Args:
        urls: of the servers, like http://node7:8437.
        timeout_s: seconds to wait for one answer, also while the server answers other ranks.
        sync: "merged" sends all weights, adapters added; "adapter" sends the base once and then adapters alone.
        retries: of a message whose connection failed, after 0.5 s, 1 s, 2 s, ...
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
        self.timeout_s, self.sync_mode, self.retries, self.version = timeout_s, sync, retries, ""
        self._updates = 0

    def start(self, policy: OmniPolicy, rank: int, world_size: int) -> None:
        """Checks that this rank's servers run and have the policy's vocabulary and shape. InputError otherwise."""
        if self.sync_mode == "adapter":
            adapter_config(policy)
        count = len(self.urls)
        self.rank, self.world_size, self.tokens = rank, world_size, TokenIds.of(policy)
        self.own_urls = self.urls[rank::world_size] if world_size < count else [self.urls[rank % count]]
        expected = {
            "vocabulary": vocabulary_hash(policy.processor.tokenizer),
            "architecture": architecture(policy.base.config),
        }
        for url in self.urls if rank == 0 else self.own_urls:
            status = self._status(url)
            for name, value in {**expected, "sync": self.sync_mode}.items():
                if status.get(name) != value:
                    raise InputError(
                        f"{redacted(url)}: its {name} is {one_line(status.get(name))}, the policy's {value}; "
                        f"serve {policy.checkpoint} there with --sync {self.sync_mode}"
                    )
        self._run = self._from_rank_0(f"{hash64(time.time_ns(), os.getpid()):016x}")

    def sync(self, policy: OmniPolicy) -> None:
        """Sends the policy's weights to all servers. InputError, on every rank alike, where one did not take them."""
        self._updates += 1
        self.version = f"{self._run}.{self._updates}"
        failure = ""
        if self.sync_mode == "adapter":
            failure = self._from_rank_0(self._send_base(policy))
        if not failure:
            if self.sync_mode == "adapter":
                sent = self._send(policy, "adapter", self.version, adapter_weights(policy), adapter_config(policy))
            else:
                sent = self._send(
                    policy, "merged", self.version, without_vision(merged_weights(policy, policy.compute_dtype))
                )
            failure = self._from_rank_0(sent)
        if failure:
            raise InputError(failure)

    def complete(self, batch: Batch, rollout: Rollout, keys: Sequence[int]) -> Completions:
        """[N = B x group_size] completions. InputError where a server has other weights than the last `sync` sent."""
        prompts, size = batch.prompts, rollout.group_size
        count = min(len(self.own_urls), len(prompts))
        edges = [len(prompts) * number // count for number in range(count + 1)]
        parts: list[tuple[str, str, dict[str, Any], dict[str, Tensor]]] = []
        for url, first, last in zip(self.own_urls, edges, edges[1:], strict=False):
            header: dict[str, Any] = {"version": self.version, "rollout": asdict(rollout)}
            header["tokens"] = self.tokens.header()
            header["keys"] = [int(key) for key in keys[first * size : last * size]]
            parts.append((url, "complete", header, tensors_of(prompts.select(slice(first, last)))))
        sampled = []
        for (url, _, header, _), (answer, tensors) in zip(parts, self._post_all(parts), strict=True):
            if answer.get("version") != self.version:
                said = one_line(answer.get("version"), 80)
                raise InputError(f"{redacted(url)}: sampled with the weights {said}, not with {self.version}")
            try:
                sampled.append(completions_in(tensors, len(header["keys"]), rollout, self.tokens.vocabulary))
            except InputError as error:
                raise InputError(f"{redacted(url)}: {error}") from None
        return concatenated(sampled, self.tokens.pad, prompts.suffix_ids.device)

    def rest(self) -> None:
        """Nothing to do: the servers' memory is not the training's."""

    def close(self) -> None:
        """Nothing to do: the servers keep running for whoever trains next."""

    def _send_base(self, policy: OmniPolicy) -> str:
        """Sends the weights under the adapters to the servers that lack them; returns what went wrong, or ""."""
        lacking: list[str] = []  # a server that was started anew may still hold another base
        failure = ""
        if self.rank == 0:
            try:
                lacking = [url for url in self.urls if self._status(url).get("base") != f"{self._run}.base"]
            except InputError as error:
                failure = str(error)
        if self._from_rank_0(bool(lacking)):
            weights = without_vision(base_weights(policy, policy.compute_dtype))
            failure = failure or self._send(policy, "base", f"{self._run}.base", weights, urls=lacking)
        return failure

    def _send(
        self,
        policy: OmniPolicy,
        kind: str,
        version: str,
        weights: Weights,
        config: dict[str, Any] | None = None,
        urls: list[str] | None = None,
    ) -> str:
        """Sends one update from rank 0 to the servers, all by default; returns what went wrong, or "".

        kind: "merged", "base" or "adapter", the last with peft's config. The other ranks, and rank 0 after a failure,
        read sharded weights to the end: gathering them takes all ranks.
        """
        failure, urls = "", self.urls if urls is None else urls
        if self.rank == 0:
            try:
                self._post_all(
                    [(url, "begin", {"version": version, "kind": kind, "config": config}, {}) for url in urls]
                )
                parts = 0
                for part in chunks(weights, CHUNK_BYTES):
                    self._post_all([(url, "part", {"version": version, "number": parts}, part) for url in urls])
                    parts += 1
                self._post_all([(url, "commit", {"version": version, "parts": parts}, {}) for url in urls])
            except InputError as error:
                failure = str(error)
        if policy.sharded:
            for _ in weights:
                pass
        return failure

    def _from_rank_0(self, value: Any) -> Any:
        """Rank 0's value, on every rank; all ranks wait for it."""
        if self.world_size == 1 or not torch.distributed.is_initialized():
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def _post_all(self, messages: list[tuple[str, str, dict[str, Any], dict[str, Tensor]]]) -> list[Message]:
        """The servers' answers to messages (url, path, header, tensors), sent at the same time, in their order.

        InputError, once all have ended, where one failed: the first of them.
        """
        with ThreadPoolExecutor(max_workers=max(1, len(messages))) as pool:
            waiting = [pool.submit(self._post, *message) for message in messages]
        return [answer.result() for answer in waiting]

    def _status(self, url: str) -> dict[str, Any]:
        """What a server says of itself. InputError where something else answers, or nobody."""
        try:
            status = json.loads(self._request(url, "status", None, _SMALL))
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            status = None
        if not isinstance(status, dict) or "vocabulary" not in status:
            raise InputError(f"{redacted(url)}: something else than `earwitness serve` answers there")
        return status

    def _post(self, url: str, path: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """A server's answer to one message."""
        rollout, rows = header.get("rollout", {}), len(header.get("keys", ()))
        tokens = rows * rollout.get("max_new_tokens", 0)
        kept = self.tokens.vocabulary if rollout.get("top_p", 1) < 1 else rollout.get("top_k", 0) + TIES
        received = self._request(url, path, pack(header, tensors), _SMALL + tokens * (24 + 8 * kept))
        try:
            return unpack(received)
        except InputError as error:
            raise InputError(f"{redacted(url)}: {error}") from None

    def _request(self, url: str, path: str, body: bytes | None, most: int) -> bytes:
        """The body of one answer of at most `most` bytes; InputError where there is none, or an error.

        Servers take every message twice without harm, so a connection that fails is tried again.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if token := variable(TOKEN_VARIABLE):
            headers["Authorization"] = f"Bearer {token}"
        pause_s = _FIRST_PAUSE_S
        why: Any = None
        for attempt in range(self.retries + 1):
            until = time.monotonic() + self.timeout_s
            try:
                request = urllib.request.Request(f"{url}/{path}", body, headers)
                with _DIRECT.open(request, timeout=self.timeout_s) as answer:
                    return _received(answer, most, until)
            except urllib.error.HTTPError as error:
                raise InputError(f"{redacted(url)}: {_reason(error)}") from None
            except (OSError, http.client.HTTPException) as error:
                why = getattr(error, "reason", error)
                if isinstance(why, TimeoutError):
                    raise InputError(
                        f"{redacted(url)}: no answer within engine.timeout_s: {self.timeout_s:g}; raise it"
                    ) from None
                if attempt == self.retries:
                    break
            except InputError as error:
                raise InputError(f"{redacted(url)}: {error}") from None
            time.sleep(pause_s)
            pause_s *= 2
        raise InputError(
            f"{redacted(url)}: nobody answers ({why or type(why).__name__}); start `earwitness serve` there and resume"
        )


def _received(answer: Any, most: int, until: float) -> bytes:
    """The body of an answer; InputError for more than `most` bytes, TimeoutError where it trickles beyond a moment."""
    parts, size = [], 0
    while part := answer.read1(1 << 20):
        parts.append(part)
        size += len(part)
        if size > most:
            raise InputError(f"its answer has more than {most:,} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def _reason(error: urllib.error.HTTPError) -> str:
    """The message that a server sent with an error, or the standard one of its HTTP status."""
    if 300 <= error.code < 400:
        where = redacted(one_line(error.headers.get("Location", "nowhere"), 200))
        return f"redirects to {where}; engine.urls must name the servers themselves"
    try:
        message = one_line(json.loads(error.read(_SMALL))["error"], 1000)
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        message = one_line(error.reason)
    return f"{message} (HTTP {error.code}{'; see its log' if error.code >= 500 else ''})"
