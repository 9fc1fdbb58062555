"""Files that others may write: bounded, regular, whole, and never through a link.

What may take memory runs in a forked process.
"""

from __future__ import annotations

import io
import os
import stat
import time

import pytest

from earwitness.boundary.files import (
    alone_in,
    bounded,
    empty_folder,
    is_file,
    locked,
    open_regular,
    open_to_append,
    read_bytes,
    read_json,
    read_text,
    replacing,
    write_text,
)
from earwitness.errors import InputError
from earwitness.tests.limits import limited


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    since = time.monotonic()
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(InputError):
            open_regular(path)
    assert time.monotonic() - since < 1
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="cannot be opened"):
        open_regular(tmp_path / "link", follow=False)


def test_names_that_no_file_system_takes_are_no_files(tmp_path):
    assert not any(map(is_file, ("a" * 5_000, "a\0b", tmp_path, "")))
    (tmp_path / "a").touch()
    assert is_file(tmp_path / "a")


def test_no_more_is_read_than_was_allowed(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(3 << 30)
    endless = type("Endless", (), {"read": lambda self, size: b"x" * size})()

    def act():
        for read in (
            lambda: read_bytes(tmp_path / "sparse", 1 << 20),
            lambda: read_json(tmp_path / "sparse"),
            lambda: bounded(endless, 1 << 20, "server"),
        ):
            with pytest.raises(InputError):
                read()
        return bounded(io.BytesIO(b"abc"), 3, "server")

    assert limited(act, grows=256 << 20) == b"abc"


def test_texts_and_json_of_others_are_refused_in_one_sentence(tmp_path):
    for number, data in enumerate((b"\xff\xfe\0", b"[" * 100_000, b"{", b"")):
        (tmp_path / str(number)).write_bytes(data)
        with pytest.raises(InputError, match=str(number)):
            read_json(tmp_path / str(number))
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(tmp_path / "bom") == "{}" and read_json(tmp_path / "bom") == {}


def test_a_file_is_written_whole_or_not_at_all_and_never_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "precious")
    with pytest.raises(KeyError), replacing(tmp_path / "out") as file:
        file.write(b"half")
        raise KeyError
    assert (tmp_path / "out").is_symlink() and len(list(tmp_path.iterdir())) == 2
    write_text(tmp_path / "out", "new \ud83d", private=True)
    assert (tmp_path / "precious").read_text() == "mine" and (tmp_path / "out").read_text() == "new \\ud83d"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_locks_are_never_links(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "room.lock").symlink_to(tmp_path / "precious")
    for take in (locked, open_to_append):
        with pytest.raises(OSError), take(tmp_path / "room.lock"):
            pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        open_to_append(tmp_path / "pipe")
    assert (tmp_path / "precious").read_text() == "mine"


def test_one_process_writes_into_a_folder(tmp_path):
    """Others are told at once; nothing is left behind, and a lock that a killed process left holds nobody up."""

    def act() -> str:
        with pytest.raises(InputError) as refused, alone_in(tmp_path / "out", "packing"):
            pass
        return str(refused.value)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".packing.lock").touch()
    with alone_in(tmp_path / "out", "packing"):
        assert "another process is packing there" in limited(act)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / ".packing.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot be written"), alone_in(tmp_path / "out", "packing"):
        pass
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("there", ["link", "file", "full", "nothing"])
def test_a_new_folder_takes_the_place_of_whatever_is_there_and_leaves_alone_where_a_link_led(tmp_path, there):
    victim, place = tmp_path / "victim", tmp_path / "place"
    victim.mkdir()
    (victim / "kept").write_text("mine")
    if there == "link":
        place.symlink_to(victim)
    elif there == "file":
        place.write_text("old")
    elif there == "full":
        (place / "deep").mkdir(parents=True)
    assert empty_folder(place) == place
    assert place.is_dir() and not place.is_symlink() and not list(place.iterdir())
    assert (victim / "kept").read_text() == "mine"
