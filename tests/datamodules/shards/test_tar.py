"""The strict walk over a tar: a whole archive of plain files passes, everything else names the file and the place."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from earwitness.datamodules.shards.tar import walk_tar
from earwitness.errors import InputError

A = ("a.json", b"{}"), ("a.flac", b"f" * 700)
B = ("b.json", b"[]"), ("b.flac", b"g" * 512)


def pack(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, kind=tarfile.USTAR_FORMAT, **options) -> Path:
    with tarfile.open(path, "w", format=kind, **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, **pax: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.pax_headers = kind, "target" if kind != tarfile.REGTYPE else "", pax
    return member


def test_the_walk_finds_what_tarfile_finds(tmp_path):
    long = "folder/" * 20 + "name.json"
    path = pack(tmp_path / "x.tar", *A, info("folder", tarfile.DIRTYPE), (long, b"x" * 512), ("b.wav", b""))
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    members = list(walk_tar(path))
    assert [(m.name, m.offset, m.size) for m in members] == expected
    assert (members[2].key, members[2].extension) == (long[:-5], "json")


def test_a_tar_cut_off_anywhere_is_refused(tmp_path):
    """Also on 512-byte boundaries and between members, where tarfile ends without an error."""
    whole = pack(tmp_path / "whole.tar", ("a.json", b"x" * 700), ("b.json", b"y" * 512)).read_bytes()
    end = 512 + 1_024 + 512 + 512 + 1_024  # headers, contents and the end mark of two blocks
    path = tmp_path / "x.tar"
    for size in range(0, end, 128):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=f"^{path}: "):
            list(walk_tar(path))
    path.write_bytes(whole[:end])
    assert len(list(walk_tar(path))) == 2


def test_any_changed_byte_of_a_header_is_noticed(tmp_path):
    whole = pack(tmp_path / "x.tar", *A, *B).read_bytes()
    second = [m.offset - 512 for m in walk_tar(tmp_path / "x.tar")][1]
    for place in [*range(0, 154), *range(156, 512)]:  # two bytes behind the checksum's digits carry nothing
        damaged = bytearray(whole)
        damaged[second + place] ^= 1
        (tmp_path / "x.tar").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"x\.tar: .*byte {second}"):
            list(walk_tar(tmp_path / "x.tar"))


def test_data_behind_the_end_mark_is_noticed(tmp_path):
    whole = pack(tmp_path / "x.tar", ("a.json", b"x")).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:1_536] + b"x" + whole[1_537:])
    with pytest.raises(InputError, match="data follows the end-of-archive mark"):
        list(walk_tar(tmp_path / "x.tar"))


def test_two_archives_in_one_file_are_noticed(tmp_path):
    parts = [pack(tmp_path / f"{name}.tar", (f"{name}.json", b"x")).read_bytes() for name in "ab"]
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match="data follows the end-of-archive mark"):
        list(walk_tar(tmp_path / "x.tar"))


def test_a_size_that_is_no_octal_number_is_refused(tmp_path):
    header = bytearray(pack(tmp_path / "x.tar", ("a.json", b"")).read_bytes())
    header[124:136] = b"-0000001000\0"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    (tmp_path / "x.tar").write_bytes(header)
    with pytest.raises(InputError, match="is not a tar header"):
        next(walk_tar(tmp_path / "x.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_only_plain_files_are_members(tmp_path, kind):
    path = pack(tmp_path / "x.tar", *A, info("b.json", kind))
    with pytest.raises(InputError, match=r"x\.tar: member 'b\.json' is no plain file \(tar type b'\d'\)$"):
        list(walk_tar(path))


@pytest.mark.parametrize("name", ["../x.json", "a/../../x.json", "/etc/x.json", ".."])
def test_a_name_cannot_leave_the_archive(tmp_path, name):
    path = pack(tmp_path / "x.tar", (name, b"x"))
    with pytest.raises(InputError, match=r"x\.tar: member name '.*' leaves the archive$"):
        list(walk_tar(path))


def test_the_times_webdataset_writes_are_harmless(tmp_path):
    with wds.TarWriter(str(tmp_path / "x.tar")) as writer:
        writer.write({"__key__": "a", "json": b"{}", "flac": b"x"})
    assert (tmp_path / "x.tar").read_bytes()[156:157] == b"x", "its writer puts an extended header first"
    assert [(m.name, m.size) for m in walk_tar(tmp_path / "x.tar")] == [("a.flac", 1), ("a.json", 2)]


@pytest.mark.parametrize("key", ["size", "linkpath", "GNU.sparse.major", "SCHILY.xattr.user", "hdrcharset"])
def test_an_extended_header_that_redefines_a_member_is_refused(tmp_path, key):
    pax = {"mtime": "1.5", key: "7"}
    path = pack(tmp_path / "x.tar", info("a.json", **pax), kind=tarfile.PAX_FORMAT)
    with pytest.raises(InputError, match=f"extended header '{key}' of .* is not supported"):
        list(walk_tar(path))


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("name", ["n" * 300 + ".json", "é" * 45 + ".json", "folder/" * 20 + "n.json"])
def test_long_names_are_read_in_every_dialect(tmp_path, kind, name):
    if kind == tarfile.USTAR_FORMAT and len(name) > 256:
        name = "d" * 150 + "/" + "n" * 95 + ".json"  # the longest this dialect can write
    path = pack(tmp_path / "x.tar", (name, b"x"), ("b.json", b"yy"), kind=kind)
    assert [(m.name, m.size) for m in walk_tar(path)] == [(name, 1), ("b.json", 2)]


@pytest.mark.parametrize("name", ["n" * 1_025, "n" * 10_000, "/" + "n" * 200, "../" + "n" * 200, "a\0b" + "n" * 200])
def test_a_long_name_is_held_to_the_same_rules(tmp_path, name):
    record = f"{len(name) + 10 + len(str(len(name)))} path={name}\n"
    for _ in range(3):  # the record's length counts its own digits
        record = f"{len(record.encode())} path={name}\n"
    data = pack(tmp_path / "x.tar", ("pax", record.encode()), ("b.json", b"x")).read_bytes()
    header = bytearray(data[:512])
    header[156:157], header[148:156] = b"x", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + data[512:])
    with pytest.raises(InputError, match=rf"^{tmp_path}/x\.tar: .*(leaves the archive|NUL|longer|repack the shard)"):
        list(walk_tar(tmp_path / "x.tar"))


def test_global_headers_are_refused(tmp_path):
    path = pack(tmp_path / "1.tar", ("a.json", b"x"), kind=tarfile.PAX_FORMAT, pax_headers={"path": "b.json"})
    with pytest.raises(InputError, match=r"is no plain file \(tar type b'g'\)"):
        list(walk_tar(path))


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 512, b"\x1f\x8b" + b"x" * 1_534, b"x" * 10_240, b"x" * 1_000], ids=lambda d: f"{d!r:.12}"
)
def test_what_is_no_tar_is_refused(tmp_path, data):
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"^{path}: .*(not a whole tar|not a tar header|is compressed)"):
        list(walk_tar(path))


def test_an_empty_tar_is_whole_and_a_missing_one_is_not(tmp_path):
    assert list(walk_tar(pack(tmp_path / "x.tar"))) == []
    with pytest.raises(InputError, match=f"^{tmp_path}/y.tar: no such shard$"):
        list(walk_tar(tmp_path / "y.tar"))


@pytest.mark.parametrize("left", [0, 512, 1_600, 5_000])
def test_a_tar_that_becomes_shorter_while_it_is_read_is_an_error_and_kills_nothing(tmp_path, left):
    """A memory-mapped file would end the process with a bus error; hence in a child of its own."""
    path = pack(tmp_path / "x.tar", ("a.json", b"x" * 8_192), ("b.json", b"x" * 65_536), *B)
    child = os.fork()
    if not child:
        walk = walk_tar(path)
        next(walk)
        os.truncate(path, left)
        try:
            list(walk)
        except InputError as error:
            os._exit(0 if "became shorter" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_folder_with_content_is_refused_since_other_readers_would_find_a_member_in_it(tmp_path):
    """tarfile goes on right behind a folder's header, whatever size it gives."""
    inner = pack(tmp_path / "y.tar", ("b.json", b"hidden")).read_bytes()[:1_024]
    folder = info("folder", tarfile.DIRTYPE)
    folder.size = len(inner)
    path = pack(tmp_path / "x.tar", folder)
    path.write_bytes(path.read_bytes()[:512] + inner + b"\0" * 1_024)
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["folder", "b.json"]
    with pytest.raises(InputError, match=r"member 'folder/' is no plain file \(tar type b'5'\)"):
        list(walk_tar(path))


@pytest.mark.parametrize("letter", ["\n", "\r", "\x1b", "\x7f", "\x85", "\x01"])
def test_a_name_holds_no_control_character(tmp_path, letter):
    path = pack(tmp_path / "x.tar", (f"a{letter}b.json", b"x"))
    with pytest.raises(InputError, match=r"x\.tar: member name '.*' is empty, .* control character$") as error:
        list(walk_tar(path))
    assert str(error.value).isprintable()


def test_names_in_any_script_are_read(tmp_path):
    names = ["Übung 1.json", "音.json", "a\u3000b.json", "\u00a0.json", "👂.json"]
    path = pack(tmp_path / "x.tar", *((name, b"x") for name in names))
    assert [member.name for member in walk_tar(path)] == names


@pytest.mark.parametrize(
    ("field", "value"), [(124, b"77777777777\0"), (124, b"\x80" + b"\0" * 10 + b"\x01"), (157, b"x")]
)
def test_huge_sizes_with_a_right_checksum_are_refused(tmp_path, field, value):
    """8 GiB in octal, and the binary numbers of GNU tar; what is not size, name or kind may be anything."""
    data = bytearray(pack(tmp_path / "x.tar", ("a.json", b"{}")).read_bytes())
    data[field : field + len(value)] = value
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    (tmp_path / "x.tar").write_bytes(data)
    if field == 157:
        assert [m.name for m in walk_tar(tmp_path / "x.tar")] == ["a.json"]
        return
    with pytest.raises(InputError, match="needs 8589934591 bytes|is not a tar header"):
        list(walk_tar(tmp_path / "x.tar"))


@pytest.mark.parametrize("field", [100, 108, 116, 136, 329, 337])
def test_a_header_at_which_other_readers_end_quietly_is_refused(tmp_path, field):
    """Mode, owners, time and device numbers mean nothing here; tarfile and webdataset stop at one that is no number."""
    data = bytearray(pack(tmp_path / "x.tar", *A, *B).read_bytes())
    start = [m.offset - 512 for m in walk_tar(tmp_path / "x.tar")][1]

    def write(value: bytes) -> None:
        data[start + field : start + field + 8] = value
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        (tmp_path / "x.tar").write_bytes(data)

    for value in (b"7654321\0", b"  644 \0\0", b"\0" * 8, b" " * 8, b"\x80\0\0\0\x01\x02\x03\x04", b"\xff" * 8):
        write(value)
        with tarfile.open(tmp_path / "x.tar") as tar:
            assert len(tar.getnames()) == len(list(walk_tar(tmp_path / "x.tar"))) == 4
    for value in (b"1234x67\0", b"64 4\0\0\0\0", b"0000888\0", b"\xc3\xa9\0\0\0\0\0\0"):
        write(value)
        with tarfile.open(tmp_path / "x.tar") as tar:
            assert tar.getnames() == ["a.json"], "the others are lost without a word"
        with pytest.raises(InputError, match=rf"the header at byte {start} has a field that is no number"):
            list(walk_tar(tmp_path / "x.tar"))
