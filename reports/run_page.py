"""The page of a run: what its `results.json` says, and its questions with every model's answers to hear and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..boundary.files import read_json
from ..boundary.words import say
from ..curriculum.contribution.labels import read_about
from ..curriculum.statistics import holm
from ..datamodules.shards.reader import ShardReader
from ..errors import InputError
from .charts import Pair, charts, dumbbells
from .model_page import write_model_page
from .overview import TITLES, title_of
from .page import html_of, plain, points, row_of, share, table_of
from .pages import write_page
from .reading import read_items
from .records import Item, Overview, Section
from .retention import kept_in_results, retention_section
from .training import composition_section, settings_of, training_section

_ON_TERMINALS = ("all", "label=weak", "label=strong", "planted=heard", "planted=leaks")


def build_report(results: str, out: str | None = None, embed_mb: float = 40.0) -> dict[str, str]:
    """Writes the page of a `results.json`, by default as `report.html` beside it; returns where it is.

    embed_mb: megabytes of recordings inside the page. Results of before, and those whose answer tables or shards are
    gone, have a page without questions that says why. Raises InputError where there are no results.
    """
    path = Path(results)
    if not path.is_file():
        raise InputError(f"{results}: no such results; run the recipe's evaluate step first")
    content = _with_paths(read_json(path), path)
    target = Path(out) if out else path.with_name("report.html")
    items, total, reason = _items(content)
    lead = _lead(content) + (f" {reason}" if reason else _shown(len(items), total))
    about = {"results": str(path), **content.get("files", {})}
    further = _further(content)
    if items:
        votes = _with_votes(items, content, path)
        write_model_page(target, content["title"], items, lead, (), further, about, votes, embed_mb)
    else:
        kept = retention_section(kept_in_results(content))
        sections = [*([] if kept is None else [kept]), _accuracies(content), _gains(content), *further]
        overview = Overview(content["title"], lead, sections=sections, about=about)
        write_page(target, overview)
    return {"report": str(target)}


def show(results: str, report: str | None = None) -> None:
    """Prints the table of a `results.json`, and where its report is; report: the path, default beside the results."""
    say("\n" + "\n".join(summary_lines(read_json(results))))
    say(f"\nreport: {report or Path(results).with_name('report.html')}")


def _with_paths(content: dict[str, Any], results: Path) -> dict[str, Any]:
    """The results with paths of files and logs that lead there from here."""
    files = {
        key: {name: _found(path, results) for name, path in value.items()} if isinstance(value, dict) else value
        for key, value in (content.get("files") or {}).items()
    }
    files |= {key: _found(value, results) for key, value in files.items() if isinstance(value, str)}
    logs = {stage: _found(folder, results) for stage, folder in (content.get("logs") or {}).items()}
    return content | {"files": files, "logs": logs}


def _found(name: str, results: Path) -> str:
    """A path as it was written, from the working folder of then: that is this one, or a folder above the results."""
    places = (folder / name for folder in (Path(), *results.resolve().parents))
    return next((str(place) for place in places if place.exists()), name)


def _items(content: dict[str, Any]) -> tuple[list[Item], int, str]:
    """The questions with the models' answers, how many there are in all, and why there are none."""
    files = content.get("files")
    if not files:
        return [], 0, "These results do not say where their answers lie; evaluate again for a page of the questions."
    try:
        reader = ShardReader(files["index"])
        items, total = read_items(reader, files["answers"], files["labels"], files["planted"])
    except (InputError, OSError) as error:
        return [], 0, f"The questions are not shown: {error}."
    return items, total, ""


def _with_votes(items: list[Item], content: dict[str, Any], results: Path) -> list[Item]:
    """The questions, with what the voters behind their labels answered where their tables are still there."""
    files = content.get("files") or {}
    if not items or not files.get("labels"):
        return items
    try:
        voters = {
            one["name"]: _found(one["answers"], results)
            for one in read_about(files["labels"])["voters"]
            if "answers" in one
        }
        voted, _ = read_items(ShardReader(files["index"]), voters)
    except (InputError, OSError, KeyError, TypeError):
        return items
    replies = {item.id: item.replies for item in voted}
    return [Item(**{**vars(item), "replies": [*item.replies, *replies.get(item.id, ())]}) for item in items]


def _shown(count: int, total: int) -> str:
    return "" if count == total else f" The page shows {count:,} of {total:,} questions, drawn by a hash."


def _lead(result: dict[str, Any]) -> str:
    """The sentence under the heading: the first and the last model on what can only be heard, where that is known."""
    names = list(result["models"])
    first, last = result["models"][names[0]], result["models"][names[-1]]
    group = next((g for g in ("planted=heard", "label=strong", "all") if g in first), "all")
    before, after = share(first[group]["audio"]), share(last[group]["audio"])
    goes = (
        f"is {after} ({names[-1]})" if len(names) == 1 else f"goes from {before} ({names[0]}) to {after} ({names[-1]})"
    )
    return (
        f"On the {first[group]['questions']:,} held-out questions of the group “{title_of(group)}”, accuracy with "
        f"audio {goes}; with 30 s of silence the last model is right on {share(last[group]['silence'])}."
    )


def _further(result: dict[str, Any]) -> list[Section]:
    """Training, composition, labels against the truth, and settings."""
    found = [training_section(result.get("logs") or {}), composition_section(result.get("composition") or {})]
    if result.get("labels"):
        found.append(Section("Labels and truth", _label_table(result["labels"])))
    settings = settings_of(result.get("logs") or {})
    found += [Section("Settings", settings)] if settings else []
    return [section for section in found if section is not None]


def summary_lines(result: dict[str, Any]) -> list[str]:
    """The result table as text, for a terminal."""
    rows = [["", "questions", "with audio", "with silence", "contribution"]]
    for group in _ON_TERMINALS:
        title = title_of(group)
        for name, groups in result["models"].items():
            if group in groups:
                g = groups[group]
                rows.append([f"{title}: {name}", str(g["questions"]), *(share(g[k]) for k in ("audio", "silence"))])
                rows[-1].append(points(g["contribution"]))
    for gain in result["gains"]:
        if gain["group"] in ("label=strong", "planted=heard"):
            title = title_of(gain["group"])
            rows.append([f"{title}: {gain['from']} to {gain['to']}", "", points(gain["difference"]), "", ""])
    kept = kept_in_results(result)
    for one in kept:
        if one.group != "label=strong":
            rows.append([f"{title_of(one.group)}: {one.stage}", "", points(one.change), "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    lines += [f"warning: {one.warning()}" for one in kept if one.lost]
    if result.get("labels"):
        lines.append(f"labels agree with the planted truth: {share(result['labels']['agreement'])}")
    return lines


def _accuracies(result: dict[str, Any]) -> Section:
    """Every group of questions with every model, from the summaries alone."""
    figures, rows, models = [], [], result["models"]
    for group in next(iter(models.values())):
        pairs = [Pair(name, of[group]["silence"], of[group]["audio"]) for name, of in models.items()]
        if group in TITLES:
            figures.append(dumbbells(title_of(group), pairs))
        for number, (name, of_model) in enumerate(models.items()):
            g = of_model[group]
            cells = [plain(title_of(group)) if number == 0 else "", plain(name), f"{g['questions']:,}"]
            cells += [html_of(share(g["audio"])), html_of(share(g["silence"])), html_of(points(g["contribution"]))]
            rows.append(row_of([*cells, f"{int(g['silence_only']):,}"], "sum" if number == 0 else ""))
    head = ("questions", "model", "n", "with audio", "with silence", "contribution", "audio hurts")
    html = charts(figures) + table_of(head, rows, left=2) + _verdict_table(models)
    return Section("With and without the audio", html)


def _verdict_table(models: dict[str, Any]) -> str:
    """How many answers of each model are right, wrong, unfinished and unreadable; "" for results of before."""
    rows, kinds = [], ()
    for name, groups in models.items():
        for heard, counts in groups["all"].get("answers", {}).items():
            kinds = tuple(counts)
            rows.append(row_of([plain(name), plain(heard), *(f"{int(count):,}" for count in counts.values())]))
    text = "<p>Accuracies are shares of all answers: what is unfinished or unreadable is not right.</p>"
    return table_of(("model", "heard", *map(plain, kinds)), rows, left=2) + text if rows else ""


def _gains(result: dict[str, Any]) -> Section:
    """What changed from one model to the next, coloured where it holds for all these tests together."""
    rows = []
    adjusted = holm([float(gain["p"]) for gain in result["gains"]])
    for gain, p in zip(result["gains"], adjusted, strict=True):
        kind = "" if p >= 0.05 else "good" if gain["difference"][0] > 0 else "bad"
        cells = [plain(f"{gain['from']} to {gain['to']}"), plain(title_of(gain["group"]))]
        cells += [f'<b class="{kind}">{html_of(points(gain["difference"]))}</b>', f"{int(gain['gained']):,}"]
        rows.append(row_of([*cells, f"{int(gain['lost']):,}", f"{float(gain['p']):.2g}", f"{p:.2g}"]))
    head = ("models", "questions", "with audio, points", "gained", "lost", "McNemar mid-p", "Holm")
    return Section("What changed", table_of(head, rows, left=2) if rows else "<p>One model: nothing to compare.</p>")


def _label_table(labels: dict[str, Any]) -> str:
    """Labels against how each question was built to be answered."""
    rows = [
        row_of(["leaks in the text", f"{int(labels['weak_and_leaks']):,}", f"{int(labels['strong_but_leaks']):,}"]),
        row_of(["can only be heard", f"{int(labels['weak_but_heard']):,}", f"{int(labels['strong_and_heard']):,}"]),
    ]
    heard = labels["weak_but_heard"] + labels["strong_and_heard"]
    text = f"Agreement {share(labels['agreement'])} over {labels['questions']:,} questions."
    if heard and labels["weak_by_luck_expected"] is not None:
        text += (
            f" Of what can only be heard, {100 * labels['weak_but_heard'] / heard:.1f} % was labelled weak; "
            f"independent guessing alone would give {100 * labels['weak_by_luck_expected']:.1f} %."
        )
    return table_of(("planted truth", "labelled weak", "labelled strong"), rows) + f"<p>{text}</p>"
