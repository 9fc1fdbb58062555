"""A rollout server among neighbours: silent, slow, greedy and lying ones; and a client whose server is one of them.

What may take memory runs in a forked process.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

import pytest
import torch

from earwitness.commands.cli import main
from earwitness.datamodules.batch import Prompts
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.checkpoint import thinker_config, thinker_shapes
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.weights import (
    adapter_config,
    adapter_weights,
    base_weights,
    merged_weights,
    without_vision,
)
from earwitness.lightning_modules.rollout import remote
from earwitness.lightning_modules.rollout.checked import check_weights, check_whole, checked_adapter
from earwitness.lightning_modules.rollout.connections import RolloutServer
from earwitness.lightning_modules.rollout.engine import Completions, Rollout
from earwitness.lightning_modules.rollout.remote import VllmServer
from earwitness.lightning_modules.rollout.server import ServedEngine, is_loopback
from earwitness.lightning_modules.rollout.vllm_format import TokenIds
from earwitness.lightning_modules.rollout.wire import pack, tensors_of, unpack
from earwitness.tests.limits import limited

SHAPES = {"model.embed_tokens.weight": [40, 8], "model.layers.0.q_proj.weight": [8, 8], "visual.a": [3]}
ROLLOUT = Rollout(group_size=2, max_new_tokens=4)
TOKENS = TokenIds(3, (1, 2), 2, (3,), 40)


class Stub:
    """An engine that answers at once, and knows what it was given."""

    sync_mode = "merged"

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.slow = threading.Event()
        self.slow.set()

    def update_weights(self, change) -> None:
        self.slow.wait(20)
        change()

    def load_weights(self, weights) -> None:
        self.loaded = [name for name, _ in weights]

    def generate(self, prompts, rollout, keys, tokens) -> Completions:
        rows = len(prompts) * rollout.group_size
        ids = torch.full((rows, 3), 5)
        whole = torch.ones(rows, dtype=torch.bool)
        return Completions(
            ids, torch.ones_like(ids), whole, torch.arange(rows) // rollout.group_size, torch.zeros(rows, 3)
        )


@contextmanager
def serving(token: str = "", **limits: float) -> Iterator[RolloutServer]:
    served = ServedEngine(Stub(), {"vocabulary": "v", "architecture": "a"}, SHAPES)
    server = RolloutServer(served, ("127.0.0.1", 0), token)
    for name, value in limits.items():
        setattr(server, name, value)
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def client_of(url: str) -> VllmServer:
    client = VllmServer([url], timeout_s=10, retries=0)
    client.tokens, client.version = TOKENS, "r.1"
    return client


def weights(**changed: list[int]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(changed.get(name, shape)) for name, shape in SHAPES.items() if name != "visual.a"}


def update(client: VllmServer, url: str, tensors: dict[str, torch.Tensor]) -> None:
    client._post(url, "begin", {"version": "r.1", "kind": "merged"}, {})
    client._post(url, "part", {"version": "r.1", "number": 0}, tensors)
    client._post(url, "commit", {"version": "r.1", "parts": 1}, {})


def prompts(**changed: torch.Tensor) -> Prompts:
    one = torch.ones(1, 6, dtype=torch.int64)
    made = {"prefix_ids": 4 * one, "prefix_mask": 1 * one, "features": torch.zeros(1, 128, 6), "feature_mask": 1 * one}
    return Prompts(**made | {"suffix_ids": 5 * one, "suffix_mask": one, "clip_of_row": torch.tensor([0])} | changed)


def request(asked: Prompts, **changed: object) -> dict:
    header = {"version": "r.1", "rollout": asdict(ROLLOUT), "tokens": TOKENS.header(), "keys": [1, 2]}
    return {"header": header | changed, "tensors": tensors_of(asked)}


def raw(server: RolloutServer, data: bytes, wait_s: float = 10) -> bytes:
    """What a connection gets for some bytes; b"" where it is closed."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=wait_s) as line:
        try:
            line.sendall(data)
            parts = []
            while part := line.recv(1 << 16):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)


class TestServer:
    def test_a_hundred_silent_and_trickling_connections_keep_nobody_waiting(self):
        with serving() as server:
            lines = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(100)]
            done = threading.Event()

            def trickle() -> None:
                text = b"POST /complete HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000
                for place in range(len(text)):
                    if done.wait(0.05):
                        return
                    for line in lines[::2]:
                        try:
                            line.sendall(text[place : place + 1])
                        except OSError:
                            return

            thread = threading.Thread(target=trickle)
            thread.start()
            try:
                client, since = client_of(server.url), time.monotonic()
                assert client._status(server.url)["updating"] is False
                update(client, server.url, weights())
                asked = request(prompts())
                _, tensors = client._post(server.url, "complete", asked["header"], asked["tensors"])
                assert time.monotonic() - since < 5 and tensors["ids"].shape == (2, 3)
                assert sorted(server.served.engine.loaded) == sorted(weights())
            finally:
                done.set()
                thread.join()
                for line in lines:
                    line.close()

    def test_a_trickle_is_cut_off_at_the_deadline_and_not_at_its_last_byte(self):
        with serving(header_s=0.5, body_s=0.5) as server:
            starts = (b"GET /sta", b"POST /begin HTTP/1.1\r\nContent-Length: 50\r\n\r\n")
            for start in starts:
                with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as line:
                    line.sendall(start)
                    since = time.monotonic()
                    try:
                        while time.monotonic() - since < 5:
                            line.sendall(b"x")
                            time.sleep(0.1)
                    except OSError:
                        pass
                    assert time.monotonic() - since < 3

    def test_what_is_too_large_is_refused_before_it_is_read(self):
        with serving("secret") as server:
            bearer = b"Authorization: Bearer secret\r\n"
            head = b"POST /%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n"
            assert b" 401 " in raw(server, head % (b"complete", b"", 2 << 30))
            assert b" 401 " in raw(server, head % (b"nowhere", b"Authorization: Bearer \xff\r\n", 9))
            for name in (b"complete", b"part", b"begin"):
                assert b" 413 " in raw(server, head % (name, bearer, 2 << 30))
            assert b" 411 " in raw(server, head.replace(b"%d", b"%s") % (b"begin", bearer, b"9" * 99))
            assert b" 404 " in raw(server, head % (b"__init__", bearer, 9))
            assert b" 431 " in raw(server, b"GET /status HTTP/1.1\r\n" + b"X-A: %s\r\n" % (b"x" * 900) * 40)

    @pytest.mark.parametrize(
        ("tensors", "why"),
        [
            ({"model.evil.weight": torch.zeros(2)}, "no tensor 'model.evil.weight'"),
            (weights(**{"model.layers.0.q_proj.weight": [8, 9]}), r"q_proj.weight is \[8, 9\] in the update, \[8, 8\]"),
            ({"model.layers.0.q_proj.weight": torch.zeros(8, 8, dtype=torch.int64)}, "q_proj"),
            ({"model.embed_tokens.weight": torch.zeros(40, 8)}, "lacks 1 tensors, as model.layers.0.q_proj.weight"),
        ],
    )
    def test_weights_of_another_model_never_reach_the_engine(self, tensors, why):
        with serving() as server:
            with pytest.raises(InputError, match=why):
                update(client_of(server.url), server.url, tensors)
            assert server.served.engine.loaded == [] and server.served.version == ""

    def test_requests_that_would_end_the_engine_are_refused(self):
        bad = {
            "ids": request(prompts(suffix_ids=torch.full((1, 6), 99))),
            "negative": request(prompts(prefix_ids=torch.full((1, 6), -1))),
            "clip": request(prompts(clip_of_row=torch.tensor([7]))),
            "float": request(prompts(suffix_ids=torch.zeros(1, 6))),
            "apart": request(prompts(suffix_mask=torch.ones(1, 5, dtype=torch.int64))),
            "group": request(prompts(), rollout=asdict(ROLLOUT) | {"group_size": 1 << 40}),
            "word": request(prompts(), rollout=asdict(ROLLOUT) | {"temperature": "hot"}),
            "keys": request(prompts(), keys=[1]),
            "tokens": request(prompts(), tokens=TOKENS.header() | {"stops": [99]}),
            "no tokens": request(prompts(), tokens=None),
            "version": request(prompts(), version=["r.1"]),
            "part": {"header": {"version": "r.1", "number": "../../x"}, "tensors": {}},
        }
        with serving() as server:
            client = client_of(server.url)
            update(client, server.url, weights())
            for name, asked in bad.items():
                body = pack(asked["header"], asked["tensors"])
                with pytest.raises(InputError, match="HTTP 409"):
                    client._request(server.url, "part" if name == "part" else "complete", body, 1 << 20)
            asked = request(prompts())
            assert client._post(server.url, "complete", asked["header"], asked["tensors"])[0] == {"version": "r.1"}

    def test_while_an_update_is_read_the_others_hear_of_it_at_once(self):
        with serving() as server:
            client = client_of(server.url)
            client._post(server.url, "begin", {"version": "r.1", "kind": "merged"}, {})
            client._post(server.url, "part", {"version": "r.1", "number": 0}, weights())
            server.served.engine.slow.clear()
            ends = threading.Thread(
                target=client._post, args=(server.url, "commit", {"version": "r.1", "parts": 1}, {})
            )
            ends.start()
            since, asked = time.monotonic(), request(prompts())
            with pytest.raises(InputError, match="update of its weights is half-finished"):
                client._post(server.url, "complete", asked["header"], asked["tensors"])
            assert client._status(server.url)["updating"] is True and time.monotonic() - since < 5
            server.served.engine.slow.set()
            ends.join()
            assert client._post(server.url, "complete", asked["header"], asked["tensors"])[0] == {"version": "r.1"}

    def test_beyond_this_machine_a_token_is_needed(self, monkeypatch, capsys):
        monkeypatch.delenv("EARWITNESS_TOKEN", raising=False)
        for host in ("0.0.0.0", "node7", "::", "127.0.0.1.evil.example"):
            with pytest.raises(SystemExit):
                main(["serve", "none", "--host", host])
            assert re.search(r"set EARWITNESS_TOKEN.*--without-token", capsys.readouterr().err)
        assert all(map(is_loopback, ("127.0.0.1", "127.4.4.4", "localhost", "::1")))
        assert not any(map(is_loopback, ("127.example.org", "0.0.0.0", "10.0.0.1", "")))


@contextmanager
def answering(head: bytes, body: bytes = b"", again: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """An address that gives the same answer to whoever comes, its body `again` and again; and what it was sent."""
    line = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = line.accept()
            except OSError:
                return
            with connection:
                seen.append(connection.recv(1 << 16))
                connection.settimeout(0.2)
                with suppress(OSError):  # what is left unread when it closes would reset the connection
                    while connection.recv(1 << 16):
                        pass
                try:
                    connection.sendall(head + b"\r\n\r\n" + body)
                    for _ in range(again):
                        connection.sendall(body)
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{line.getsockname()[1]}", seen
    finally:
        line.close()


class TestClient:
    def test_a_redirect_is_not_followed_and_the_token_goes_nowhere(self, monkeypatch):
        monkeypatch.setenv("EARWITNESS_TOKEN", "secret-of-the-lab")
        with answering(b"HTTP/1.0 200 OK", b"{}") as (other, seen):
            for code in (b"301", b"307", b"302"):
                head = b"HTTP/1.0 %s Moved\r\nLocation: %s/status" % (code, other.encode())
                with (
                    answering(head) as (url, _),
                    pytest.raises(InputError, match="redirects to .*must name the"),
                ):
                    client_of(url)._status(url)
            assert seen == []

    @pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK", b"HTTP/1.0 500 no"])
    def test_an_endless_answer_is_cut_off(self, head):
        def act() -> str:
            with answering(head, b"x" * (1 << 20), 2_000) as (url, _), pytest.raises(InputError) as refused:
                client_of(url)._status(url)
            return str(refused.value)

        assert "http://127.0.0.1" in limited(act, grows=400 << 20, seconds=30)

    def test_a_trickling_answer_ends_in_time(self):
        with answering(b"HTTP/1.0 200 OK", b"", 0) as (url, _):
            client = client_of(url)
            client.timeout_s = 0.5

            class Slow:
                length = None

                def read1(self, size: int) -> bytes:
                    time.sleep(0.05)
                    return b"x"

            since = time.monotonic()
            with pytest.raises(TimeoutError):
                remote._received(Slow(), 1 << 20, time.monotonic() + 0.5)
            assert time.monotonic() - since < 2

    @pytest.mark.parametrize(
        "body",
        [b"[]", b"[" * 200_000, b'"vocabulary"', b"\xff", b'{"vocabulary": "\x1b[2J"}'],
    )
    def test_anything_else_that_answers_is_told_in_a_line(self, body):
        with answering(b"HTTP/1.0 200 OK", body) as (url, _):
            client = client_of(url)
            with pytest.raises(InputError) as refused:
                client._status(url)
                client._post(url, "commit", {}, {})
            assert str(refused.value).isprintable()

    def test_completions_that_cannot_be_are_refused(self):
        good = Stub().generate(prompts(), ROLLOUT, [1, 2], TOKENS)
        for name, tensor in (
            ("ids", torch.full((2, 3), 40)),
            ("ids", torch.full((2, 9), 5)),
            ("ids", torch.full((1, 3), 5)),
            ("mask", torch.full((2, 3), 2)),
            ("prompt_of_row", torch.tensor([0, 9])),
            ("other", torch.zeros(2)),
        ):
            body = pack({"version": "r.1"}, tensors_of(good) | {name: tensor})
            with answering(b"HTTP/1.0 200 OK", body) as (url, _):
                client = client_of(url)
                client.own_urls = [url]
                batch = type("Batch", (), {"prompts": prompts()})()
                with pytest.raises(InputError, match="its completions are not 2 of at most 4 tokens"):
                    client.complete(batch, ROLLOUT, [1, 2])
        assert unpack(pack({}, tensors_of(good)))[1]["ids"].equal(good.ids)


def test_headers_of_messages_are_bounded():
    for body in (b"", b"\xff" * 40, (9).to_bytes(8, "little") + b"[" * 9, json.dumps([1]).encode()):
        with pytest.raises(InputError, match="not a message"):
            unpack(body)


@pytest.mark.parametrize("lora", [False, True])
def test_what_a_policy_sends_is_what_its_server_knows(small, lora):
    """All of its weights, those under its adapters, and the adapters alone."""
    policy = OmniPolicy(small.tiny, dtype="float32", lora=Lora(rank=4, alpha=12) if lora else None)
    shapes = thinker_shapes(thinker_config(small.tiny))
    sent = {"merged": dict(without_vision(merged_weights(policy)))}
    config = None
    if lora:
        config = checked_adapter(json.loads(json.dumps(adapter_config(policy))))
        sent |= {"base": dict(without_vision(base_weights(policy))), "adapter": dict(adapter_weights(policy))}
    for kind, tensors in sent.items():
        check_weights(kind, tensors, shapes, config)
        check_whole(kind, set(tensors), shapes)
        with pytest.raises(InputError, match="lacks 1 tensors"):
            check_whole(kind, set(tensors) - {sorted(tensors)[0]}, shapes)
    if lora:
        with pytest.raises(InputError, match="and no more"):
            checked_adapter(adapter_config(policy) | {"base_model_name_or_path": "/etc"})
