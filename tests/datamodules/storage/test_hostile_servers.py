"""Web servers that send more than was asked for, lead elsewhere, or are put into an index by somebody else.

What may take memory runs in a forked process.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from earwitness.datamodules.questions.datasets import Source
from earwitness.datamodules.shards.index import read_index, write_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.storage.files import Reading, RemoteFiles
from earwitness.datamodules.storage.ranges import Range, Shard
from earwitness.errors import InputError
from earwitness.tests.limits import limited

MB = 1 << 20


class Hostile(ThreadingHTTPServer):
    """Does to every request what `how` says: "more" sends gigabytes, an address redirects there."""

    daemon_threads = True

    def __init__(self, how: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.how, self.sent, self.seen = how, 0, 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _Answer(BaseHTTPRequestHandler):
    server: Hostile

    def do_GET(self) -> None:
        self.server.seen += 1
        if self.server.how != "more":
            self.send_response(302)
            self.send_header("Location", self.server.how + self.path)
            return self.end_headers()
        self.send_response(206 if "Range" in self.headers else 200)
        self.end_headers()
        try:
            for _ in range(3_000 if self.command == "GET" else 0):
                self.wfile.write(b"\0" * MB)
                self.server.sent += MB
        except OSError:
            pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_) -> None:
        pass


def test_of_a_range_no_more_is_read_than_was_asked_for():
    def act():
        server = Hostile("more")
        files = RemoteFiles(server.url, {"x.tar": Shard(10_000)}, Reading(retries=0, timeout_s=20))
        (said,) = files.fetch([Range("x.tar", 512, 384)])
        return str(said), server.sent

    said, sent = limited(act, grows=1 << 29, seconds=60)
    assert "sent more than the 384 bytes" in said and sent < 64 * MB


def test_a_copy_stops_at_the_size_that_is_known(tmp_path):
    server = Hostile("more")
    reading = Reading(cache=str(tmp_path / "cache"), retries=0, timeout_s=20)
    files = RemoteFiles(server.url, {"x.tar": Shard(10_000)}, reading)
    (said,) = files.fetch([Range("x.tar", 512, 384)])
    assert "sends more than the 10,000 bytes it has" in str(said)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) < MB and server.sent < 64 * MB


@pytest.mark.parametrize("act", ["fetch", "check", "copy"])
def test_nobody_is_led_to_another_host(tmp_path, act):
    """Whoever writes an address could otherwise have this machine ask others that only it can reach."""
    inside = Hostile("more")
    outside = Hostile(inside.url)
    files = RemoteFiles(outside.url, {"x.tar": Shard(10_000)}, Reading(retries=0))
    with pytest.raises(InputError, match=rf"redirects to another host, {inside.url}; name the address there"):
        if act == "fetch":
            (said,) = files.fetch([Range("x.tar", 512, 384)])
            raise said
        files.check() if act == "check" else files.copy_shard("x.tar", str(tmp_path / "x"))
    assert inside.seen == 0 and outside.seen > 0


def test_an_index_says_to_which_host_it_leads(small, tmp_path, capsys):
    table, _, shards = read_index(small.index)
    about = {"root": "http://user:pass@10.0.0.7:8080/x", "shards": {n: [s.size, s.etag] for n, s in shards.items()}}
    write_index(table, about, tmp_path / "theirs.arrow")
    ShardReader(tmp_path / "theirs.arrow")
    told = capsys.readouterr().err
    assert "theirs.arrow: its recordings are read from http://10.0.0.7:8080/x" in told and "pass" not in told
    ShardReader(tmp_path / "theirs.arrow", Reading(shards=str(Path(small.index).parent)))
    assert capsys.readouterr().err == ""


def test_a_saved_dataset_fetches_nothing(tmp_path):
    """A column of pictures may hold addresses, which its package opens when a row is read."""
    datasets = pytest.importorskip("datasets")
    server = Hostile("more")
    rows = {
        "id": ["1", "2"],
        "question": ["q", "r"],
        "choices": [["a", "b"]] * 2,
        "picture": [f"{server.url}/x.png"] * 2,
    }
    kinds = {"id": datasets.Value("string"), "question": datasets.Value("string"), "picture": datasets.Image()}
    features = datasets.Features(kinds | {"choices": datasets.List(datasets.Value("string"))})
    table = {name: rows[name] for name in features}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(str(tmp_path / "saved"))
    found = [value for _, value, _, _ in Source(tmp_path / "saved")]
    assert [record["question"] for record in found] == ["q", "r"] and found[0]["choices"] == ["a", "b"]
    assert server.seen == 0
