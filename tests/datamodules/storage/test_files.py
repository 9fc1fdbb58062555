"""Byte ranges from local files and from servers that go wrong: the right bytes, or an error that names the shard."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import signal
import tempfile
import threading
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from earwitness.datamodules.batches.quarantine import read_quarantine
from earwitness.datamodules.shards.index import build_index, read_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.storage import address, ranges
from earwitness.datamodules.storage import files as storage
from earwitness.datamodules.storage.files import LocalFiles, Reading, RemoteFiles
from earwitness.datamodules.storage.ranges import Range, Shard, coalesced
from earwitness.errors import InputError
from earwitness.tests.datamodules.test_datamodule import CLIPS, EVERYTHING, SPLITS, build, module, same
from earwitness.tests.fault_server import FaultServer, serving

SECRET = "s3cr3t"
DATA = {name: np.random.default_rng(n).bytes(100_000) for n, name in enumerate(("a.tar", "b.tar"))}
WANTED = Range("a.tar", 100, 50)


@pytest.fixture
def server():
    """A server with two files of random bytes that are no tars."""
    with serving() as started:
        started.files.update({f"/shards/{name}": data for name, data in DATA.items()})
        yield started


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(address, "time", SimpleNamespace(sleep=made.append))
    return made


def remote(server: FaultServer, base: str | None = None, **reading) -> RemoteFiles:
    known = {name: Shard(len(data)) for name, data in DATA.items()}
    return RemoteFiles(base or f"{server.url}/shards", known, Reading(**({"max_gap": 0} | reading)))


def bytes_of(wanted: Range) -> bytes:
    return DATA[wanted.shard][wanted.offset : wanted.offset + wanted.size]


def only(found: list[bytes | InputError]) -> bytes | InputError:
    assert len(found) == 1
    return found[0]


# Which ranges are fetched as one


@st.composite
def many_ranges(draw) -> tuple[list[Range], int, int]:
    """Ranges of two shards, some twice, some within others; the gap that is bridged, and the longest span."""
    place = st.builds(Range, st.sampled_from(("a", "b")), st.integers(0, 400), st.integers(0, 60))
    wanted = draw(st.lists(place, min_size=1, max_size=30))
    wanted += draw(st.lists(st.sampled_from(wanted), max_size=5))
    return wanted, draw(st.integers(0, 80)), draw(st.integers(1, 200))


@given(many_ranges())
@settings(max_examples=300, deadline=None)
def test_spans_cover_what_is_wanted_and_cannot_be_fewer(case):
    wanted, gap, longest = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "_LARGEST_SPAN", longest)
        spans = coalesced(wanted, gap)
    assert sorted(each for held in spans.values() for each in held) == sorted(set(wanted)), "each in one of them"
    for span, held in spans.items():
        assert {each.shard for each in held} == {span.shard}
        assert span.offset == min(each.offset for each in held)
        assert span.offset + span.size == max(each.offset + each.size for each in held)
        assert span.size <= longest or len(held) == 1
        reach = span.offset
        for each in sorted(held):
            assert each.offset - reach <= gap, "no more than the gap is read in vain in one go"
            reach = max(reach, each.offset + each.size)
    in_order = sorted(spans)
    for one, two in pairwise(in_order):
        stop, first = one.offset + one.size, min(spans[two])
        union = max(stop, first.offset + first.size) - one.offset
        assert one.shard != two.shard or first.offset - stop > gap or union > longest, "they had to be two"


@given(many_ranges())
@settings(max_examples=100, deadline=None)
def test_the_slices_of_spans_are_the_bytes_in_the_order_asked(case):
    wanted, gap, longest = case
    data = {name: np.random.default_rng(n).bytes(500) for n, name in enumerate("ab")}
    asked = []

    class Known(RemoteFiles):
        def _span(self, span):
            asked.append(span)
            return data[span.shard][span.offset : span.offset + span.size]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "_LARGEST_SPAN", longest)
        files = Known("http://127.0.0.1:9", {}, Reading(max_gap=gap, in_flight=4))
        try:
            assert files.fetch(wanted) == [data[r.shard][r.offset : r.offset + r.size] for r in wanted]
            assert sorted(asked) == sorted(coalesced(wanted, gap))
        finally:
            files.close()


def test_no_request_is_for_more_than_16_mib_unless_one_range_is():
    mib = 1 << 20
    wanted = [Range("a", n * mib, mib) for n in range(40)] + [Range("b", 0, 20 * mib), Range("b", 20 * mib, 1)]
    sizes = {span.shard + str(span.offset // mib): span.size / mib for span in coalesced(wanted, 0)}
    assert sizes == {"a0": 16, "a16": 16, "a32": 8, "b0": 20, "b20": 1 / mib}


def test_neighbours_are_one_request_and_nothing_comes_twice(server):
    files = remote(server, max_gap=10)
    wanted = [Range("a.tar", 30, 10), Range("a.tar", 0, 20), Range("b.tar", 5, 5), Range("a.tar", 51, 9), WANTED]
    wanted += wanted[:2]
    assert files.fetch(wanted) == [bytes_of(each) for each in wanted]
    assert sorted(server.ranges("a.tar")) == ["bytes=0-39", "bytes=100-149", "bytes=51-59"]
    assert server.ranges("b.tar") == ["bytes=5-9"] and not server.whole()
    assert files.fetch([]) == [] and files.fetch([Range("a.tar", 7, 0)]) == [b""] and len(server.seen) == 4
    assert {seen.headers["Accept-Encoding"] for seen in server.seen} == {"identity"}, "not other bytes, compressed"
    files.close()


def test_as_many_requests_as_allowed_are_open_at_once_and_no_more(server):
    """Nobody is answered before three have asked; a fourth would be counted."""
    server.meeting = threading.Barrier(3, timeout=20)
    files = remote(server, in_flight=3)
    wanted = [Range("a.tar", 1_000 * n, 10) for n in range(24)]
    assert files.fetch(wanted) == [bytes_of(each) for each in wanted]
    assert (server.most_open, len(server.seen)) == (3, 24)
    files.close()


def test_more_than_a_hundred_requests_can_be_open(server):
    server.meeting = threading.Barrier(120, timeout=20)
    files = remote(server, in_flight=120)
    wanted = [Range("a.tar", 100 * n, 10) for n in range(120)]
    assert files.fetch(wanted) == [bytes_of(each) for each in wanted] and server.most_open == 120
    files.close()


# What may pass, and what does not

PASSING = {
    "503": "the server answered 503",
    "500": "the server answered 500",
    "429": "the server answered 429",
    "408": "the server answered 408",
    "drop": "ServerDisconnectedError: Server disconnected",
    "hang": "no answer in time",
    "cut": "ClientPayloadError: Response payload is not completed",
    "short": "ConnectionError: 25 of 50 bytes came",
    "elsewhere": "ConnectionError: bytes 107-156 came instead of 100-149",
}


def requests(kind: str, tries: int) -> int:
    """What the server sees of so many tries: aiohttp asks a second time when a connection ends without an answer."""
    return tries * (2 if kind == "drop" else 1)


def patience(kind: str) -> dict:
    """Only where nobody ever answers the limit has to be short."""
    return {"timeout_s": 0.3 if kind == "hang" else 30.0}


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_asked_again_after_growing_pauses(server, pauses, kind):
    server.fail(kind, requests(kind, 3))
    files = remote(server, **patience(kind))
    assert files.fetch([WANTED]) == [bytes_of(WANTED)]
    assert server.ranges() == ["bytes=100-149"] * (requests(kind, 3) + 1)
    scale = 0.03 if kind == "hang" else 1  # a tenth of the limit, but never stretched
    assert [0.25 * scale <= pauses[0] < 0.75 * scale, 0.5 * scale <= pauses[1] < 1.5 * scale] == [True, True]
    assert len(pauses) == 3 and scale <= pauses[2] < 3 * scale
    files.close()


@pytest.mark.parametrize("kind", PASSING)
def test_what_does_not_pass_ends_after_the_retries_and_names_the_shard(server, pauses, kind):
    server.fail(kind, 99)
    files = remote(server, retries=2, **patience(kind))
    error = only(files.fetch([WANTED]))
    assert isinstance(error, InputError) and len(pauses) == 2
    assert len(server.seen) == requests(kind, 3)
    start = f"{server.url}/shards/a.tar@100: cannot be read ({PASSING[kind]}"
    assert str(error).startswith(start) and str(error).endswith("), tried 3 times")
    server.faults.clear()
    assert files.fetch([WANTED]) == [bytes_of(WANTED)], "the connection is as good as before"
    files.close()


def test_no_pause_is_longer_than_45_seconds(server, pauses):
    server.fail("503", 99)
    files = remote(server, retries=9)
    assert "tried 10 times" in str(only(files.fetch([WANTED])))
    assert len(pauses) == 9 and all(15 <= pause < 45 for pause in pauses[6:])
    files.close()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("404", "not found"),
        ("403", "the server answered 403"),
        ("401", "the server answered 401"),
        ("410", "the server answered 410"),
    ],
)
def test_what_is_not_there_or_not_allowed_is_asked_once(server, pauses, kind, says):
    server.fail(kind, 99)
    files = remote(server)
    assert str(only(files.fetch([WANTED]))) == (
        f"{server.url}/shards/a.tar@100: cannot be read ({says}), tried 1 times"
    )
    assert len(server.seen) == 1 and not pauses
    files.close()


def test_a_server_that_sends_whole_files_is_found_out_at_once(server, pauses):
    server.fail("whole", 99)
    files = remote(server)
    says = f"{server.url}/shards/a.tar: the server sends whole files instead of byte ranges; set reading.cache"
    assert str(only(files.fetch([WANTED]))) == says and len(server.seen) == 1
    whole = Range("a.tar", 0, 100_000)
    assert files.fetch([whole]) == [DATA["a.tar"]], "where that is what was asked for, it is as good"
    assert not pauses
    files.close()


@pytest.mark.parametrize("size", [120, 60])
def test_a_shard_cut_off_on_the_server_is_found_out_at_once(server, pauses, size):
    """Within the range, and before it."""
    server.files["/shards/a.tar"] = DATA["a.tar"][:size]
    says = {120: "a.tar: has 120 bytes, at least 150 when it was indexed; re-index the shard"}
    says[60] = "a.tar@100: cannot be read (the server answered 416), tried 1 times"
    files = remote(server)
    assert str(only(files.fetch([WANTED]))) == f"{server.url}/shards/{says[size]}"
    assert len(server.seen) == 1 and not pauses
    files.close()


def test_one_bad_shard_does_not_spoil_the_others(server, pauses):
    server.fail("404", 99, "a.tar")
    files = remote(server)
    found = files.fetch([Range("b.tar", 0, 9), WANTED, Range("b.tar", 500, 9), Range("a.tar", 9_000, 9)])
    assert [found[0], found[2]] == [DATA["b.tar"][:9], DATA["b.tar"][500:509]]
    assert all(isinstance(found[n], InputError) and "/a.tar@" in str(found[n]) for n in (1, 3))
    files.close()


@pytest.mark.parametrize("kind", [*PASSING, "404", "403", "whole"])
def test_credentials_are_sent_and_never_shown(server, pauses, capfd, caplog, kind):
    server.fail(kind, 99)
    server.fail(kind, 99, method="HEAD")
    query = f"X-Amz-Signature={SECRET}&x=1"
    base = server.url.replace("//", f"//user:{SECRET}@") + f"/shards?{query}"
    files = remote(server, base, retries=1, **patience(kind))
    error = only(files.fetch([WANTED]))
    assert isinstance(error, InputError) and SECRET not in str(error) and "user" not in str(error)
    assert f"{server.url}/shards/a.tar" in str(error)
    try:
        files.check()
    except InputError as error:
        assert SECRET not in str(error) and str(error).startswith(f"{server.url}/shards/a.tar")
    seen = server.seen[-1]
    assert {each.query for each in server.seen} == {query} and seen.headers["Authorization"].startswith("Basic ")
    server.faults.clear()
    assert files.fetch([WANTED]) == [bytes_of(WANTED)]
    files.close()
    assert SECRET not in "".join(capfd.readouterr()) + caplog.text


# Before training begins


def test_the_check_asks_for_every_shard_and_is_content_with_what_was_indexed(server):
    files = remote(server)
    files.check()
    assert sorted((seen.method, seen.path) for seen in server.seen) == [
        ("HEAD", "/shards/a.tar"),
        ("HEAD", "/shards/b.tar"),
    ]
    server.fail("403", 99, method="HEAD")  # as with addresses signed for GET alone
    files.check()
    files.close()


@pytest.mark.parametrize("kind", ["503", "429", "drop", "hang"])
def test_the_check_waits_for_what_may_pass(server, pauses, kind):
    """fsspec calls a file missing whatever its two ways of asking meet."""
    for method in ("HEAD", "GET"):
        server.fail(kind, requests(kind, 2), "a.tar", method)
    files = remote(server, **patience(kind))
    files.check()
    assert len(pauses) == 2
    for method in ("HEAD", "GET"):
        server.fail(kind, 99, "b.tar", method)
    with pytest.raises(InputError) as error:
        files.check()
    says = re.escape(f"{server.url}/shards/b.tar: cannot be read ({PASSING[kind]}")
    assert re.match(rf"^{says}.*\), tried 6 times$", str(error.value))
    files.close()


def test_the_check_finds_a_shard_that_is_missing_or_has_another_size(server, pauses):
    files = remote(server)
    server.files["/shards/b.tar"] += b"\0" * 512
    with pytest.raises(InputError) as error:
        files.check()
    says = "has 100512 bytes, 100000 when it was indexed; re-index the shard"
    assert str(error.value) == f"{server.url}/shards/b.tar: {says}"
    del server.files["/shards/a.tar"]
    with pytest.raises(InputError) as error:
        files.check()
    assert str(error.value) == f"{server.url}/shards/a.tar: cannot be read (not found), tried 1 times"
    assert not pauses
    files.close()


def test_the_check_finds_a_shard_that_was_written_again(server):
    """Unless the shards are said to lie elsewhere, where every file has a tag of its own."""
    with serving() as first:
        first.files.update(server.files)
        files = remote(first)
        files.check()
        known = {name: files._info(name) for name in DATA}
        files.close()
    assert all(len(shard.etag) == 34 and shard.size == 100_000 for shard in known.values())
    server.files["/shards/b.tar"] = DATA["b.tar"][::-1]
    for reading, passes in ((Reading(), False), (Reading(shards=f"{server.url}/shards"), True)):
        files = RemoteFiles(f"{server.url}/shards", known, reading)
        if passes:
            files.check()
        else:
            with pytest.raises(InputError, match=r"/shards/b\.tar: was written again since it was indexed \(entity"):
                files.check()
        files.close()


def test_a_server_that_is_down_at_the_start_is_one_clear_error(pauses):
    with serving() as gone:
        url = gone.url
    files = RemoteFiles(f"{url}/shards", {"a.tar": Shard(1)}, Reading(retries=1))
    with pytest.raises(InputError) as error:
        files.check()
    host = url.removeprefix("http://")
    start = f"{url}/shards/a.tar: cannot be read (ClientConnectorError: Cannot connect to host {host}"
    assert str(error.value).startswith(start) and str(error.value).endswith("tried 2 times")
    files.close()


@pytest.mark.parametrize("name", ["in_flight", "lookahead", "timeout_s", "stall_s", "cache_gb"])
def test_settings_that_make_no_sense_are_refused(name):
    with pytest.raises(InputError, match=rf"^reading\.{name} must be positive, got 0$"):
        Reading(**{name: 0})
    for least in ("retries", "max_gap", "max_bad"):
        assert getattr(Reading(**{least: 0}), least) == 0
        with pytest.raises(InputError, match=rf"^reading\.{least} must not be negative, got -1$"):
            Reading(**{least: -1})


# One connection per process


@contextmanager
def forked():
    """Runs the block twice, in a forked child as well: yields whether this is the child, which ends in 30 seconds."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        yield True
        os._exit(1)
    yield False
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def no_garbage():
    """A child looks for garbage among what is made from here on, not in all of pytest."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("child_does", ["reads", "drops", "closes", "pickles"])
def test_a_forked_reader_makes_its_own_connection_and_leaves_the_parent_s_alone(server, no_garbage, child_does):
    """With one try and a limit of 8 seconds, a connection that the child took from the parent's loop is an error."""
    files = remote(server, retries=0, timeout_s=8.0)
    assert files.fetch([WANTED]) == [bytes_of(WANTED)]
    with forked() as child:
        if child:
            right = True
            with suppress(BaseException):
                if child_does == "closes":
                    files.close()
                if child_does == "pickles":
                    files = pickle.loads(pickle.dumps(files))
                if child_does != "drops":
                    right = files.fetch([Range("b.tar", 7, 70)]) == [DATA["b.tar"][7:77]]
                del files
                gc.collect()
                os._exit(0 if right else 2)
            os._exit(3)
    others = [Range("a.tar", 2_000 * n, 30) for n in range(8)]
    assert files.fetch(others) == [bytes_of(each) for each in others]
    files.close()


def test_a_pickled_reader_is_small_and_works(server):
    files = remote(server, in_flight=2)
    before = len(pickle.dumps(files))
    files.fetch([WANTED])
    packed = pickle.dumps(files)
    assert len(packed) == before < 1_000
    files.close()
    assert files.fetch([WANTED]) == [bytes_of(WANTED)], "also a closed one opens again"
    other = pickle.loads(packed)
    assert other.fetch([WANTED]) == [bytes_of(WANTED)]
    for each in (files, other):
        each.close()


class Ranges(Dataset):
    def __init__(self, files: RemoteFiles) -> None:
        self.files = files

    def __len__(self) -> int:
        return 12

    def __getitem__(self, n: int) -> bytes:
        return only(self.files.fetch([Range("ab"[n % 2] + ".tar", 1_000 * n, 64)]))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_workers_read_after_the_parent_has(server, workers):
    files = remote(server, retries=0, timeout_s=20.0)
    files.check()
    loader = DataLoader(Ranges(files), batch_size=None, num_workers=workers, collate_fn=lambda x: x)
    for _ in range(2):
        read = list(loader)
        assert read == [bytes_of(Range("ab"[n % 2] + ".tar", 1_000 * n, 64)) for n in range(12)]
        assert files.fetch([WANTED]) == [bytes_of(WANTED)]
    files.close()


# Local files


def local(folder: Path, count: int) -> LocalFiles:
    for n in range(count):
        (folder / f"{n}.tar").write_bytes(b"%03d" % n * 10)
    return LocalFiles(str(folder), {f"{n}.tar": Shard(30) for n in range(count)})


def open_in(folder: Path) -> int:
    """How many files of a folder this process holds open."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += os.readlink(link).startswith(str(folder))
    return count


def test_thousands_of_shards_do_not_use_up_the_files_a_process_may_open(tmp_path):
    files = local(tmp_path, 600)
    files.check()
    order = np.random.default_rng(0).permutation(600)
    assert files.fetch([Range(f"{n}.tar", 3, 3) for n in order]) == [b"%03d" % n for n in order]
    assert 100 < open_in(tmp_path) <= 256
    files.close()
    assert open_in(tmp_path) == 0
    assert files.fetch([Range("7.tar", 0, 3)]) == [b"007"] and open_in(tmp_path) == 1
    assert len(pickle.dumps(files)) == len(pickle.dumps(LocalFiles(str(tmp_path), files.shards)))
    files.close()


def test_a_local_shard_that_cannot_be_read_is_named(tmp_path):
    files = local(tmp_path, 4)
    assert files.fetch([Range("0.tar", 0, 3)]) == [b"000"]
    (tmp_path / "1.tar").unlink()
    (tmp_path / "2.tar").unlink()
    (tmp_path / "2.tar").symlink_to(tmp_path / "2.tar")
    (tmp_path / "3.tar").write_bytes(b"short")
    os.truncate(tmp_path / "0.tar", 10)  # while it is open
    found = [str(each) for each in files.fetch([Range(f"{n}.tar", 9, 3) for n in range(4)])]
    assert found == [
        f"{tmp_path}/0.tar@9: 1 of 3 bytes there; the shard was cut off",
        f"{tmp_path}/1.tar: the shard is missing (No such file or directory); the index names it",
        f"{tmp_path}/2.tar: cannot be opened (Too many levels of symbolic links); the index names it",
        f"{tmp_path}/3.tar: has 5 bytes, 30 when it was indexed; re-index the shard",
    ]
    with pytest.raises(InputError, match=r"1\.tar: the shard is missing"):
        files.check()
    files.close()


# File systems of another kind


@pytest.fixture
def memory(monkeypatch):
    """A file system that works without an event loop, as that of the hub does, in the place of every server."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    for where in (storage, address):
        monkeypatch.setattr(where, "filesystem", lambda _, **__: fsspec.filesystem("memory", skip_instance_cache=True))
    return fsspec.filesystem("memory", skip_instance_cache=True)


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_system_without_an_event_loop_is_read_alike(memory, corpus, tmp_path, pauses, cached):
    root = "hf://datasets/org/name@main"
    for path in corpus.glob("*.tar"):
        memory.pipe(f"{root}/{path.name}", path.read_bytes())
    build_index(root + "/shard-{000000..000002}.tar", str(tmp_path / "index.arrow"))
    table, where, known = read_index(tmp_path / "index.arrow")
    assert where == root and {name: shard.size for name, shard in known.items()} == sizes(corpus)
    assert table.equals(read_index(corpus / "index.arrow")[0])
    here = ShardReader(corpus / "index.arrow")
    there = ShardReader(tmp_path / "index.arrow", Reading(cache=str(tmp_path / "copies") if cached else None))
    there.files.check()
    alike(here, there)
    memory.rm(f"{root}/shard-000001.tar")
    with pytest.raises(InputError) as error:
        there.files.check()
    assert str(error.value) == f"{root}/shard-000001.tar: cannot be read (not found), tried 1 times"
    assert not pauses
    there.close()


class _Metered(AbstractFileSystem):
    """Files that are opened to be read, as the hub's; counts the bytes that are fetched for it."""

    fetched = 0

    def info(self, path, **_):
        return {"name": path, "size": len(DATA[path.rpartition("/")[2]]), "type": "file"}

    def _open(self, path, mode="rb", **options):
        return _MeteredFile(self, path, mode, **options)


class _MeteredFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        _Metered.fetched += end - start
        return DATA[self.path.rpartition("/")[2]][start:end]


def test_no_more_than_the_range_is_fetched_from_a_file_that_is_opened_for_it(monkeypatch):
    monkeypatch.setattr(storage, "filesystem", lambda _: _Metered(skip_instance_cache=True))
    monkeypatch.setattr(_Metered, "fetched", 0)
    files = RemoteFiles("hf://datasets/org/name", {name: Shard(100_000) for name in DATA}, Reading())
    assert files.fetch([WANTED]) == [bytes_of(WANTED)] and _Metered.fetched == WANTED.size
    files.close()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError(5, "Input/output error"), True),
        (TimeoutError(), True),
        (EOFError(), True),
        (type("ConnectTimeout", (Exception,), {"__module__": "httpx2"})("slow"), True),
        (type("HttpError", (Exception,), {"__module__": "gcsfs.retry", "code": 503})("busy"), True),
        (type("HttpError", (Exception,), {"__module__": "gcsfs.retry", "code": 404})("gone"), False),
        (type("HfHubHTTPError", (OSError,), {"response": SimpleNamespace(status_code=502)})("bad"), True),
        (type("HfHubHTTPError", (OSError,), {"response": SimpleNamespace(status_code=401)})("who"), False),
        (FileNotFoundError(f"http://user:{SECRET}@host/x"), False),
        (PermissionError(13, "Forbidden"), False),
        (ValueError(f"http://user:{SECRET}@host/x is none"), False),
        (type("InvalidURL", (ValueError,), {"__module__": "aiohttp.client_exceptions"})("x"), False),
        (ZeroDivisionError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_errors_of_other_file_systems_are_tried_again_where_that_may_help(memory, pauses, error, again):
    calls = []

    def broken(*_, **__):
        calls.append(1)
        raise error

    files = RemoteFiles("hf://datasets/org/name", {}, Reading(retries=2))
    files._start()
    files._fs.cat_file = broken
    found = only(files.fetch([WANTED]))
    assert isinstance(found, InputError) and len(calls) == (3 if again else 1) and SECRET not in str(found)
    assert str(found).startswith("hf://datasets/org/name/a.tar@100: cannot be read (")
    files.close()


# The index and the reader over a server


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twenty questions on thirteen recordings in three shards."""
    return build(tmp_path_factory.mktemp("bytes") / "corpus", CLIPS, SPLITS)


@pytest.fixture(scope="module")
def golden(corpus) -> list:
    """The training batches over the local files."""
    return list(module(corpus, **EVERYTHING).train_dataloader())


def sizes(corpus: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in corpus.glob("*.tar")}


def alike(here: ShardReader, there: ShardReader) -> None:
    rows = range(len(here))
    assert [here.question(row) for row in rows] == [there.question(row) for row in rows]
    assert all(np.array_equal(here.wave(row), there.wave(row)) for row in rows)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("by", ["pattern", "list"])
def test_the_index_of_shards_on_a_server_is_that_of_local_ones(server, corpus, tmp_path, monkeypatch, by, workers):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    base = server.put(corpus, "tars")
    server.fail("503", 1, "shard-000000.tar")
    server.fail("cut", 1, "shard-000001.tar")
    where = {"pattern": f"{base}/shard-{{000000..000002}}.tar", "list": f"{base}/"}[by]
    out = tmp_path / "index.arrow"
    counts = build_index(where, str(out), workers=workers)
    assert counts == build_index(str(corpus), str(tmp_path / "local.arrow"))
    table, root, known = read_index(out)
    assert table.equals(read_index(corpus / "index.arrow")[0])
    assert root == base and {name: shard.size for name, shard in known.items()} == sizes(corpus)
    assert all(re.fullmatch(r'"[0-9a-f]{32}"', shard.etag) for shard in known.values())
    alike(ShardReader(corpus / "index.arrow"), ShardReader(out))
    alike(ShardReader(corpus / "index.arrow"), ShardReader(corpus / "index.arrow", Reading(shards=base)))
    assert not list((tmp_path / "scratch").iterdir()), "no copy is left"


def test_an_index_with_credentials_is_used_and_shows_them_to_nobody(server, corpus, tmp_path, capfd):
    server.put(corpus, "tars")
    base = server.url.replace("//", f"//user:{SECRET}@") + "/tars"
    out = tmp_path / "index.arrow"
    with pytest.raises(InputError, match=r"^http://127.*/tars: remote shards need a place") as error:
        build_index(f"{base}?sig={SECRET}")
    assert SECRET not in str(error.value)
    build_index(f"{base}?sig={SECRET}", str(out))
    assert SECRET.encode() not in out.read_bytes()
    assert "keeps no credentials; give the address as reading.shards" in capfd.readouterr().err
    reader = ShardReader(out, Reading(shards=f"{base}?sig={SECRET}"))
    alike(ShardReader(corpus / "index.arrow"), reader)
    assert {seen.query for seen in server.seen if seen.path.startswith("/tars")} == {f"sig={SECRET}"}
    where = f"{server.url}/tars/{reader.text('shard', 0)}@{reader.numbers['audio_offset'][0]}"
    assert reader.where(0) == where and reader.place == f"{server.url}/tars"
    damaged = bytearray(server.files["/tars/shard-000001.tar"])
    damaged[600] ^= 1
    server.files["/tars/shard-000001.tar"] = bytes(damaged)
    for on_bad in ("stop", "quarantine"):
        with suppress(InputError):
            build_index(f"{base}?sig={SECRET}", str(tmp_path / "x.arrow"), on_bad=on_bad)
            assert on_bad == "quarantine"
    told = (tmp_path / "x.quarantine.jsonl").read_text()
    assert f"{server.url}/tars/shard-000001.tar" in told and SECRET not in told
    assert SECRET not in "".join(capfd.readouterr())


def test_no_room_for_the_copy_that_is_indexed_is_told(server, corpus, tmp_path, monkeypatch):
    base = server.put(corpus, "tars")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "call", lambda files, name, *rest, **o: full() if name == "get_file" else {})
    with pytest.raises(InputError, match=r"shard-000000\.tar: no room for a copy in .* \(No space left on device\)"):
        build_index(f"{base}/shard-000000.tar", str(tmp_path / "index.arrow"))


def test_bytes_that_only_claim_to_be_the_right_ones_are_asked_for_again(server, corpus):
    reader = ShardReader(corpus / "index.arrow", Reading(shards=server.put(corpus, "tars")))
    here = ShardReader(corpus / "index.arrow")
    server.fail("silently elsewhere", 1)
    assert np.array_equal(here.wave(3), reader.wave(3)) and len(server.ranges()) == 2
    server.fail("silently elsewhere", 2)
    with pytest.raises(InputError, match=r"/tars/shard-00000\d\.tar@\d+: the recording changed since it was indexed"):
        reader.wave(3)
    assert len(server.ranges()) == 4
    reader.close()


# A whole data module over a server


def over(server: FaultServer, corpus: Path, **reading) -> Reading:
    return Reading(shards=server.put(corpus, "tars"), **reading)


@pytest.mark.parametrize(
    ("workers", "lookahead", "cached"),
    [*((0, ahead, cached) for ahead in (1, 2, 5) for cached in (False, True)), (2, 1, False), (2, 2, True), (2, 5, 0)],
)
def test_batches_over_a_server_are_those_over_local_files(server, corpus, golden, tmp_path, workers, lookahead, cached):
    server.fail("503", 2)
    server.fail("short", 2)
    more = {"cache": str(tmp_path / "copies")} if cached else {}
    reading = over(server, corpus, lookahead=lookahead, timeout_s=2.0, **more)
    data = module(corpus, reading=reading, num_workers=workers, **EVERYTHING)
    batches = list(data.train_dataloader())
    assert len(batches) == len(golden) == 8 and all(same(a, b) for a, b in zip(golden, batches, strict=True))
    asked, there = list(module(corpus).test_dataloader()), list(data.test_dataloader())
    assert len(asked) == 1 and all(same(a, b) for a, b in zip(asked, there, strict=True))
    if cached:
        copies = sorted((tmp_path / "copies").glob("*.tar"))
        assert sorted(p.read_bytes() for p in copies) == sorted(p.read_bytes() for p in corpus.glob("*.tar"))
        assert server.whole() <= 3 + 4 and not server.ranges()
    else:
        assert not server.whole()
    data.reader.close()


def test_the_ranges_of_several_batches_are_fetched_together(server, corpus):
    """Eight batches of four, five at a time: two rounds over three shards, each shard one request in each."""
    data = module(corpus, reading=over(server, corpus, lookahead=5))
    assert len(list(data.train_dataloader())) == 8
    assert len(server.ranges()) <= 2 * 3
    data.reader.close()


def test_a_run_over_a_server_that_is_down_does_not_begin(server, corpus, pauses):
    reading = over(server, corpus)
    reading.shards = reading.shards.replace("//", f"//user:{SECRET}@").replace(str(server.server_address[1]), "9")
    with pytest.raises(InputError) as error:
        module(corpus, reading=reading)
    start = "http://127.0.0.1:9/tars/shard-000000.tar: cannot be read (ClientConnectorError: Cannot connect to host"
    assert str(error.value).startswith(start) and "\n" not in str(error.value) and SECRET not in str(error.value)


def stopped(data) -> str:
    """What a training says that bad samples stop."""
    batches = iter(data.train_dataloader())
    try:
        for batch in batches:
            for bad in batch.replaced:
                data.quarantine.count(bad)  # as the trainer does, over all workers
    except InputError as error:
        return str(error)
    finally:  # what a worker raises holds its loader in a cycle, which would be collected in the midst of other tests
        getattr(batches, "_shutdown_workers", lambda: None)()
    return "it went on"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_is_put_up_with_until_too_much_is_bad(server, corpus, tmp_path, workers):
    """Its samples are told, each batch stays as large, and beyond the limit the run stops with the list."""
    gone = "shard-000001.tar"
    lost = {s for s in range(len(CLIPS)) if ShardReader(corpus / "index.arrow").text("shard", s) == gone}
    reading = over(server, corpus, lookahead=1, quarantine=str(tmp_path), timeout_s=2.0)
    data = module(corpus, reading=reading, num_workers=workers)
    wanted = {int(row) for n in range(8) for row in data.training_data.request(n).rows} & lost
    assert 2 <= len(wanted) < 10, "the corpus must have some of it in training"
    del server.files[f"/tars/{gone}"]
    batches = list(data.train_dataloader())
    assert [len(b) for b in batches] == [4] * 7 + [2] and not {s.row for b in batches for s in b.samples} & lost
    told = read_quarantine(tmp_path)
    assert {bad.key for bad in told} >= {data.reader.key(row) for row in wanted}
    url = f"{server.url}/tars/{gone}"
    assert all(bad.reason.startswith(url) and "(not found), tried 1 times" in bad.reason for bad in told)
    assert SECRET not in json.dumps([vars(bad) for bad in told])
    data.reader.close()
    server.put(corpus, "tars")
    strict = module(corpus, reading=over(server, corpus, lookahead=1, max_bad=1), num_workers=workers)
    del server.files[f"/tars/{gone}"]
    told = stopped(strict)
    assert told.startswith("2 bad samples, more than the 1 of reading.max_bad") and told.count(url) == 2
    strict.reader.close()
