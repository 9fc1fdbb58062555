"""What all pages share: one self-contained HTML file with one look, tables, and numbers with their intervals.

Nothing in a page can be run or fetched but its own scripts: a Content-Security-Policy names them by hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from ..boundary.files import read_text

QUESTIONS = "questions"  # the heading of the explorer; the bar on top begins with it
_HERE = Path(__file__).parent
# Control characters, and those that turn the direction of what follows or cannot be seen.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def seen(text: str) -> str:
    """The text with code points, like ⟨U+202E⟩, for what cannot be seen or turns the reading direction."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def plain(text: object) -> str:
    """Anything as text that is safe in HTML, also in an attribute."""
    return escape(seen(str(text)))


def page_of(title: str, parts: Iterable[str], script: str = "", behind: str = "", media: str = "data:") -> str:
    """A whole page: its title as heading, and the HTML of its parts below each other.

    script: run once the parts are there. behind: what follows it in the file, such as recordings. media: where sound
    may come from, in the words of a Content-Security-Policy. Headings `<h2 id=...>` of the parts stand in a bar on top.
    """
    style, scripts = text_of("page.css"), [text_of("theme.js"), *([script] if script else [])]
    if script:
        style += text_of("explorer.css")
    body = "\n".join(parts)
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hashed, scripts))}; style-src {_hashed(style)}; "
        f"media-src {media}; base-uri 'none'; form-action 'none'"
    )
    parts_of = re.findall(r'<h2 id="([\w-]+)">(.*?)</h2>', body)
    parts_of.sort(key=lambda part: part[0] != QUESTIONS)
    links = "".join(
        f'<a{" class=first" if name == QUESTIONS else ""} href="#{name}">{words}</a>' for name, words in parts_of
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><meta name="referrer" content="no-referrer">'
        f"<title>{plain(title)}</title><style>{style}</style>"
    )
    bar = (
        '<a class="skip" href="#content">To the content</a><header class="bar"><div>'
        f'<nav aria-label="Parts of this page">{links}</nav><button id="theme" type="button" hidden>Dark</button>'
        "</div></header>"
    )
    run = "".join(f"<script>{one}</script>\n" for one in scripts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{bar}\n<main id="content">\n'
        f"<h1>{plain(title)}</h1>\n{body}\n</main>\n{run}{behind}</body></html>\n"
    )


def text_of(name: str) -> str:
    """The text of a style or script that lies beside this file."""
    return read_text(_HERE / name)


def _hashed(text: str) -> str:
    """A script or style as a policy allows it: by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def heading(title: str) -> str:
    """A heading that the bar on top leads to."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return f'<h2 id="{name}">{plain(title)}</h2>'


def table_of(head: Sequence[str], rows: Iterable[str], title: str = "", left: int = 1) -> str:
    """A table of a heading per column, and of rows from `row_of`; title: what screen readers call it.

    left: how many of the first columns hold text and not numbers.
    """
    caption = f'<caption class="hidden">{title}</caption>' if title else ""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "\n".join(rows)
    kind = f' class="left{left}"' if left > 1 else ""
    inside = f"{caption}<thead><tr>{columns}</tr></thead><tbody>\n{body}</tbody>"
    return f'<div class="table"><table{kind}>{inside}</table></div>'


def row_of(cells: Iterable[str], kind: str = "") -> str:
    """A row of a table; cells: HTML. kind: class of the row, like "sum"."""
    mark = f' class="{kind}"' if kind else ""
    return f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def folded(title: str, html: str) -> str:
    """HTML that is shown when its title is opened."""
    return f"<details><summary>{plain(title)}</summary>{html}</details>"


def share(value: Sequence[float]) -> str:
    """A share in [0, 1] with the ends of its interval, [3], in percent: "35.0 % [18.1, 56.7]"."""
    middle, low, high = (100 * v for v in value)
    return f"{middle:.1f} % [{low:.1f}, {high:.1f}]"


def points(value: Sequence[float]) -> str:
    """A difference of shares with the ends of its interval, [3], in percentage points: "+4.0 [-1.0, +9.0]"."""
    middle, low, high = (100 * v for v in value)
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"


def html_of(text: str) -> str:
    """What `share` or `points` gave, the interval in small letters."""
    number, _, interval = text.partition(" [")
    return f"{number} <small>[{interval}</small>" if interval else number
