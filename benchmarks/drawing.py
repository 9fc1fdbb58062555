"""Bars as SVG, written by hand: legible on light and dark pages and 390 px wide, without overlapping text.

A picture is 400 units wide. Every bar stands below its own text, name on the left and value on the right, so that long
names, which are wrapped, never meet bars. Colour is never the only sign: our own rows are
bold, and the parts of a divided bar come in the order of the legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap

WIDTH, EDGE = 400, 14
INNER = WIDTH - 2 * EDGE
_PARTS = 5  # fills of a divided bar
_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1f2328}
.paper{fill:#fff;stroke:#d5dae0}.soft{fill:#56606b}.rail{fill:#eceff3}.own{fill:#2463a8}.other{fill:#8592a0}
.span{stroke:#1f2328;stroke-width:1.5}
.p0{fill:#2463a8}.p1{fill:#c9731b}.p2{fill:#3b8a5f}.p3{fill:#8a5fb0}.p4{fill:#9aa5b1}
@media (prefers-color-scheme:dark){text{fill:#e8ecf1}.paper{fill:#1d2129;stroke:#3a414d}.soft{fill:#aab3bf}
.rail{fill:#2c323c}.own{fill:#6cb0ff}.other{fill:#8793a3}.span{stroke:#e8ecf1}
.p0{fill:#6cb0ff}.p1{fill:#f0a35a}.p2{fill:#6cc795}.p3{fill:#bd98e0}.p4{fill:#7d8896}}
"""


@dataclass
class Row:
    """A bar: its name, its length in the panel's unit, and how its value is written.

    own: ours. span: the ends of an interval around the value. parts: lengths that the bar is divided into; their sum is
    the value.
    """

    name: str
    value: float
    text: str
    own: bool = False
    span: tuple[float, float] | None = None
    parts: Sequence[float] = ()


@dataclass
class Panel:
    """Bars of one quantity under a heading; most: the value of a whole rail, by default the largest of the rows.

    legend: names of the parts that the rows are divided into.
    """

    heading: str
    rows: Sequence[Row]
    most: float | None = None
    legend: Sequence[str] = ()


@dataclass
class Figure:
    """A picture and what the page says below it; notes: machine, versions, what was compared."""

    title: str
    panels: Sequence[Panel]
    notes: Sequence[str]
    said: str = ""

    def described(self) -> str:
        """All that the picture shows, as text."""
        shown = []
        for panel in self.panels:
            rows = (f"{row.name} {row.text}" + _shares(panel, row) for row in panel.rows)
            shown.append(f"{panel.heading}: {'; '.join(rows)}.")
        return " ".join(shown)


def _shares(panel: Panel, row: Row) -> str:
    if not row.parts:
        return ""
    whole = sum(row.parts)
    each = (f"{name} {100 * part / whole:.0f} %" for name, part in zip(panel.legend, row.parts, strict=True))
    return f" ({', '.join(each)})"


@dataclass
class _Sheet:
    """Elements that were drawn so far, and how far down."""

    parts: list[str] = field(default_factory=list)
    y: float = 0.0

    def text(self, words: str, size: float = 12, mark: str = "", right: bool = False, bold: bool = False) -> None:
        place = f'x="{WIDTH - EDGE}" text-anchor="end"' if right else f'x="{EDGE}"'
        more = f' class="{mark}"' if mark else ""
        more += ' font-weight="600"' if bold else ""
        self.parts.append(f'<text {place} y="{self.y:.1f}" font-size="{size}"{more}>{escape(words)}</text>')

    def lines(self, words: str, size: float, mark: str = "", bold: bool = False) -> None:
        for line in wrap(words, int(INNER / width(1, size, bold)), break_on_hyphens=False):
            self.y += size * 1.4
            self.text(line, size, mark, bold=bold)

    def bar(self, x: float, long: float, mark: str, high: float = 9) -> None:
        shape = f'x="{x:.1f}" y="{self.y:.1f}" width="{max(long, 0):.1f}" height="{high}"'
        self.parts.append(f'<rect {shape} class="{mark}"/>')


def width(letters: int, size: float, bold: bool = False) -> float:
    """Units that so many letters take at most, on average over a line."""
    return letters * size * (0.58 if bold else 0.54)


def draw(figure: Figure) -> str:
    """The picture as an SVG document. ValueError for a value so long that no name fits beside it."""
    sheet = _Sheet(y=8)
    sheet.lines(figure.title, 15, bold=True)
    for panel in figure.panels:
        sheet.y += 10
        sheet.lines(panel.heading, 12, "soft")
        sheet.y += 3
        if panel.legend:
            _legend(sheet, panel.legend)
        _rows(sheet, panel)
    sheet.y += 6
    for note in figure.notes:
        sheet.lines(note, 10.5, "soft")
    high = round(sheet.y + 12)
    body = "\n".join(sheet.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" width="{WIDTH * 6 // 5}" '
        f'height="{high * 6 // 5}" role="img" aria-labelledby="t d">\n'
        f'<title id="t">{escape(figure.title)}</title>\n<desc id="d">{escape(figure.described())}</desc>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{high - 1}" rx="8"/>\n{body}\n</svg>\n'
    )


def _legend(sheet: _Sheet, names: Sequence[str]) -> None:
    """Names of the parts, as many to a line as fit."""
    if len(names) > _PARTS:
        raise ValueError(f"a bar has {_PARTS} parts at most, got {len(names)}")
    sheet.y += 16
    x = float(EDGE)
    for number, name in enumerate(names):
        long = 15 + width(len(name), 11) + 8
        if x > EDGE and x + long > WIDTH - EDGE:
            x = float(EDGE)
            sheet.y += 15
        sheet.parts.append(f'<rect x="{x:.1f}" y="{sheet.y - 8:.1f}" width="9" height="9" class="p{number}"/>')
        sheet.parts.append(f'<text x="{x + 13:.1f}" y="{sheet.y:.1f}" font-size="11">{escape(name)}</text>')
        x += long
    sheet.y += 3


def _rows(sheet: _Sheet, panel: Panel) -> None:
    most = panel.most or max((row.value for row in panel.rows), default=1.0) or 1.0
    for row in panel.rows:
        room = INNER - width(len(row.text) + 2, 12, row.own)
        if room < INNER / 3:
            raise ValueError(f"{row.text!r} leaves no room for {row.name!r}")
        for line in wrap(row.name, int(room / width(1, 12, row.own)), break_on_hyphens=False):
            sheet.y += 16
            sheet.text(line, bold=row.own)
        sheet.text(row.text, right=True, bold=row.own)
        sheet.y += 4
        sheet.bar(EDGE, INNER, "rail")
        x = float(EDGE)
        for number, part in enumerate(row.parts):
            sheet.bar(x, INNER * part / most, f"p{number}")
            x += INNER * part / most
        if not row.parts:
            sheet.bar(EDGE, INNER * min(row.value / most, 1.0), "own" if row.own else "other")
        if row.span:
            low, high = (EDGE + INNER * end / most for end in row.span)
            middle = sheet.y + 4.5
            path = f"M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 4}v8"
            sheet.parts.append(f'<path d="{path}" class="span" fill="none"/>')
        sheet.y += 9
