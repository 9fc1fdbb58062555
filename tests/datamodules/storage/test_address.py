"""Addresses: what is read at all, what is never shown, and which tars a place holds."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from earwitness.datamodules.shards.index import build_index, read_index, write_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.storage import address
from earwitness.datamodules.storage.address import joined, list_shards, redacted, scheme_of, split_address
from earwitness.datamodules.storage.files import Reading
from earwitness.errors import InputError
from earwitness.tests.datamodules.shards.test_index import good, pack
from earwitness.tests.fault_server import serving

SECRET = "s3cr3t"
REFUSED = [
    "pipe:touch MARK",
    "pipe:touch MARK; cat x-{0..1}.tar",
    "PIPE:touch MARK #.tar",
    "file:///shards/x.tar",
    "file:x.tar",
    "simplecache::http://127.0.0.1:1/x.tar",
    "zip://x.tar::http://127.0.0.1:1/x.zip",
    "http://127.0.0.1:1/x.zip::file://y.tar",
    "x.tar::pipe:touch MARK",
    "ftp://127.0.0.1/x.tar",
    "memory://x.tar",
    "github://a:b@c/x.tar",
    "reference://x.tar",
    "javascript:x.tar",
    "http:x.tar",
    "http:/127.0.0.1/x.tar",
    "s3:bucket/x.tar",
    "{pipe:touch MARK,x}.tar",
    "{http://127.0.0.1:1/,pipe:touch }MARK.tar",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One sample in one tar, indexed."""
    (tmp_path / "shards").mkdir()
    pack(tmp_path / "shards" / "x.tar", *good("a", 1))
    build_index(str(tmp_path / "shards"))
    return tmp_path / "shards"


@pytest.mark.parametrize("where", REFUSED)
def test_only_local_paths_and_known_schemes_are_read_whoever_asks(corpus, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(address, "filesystem", lambda *_, **__: pytest.fail("it was spoken to"))
    with pytest.raises(InputError, match="are (not )?read"):
        list_shards(where)
    with pytest.raises(InputError, match="are (not )?read"):
        build_index(where, str(tmp_path / "out.arrow"))
    if "{" not in where:  # braces are a pattern to those two, to a reader they are letters of a folder's name
        with pytest.raises(InputError, match="are (not )?read"):
            ShardReader(corpus / "index.arrow", Reading(shards=where))
        table, _, shards = read_index(corpus / "index.arrow")
        write_index(table, {"root": where, "shards": {"x.tar": [shards["x.tar"].size, ""]}}, corpus / "other.arrow")
        with pytest.raises(InputError, match="are (not )?read"):
            ShardReader(corpus / "other.arrow")
    assert not (tmp_path / "MARK").exists() and not (tmp_path / "out.arrow").exists()


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "gs", "hf"])
def test_the_known_schemes_pass_in_any_case(scheme):
    assert scheme_of(f"{scheme}://host/x.tar") == scheme_of(f"{scheme.upper()}://host/x.tar") == scheme


def test_a_numeric_host_is_no_chain():
    assert scheme_of("http://[::1]:8080/shards") == scheme_of("http://user:pass@[fe80::1]/shards") == "http"
    assert scheme_of("/data/shards") == scheme_of("shards/x.tar") == scheme_of("") == ""


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        (f"http://user:{SECRET}@host:80/a/x.tar", "http://host:80/a/x.tar"),
        (f"https://{SECRET}@host/x.tar", "https://host/x.tar"),
        (f"https://host/x.tar?X-Amz-Signature={SECRET}&a=b", "https://host/x.tar"),
        (f"https://host/x.tar#{SECRET}", "https://host/x.tar"),
        (f"http://user:{SECRET}/{SECRET}@host/x.tar", "http://host/x.tar"),
        (f"http://user:p@{SECRET}@host/x.tar", "http://host/x.tar"),
        (f"http://[bad?{SECRET}", "http://[bad"),
        (f"{{http://u:{SECRET}@h/a,http://u:{SECRET}@h/b}}.tar", "{http://h/a,http://h/b}.tar"),
        ("hf://datasets/org/name@main/x.tar", "hf://datasets/org/name@main/x.tar"),
        ("s3://bucket/a@b/x.tar", "s3://bucket/a@b/x.tar"),
        ("http://[::1]:80/a@b/x.tar", "http://[::1]:80/a@b/x.tar"),
        ("/data/what?#/x.tar", "/data/what?#/x.tar"),
    ],
)
def test_credentials_are_cut_out_and_nothing_else(secret, shown):
    assert redacted(secret) == shown


@pytest.mark.parametrize(
    "where",
    [
        f"http://user:{SECRET}@127.0.0.1:9/shards/x.tar?X-Amz-Signature={SECRET}",
        f"http://user:{SECRET}@127.0.0.1:9/shards/{{a,b}}.tar?X-Amz-Signature={SECRET}",
        f"http://user:{SECRET}@127.0.0.1:9/shards/{{a,b.tar?X-Amz-Signature={SECRET}",
        f"http://user:{SECRET}@127.0.0.1:9/shards?X-Amz-Signature={SECRET}",
        f"http://user:{SECRET}@127.0.0.1:port/shards/x.tar",
        f"http://user:{SECRET}@127.0.0.1:port/shards",
        f"http://user:{SECRET}/@127.0.0.1:9/shards/x.tar",
        f"http://[user:{SECRET}@127.0.0.1/shards/x.tar",
        f"http:/user:{SECRET}@127.0.0.1/shards/x.tar?X-Amz-Signature={SECRET}",
        f"simplecache::http://user:{SECRET}@127.0.0.1:9/x.tar?X-Amz-Signature={SECRET}",
        f"http://user:{SECRET}@127.0.0.1:9/x.zip::http://user:{SECRET}@127.0.0.1:9/x.tar",
        f"pipe:curl -u user:{SECRET} http://127.0.0.1:9/x.tar",
        f"ftp://user:{SECRET}@127.0.0.1/x.tar",
        f"{{http://user:{SECRET}@127.0.0.1:9/x,http://user:{SECRET}@127.0.0.2:9/y}}.tar",
    ],
)
def test_an_address_that_cannot_be_read_is_told_without_its_credentials(tmp_path, monkeypatch, capfd, where):
    monkeypatch.setattr(address.time, "sleep", lambda _: None)
    for out in (str(tmp_path / "index.arrow"), None):
        with pytest.raises(InputError) as error:
            build_index(where, out)
        assert SECRET not in str(error.value) and SECRET not in "".join(capfd.readouterr())
        assert error.value.__suppress_context__ or error.value.__context__ is None, "nor in what led to it"


@pytest.mark.parametrize(
    "name",
    ["", "/etc/x.tar", "../x.tar", "a/../../x.tar", "..", "a/..", "http://h/x.tar", "pipe:x", "a\0.tar"]
    + ["%2e%2e/x.tar", "a/%2E./x.tar", "..%2fx.tar", "%2fetc/x.tar", "a\\..\\..\\x.tar", "a%00.tar"],
)
@pytest.mark.parametrize("root", ["/data/shards", "http://host/shards", "s3://bucket/shards"])
def test_a_name_in_an_index_cannot_leave_its_folder(root, name):
    with pytest.raises(InputError, match=r"^shard name .* must be relative and stay beside its index"):
        joined(root, name)


@pytest.mark.parametrize("name", ["../x.tar", "/x.tar", "%2e%2e/x.tar"])
def test_a_forged_index_reads_nothing_outside_its_folder(corpus, tmp_path, name):
    table, _, shards = read_index(corpus / "index.arrow")
    (tmp_path / "x.tar").write_bytes((corpus / "x.tar").read_bytes())
    at = table.schema.get_field_index("shard")
    names = pa.array([name]).dictionary_encode()
    table = table.set_column(at, table.schema.field(at), names)
    with serving() as server:
        for path in ("/x.tar", "/shards/x.tar", "/shards/../x.tar"):
            server.files[path] = (corpus / "x.tar").read_bytes()
        for root in ("", f"{server.url}/shards"):
            write_index(table, {"root": root, "shards": {name: [shards["x.tar"].size, ""]}}, corpus / "forged.arrow")
            with pytest.raises(InputError, match=r"is no name of a shard; index again$"):
                ShardReader(corpus / "forged.arrow")
        assert not server.seen


def test_a_name_is_put_behind_the_folder_and_before_the_query():
    assert joined("http://host/shards/?sig=1&x=2", "a/x.tar") == "http://host/shards/a/x.tar?sig=1&x=2"
    assert joined("http://host/shards", "what?#1.tar") == "http://host/shards/what%3F%231.tar"
    assert joined("s3://bucket/shards", "what?#1.tar") == "s3://bucket/shards/what?#1.tar"
    assert joined("/data/shards", "a/x.tar") == "/data/shards/a/x.tar"
    for whole in ("http://host/shards/x.tar?sig=1", "s3://bucket/a/x.tar", "/data/shards/x.tar"):
        assert joined(*split_address(whole)) == whole


def test_a_linked_shard_keeps_its_own_name_and_folder(corpus, tmp_path):
    """As in the snapshots of a hub's cache, where every file is a link to one that is called by its hash."""
    (tmp_path / "blobs").mkdir()
    (corpus / "x.tar").rename(tmp_path / "blobs" / "0123456789abcdef")
    (corpus / "x.tar").symlink_to(tmp_path / "blobs" / "0123456789abcdef")
    (corpus / "index.arrow").unlink()
    build_index(str(corpus))
    assert split_address(str(corpus / "x.tar")) == (str(corpus), "x.tar")
    assert os.listdir(tmp_path / "blobs") == ["0123456789abcdef"]
    assert ShardReader(corpus / "index.arrow").question(0).key == "s/1"


def test_shards_are_listed_by_folder_by_name_and_by_pattern(tmp_path):
    for name in ("b.tar", "a.tar", "c.txt", "what?.tar"):
        (tmp_path / name).touch()
    assert list_shards(str(tmp_path)) == [str(tmp_path / name) for name in ("a.tar", "b.tar", "what?.tar")]
    assert list_shards(str(tmp_path / "what?.tar")) == [str(tmp_path / "what?.tar")]
    assert list_shards("s3://b/x.tar") == ["s3://b/x.tar"]
    assert list_shards("gs://b/x-{08..10}.tar") == ["gs://b/x-08.tar", "gs://b/x-09.tar", "gs://b/x-10.tar"]
    assert list_shards("hf://datasets/o/n/{a,b}/{0..1}.tar")[2] == "hf://datasets/o/n/b/0.tar"
    with pytest.raises(InputError, match=r"/c: no \*\.tar to index there$"):
        list_shards(str(tmp_path / "c"))


@pytest.mark.parametrize("credentials", [False, True])
def test_a_server_s_folder_is_listed_with_what_lies_directly_in_it(credentials):
    query = f"?sig={SECRET}%2B&x=1" if credentials else ""
    with serving() as server:
        for path in ("/shards/b.tar", "/shards/a.tar", "/shards/n.txt", "/shards/in/c.tar", "/d.tar"):
            server.files[path] = b""
        server.files["/odd"] = b"<a href='../d.tar'>d</a> <a href='in/c.tar'></a> <a href='/shards/a.tar'></a>"
        server.files["/odd"] += (
            f"<a href='http://127.0.0.1:1/odd/x.tar'></a> <a href='{server.url}/odd/e.tar'>".encode()
        )
        base = server.url.replace("//", f"//user:{SECRET}@") if credentials else server.url
        for slash in ("", "/"):
            found = list_shards(f"{base}/shards{slash}{query}")
            assert found == [f"{base}/shards/a.tar{query}", f"{base}/shards/b.tar{query}"]
        assert {seen.query for seen in server.seen} == {query[1:]}, "also the list is asked for with it"
        if credentials:
            assert all(seen.headers["Authorization"].startswith("Basic ") for seen in server.seen)
        else:
            assert list_shards(f"{base}/odd") == [f"{base}/odd/e.tar"], "no link that leads elsewhere is followed"
