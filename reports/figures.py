"""The pictures of the reports: which questions each stage trained on, how it learnt, what the audio was worth."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
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
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "earwitness",
}


def _svg(figure: Any) -> str:
    """The figure as an SVG element, the same text for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def composition(stages: Mapping[str, Mapping[str, int]]) -> str:
    """SVG: stacked bars of how many questions of each label every stage trains on; stages: name -> label -> count."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 0.6 + 0.5 * len(stages)))
        names = list(stages)[::-1]
        left = [0] * len(names)
        for label, colour in COLOURS.items():
            counts = [stages[name].get(label, 0) for name in names]
            if any(counts):
                axes.barh(names, counts, left=left, color=colour, label=label, height=0.62)
                left = [a + b for a, b in zip(left, counts, strict=True)]
        for place, total in enumerate(left):
            axes.text(total, place, f" {total:,}", va="center")
        axes.grid(False)
        axes.set_xlabel("questions dealt")
        axes.set_xlim(0, max(left) * 1.12)
        axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return _svg(figure)


def read_log(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Metric name -> (optimizer step, value), over all versions of a CSV log; a resumed run's values win.

    folder: of a CSVLogger, with version_0, version_1, ... in it.
    """
    series: dict[str, dict[int, float]] = {}
    for path in sorted(Path(folder).rglob("metrics.csv"), key=lambda p: (len(p.parent.name), p.parent.name)):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        series.setdefault(name, {})[int(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}


def learning_curves(logs: Mapping[str, str]) -> str:
    """SVG: accuracy with audio by label, in validation and of sampled completions, over the stages end to end.

    logs: stage name -> folder of its CSV log.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 3.4))
        offset = 0
        for number, (stage, folder) in enumerate(logs.items()):
            log = read_log(folder)
            last = max((points[-1][0] for points in log.values()), default=0) + 1
            for label, colour in COLOURS.items():
                points = log.get(f"val/accuracy/audio/{label}", [])
                if points:
                    x = [offset + step + 1 for step, _ in points]
                    legend = f"{label}, validation" if number == 0 else None
                    axes.plot(x, [v for _, v in points], "o-", ms=3.5, lw=1.6, color=colour, label=legend)
                train = _smooth(log.get(f"accuracy/{label}", []))
                if train:
                    x = [offset + step + 1 for step, _ in train]
                    axes.plot(x, [v for _, v in train], lw=1, alpha=0.45, color=colour, label=f"{label}, sampled")
            axes.axvline(offset + last, color="#b5b5b5", lw=0.8)
            axes.text(offset + last / 2, 1.06, stage, ha="center", color="#555555")
            offset += last
        axes.axhline(0.25, color="#888888", lw=0.8, ls=":")
        axes.text(offset, 0.255, "chance ", ha="right", va="bottom", color="#888888", fontsize=8)
        axes.set(xlabel="optimizer steps", ylabel="accuracy with audio", ylim=(0, 1.02), xlim=(0, offset))
        if offset > len(logs):  # logs that are gone leave empty axes, without a legend
            axes.legend(frameon=False, fontsize=8, loc="lower right")
        return _svg(figure)


def _smooth(points: list[tuple[int, float]], window: int = 5) -> list[tuple[int, float]]:
    """Running mean over the last `window` points."""
    values = [v for _, v in points]
    return [
        (step, sum(values[max(0, i - window + 1) : i + 1]) / len(values[max(0, i - window + 1) : i + 1]))
        for i, (step, _) in enumerate(points)
    ]


def accuracies(models: Mapping[str, Mapping[str, Any]], groups: Mapping[str, str]) -> str:
    """SVG: accuracy with and without audio of every model, one panel per group, with 95 % intervals.

    models: name -> group -> summary from `evaluate`. groups: group -> title of its panel.
    """
    with plt.rc_context(STYLE):
        shown = {group: title for group, title in groups.items() if all(group in m for m in models.values())}
        figure, panels = plt.subplots(1, len(shown), figsize=(3.3 * len(shown) + 0.6, 3.2), sharey=True, squeeze=False)
        for panel, (group, title) in zip(panels[0], shown.items(), strict=True):
            for place, summary in enumerate(m[group] for m in models.values()):
                for shift, kind, colour in ((-0.2, "audio", AUDIO), (0.2, "silence", SILENCE)):
                    value, low, high = summary[kind]
                    panel.bar(place + shift, value, 0.38, color=colour, label=f"with {kind}" if place == 0 else None)
                    error = [[value - low], [high - value]]
                    panel.errorbar(place + shift, value, yerr=error, color="#444444", lw=1, capsize=2.5)
                    panel.text(place + shift, high + 0.015, f"{100 * value:.0f}", ha="center", fontsize=8)
            panel.axhline(0.25, color="#888888", lw=0.8, ls=":")
            panel.set_xticks(range(len(models)), list(models))
            panel.set_title(title, fontsize=10)
            panel.grid(axis="x", visible=False)
        panels[0][0].set(ylabel="right answers", ylim=(0, 1.12))
        figure.legend(*panels[0][0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2, loc="upper center")
        figure.subplots_adjust(top=0.82)
        return _svg(figure)


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


def picks(voters: Mapping[str, Mapping[str, Any]]) -> str:
    """SVG: a panel per voter: bars of how often it picked each place, and how often the right option stood there.

    voters: name -> what `describe_picks` returns.
    """
    with plt.rc_context(STYLE):
        columns = min(3, len(voters))
        rows = -(-len(voters) // columns)
        shape: Any = {"figsize": (3.3 * columns + 0.6, 2.5 * rows + 0.3), "squeeze": False, "sharey": True}
        figure, panels = plt.subplots(rows, columns, **shape)
        for panel, (name, picked) in zip(panels.flat, voters.items(), strict=False):
            places = list(picked["by_place"])
            for shift, key, colour, legend in (
                (-0.2, "by_place", COLOURS["weak"], "picked"),
                (0.2, "right_by_place", SILENCE, "right"),
            ):
                heights = [picked[key][place] for place in places]
                panel.bar([n + shift for n in range(len(places))], heights, 0.38, color=colour, label=legend)
                for n, height in enumerate(heights):
                    panel.text(n + shift, height, f"{100 * height:.0f}", ha="center", va="bottom", fontsize=8)
            panel.set_xticks(range(len(places)), places)
            panel.set_title(name if len(name) < 32 else name[:31] + "…", fontsize=10, parse_math=False)
        for panel in panels.flat[len(voters) :]:
            panel.set_visible(False)
        panels[0][0].set(ylabel="share of its answers", ylim=(0, 1.05))
        figure.legend(*panels[0][0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2, loc="lower center")
        figure.tight_layout(rect=(0, 0.08 / rows, 1, 1))
        return _svg(figure)


def histogram(counted: Mapping[str, Any], title: str) -> str:
    """SVG: bars of a histogram that was counted already; counted: edges [bins + 1] and counts [bins]."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 2.4))
        edges, counts = counted["edges"], counted["counts"]
        axes.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=AUDIO, edgecolor="white", lw=0.5)
        axes.set(xlabel=title, ylabel="questions", xlim=(edges[0], edges[-1]))
        return _svg(figure)
