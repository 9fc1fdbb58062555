"""Connections notice that the other host is silent; an error that says that it is gone is one sentence."""

from __future__ import annotations

import socket
import sys

import pytest

from earwitness.lightning_modules.connections import end_when_silent, lost

GLOO = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [10.77.0.2]:45700: Connection "
    "timed out. This is typically caused by a remote worker hanging or bugs in the application. GLHF!"
)


@pytest.mark.skipif(sys.platform != "linux", reason="its socket options are Linux's")
def test_every_connection_of_the_process_is_watched_and_nothing_else() -> None:
    plain, _ = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        assert end_when_silent(5) >= 1
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        ours.sendall(b"still there")
        assert server.accept()[0].recv(20) == b"still there"


def test_a_lost_connection_is_one_sentence(monkeypatch) -> None:
    begin = "the connection to a process at 10.77.0.2 is lost (Read error [10.77.0.2]:45700: Connection timed out): it"
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS", raising=False)
    assert lost(RuntimeError(GLOO)) == (
        f"{begin} ended, or its host is silent; the same command continues from the last checkpoint"
    )
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    assert str(lost(RuntimeError(GLOO))).endswith("once every node is there again, within 10 minutes")
    assert lost(RuntimeError("CUDA out of memory")) is None
