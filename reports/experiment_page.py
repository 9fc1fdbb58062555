"""The page of an experiment: what every arm gained and lost, against the reference, with what seeds add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from ..curriculum.evaluation.arms import in_silence
from ..curriculum.preview.control import in_words
from .charts import charts
from .forest import Row, forest
from .page import folded, html_of, plain, points, row_of, share, table_of
from .pages import write_page
from .records import Overview, Section, Verdict

_COLOURS = {"weak": "weak", "strong": "strong", "all": "audio"}


def build_experiment_page(found: Mapping[str, Any], path: str | Path) -> Path:
    """Writes the page of what `earwitness compare` found; returns where it is."""
    results = found["results"]
    sections = [section for name in results["left_out"] for section in _benchmark(found, name)]
    sections += [Section("Seeds", _seeds(results)), Section("Control sheet", _control(found))]
    about = {key: found[key] for key in ("experiment", "seeds", "made") if key in found}
    overview = Overview(found["title"], _lead(found), _verdicts(results), _warnings(found), sections, about)
    return write_page(path, overview)


def _lead(found: Mapping[str, Any]) -> str:
    results = found["results"]
    runs = len(found["seeds"])
    whole = {row["benchmark"]: row["questions"] for row in results["accuracy"] if row["label"] == "all"}
    asked = ", ".join(f"{count:,} {name}" for name, count in whole.items())
    many = "one run" if runs == 1 else f"{runs} runs"
    declared = ", ".join(found["declared"]) or "nothing"
    return (
        f"{len(found['arms'])} arms with {many} of each on the same questions ({asked}); the others are compared with "
        f"{results['reference']}. Arms are meant to differ in: {declared}. Budgets are "
        + (f"matched by {found['match']}." if found["match"] != "none" else "as written, not matched.")
    )


def _warnings(found: Mapping[str, Any]) -> list[str]:
    versions = found.get("versions") or []
    mixed = [f"steps were run by different versions of earwitness: {', '.join(versions)}"] if len(versions) > 1 else []
    return mixed + [
        f"{count:,} questions of {name} were not answered by all runs, and do not count"
        for name, count in found["results"]["left_out"].items()
        if count
    ]


def _verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    name = next(iter(results["left_out"]))
    whole = [row for row in results["accuracy"] if row["benchmark"] == name and row["label"] == "all"]
    return [_best(results, whole), _lost(results), _luck(whole)] if whole else []


def _best(results: Mapping[str, Any], whole: Sequence[Mapping[str, Any]]) -> Verdict:
    best = max(whole, key=lambda row: row["after"][0])
    of = {
        row["arm"]: row
        for row in results["contrasts"]
        if row["benchmark"] == best["benchmark"] and row["label"] == "all"
    }
    reference = results["reference"]
    rival = max((row for row in whole if row["arm"] != best["arm"]), key=lambda row: row["after"][0], default=None)
    if best["arm"] == reference:
        against = of.get(rival["arm"]) if rival else None
        said = f"No arm is better than {reference}. " + (
            f"The next, {rival['arm']}: {_points(against['difference'])}." if rival and against else ""
        )
        clear = against is not None and against["p_holm"] < 0.05
    else:
        against = of[best["arm"]]
        said = f"{_points(against['difference'])} against {reference}, p {against['p_holm']:.2g} for all such tests."
        clear = against["p_holm"] < 0.05
    because = f"{share(best['after'])} of {best['questions']:,} questions. {said}"
    return Verdict("Which arm is best on all questions?", best["arm"], because, "good" if clear else "unclear")


def _lost(results: Mapping[str, Any]) -> Verdict:
    changes = [*results["accuracy"], *results["stages"]]
    fell = [row for row in changes if _known(row["gain"]) and row["gain"][2] < 0]
    told = [f"{row['arm']}{_stage(row)} on {row['label']}, {row['benchmark']}: {_points(row['gain'])}" for row in fell]
    listed = "; ".join([*told[:6], *([f"{len(told) - 6} more"] if len(told) > 6 else [])])
    worse = [row for row in changes if _known(row["gain"]) and row["gain"][0] < 0 <= row["gain"][2]]
    said = f"{listed}." if fell else "No group of questions fell with its whole interval below zero. "
    if worse and not fell:
        names = dict.fromkeys(f"{row['arm']}{_stage(row)} on {row['label']}" for row in worse)
        said += f"Lower, but within the error: {', '.join(names)}."
    return Verdict("What was lost?", f"{len(fell)} of {len(changes)} changes", said, "bad" if fell else "plain")


def _luck(whole: Sequence[Mapping[str, Any]]) -> Verdict:
    spreads = [spread["sd"] for row in whole for spread in row["spread"]["after"].values()]
    sampling = max(_error(row["after"]) for row in whole)
    if not spreads:
        return Verdict(
            "Is it luck?",
            "one run of each",
            "How far seeds lie apart is not known: give `seeds` two or more.",
            "unclear",
        )
    most = max(spreads)
    said = (
        f"Runs of one arm that differ in their seed alone lie {100 * most:.1f} points apart (standard deviation, the "
        f"largest of the arms); the questions that happened to be asked account for {100 * sampling:.1f}."
    )
    return Verdict(
        "Is it luck?", f"{100 * most:.1f} points between seeds", said, "unclear" if most > sampling else "plain"
    )


def _benchmark(found: Mapping[str, Any], name: str) -> list[Section]:
    """The sections of one benchmark: gains, contrasts with the reference, strong minus weak."""
    results = found["results"]
    accuracy = [row for row in results["accuracy"] if row["benchmark"] == name]
    gains = [Row(arm, {r["label"]: r["gain"] for r in accuracy if r["arm"] == arm}) for arm in found["arms"]]
    figures = [forest(f"Change by training, points: {name}", gains, _COLOURS)]
    rows = []
    for row in accuracy:
        first = row["label"] == "weak" or not any(r["arm"] == row["arm"] and r["label"] == "weak" for r in accuracy)
        cells = [plain(row["arm"]) if first else "", plain(row["label"]), f"{row['questions']:,}"]
        cells += [html_of(share(row["before"])), html_of(share(row["after"])), _change(row["gain"], row["p_holm"])]
        quiet = in_silence(results, row)
        silent = [f"{100 * quiet['before'][0]:.1f} to {100 * quiet['after'][0]:.1f} %"] if quiet else []
        rows.append(row_of([*cells, f"{row['p_holm']:.2g}", *silent], "sum" if first else ""))
    head = ["arm", "questions", "n", "before", "after", "change, points", "p (Holm)"]
    head += ["in silence"] if results.get("silence") else []
    sections = [Section(_title(found, "Before and after", name), charts(figures) + table_of(head, rows, left=2))]
    stages = [row for row in results["stages"] if row["benchmark"] == name]
    if stages:
        sections.append(Section(_title(found, "Stage by stage", name), _stages(stages)))
    others = [row for row in results["contrasts"] if row["benchmark"] == name]
    if others:
        sections.append(Section(_title(found, f"Against {results['reference']}", name), _contrasts(found, others)))
    inner = [row for row in results["interactions"] if row["benchmark"] == name]
    if inner:
        sections.append(Section(_title(found, "Strong minus weak", name), _interactions(inner, results["reference"])))
    return sections


def _title(found: Mapping[str, Any], words: str, name: str) -> str:
    return words if len(found["results"]["left_out"]) == 1 else f"{words}: {name}"


def _stage(row: Mapping[str, Any]) -> str:
    """The stage of a change, where it is of one."""
    return f" ({row['from']} to {row['to']})" if "from" in row else ""


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    """What each stage changed, that is what it kept and lost of what the one before it had."""
    names = list(dict.fromkeys((row["arm"], row["from"], row["to"]) for row in stages))
    of = {key: [r for r in stages if (r["arm"], r["from"], r["to"]) == key] for key in names}
    drawn = [
        Row(f"{arm}: {a} to {b}", {r["label"]: r["gain"] for r in of[arm, a, b]})
        for arm, a, b in names
        if b == stages[-1]["to"]
    ]
    rows = []
    for key, listed in of.items():
        for number, row in enumerate(listed):
            cells = [plain(key[0]), plain(f"{key[1]} to {key[2]}")] if number == 0 else ["", ""]
            cells += [plain(row["label"]), f"{row['questions']:,}", _change(row["gain"], row["p_holm"])]
            rows.append(row_of([*cells, f"{row['p_holm']:.2g}"], "sum" if number == 0 else ""))
    head = ("arm", "stage", "questions", "n", "change, points", "p (Holm)")
    figures = charts([forest("Change by the last stage, points", drawn, _COLOURS)])
    return figures + table_of(head, rows, left=3)


def _contrasts(found: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    arms = list(dict.fromkeys(row["arm"] for row in others))
    drawn = [Row(arm, {r["label"]: r["difference"] for r in others if r["arm"] == arm}) for arm in arms]
    rows = [
        row_of(
            [
                plain(row["arm"]) if number == 0 or others[number - 1]["arm"] != row["arm"] else "",
                plain(row["label"]),
                f"{row['questions']:,}",
                str(row["seeds"]),
                _change(row["difference"], row["p_holm"]),
                f"{row['p']:.2g}",
                f"{row['p_holm']:.2g}",
            ],
            "sum" if number == 0 or others[number - 1]["arm"] != row["arm"] else "",
        )
        for number, row in enumerate(others)
    ]
    head = ("arm", "questions", "n", "runs", "after, points", "p", "p (Holm)")
    figures = [forest(f"After training, points from {others[0]['reference']}", drawn, _COLOURS)]
    text = "<p>Paired by question, over the seeds that both arms have.</p>"
    return charts(figures) + table_of(head, rows, left=2) + text


def _interactions(inner: Sequence[Mapping[str, Any]], reference: str) -> str:
    rows = [
        row_of(
            [
                plain(row["arm"]),
                _change(row["interaction"], row["p_holm"]),
                f"{row['p_holm']:.2g}",
                html_of(_points(row["difference"])) if row["difference"] else "",
            ]
        )
        for row in inner
    ]
    head = ("arm", "change of strong minus change of weak", "p (Holm)", f"less that of {plain(reference)}")
    text = (
        "<p>Above zero, training brought more where the audio is needed than where it is not: what a mere fit to the "
        "benchmark's form would bring to both.</p>"
    )
    return table_of(head, rows) + text


def _seeds(results: Mapping[str, Any]) -> str:
    """The sampling error and, beside it and apart, the spread of seeds; every run's own numbers below."""
    rows, runs = [], []
    for row in results["accuracy"]:
        spreads = row["spread"]["after"]
        cells = [plain(row["arm"]), plain(row["label"]), f"{100 * _error(row['after']):.1f}"]
        cells += [f"{100 * spreads[axis]['sd']:.1f}" if axis in spreads else "" for axis in ("train", "draw", "both")]
        rows.append(row_of(cells))
        for run in row["runs"]:
            cells = [plain(row["arm"]), plain(row["label"]), str(run["train"]), str(run["draw"])]
            runs.append(row_of([*cells, f"{100 * run['after']:.1f} %", f"{100 * run['gain']:+.1f}"]))
    head = ("arm", "questions", "sampling error", "seeds of training", "seeds of the draw", "both together")
    text = (
        "<p>Standard deviations of an accuracy, in points. The sampling error says how it would vary with other "
        "questions; seeds say how it varies with another run. Intervals on this page are of the first.</p>"
    )
    every = table_of(("arm", "questions", "train", "draw", "after", "change"), runs, left=2)
    return text + table_of(head, rows, left=2) + folded("Every run", every)


def _control(found: Mapping[str, Any]) -> str:
    """What the arms cost, what differs and by which declaration, and the rows they share."""
    parts, sheet = [], found.get("sheet")
    if sheet:
        rows = []
        for arm, described in sheet["arms"].items():
            for number, (stage, one) in enumerate(described["stages"].items()):
                cells = [plain(arm) if number == 0 else "", plain(stage), f"{one['rows']:,}", f"{one['presented']:,}"]
                cells += [f"{one['steps']:,}", *(_large(one[unit]) for unit in ("tokens", "flops"))]
                rows.append(row_of(cells, "sum" if number == 0 else ""))
        head = ("arm", "stage", "questions", "presented", "steps", "tokens", "FLOPs")
        parts.append(table_of(head, rows, left=2))
    rows = [
        row_of(
            [
                plain(one["other"]),
                f"{plain(one['key'])}<br><small>declared by {plain(one['by'] or 'nothing')}</small>",
                f'<span class="said">{plain(in_words(one["value"]))}</span>',
                f'<span class="said">{plain(in_words(one["other_value"]))}</span>',
            ]
        )
        for one in found["differences"]
    ]
    names = ("arm", "key", plain(found["arms"][0]), "this arm")
    parts.append(table_of(names, rows, left=4) if rows else "<p>The arms do not differ.</p>")
    if sheet and sheet["overlap"]:
        rows = [
            row_of(
                [plain(" and ".join(one["arms"])), plain(one["stage"]), f"{one['shared']:,}", f"{one['jaccard']:.3f}"]
            )
            for one in sheet["overlap"]
        ]
        parts.append(folded("Questions in common", table_of(("arms", "stage", "questions", "Jaccard"), rows, left=2)))
    return "".join(parts)


def _known(value: Sequence[float | None] | None) -> bool:
    return value is not None and all(one is not None and isfinite(one) for one in value)


def _points(value: Sequence[float]) -> str:
    """A difference with its interval, or alone where it has none."""
    return points(value) if _known(value) else "unknown" if value[0] is None else f"{100 * value[0]:+.1f}"


def _change(value: Sequence[float], p: float) -> str:
    """A difference, coloured where it holds for all tests of its kind together."""
    kind = "" if p >= 0.05 else "good" if value[0] > 0 else "bad"
    return f'<b class="{kind}">{html_of(_points(value))}</b>'


def _error(value: Sequence[float]) -> float:
    """The standard error of a share, from the width of its interval."""
    return (value[2] - value[1]) / 2 / 1.96 if _known(value) else 0.0


def _large(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2e}" if value >= 1e12 else f"{value:,.0f}"
