"""The picture of a plan: which questions each stage trains on, over its course."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

COLOURS = {"weak": "#d98c21", "strong": "#2463a8", "unlabelled": "#9a9a9a"}
AUDIO, SILENCE = "#2463a8", "#c3c9d1"
STYLE: Any = {
    "font.size": 10,
    "text.parse_math": False,  # names are text, also with two dollars
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}


def composition_over_time(plan: Mapping[str, Any]) -> bytes:
    """PNG: stacked areas of each axis's values over every stage, a column of panels per stage.

    plan: what `describe` returns.
    """
    stages = {name: stage for name, stage in plan["stages"].items() if stage["over_time"]["edges"][-1]}
    axes = list(dict.fromkeys(axis for stage in stages.values() for axis in stage["over_time"]["axes"]))
    values = {
        axis: list(dict.fromkeys(v for s in stages.values() for v in s["over_time"]["axes"].get(axis, {})))
        for axis in axes
    }
    shape: Any = {"figsize": (1.5 + 3.6 * len(stages), 0.9 + 2.1 * len(axes)), "squeeze": False, "sharey": True}
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, panels = plt.subplots(max(1, len(axes)), max(1, len(stages)), **shape)
        for row, axis in zip(panels, axes, strict=False):
            names = sorted(values[axis], key=lambda v: _bin_start(v) or (0.0, v))
            colours = _colours(names)
            for panel, (name, stage) in zip(row, stages.items(), strict=True):
                _stacked(panel, stage["over_time"], axis, names, colours)
                panel.set_title(f"{name}, {stage['rows']:,} rows" if axis == axes[0] else "", fontsize=10)
                panel.set_xlabel("rows dealt" if axis == axes[-1] else "")
            row[0].set_ylabel(f"share by {axis}")
            _legend(figure, row[-1], names, colours)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        plt.close(figure)
    return buffer.getvalue()


def _bin_start(name: str) -> tuple[float, str] | None:
    """Lower end of a bin such as "[0.25, 0.5)"; None for a text."""
    try:
        return (float(name[1:].partition(",")[0]), name) if name[:1] == "[" else None
    except ValueError:
        return None


def _colours(names: list[str]) -> dict[str, Any]:
    """A colour per value: those of the labels, a scale where all are bins, else distinct ones."""
    if set(names) <= set(COLOURS):
        return {name: COLOURS[name] for name in names}
    bins = all(_bin_start(name) for name in names)
    shades = plt.get_cmap("viridis" if bins else "tab20")
    count = max(1, len(names) - 1)
    return {name: shades(k / count if bins else k % 20) for k, name in enumerate(names)}


def _stacked(panel: Any, over_time: Mapping[str, Any], axis: str, names: list[str], colours: Mapping[str, Any]) -> None:
    """Draws one panel: shares of the axis's values [blocks] between the edges [blocks + 1], in rows."""
    edges, groups = over_time["edges"], over_time["axes"].get(axis, {})
    total = [sum(parts) or 1 for parts in zip(*groups.values(), strict=True)]
    lower = [0.0] * len(total)
    for name in names:
        if name in groups:
            upper = [low + part / whole for low, part, whole in zip(lower, groups[name], total, strict=True)]
            panel.stairs(upper, edges, baseline=lower, fill=True, color=colours[name], lw=0)
            lower = upper
    panel.set(xlim=(edges[0], edges[-1]), ylim=(0, 1))
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")


def _legend(figure: Any, panel: Any, names: list[str], colours: Mapping[str, Any]) -> None:
    """A swatch per value, or a colour bar's ends where there are many bins."""
    shown = names if len(names) <= 8 else [names[k * (len(names) - 1) // 5] for k in range(6)]
    handles = [Rectangle((0, 0), 1, 1, color=colours[name]) for name in shown]
    panel.legend(handles[::-1], shown[::-1], frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
