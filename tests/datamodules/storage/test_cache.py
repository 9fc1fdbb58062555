"""Whole copies of remote shards: the right one, whole, downloaded once, no more than fit; and ranges where none is."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.storage import address, cache
from earwitness.datamodules.storage import files as storage
from earwitness.datamodules.storage.cache import ShardCache
from earwitness.datamodules.storage.files import Reading, RemoteFiles
from earwitness.datamodules.storage.ranges import Range, Shard
from earwitness.errors import InputError
from earwitness.tests.datamodules.test_datamodule import CLIPS, SPLITS, build
from earwitness.tests.fault_server import FaultServer, serving

SIZE = 100_000
DATA = {f"{name}.tar": np.random.default_rng(n).bytes(SIZE) for n, name in enumerate("abcdef")}
PLACES = [Range(name, 1_000 * n, 500) for n in (90, 3, 50) for name in DATA]


@pytest.fixture
def server():
    """A server with six files of random bytes that are no tars."""
    with serving() as started:
        started.files.update({f"/shards/{name}": data for name, data in DATA.items()})
        yield started


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(address, "time", type("Clock", (), {"sleep": made.append}))
    return made


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "copies"


def remote(server: FaultServer, folder: Path, under: str = "shards", tag: str = "", **reading) -> RemoteFiles:
    known = {name: Shard(SIZE, tag) for name in DATA}
    return RemoteFiles(f"{server.url}/{under}", known, Reading(**({"cache": str(folder), "max_gap": 0} | reading)))


def bytes_of(wanted: Range) -> bytes:
    return DATA[wanted.shard][wanted.offset : wanted.offset + wanted.size]


def right(files: RemoteFiles, *names: str) -> bool:
    wanted = [each for each in PLACES if not names or each.shard in names]
    return files.fetch(wanted) == [bytes_of(each) for each in wanted]


def held(folder: Path, suffix: str = ".tar") -> set[bytes]:
    return {path.read_bytes() for path in folder.glob(f"*{suffix}")}


def test_every_shard_is_downloaded_once_and_read_from_its_copy(server, folder):
    files = remote(server, folder)
    assert right(files) and right(files)
    again = remote(server, folder)
    assert right(again)
    assert not server.ranges() and server.whole() == len(DATA) and held(folder) == set(DATA.values())
    assert not held(folder, ".partial")
    for each in (files, again):
        each.close()


def test_the_same_name_and_tag_in_another_folder_is_another_shard(server, folder):
    server.files.update({f"/weak/{name}": data[::-1] for name, data in DATA.items()})
    strong, weak = remote(server, folder, tag='"1"'), remote(server, folder, "weak", tag='"1"')
    assert right(strong)
    assert weak.fetch(PLACES) == [DATA[r.shard][::-1][r.offset : r.offset + r.size] for r in PLACES]
    assert right(strong) and server.whole() == 2 * len(DATA)
    for each in (strong, weak):
        each.close()


def test_another_version_of_a_shard_is_another_copy(folder):
    copies = ShardCache(str(folder), 1.0)
    versions = [("http://h/a.tar", Shard(5, "x")), ("http://h/a.tar", Shard(5, "y")), ("http://h/a.tar", Shard(6, "x"))]
    versions += [("http://h/a.tar?v=1", Shard(5, "x")), ("http://g/a.tar", Shard(5, "x"))]
    assert len({copies.path(*version) for version in versions}) == 5


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"\0"])
def test_a_copy_of_another_size_is_never_served_and_fetched_anew(server, folder, damage):
    files = remote(server, folder)
    assert right(files)
    for path in folder.glob("*.tar"):
        path.write_bytes(damage(path.read_bytes()))
    assert right(files) and not server.ranges()
    assert server.whole() == 2 * len(DATA) and held(folder) == set(DATA.values())
    files.close()


@pytest.mark.parametrize("kind", ["503", "429", "drop", "cut", "short"])
def test_a_download_that_breaks_off_is_tried_again_and_never_half_a_copy(server, folder, pauses, kind):
    server.fail(kind, 2 * (2 if kind == "drop" else 1), "a.tar")
    files = remote(server, folder)
    assert right(files, "a.tar") and len(pauses) == 2 and held(folder) == {DATA["a.tar"]}
    server.fail(kind, 99, "b.tar")
    found = files.fetch([r for r in PLACES if r.shard == "b.tar"])
    assert all(isinstance(e, InputError) and str(e).startswith(f"{server.url}/shards/b.tar: cannot ") for e in found)
    assert held(folder) == {DATA["a.tar"]} and not held(folder, ".partial")
    files.close()


@pytest.mark.parametrize("kind", ["404", "403", "503", "cut", "short"])
def test_credentials_are_sent_and_never_shown(server, folder, capfd, kind):
    server.fail(kind, 99)
    files = remote(server, folder)
    files.root = server.url.replace("//", "//user:s3cr3t@") + "/shards?X-Amz-Signature=s3cr3t"
    (error,) = files.fetch(PLACES[:1])
    assert str(error).startswith(f"{server.url}/shards/a.tar: cannot be read (") and "s3cr3t" not in str(error)
    assert server.seen[0].query == "X-Amz-Signature=s3cr3t" and "Authorization" in server.seen[0].headers
    server.faults.clear()
    assert right(files)
    assert "s3cr3t" not in "".join(capfd.readouterr()) + " ".join(path.name for path in folder.iterdir())
    files.close()


@pytest.mark.parametrize(("kind", "says"), [("404", "not found"), ("403", "the server answered 403")])
def test_a_shard_that_is_not_there_is_asked_for_once(server, folder, pauses, kind, says):
    server.fail(kind, 99)
    files = remote(server, folder)
    (error,) = files.fetch(PLACES[:1])
    assert str(error) == f"{server.url}/shards/a.tar: cannot be read ({says}), tried 1 times"
    assert server.whole() == 1 and not pauses
    files.close()


def test_a_download_may_take_as_long_as_its_size_needs(server, folder, monkeypatch):
    """One time limit for each begun 64 MiB; a small shard that never comes is known as soon as a range would be."""
    limits = []
    monkeypatch.setattr(storage, "call", lambda *_, limit_s, **__: limits.append(limit_s))
    monkeypatch.setattr(storage.os.path, "getsize", lambda _: size)
    files = remote(server, folder, timeout_s=7.0)
    for size in (SIZE, (64 << 20) - 1, 200 << 20):
        files._download("http://h/a.tar", Shard(size), "a")
    assert limits == [7, 7, 28]
    server.fail("hang", 1)
    monkeypatch.undo()
    files = remote(server, folder, timeout_s=0.3)
    assert right(files, "a.tar") and server.whole() == 2
    assert files._fs._session.timeout.total is None, "and nobody else ends it after five minutes"
    files.close()


def test_a_server_without_byte_ranges_serves_whole_copies(server, folder):
    server.fail("whole", 999)
    files = remote(server, folder)
    assert right(files)
    files.close()


# Several at once


def test_threads_that_want_one_shard_download_it_once(server, folder):
    server.slow_s = 0.2
    files = [remote(server, folder, in_flight=8) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, files))
    assert {name: server.whole(name) for name in DATA} == dict.fromkeys(DATA, 1) and not server.ranges()
    for each in files:
        each.close()


def test_processes_that_want_one_shard_download_it_once(server, folder):
    server.slow_s = 0.2
    children = []
    gc.freeze()  # the children look for garbage among what is made from here on, not in all of pytest
    for _ in range(3):
        child = os.fork()
        if not child:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(30)
                os._exit(0 if right(remote(server, folder, timeout_s=20.0)) else 1)
            finally:
                os._exit(2)
        children.append(child)
    gc.unfreeze()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert {name: server.whole(name) for name in DATA} == dict.fromkeys(DATA, 1) and not server.ranges()
    assert held(folder) == set(DATA.values()) and not held(folder, ".partial")


def test_without_locks_a_shard_may_be_downloaded_twice_but_is_whole(server, folder, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    server.slow_s = 0.1
    files = [remote(server, folder) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(right, files))
    assert held(folder) == set(DATA.values()) and not held(folder, ".partial")
    for each in files:
        each.close()


@pytest.mark.parametrize("when", ["before it is opened", "while it is read"])
def test_a_copy_that_another_process_removes_is_no_error(server, folder, monkeypatch, when):
    files = remote(server, folder)
    assert right(files)

    def gone(*args, act):
        result = act(*args)
        for path in folder.glob("*.tar"):
            path.unlink()
        return result

    with monkeypatch.context() as patch:
        if when == "before it is opened":
            act = files._copies.copy
            patch.setattr(files._copies, "copy", lambda *args: gone(*args, act=act))
        else:
            patch.setattr(storage.os, "pread", lambda *args, act=os.pread: gone(*args, act=act))
        for each in PLACES:
            assert files.fetch([each]) == [bytes_of(each)]
    assert bool(server.ranges()) == (when == "before it is opened")
    files.close()


# What fits


def test_the_copies_used_longest_ago_make_room(server, folder):
    """Three fit; the first is used again before the fourth comes, so the second has to go."""
    files = remote(server, folder, cache_gb=3.5 * SIZE / 1e9)
    for name in ("a.tar", "b.tar", "c.tar", "a.tar", "d.tar"):
        assert right(files, name)
    assert held(folder) == {DATA[name] for name in ("a.tar", "c.tar", "d.tar")}
    assert right(files, "e.tar") and held(folder) == {DATA[name] for name in ("a.tar", "d.tar", "e.tar")}
    assert server.whole() == 5 and not server.ranges()
    files.close()


def test_a_shard_that_can_never_fit_drives_nothing_out(server, folder):
    assert right(remote(server, folder), "a.tar", "b.tar")
    files = remote(server, folder, cache_gb=0.9 * SIZE / 1e9)
    assert right(files, "c.tar") and len(server.ranges("c.tar")) == 3
    assert held(folder) == {DATA["a.tar"], DATA["b.tar"]}
    files.close()


def test_what_is_being_downloaded_counts(folder):
    """Two of a hundred bytes fit into 250: while both come, the third is told that there is no room."""
    copies, seen = ShardCache(str(folder), 250 / 1e9), []

    def download(number: int):
        def act(path: str) -> None:
            seen.append(number)
            if number < 3:
                found = copies.copy(f"http://h/{number + 1}", Shard(100), download(number + 1))
                assert (found is None) == (number == 2)
            Path(path).write_bytes(bytes(100))

        return act

    assert copies.copy("http://h/1", Shard(100), download(1)) is not None
    assert seen == [1, 2] and len(held(folder)) == 1 and len(list(folder.glob("*.tar"))) == 2
    assert copies.copy("http://h/3", Shard(100), download(3)) is not None, "there is no lasting harm"
    assert len(list(folder.glob("*.tar"))) == 2


def test_a_copy_takes_its_name_while_nobody_counts(folder, monkeypatch):
    """Its old name may be listed before the change, and looked at after it: it would count under neither."""
    copies, free = ShardCache(str(folder), 1.0), []

    def replace(path: Path, target: Path, act=Path.replace) -> Path:
        with open(folder / "room.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free.append(True)
            except BlockingIOError:
                free.append(False)
        return act(path, target)

    monkeypatch.setattr(cache.Path, "replace", replace)
    assert copies.copy("http://h/a", Shard(3), lambda path: Path(path).write_bytes(b"abc")) is not None
    assert free == [False] and held(folder) == {b"abc"}


def test_many_at_once_never_hold_more_than_fits(server, folder):
    most, over = 2.5 * SIZE, threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            with suppress(FileNotFoundError):
                sizes.append(sum(path.stat().st_size for path in folder.glob("*.tar")))

    sizes: list[int] = [0]
    server.slow_s = 0.02
    files = remote(server, folder, cache_gb=most / 1e9)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(4):
            assert right(files)
    finally:
        over.set()
        watcher.join()
    assert max(sizes) <= most and len(held(folder)) == 2
    files.close()


def test_abandoned_scratch_files_are_removed_and_those_of_others_are_not(server, folder):
    folder.mkdir()
    old, new, odd = (folder / name for name in ("1.x.500.partial", "2.x.500.partial", "odd.partial"))
    for path in (old, new, odd):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    files = remote(server, folder)
    assert right(files, "a.tar")
    assert sorted(folder.glob("*.partial")) == [new, odd]
    files.close()


# A disk that does not want any more


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_means_byte_ranges(server, folder, monkeypatch, capfd, pauses, kind):
    files = remote(server, folder, in_flight=1)
    assert right(files, "a.tar")
    calls = []

    async def full(_, path, **__):
        calls.append(path)
        Path(path).write_bytes(b"some of it")
        raise OSError(kind, "No space left")

    monkeypatch.setattr(files._fs, "_get_file", full)
    assert right(files) and right(files)
    assert len(calls) == 1 and not pauses, "neither the same shard nor another one is tried again"
    assert not server.ranges("a.tar") and server.ranges("b.tar"), "the copies there are still used"
    assert held(folder) == {DATA["a.tar"]} and not held(folder, ".partial")
    told = capfd.readouterr().err
    assert told == f"{folder}: takes no more shards (No space left); they are read by byte range\n"
    files.close()


def test_a_full_disk_that_many_meet_at_once_is_told_once(server, folder, monkeypatch, capfd):
    files, meeting = remote(server, folder, in_flight=6), threading.Barrier(6)
    assert files.fetch([]) == []

    def full(*_, **__):
        meeting.wait(20)
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(files, "_download", full)
    assert files.fetch(PLACES[:6]) == [bytes_of(each) for each in PLACES[:6]]
    assert capfd.readouterr().err.count("takes no more shards") == 1
    files.close()


@pytest.mark.parametrize("at", ["lock", "scratch", "sync", "rename"])
@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_at_any_point_means_byte_ranges(server, folder, monkeypatch, at, kind):
    files = remote(server, folder)
    assert right(files, "a.tar")

    def broken(*_, **__):
        raise OSError(kind, "no")

    if at == "lock":
        monkeypatch.setattr(files._copies, "_locked", broken)
    elif at == "scratch":
        monkeypatch.setattr(cache.Path, "touch", broken)
    elif at == "sync":
        monkeypatch.setattr(cache.os, "fsync", broken)
    else:
        monkeypatch.setattr(cache.Path, "replace", broken)
    assert right(files) and server.ranges() and held(folder) == {DATA["a.tar"]}
    assert not held(folder, ".partial")
    files.close()


def test_a_folder_that_cannot_hold_copies_is_refused_before_anything_is_read(server, tmp_path):
    (tmp_path / "file").touch()
    files = remote(server, tmp_path / "file" / "copies")
    with pytest.raises(InputError, match=r"/file/copies: cannot hold copies of shards \(Not a directory\); give anot"):
        files.check()
    assert not server.seen


# Content


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twenty questions on thirteen recordings in three shards."""
    return build(tmp_path_factory.mktemp("copies") / "corpus", CLIPS, SPLITS)


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize("part", ["audio", "json"])
def test_a_copy_with_other_content_is_noticed_and_fetched_anew(server, folder, corpus, part):
    base = server.put(corpus, "tars")
    here = ShardReader(corpus / "index.arrow")
    there = ShardReader(corpus / "index.arrow", Reading(shards=base, cache=str(folder)))
    there.fetch(range(20), range(20))
    whole = server.whole()
    assert whole == 3
    place = here.range(3, part)
    (copy,) = [path for path in folder.glob("*.tar") if path.read_bytes() == (corpus / place.shard).read_bytes()]
    data = flip(copy.read_bytes(), place.offset + place.size // 2)
    if part == "json":  # still a question of the same name, but with another answer
        text = data[place.offset : place.offset + place.size]
        text = flip(text, place.size // 2).replace(b'"answer": "wind"', b'"answer": "rain"')
        data = data[: place.offset] + text + data[place.offset + place.size :]
    copy.write_bytes(data)
    assert here.question(3) == there.question(3) and np.array_equal(here.wave(3), there.wave(3))
    assert server.whole() == whole + 1
    assert held(folder) == held(corpus)
    there.close()


def test_a_shard_that_is_wrong_on_the_server_is_not_downloaded_for_every_sample(server, folder, corpus):
    base = server.put(corpus, "tars")
    there = ShardReader(corpus / "index.arrow", Reading(shards=base, cache=str(folder)))
    rows = [row for row in range(20) if there.text("shard", row) == "shard-000001.tar"]
    path = "/tars/shard-000001.tar"
    for row in rows:
        place = there.range(row, "audio")
        server.files[path] = flip(server.files[path], place.offset + place.size // 2 + row)
    assert len({there.clip(row) for row in rows}) >= 4
    for row in rows:
        with pytest.raises(InputError, match=r"/tars/shard-000001\.tar@\d+: the recording changed since it was index"):
            there.wave(row)
    assert server.whole("shard-000001.tar") == 2, "one more try, not one for every bad sample"
    there.close()
