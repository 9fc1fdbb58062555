"""The report of a run: one self-contained HTML file with the tables and pictures of its `results.json`."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError
from .page import html_of, page_of, points, row_of, share, table_of

_TITLES = {
    "all": "all questions",
    "label=weak": "labelled weak",
    "label=strong": "labelled strong",
    "planted=heard": "can only be heard (truth)",
    "planted=leaks": "leaks in the text (truth)",
}


def build_report(results: str, out: str | None = None) -> dict[str, str]:
    """Writes the report of a `results.json`, by default as `report.html` beside it; returns where it is.

    InputError where there are no results.
    """
    path = Path(results)
    if not path.is_file():
        raise InputError(f"{results}: no such results; run the recipe's evaluate step first")
    content = json.loads(path.read_text())
    target = Path(out) if out else path.with_name("report.html")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(content), encoding="utf-8")
    return {"report": str(target)}


def show(results: str, report: str | None = None) -> None:
    """Prints the table of a `results.json`, and where its report is; report: the path, default beside the results."""
    print("\n" + "\n".join(summary_lines(json.loads(Path(results).read_text()))))
    print(f"\nreport: {report or Path(results).with_name('report.html')}")


def render(result: dict[str, Any]) -> str:
    """The page of what `evaluate` wrote, as HTML."""
    from . import figures

    models = result["models"]
    groups = {g: t for g, t in _TITLES.items() if g != "all" and any(g in m for m in models.values())}
    groups = groups or {"all": _TITLES["all"]}  # an index without labels
    parts = ['<p class="lead">', _lead(result), "</p>"]
    parts += ["<h2>Accuracy with and without the audio</h2>", figures.accuracies(models, groups)]
    parts += [_accuracy_table(models), _verdict_table(models)]
    parts += ["<h2>What each stage added</h2>", "<p>Accuracy with audio, same questions, paired 95 % intervals.</p>"]
    parts += [_gain_table(result["gains"])]
    if result.get("logs"):
        parts += ["<h2>Learning curves</h2>", figures.learning_curves(result["logs"])]
    if result.get("composition"):
        parts += ["<h2>What each stage was dealt</h2>", figures.composition(result["composition"])]
    if result.get("labels"):
        parts += ["<h2>Labels against the planted truth</h2>", _label_table(result["labels"])]
    return page_of(result["title"], parts)


def summary_lines(result: dict[str, Any]) -> list[str]:
    """The result table as text, for a terminal."""
    rows = [["", "questions", "with audio", "with silence", "contribution"]]
    for group, title in _TITLES.items():
        for name, groups in result["models"].items():
            if group in groups and group != "all":
                g = groups[group]
                rows.append([f"{title}: {name}", str(g["questions"]), *(share(g[k]) for k in ("audio", "silence"))])
                rows[-1].append(points(g["contribution"]))
    for gain in result["gains"]:
        if gain["group"] in ("label=strong", "planted=heard"):
            title = _TITLES[gain["group"]]
            rows.append([f"{title}: {gain['from']} to {gain['to']}", "", points(gain["difference"]), "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    if result.get("labels"):
        lines.append(f"labels agree with the planted truth: {share(result['labels']['agreement'])}")
    return lines


def _lead(result: dict[str, Any]) -> str:
    """The sentence under the heading: the first and the last model on what can only be heard, where that is known."""
    names = list(result["models"])
    first, last = result["models"][names[0]], result["models"][names[-1]]
    group = next((g for g in ("planted=heard", "label=strong", "all") if g in first), "all")
    before, after = share(first[group]["audio"]), share(last[group]["audio"])
    return (
        f"On the {first[group]['questions']} held-out questions of the group “{_TITLES[group]}”, accuracy with audio "
        f"goes from {before} ({escape(names[0])}) to {after} ({escape(names[-1])}); "
        f"with 30 s of silence the last model is right on {share(last[group]['silence'])}."
    )


def _accuracy_table(models: dict[str, Any]) -> str:
    """Every group of questions with every model; models: name -> group -> summary."""
    rows = []
    for group in next(iter(models.values())):
        for number, (name, summary) in enumerate(models.items()):
            g = summary[group]
            title = _TITLES.get(group, group.replace("=", ": ").replace("_", " ")) if number == 0 else ""
            cells = [escape(title), escape(name), str(g["questions"]), html_of(share(g["audio"]))]
            cells += [html_of(share(g["silence"])), html_of(points(g["contribution"])), str(g["silence_only"])]
            rows.append(row_of(cells, "sum" if number == 0 else ""))
    head = ("questions", "model", "n", "with audio", "with silence", "contribution", "audio hurts")
    return table_of(head, rows)


def _verdict_table(models: dict[str, Any]) -> str:
    """How many answers of each model are right, wrong, unfinished and unreadable; "" for results of before."""
    rows, kinds = [], ()
    for name, groups in models.items():
        for heard, counts in groups["all"].get("answers", {}).items():
            kinds = tuple(counts)
            rows.append(row_of([escape(name), escape(heard), *(f"{int(count):,}" for count in counts.values())]))
    text = "<p>Accuracies are shares of all answers: what is unfinished or unreadable is not right.</p>"
    return table_of(("model", "heard", *map(escape, kinds)), rows) + text if rows else ""


def _gain_table(gains: list[dict[str, Any]]) -> str:
    """What changed from one model to the next, on the same questions."""
    rows = []
    for gain in gains:
        low, high = gain["difference"][1:]
        cls = "good" if low > 0 else "bad" if high < 0 else ""
        title = _TITLES.get(gain["group"], gain["group"].replace("=", ": ").replace("_", " "))
        cells = f"<td>{escape(gain['from'])} to {escape(gain['to'])}</td><td>{escape(title)}</td>"
        cells += f"<td class='{cls}'>{html_of(points(gain['difference']))}</td>"
        rows.append(f"<tr>{cells}<td>{gain['gained']}</td><td>{gain['lost']}</td><td>{gain['p']:.2g}</td></tr>")
    return table_of(("stage", "questions", "difference, points", "gained", "lost", "McNemar mid-p"), rows)


def _label_table(labels: dict[str, Any]) -> str:
    """Labels against how each question was built to be answered."""
    rows = [
        row_of(["leaks in the text", str(labels["weak_and_leaks"]), str(labels["strong_but_leaks"])]),
        row_of(["can only be heard", str(labels["weak_but_heard"]), str(labels["strong_and_heard"])]),
    ]
    heard = labels["weak_but_heard"] + labels["strong_and_heard"]
    text = f"Agreement {share(labels['agreement'])} over {labels['questions']} questions."
    if heard and labels["weak_by_luck_expected"] is not None:
        text += (
            f" Of what can only be heard, {100 * labels['weak_but_heard'] / heard:.1f} % was labelled weak; "
            f"independent guessing alone would give {100 * labels['weak_by_luck_expected']:.1f} %."
        )
    return table_of(("planted truth", "labelled weak", "labelled strong"), rows) + f"<p>{text}</p>"
