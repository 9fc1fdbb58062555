"""The picture of questions that change from one state to another."""

from __future__ import annotations

from collections.abc import Sequence

from ..curriculum.arrays import Ints
from .charts import WIDTH, figure, rect, text

_HEIGHT, _GAP, _BAR = 210.0, 8.0, 14.0


def ribbons(title: str, counts: Ints, names: Sequence[str], colours: Sequence[str], ends: tuple[str, str]) -> str:
    """Two stacks of states with a ribbon for every change; counts: [S, S] questions from row to column.

    names, colours: of the S states. ends: what stands above the stacks.
    """
    total = int(counts.sum())
    if not total:
        return ""
    scale = (_HEIGHT - _GAP * (len(names) - 1)) / total
    left, right, top = 44.0, WIDTH - 44, 26.0
    starts = [_stack(counts.sum(axis=1).tolist(), scale, top), _stack(counts.sum(axis=0).tolist(), scale, top)]
    parts = [text(left - 36, 14, ends[0]), text(right + 36, 14, ends[1], "end")]
    used = [list(starts[0]), list(starts[1])]
    for a in range(len(names)):
        for b in range(len(names)):
            tall = float(counts[a, b]) * scale
            if tall <= 0:
                continue
            y, z, half = used[0][a], used[1][b], (left + right) / 2
            path = (
                f"M{left:.1f} {y:.1f}C{half:.1f} {y:.1f} {half:.1f} {z:.1f} {right:.1f} {z:.1f}V{z + tall:.1f}"
                f"C{half:.1f} {z + tall:.1f} {half:.1f} {y + tall:.1f} {left:.1f} {y + tall:.1f}Z"
            )
            parts.append(f'<path class="f-{colours[a]}" fill-opacity="{0.28 if a == b else 0.6}" d="{path}"/>')
            used[0][a], used[1][b] = y + tall, z + tall
    sides = (
        (starts[0], counts.sum(axis=1), left - _BAR, -4.0, "end"),
        (starts[1], counts.sum(axis=0), right, 18.0, "start"),
    )
    for places, sizes, x, beside, anchor in sides:
        for state, (y, size) in enumerate(zip(places, sizes.tolist(), strict=True)):
            if size:
                parts.append(rect(x, y, _BAR, size * scale, colours[state]))
                parts.append(text(x + beside, y + size * scale / 2 + 4, f"{size:,}", anchor, True))
    said = "; ".join(
        f"{counts[a, b]:,} from {names[a]} to {names[b]}"
        for a in range(len(names))
        for b in range(len(names))
        if counts[a, b]
    )
    legend = dict(zip(names, colours, strict=True))
    return figure(title, "".join(parts), WIDTH, top + _HEIGHT + 6, said, legend)


def _stack(sizes: Sequence[int], scale: float, top: float) -> list[float]:
    """Where the parts of a stack begin, with gaps between them."""
    places, y = [], top
    for size in sizes:
        places.append(y)
        y += size * scale + _GAP
    return places
