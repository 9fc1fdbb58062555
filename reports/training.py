"""How training went, from its logs: accuracy, reward and what taught nothing, by label; what each stage was dealt."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from ..boundary.files import JSON_BYTES, read_text
from .charts import Series, charts, colour_of, lines, stacked
from .page import folded, plain
from .records import Section
from .retention import kept_in_log, retention_table

_LABELS = ("weak", "strong", "unlabelled")
Log = Mapping[str, Sequence[tuple[int, float]]]


def read_log(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Metric name -> (optimizer step, value), over all versions of a CSV log; a resumed run's values win.

    folder: of a CSVLogger, with version_0, version_1, ... in it.
    """
    series: dict[str, dict[int, float]] = {}
    for path in sorted(Path(folder).rglob("metrics.csv"), key=lambda p: (len(p.parent.name), p.parent.name)):
        for row in csv.DictReader(StringIO(read_text(path, JSON_BYTES))):
            trained = row.get("val/step")  # before the first step there was a validation too
            step = int(float(trained)) - 1 if trained else int(row["step"])
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    series.setdefault(name, {})[step] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}


def training_section(logs: Mapping[str, str]) -> Section | None:
    """Curves of every stage, those of one stage beside each other; logs: stage -> folder of its CSV log."""
    html = ""
    for stage, folder in logs.items():
        log = read_log(folder)
        figures = [figure for figure in _figures(stage, log) if figure]
        kept = kept_in_log(stage, log)
        table = f"<p>Validation before the first step and after the last:</p>{retention_table(kept)}" if kept else ""
        if figures or kept:
            html += f"<h3>{plain(stage)}</h3>{charts(figures)}{table}"
    return (
        Section("Training", f"<p>Over optimizer steps; sampled values are means of five steps.</p>{html}")
        if html
        else None
    )


def _figures(stage: str, log: Log) -> list[str]:
    heard = _by_label(log, "val/accuracy/audio/{}") + _series("all", "other", log.get("val/accuracy/audio", []))
    sampled = _by_label(log, "accuracy/{}", 5)
    reward = _by_label(log, "reward/{}", 5)
    nothing = _by_label(log, "zero_adv/{}", 5)
    for label in _LABELS:
        nothing += _series(f"{label}, predicted", "other", _smooth(log.get(f"zero_adv/{label}/predicted", []), 5))
    silent = _by_label(log, "silent/{}", 5)
    loss = _series("all", "other", _smooth(log.get("train/loss", []), 5)) if not reward else []
    high = max((value for one in reward for _, value in one.values), default=1.0)
    return [
        lines(f"{stage}: accuracy with audio, validation", heard, "steps", 0.0, 1.0),
        lines(f"{stage}: accuracy of sampled answers", sampled, "steps", 0.0, 1.0),
        lines(
            f"{stage}: reward",
            reward,
            "steps",
            min(0.0, *(v for one in reward for _, v in one.values), 0.0),
            high,
            False,
        ),
        lines(f"{stage}: groups that taught nothing", nothing, "steps", 0.0, 1.0),
        lines(f"{stage}: accuracy in silence", silent, "steps", 0.0, 1.0),
        lines(f"{stage}: loss", loss, "steps", shares=False),
    ]


def _by_label(log: Log, form: str, window: int = 1) -> list[Series]:
    found = []
    for label in _LABELS:
        found += _series(label, colour_of(label), _smooth(log.get(form.format(label), []), window))
    return found


def _series(name: str, colour: str, points: Sequence[tuple[int, float]]) -> list[Series]:
    return [Series(name, colour, [(step + 1, value) for step, value in points])] if points else []


def _smooth(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Running mean over the last `window` points."""
    values = [value for _, value in points]
    means = [values[max(0, i - window + 1) : i + 1] for i in range(len(values))]
    return [(step, sum(part) / len(part)) for (step, _), part in zip(points, means, strict=True)]


def composition_section(stages: Mapping[str, Mapping[str, int]]) -> Section | None:
    """How many questions of each label every stage was dealt; stages: name -> label -> count."""
    if not stages:
        return None
    colours = {label: colour_of(label, 5) for parts in stages.values() for label in parts}
    rows = {name: dict(parts) for name, parts in stages.items()}
    return Section("Stages", charts([stacked("Questions dealt to each stage, by label", rows, colours)]))


def settings_of(logs: Mapping[str, str]) -> str:
    """The configurations that lie beside the logs (`run.yaml`, without secrets), each to be opened; "" without any."""
    html = ""
    for stage, folder in logs.items():
        for path in sorted(Path(folder).rglob("run.yaml"))[-1:]:
            html += folded(f"{stage}: its configuration", f"<pre>{plain(read_text(path))}</pre>")
    return html
