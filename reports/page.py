"""What all pages share: one self-contained HTML file with its styles, tables, and numbers with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:66rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
p.lead{color:#555;margin-top:0}table{border-collapse:collapse;margin:.6rem 0 1.2rem}
th,td{padding:.28rem .8rem;text-align:right;border-bottom:1px solid #e6e6e6;font-variant-numeric:tabular-nums}
th{font-weight:600;border-bottom:1px solid #999}th:first-child,td:first-child{text-align:left}
td small{color:#777}td{white-space:nowrap}tr.sum td{border-top:1px solid #999}svg{max-width:100%;height:auto}
p.warning{background:#fff3d6;border-left:4px solid #d98c21;padding:.5rem .8rem}
td.good{color:#1c6b34;font-weight:600}td.bad{color:#a32020;font-weight:600}
"""


def page_of(title: str, parts: Iterable[str]) -> str:
    """A whole page: its title as heading, and the HTML of its parts below each other."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{CSS}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f"<!doctype html><html lang=en><head>{head}</head><body>\n{body}\n</body></html>\n"


def table_of(head: Sequence[str], rows: Iterable[str]) -> str:
    """A table of a heading per column, and of rows from `row_of`."""
    return "<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>\n" + "\n".join(rows) + "</table>"


def row_of(cells: Iterable[str], kind: str = "") -> str:
    """A row of a table; cells: HTML. kind: class of the row, like "sum"."""
    mark = f' class="{kind}"' if kind else ""
    return f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


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
    return f"{number} <small>[{interval}</small>"
