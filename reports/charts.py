"""Pictures as SVG with texts that can be read aloud: their colours are the page's, also in the dark.

Every picture is a `<figure>` with a caption, a legend, and a description that says its numbers. Colours are names of
`page.css`: audio, silence, weak, strong, other, heard, both, neither, hurts, s0 to s5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

from .page import plain

Interval = Sequence[float]  # middle, low, high
WIDTH = 336.0
_LABELS = {"weak": "weak", "strong": "strong", "unlabelled": "other"}


class Series(NamedTuple):
    """A line or a set of columns: its name, its colour, and its values; bands are [n] intervals around them."""

    name: str
    colour: str
    values: Sequence[tuple[float, float]]
    bands: Sequence[Interval] = ()


class Pair(NamedTuple):
    """A row of dumbbells: accuracy without and with the audio, with intervals, and what luck alone gives."""

    name: str
    silence: Interval
    audio: Interval
    chance: float | None = None
    under: str = ""


def colour_of(label: str, place: int = 0) -> str:
    """The colour of a label, else that of the place in a list."""
    return _LABELS.get(label, f"s{place % 6}")


def charts(figures: Sequence[str]) -> str:
    """Figures beside each other, as far as there is room."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def figure(
    title: str, svg: str, width: float, height: float, said: str, legend: Mapping[str, str] | None = None
) -> str:
    """A figure around the inside of an SVG; said: its numbers in words. legend: name -> colour."""
    items = "".join(
        f'<li><svg width="10" height="10" aria-hidden="true"><rect class="f-{colour}" width="10" height="10" rx="2"/>'
        f"</svg>{plain(name)}</li>"
        for name, colour in (legend or {}).items()
    )
    marks = f'<ul class="legend">{items}</ul>' if items else ""
    name, words = plain(title), plain(said)
    return (
        f"<figure><figcaption>{name}</figcaption>{marks}"
        f'<svg role="img" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'aria-label="{name}. {words}"><title>{name}</title><desc>{words}</desc>{svg}</svg></figure>'
    )


def rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle of an SVG."""
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="f-{colour}" x="{x:.1f}" y="{y:.1f}" {size}/>'


def text(x: float, y: float, words: object, anchor: str = "start", quiet: bool = False) -> str:
    """A text of an SVG; quiet: small and grey."""
    kind = ' class="q"' if quiet else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{plain(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of an SVG; kind: its classes."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def short(words: str, most: int = 40) -> str:
    """Words cut to a length, with an ellipsis."""
    return words if len(words) <= most else words[: most - 1] + "…"


def percent(value: float) -> str:
    """A share in [0, 1] in whole percent, a dash where it is missing."""
    return f"{100 * value:.0f}\u00a0%" if isfinite(value) else "-"


def dumbbells(title: str, rows: Sequence[Pair]) -> str:
    """A row per model or group: silence and audio on one axis from 0 to 100 %, the gap being the contribution."""
    left, right, step = 8.0, WIDTH - 8, 46.0
    height = step * len(rows) + 26
    said, parts = [], []

    def at(value: float) -> float:
        return left + (right - left) * min(1.0, max(0.0, value))

    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(at(tick), 4, at(tick), height - 20, "grid"))
        anchor = "start" if tick == 0 else "end" if tick == 1 else "middle"
        parts.append(text(at(tick), height - 6, percent(tick), anchor, True))
    for place, row in enumerate(rows):
        y = step * place + 30
        parts += [text(left, y - 13, short(row.name, 34)), text(right, y - 13, row.under, "end", True)]
        parts.append(line(at(row.silence[0]), y, at(row.audio[0]), y, "gap"))
        for value, colour, shift in ((row.silence, "silence", 5), (row.audio, "audio", -4)):
            parts.append(line(at(value[1]), y + shift, at(value[2]), y + shift, f"l-{colour}"))
            parts.append(f'<circle class="f-{colour}" cx="{at(value[0]):.1f}" cy="{y + shift:.1f}" r="5"/>')
        if row.chance is not None:
            parts.append(line(at(row.chance), y - 9, at(row.chance), y + 11, "chance"))
        luck = "" if row.chance is None else f", best constant answer {percent(row.chance)}"
        said.append(f"{row.name}: {percent(row.audio[0])} with audio, {percent(row.silence[0])} in silence{luck}")
    legend = {"with audio": "audio", "in silence": "silence"}
    return figure(title, "".join(parts), WIDTH, height, "; ".join(said), legend)


def columns(title: str, edges: Sequence[float], series: Sequence[Series], axis: str) -> str:
    """A histogram counted already: columns of every series on top of each other between edges [bins + 1].

    The values of a series are (bin, count).
    """
    counts = [dict(one.values) for one in series]
    bins = len(edges) - 1
    totals = [sum(count.get(b, 0) for count in counts) for b in range(bins)]
    height, left, bottom = 190.0, 40.0, 160.0
    ticks = _ticks(max(totals, default=0))
    scale = (bottom - 10) / max(ticks[-1], 1e-9)
    wide = (WIDTH - left - 8) / bins
    parts = _levels(left, bottom, scale, ticks)
    for b in range(bins):
        y = bottom
        for one, count in zip(series, counts, strict=True):
            tall = scale * count.get(b, 0)
            y -= tall
            parts.append(rect(left + b * wide + 0.5, y, max(wide - 1, 1), tall, one.colour))
    for b in sorted({0, bins // 2, bins}):
        anchor = "start" if b == 0 else "end" if b == bins else "middle"
        parts.append(text(left + b * wide, bottom + 14, f"{edges[b]:g}", anchor, True))
    parts.append(text((left + WIDTH) / 2, bottom + 28, axis, "middle", True))
    said = f"{axis}: " + ", ".join(
        f"{edges[b]:.2g} to {edges[b + 1]:.2g}: {totals[b]:,.0f}" for b in range(bins) if totals[b]
    )
    legend = {one.name: one.colour for one in series} if len(series) > 1 else None
    return figure(title, "".join(parts), WIDTH, height, said, legend)


def groups(title: str, names: Sequence[str], series: Sequence[Series]) -> str:
    """Columns of shares, a set for every name; the values of a series are (place of the name, share)."""
    height, left, bottom = 180.0, 38.0, 156.0
    scale = bottom - 16
    parts = _levels(left, bottom, scale, (0, 0.5, 1), percent)
    wide = (WIDTH - left - 6) / max(1, len(names))
    thick = min(26.0, (wide - 6) / max(1, len(series)))
    for number, one in enumerate(series):
        for place, value in one.values:
            x = left + wide * place + (wide - thick * len(series)) / 2 + thick * number
            tall = scale * value
            parts.append(rect(x, bottom - tall, thick - 1, tall, one.colour))
            parts.append(text(x + thick / 2, bottom - tall - 3, f"{100 * value:.0f}", "middle", True))
    for place, name in enumerate(names):
        parts.append(text(left + wide * (place + 0.5), bottom + 15, short(name, 14), "middle"))
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{names[int(p)]} {percent(v)}" for p, v in one.values) for one in series
    )
    return figure(title, "".join(parts), WIDTH, height, said, {one.name: one.colour for one in series})


def lines(
    title: str,
    series: Sequence[Series],
    axis: str,
    low: float = 0.0,
    high: float | None = None,
    shares: bool = True,
    span: tuple[float, float] | None = None,
) -> str:
    """Lines with bands over one axis; shares: values are shown in percent. span: ends of the axis, if not the data's.

    "" without values.
    """
    drawn = [one for one in series if one.values]
    if not drawn:
        return ""
    xs = [x for one in drawn for x, _ in one.values]
    top = high if high is not None else max(1e-9, *(y for one in drawn for _, y in one.values))
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0) if shares and top == 1 and low == 0 else _ticks(top)
    height, left, bottom = 196.0, 42.0, 162.0
    right, (begin, end) = WIDTH - 12, span or (min(xs), max(xs))
    scale = (bottom - 10) / (ticks[-1] - low)

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (right - left) * ((x - begin) / (end - begin) if end > begin else 0.5)
        return across, bottom - scale * (min(max(y, low), ticks[-1]) - low)

    parts = _levels(left, bottom, scale, [t for t in ticks if t >= low], percent if shares else _number)
    for one in drawn:
        if one.bands:
            around = [(x, band[2]) for (x, _), band in zip(one.values, one.bands, strict=True)]
            around += [(x, band[1]) for (x, _), band in zip(one.values, one.bands, strict=True)][::-1]
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(x, y) for x, y in around))
            parts.append(f'<polygon class="f-{one.colour}" fill-opacity="0.16" points="{points}"/>')
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(x, y) for x, y in one.values))
        parts.append(f'<polyline class="l-{one.colour}" points="{points}"/>')
        if len(one.values) <= 20:
            dots = (at(x, y) for x, y in one.values)
            parts += [f'<circle class="f-{one.colour}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in dots]
    for x, anchor in ((begin, "start"), (end, "end")):
        parts.append(text(at(x, low)[0], bottom + 14, _number(x), anchor, True))
    parts.append(text((left + right) / 2, bottom + 28, axis, "middle", True))
    form = percent if shares else _number
    said = f"{axis} {_number(begin)} to {_number(end)}: " + "; ".join(
        f"{one.name} from {form(one.values[0][1])} to {form(one.values[-1][1])}" for one in drawn
    )
    return figure(title, "".join(parts), WIDTH, height, said, {one.name: one.colour for one in drawn})


def stacked(
    title: str, rows: Mapping[str, Mapping[str, float]], colours: Mapping[str, str], whole: bool = False
) -> str:
    """A bar per row in parts; rows: name -> part -> count. whole: every bar is as long as the others, in shares."""
    left, right, step = 8.0, WIDTH - 8, 44.0
    longest = max((sum(parts.values()) for parts in rows.values()), default=0) or 1
    shapes, said = [], []
    for place, (name, parts) in enumerate(rows.items()):
        total, x, y = sum(parts.values()), left, step * place + 18
        shapes += [text(left, y - 5, short(name, 36)), text(right, y - 5, f"{total:,.0f}", "end", True)]
        for part, count in parts.items():
            wide = (right - left) * count / ((total or 1) if whole else longest)
            shapes.append(rect(x, y, wide, 18, colours[part]))
            x += wide
        said.append(f"{name}: " + ", ".join(f"{count:,.0f} {part}" for part, count in parts.items()))
    used = {part for parts in rows.values() for part, count in parts.items() if count}
    legend = {part: colour for part, colour in colours.items() if part in used}
    return figure(title, "".join(shapes), WIDTH, step * len(rows) + 4, "; ".join(said), legend)


def _levels(left: float, bottom: float, scale: float, ticks: Sequence[float], form: object = None) -> list[str]:
    """Horizontal lines with their numbers; the first stands at the bottom."""
    write = form if callable(form) else _number
    parts = []
    for tick in ticks:
        y = bottom - scale * (tick - ticks[0])
        parts += [line(left, y, WIDTH - 8, y, "grid"), text(left - 5, y + 4, write(tick), "end", True)]
    return parts


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to the first that is not below `most`, three to six of them."""
    if most <= 0 or not isfinite(most):
        return [0.0, 1.0]
    size = 10.0 ** floor(log10(most / 3))
    step = next(size * factor for factor in (1, 2, 5, 10) if most / (size * factor) <= 4)
    return [step * number for number in range(ceil(most / step - 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"
