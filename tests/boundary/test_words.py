"""Words of strangers on a terminal, in a page, as a file's name; and values that came from the environment."""

from __future__ import annotations

import io
from html.parser import HTMLParser

import pytest

from earwitness.boundary import environment
from earwitness.boundary.environment import hidden, hidden_in, remember
from earwitness.boundary.words import file_name, html, is_name, one_line, plain, say

HOSTILE = "\x1b]0;owned\x07\x1b[2Jred\u202egnp.exe\u2066 \x9b31m\x00 \ud83d \r\nnext\tcolumn\u2028"


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(environment, "_KNOWN", {})


def test_nothing_that_a_terminal_obeys_is_printed(capsys, known):
    say("said:", HOSTILE)
    out = capsys.readouterr().out
    assert out.startswith("said: ") and "next\tcolumn" in out and out.count("\n") == 2
    assert not set(out) & set("\x1b\x07\x9b\x00\r\u202e\u2066\u2028\ud83d")
    assert one_line(HOSTILE * 99).isprintable() and len(one_line(HOSTILE * 99)) == 300
    assert plain("Bär, 音, \u200d family") == "Bär, 音, \u200d family"


def test_what_a_stream_cannot_show_is_escaped(known):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii", write_through=True)
    say("Bär", file=stream)
    assert raw.getvalue() == b"B\\xe4r\n"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_no_value_is_markup():
    hostile = "<script>alert(1)</script><img src=x onerror='x()'>\"' onload=\"y()\x1b"
    for value in (hostile, {"a": hostile}, [hostile], 1.5, None):
        tags = Tags()
        tags.feed(f"<p title=\"{html(value)}\" class='{html(value)}'>{html(value)}</p>")
        assert [tag for tag, _ in tags.seen] == ["p"] and set(tags.seen[0][1]) == {"title", "class"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "...", "../x", "/etc/passwd", "a/b", "a\\b", "a\nb", "\x00", "x" * 300]
)
def test_names_stay_in_their_folder(name, tmp_path):
    made = file_name(name)
    assert (tmp_path / f"{made}").parent == tmp_path and made not in ("", ".", "..") and len(made) <= 61
    assert (tmp_path / f"{made}").resolve().parent == tmp_path and not is_name(name)


def test_good_names_stay():
    assert file_name("sounds_q-1.a") == "sounds_q-1.a" and is_name("grpo-2.a") and file_name("Bär 1") == "Bär-1"


def test_values_of_the_environment_are_hidden_wherever_they_stand(capsys, known, tmp_path):
    remember("LAB_KEY", "s3cret-0451")
    remember("RANK", "1")
    remember("DATA", str(tmp_path))
    assert hidden("https://me:s3cret-0451@host") == "https://me:${oc.env:LAB_KEY}@host"
    assert hidden("1") == "${oc.env:RANK}" and hidden("10 of 11") == "10 of 11"
    assert hidden(f"{tmp_path}/x") == f"{tmp_path}/x"  # a folder is no secret
    tree = {"a": ["s3cret-0451", 1, None], "s3cret-0451": ("x",)}
    assert hidden_in(tree) == {"a": ["${oc.env:LAB_KEY}", 1, None], "${oc.env:LAB_KEY}": ("x",)}
    say("error: s3cret-0451 refused")
    assert "s3cret" not in capsys.readouterr().out
