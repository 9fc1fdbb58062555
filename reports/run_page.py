"""Knows how a run is told: one self-contained HTML file with the tables and pictures of `results.json`."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError

CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:66rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
p.lead{color:#555;margin-top:0}table{border-collapse:collapse;margin:.6rem 0 1.2rem}
th,td{padding:.28rem .8rem;text-align:right;border-bottom:1px solid #e6e6e6;font-variant-numeric:tabular-nums}
th{font-weight:600;border-bottom:1px solid #999}th:first-child,td:first-child{text-align:left}
td small{color:#777}td{white-space:nowrap}tr.sum td{border-top:1px solid #999}svg{max-width:100%;height:auto}
td.good{color:#1c6b34;font-weight:600}td.bad{color:#a32020;font-weight:600}
"""
_TITLES = {
    "all": "all questions",
    "label=weak": "labelled weak",
    "label=strong": "labelled strong",
    "planted=heard": "can only be heard (truth)",
    "planted=leaks": "leaks in the text (truth)",
}


def build_report(results: str, out: str | None = None) -> dict:
    """Writes the report of a `results.json`; default `report.html` beside it."""
    path = Path(results)
    if not path.is_file():
        raise InputError(f"{results}: no such results; run the recipe's evaluate step first")
    content = json.loads(path.read_text())
    target = Path(out) if out else path.with_name("report.html")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(content), encoding="utf-8")
    return {"report": str(target)}


def show(results: str, report: str | None = None) -> None:
    """Prints the result table and where the report is."""
    print("\n" + "\n".join(summary_lines(json.loads(Path(results).read_text()))))
    print(f"\nreport: {report or Path(results).with_name('report.html')}")


def render(result: dict[str, Any]) -> str:
    """The HTML text."""
    from . import figures

    models = result["models"]
    groups = {g: t for g, t in _TITLES.items() if g != "all" and any(g in m for m in models.values())}
    parts = [f"<h1>{escape(result['title'])}</h1>", '<p class="lead">', _lead(result), "</p>"]
    parts += ["<h2>Accuracy with and without the audio</h2>", figures.accuracies(models, groups)]
    parts += [_accuracy_table(models)]
    parts += ["<h2>What each stage added</h2>", "<p>Accuracy with audio, same questions, paired 95 % intervals.</p>"]
    parts += [_gain_table(result["gains"])]
    if result.get("logs"):
        parts += ["<h2>Learning curves</h2>", figures.learning_curves(result["logs"])]
    if result.get("composition"):
        parts += ["<h2>What each stage was dealt</h2>", figures.composition(result["composition"])]
    if result.get("labels"):
        parts += ["<h2>Labels against the planted truth</h2>", _label_table(result["labels"])]
    head = f'<meta charset="utf-8"><title>{escape(result["title"])}</title><style>{CSS}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


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
    rows = []
    for group in next(iter(models.values())):
        for number, (name, summary) in enumerate(models.items()):
            g = summary[group]
            title = _TITLES.get(group, group.replace("=", ": ").replace("_", " ")) if number == 0 else ""
            cells = [escape(title), escape(name), str(g["questions"]), html_of(share(g["audio"]))]
            cells += [html_of(share(g["silence"])), html_of(points(g["contribution"])), str(g["silence_only"])]
            cls = ' class="sum"' if number == 0 else ""
            rows.append(f"<tr{cls}>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    head = ("questions", "model", "n", "with audio", "with silence", "contribution", "audio hurts")
    return table_of(head, rows)


def _gain_table(gains: list[dict[str, Any]]) -> str:
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
    rows = [
        f"<tr><td>leaks in the text</td><td>{labels['weak_and_leaks']}</td><td>{labels['strong_but_leaks']}</td></tr>",
        f"<tr><td>can only be heard</td><td>{labels['weak_but_heard']}</td><td>{labels['strong_and_heard']}</td></tr>",
    ]
    heard = labels["weak_but_heard"] + labels["strong_and_heard"]
    text = f"Agreement {share(labels['agreement'])} over {labels['questions']} questions."
    if heard and labels["weak_by_luck_expected"] is not None:
        text += (
            f" Of what can only be heard, {100 * labels['weak_but_heard'] / heard:.1f} % was labelled weak; "
            f"independent guessing alone would give {100 * labels['weak_by_luck_expected']:.1f} %."
        )
    return table_of(("planted truth", "labelled weak", "labelled strong"), rows) + f"<p>{text}</p>"


def table_of(head: tuple[str, ...], rows: list[str]) -> str:
    """An HTML table of rows that are made already."""
    return "<table><tr>" + "".join(f"<th>{h}</th>" for h in head) + "</tr>\n" + "\n".join(rows) + "</table>"


def share(value: list[float]) -> str:
    """A share with its interval, in percent."""
    share, low, high = (100 * v for v in value)
    return f"{share:.1f} % [{low:.1f}, {high:.1f}]"


def points(value: list[float]) -> str:
    """A difference with its interval, in points."""
    mean, low, high = (100 * v for v in value)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def html_of(text: str) -> str:
    """The interval in small letters."""
    number, _, interval = text.partition(" [")
    return f"{number} <small>[{interval}</small>"
