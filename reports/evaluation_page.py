"""The page of an evaluation: scores beside each other, what the audio contributes, and every question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .model_page import write_model_page
from .page import folded, html_of, plain, points, row_of, share, table_of
from .pages import write_page
from .records import Item, Overview, Section


def build_evaluation_page(results: Mapping[str, Any], items: Sequence[Item], path: str | Path) -> Path:
    """Writes the page; returns where it is. results: content of results.json. items: the questions, all or some."""
    benchmarks = results["benchmarks"]
    lead = " ".join(map(_lead, benchmarks))
    lead += " Official is the published scorer's number, strict an exact answer over all questions of the file."
    warnings = [f"{found['name']}: {text}" for found in benchmarks for text in _warnings(found)]
    sections = [_section(found, results["tests"]) for found in benchmarks]
    about = {"made": results["made"], "files": {found["name"]: _files(found) for found in benchmarks}}
    judged = any("scores" in found for found in benchmarks)
    if judged:
        return write_model_page(path, results["title"], items, lead, warnings, sections, about)
    return write_page(path, Overview(results["title"], lead, (), warnings, sections, about), items)


def _lead(found: Mapping[str, Any]) -> str:
    """The first condition's official and strict number in a sentence."""
    said = f"{found['name']}, {found['questions']:,} questions"
    if "scores" not in found:
        return f"{said}: without answers."
    condition, scores = next(iter(found["scores"].items()))
    numbers = []
    for rule in ("official", "strict") if found["official_rule"] else ("strict",):
        score = scores[rule]
        accuracy = "none" if score["accuracy"][0] is None else f"{100 * score['accuracy'][0]:.1f} %"
        numbers.append(f"{rule} {accuracy} ({score['right']:,} of {score['of']:,})")
    return f"{said}, heard {condition}: {', '.join(numbers)}."


def _warnings(found: Mapping[str, Any]) -> list[str]:
    missing = found["missing"]
    texts = list(found["warnings"])
    if missing["records"]:
        texts.append(f"{missing['records']:,} records are no questions that can be asked; they count as wrong")
    texts += [f"{count:,} answers under {name} are missing" for name, count in missing["tasks"].items()]
    return texts


def _files(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("file", "question_hash", "audio_hash", "official_rule", "predictions")}


def _section(found: Mapping[str, Any], tests: int) -> Section:
    """Scores, baselines, contribution, subsets, orders, groups and notes of one benchmark."""
    parts = []
    if "scores" in found:
        parts += [_scores(found), _baselines(found["baselines"]), _contribution(found, tests), _subsets(found)]
        parts += [_orders(found), _groups(found)]
    notes = [*found["facts"], *found["missing"]["reasons"][:5]]
    notes += [
        f"{one['any']:,} of {one['of']:,} questions are also in {one['index']}: {one['recordings']:,} by recording, "
        f"{one['questions']:,} by question, {one['ids']:,} by id"
        for one in found.get("overlap", ())
    ]
    parts.append("<ul>" + "".join(f"<li>{plain(note)}</li>" for note in notes) + "</ul>" if notes else "")
    return Section(f"{found['name']}, {found['questions']:,} questions", "".join(parts))


def _scores(found: Mapping[str, Any]) -> str:
    rows = []
    for condition, scores in found["scores"].items():
        for number, (rule, score) in enumerate(scores.items()):
            official = rule == "official"
            if official and not found["official_rule"]:
                continue
            counts = score.get("answers", {})
            cells = [plain(condition) if number == 0 else "", plain(rule)]
            cells += [_share(score["accuracy"]), f"{score['right']:,}", f"{score['of']:,}"]
            cells += [f"{counts[kind]:,}" if counts else "" for kind in ("unfinished", "unreadable", "missing")]
            rows.append(row_of([*cells, f"{score['dropped']:,}" if official else ""], "sum" if number == 0 else ""))
    head = ("heard", "rule", "accuracy", "right", "of", "unfinished", "unreadable", "missing", "dropped")
    return table_of(head, rows, "Scores", left=2)


def _baselines(base: Mapping[str, Any]) -> str:
    if not base:
        return ""
    rows = [
        row_of([plain(name), f"{100 * base[key]:.2f} %"])
        for name, key in (
            ("chance, 1 / options", "chance"),
            ("always the first option", "first"),
            ("the longest option", "longest"),
            (f"always the best place, {base['place']}", "best_place"),
        )
    ]
    return table_of(("who knows nothing", "is right on"), rows, "Baselines")


def _contribution(found: Mapping[str, Any], tests: int) -> str:
    rows = []
    for name, one in found["contribution"].items():
        if name == "S":
            rows.append(row_of(["S: less the mean of silence and mismatched", html_of(points(one)), *[""] * 6]))
            continue
        gain, tone = html_of(points(one["difference"])), "good" if one["difference"][0] > 0 else "bad"
        cells = [plain(f"over {name}"), f'<b class="{tone}">{gain}</b>' if one["p_holm"] < 0.05 else gain]
        cells += [f"{one[key]:,}" for key in ("both", "only_with", "only_without", "neither")]
        rows.append(row_of([*cells, f"{one['p']:.2g}", f"{one['p_holm']:.2g}"]))
    if not rows:
        return ""
    head = ("audio contributes", "points", "both right", "only with it", "only without", "neither", "McNemar p", "Holm")
    text = f"<p>Measured by rule {plain(found['rule'])}; coloured where it holds for all {tests} tests together.</p>"
    return text + table_of(head, rows, "What the audio contributes")


def _subsets(found: Mapping[str, Any]) -> str:
    rows = []
    conditions = list(found["scores"])
    for origin, parts in found["subsets"].items():
        for number, (label, part) in enumerate(parts.items()):
            cells = [plain(origin) if number == 0 else "", plain(label), f"{part['questions']:,}"]
            rows.append(row_of([*cells, *(_share(part["accuracy"][name]) for name in conditions)]))
    if not rows:
        return ""
    table = table_of(("labels of", "label", "n", *map(plain, conditions)), rows, "Strong and weak questions", left=2)
    return folded("Strong and weak questions", table)


def _orders(found: Mapping[str, Any]) -> str:
    rows = [
        row_of([plain(name), f"{one['orders']}", *(_share(one[key]) for key in ("mean", "consistent", "majority"))])
        for name, one in found["orders"].items()
    ]
    head = ("heard", "orders", "mean accuracy", "same option in all", "majority")
    return table_of(head, rows, "Orders of the options") if rows else ""


def _groups(found: Mapping[str, Any]) -> str:
    html = []
    conditions = list(found["scores"])
    for facet, values in found["groups"].items():
        rows = [
            row_of([plain(name), f"{one['questions']:,}", *(_share(one[condition]) for condition in conditions)])
            for name, one in values.items()
        ]
        html.append(table_of((plain(facet), "n", *map(plain, conditions)), rows, plain(facet)))
    return folded("By group", "".join(html)) if html else ""


def _share(value: Sequence[float | None]) -> str:
    return "none" if value[0] is None else html_of(share([one for one in value if one is not None]))
