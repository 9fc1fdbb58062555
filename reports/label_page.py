"""The page of a labelling job: who voted how, how sure the labels are, and every question to hear with all votes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..datamodules.shards.reader import ShardReader
from .charts import Pair, Series, charts, columns, dumbbells, groups
from .page import folded, html_of, plain, points, row_of, share, table_of
from .pages import write_page
from .reading import read_items
from .records import Overview, Section, Verdict


def build_jury_page(
    jury: Mapping[str, Any], reader: ShardReader, labels: Path, answers: Mapping[str, str], out: Path
) -> Path:
    """Writes the page; returns where it is.

    jury: what `describe_jury` returns, with title, about and perhaps categories. reader: of the index. labels: the
    label table. answers: voter -> its answer table, for the questions.
    """
    items, total = read_items(reader, answers, labels)
    shown = f" The page shows {len(items):,} of {total:,} questions, drawn by a hash." if len(items) < total else ""
    sections = [Section("Voters without audio", _voters(jury) + _verdicts(jury) + _pairs(jury))]
    if jury.get("picks"):
        sections.append(Section("What voters answer", _where(jury) + _places(jury["picks"]) + _texts(jury["picks"])))
    sections.append(
        Section("How sure a label is", _sure(jury) + charts([_histogram(jury["ac_vote"], "P(audio required)")]))
    )
    if "audio" in jury:
        sections.append(Section("With and without audio", _heard(jury["audio"])))
    sections.append(Section("What a label says of a question", _about(jury)))
    if "categories" in jury:
        sections.append(Section("Why weak questions need no audio", _categories(jury["categories"])))
    overview = Overview(
        jury["title"], _lead(jury) + shown, _answers(jury), jury["warnings"], sections, about=jury["about"]
    )
    return write_page(out, overview, items)


def _answers(jury: Mapping[str, Any]) -> list[Verdict]:
    """The three answers at the top: how many need no audio, how many of them luck explains, and who knows more."""
    low, luck, dealt = jury["weak"][1], jury["expected_weak_by_luck"], jury.get("expected_weak_if_dealt")
    most = max(luck, dealt) if dealt is not None and _known(dealt) else luck
    weak = (
        f"{jury['counts']['weak']:,} of {jury['questions']:,} questions are weak: right without the audio by the rule."
    )
    chance = "Independent answers that know nothing would make as many weak"
    chance += f"; these very answers, had the right ones been dealt anew, {_percent(dealt)}." if _known(dealt) else "."
    claimed = [name for name, skill in jury["skill"].items() if skill["claimed"]]
    able = f"{len(claimed)} of {len(jury['voters'])} voters"
    knows = "are right without the audio more often than the best constant answer"
    return [
        Verdict("How many need no audio?", share(jury["weak"]), weak, "good" if low > most else "unclear"),
        Verdict("How many by luck alone?", _percent(luck), chance),
        Verdict("Who knows more than luck?", able, f"{knows}: {', '.join(claimed)}." if claimed else f"{knows}."),
    ]


def _lead(jury: Mapping[str, Any]) -> str:
    """The sentence under the heading: how many are weak, by which rule, and what luck alone would give."""
    counts, dealt = jury["counts"], jury.get("expected_weak_if_dealt")
    text = (
        f"Of {jury['questions']:,} questions, {counts['weak']:,} were answered without the audio (weak) and "
        f"{counts['strong']:,} were not (strong), by the rule “{jury['rule']}” under the condition "
        f"“{jury['condition']}”: {share(jury['weak'])} weak. Independent luck, right as often as the place "
        f"where most right answers stand, would make {100 * jury['expected_weak_by_luck']:.1f} % weak"
    )
    text += f"; these answers, had the right ones been dealt anew, {_percent(dealt)}." if _known(dealt) else "."
    return text + (f" {counts['unlabelled']:,} have no label." if counts["unlabelled"] else "")


def _voters(jury: Mapping[str, Any]) -> str:
    """A row per voter: how often it was asked and right without the audio, and what hangs on it."""
    rows = []
    for voter in jury["voters"]:
        name = voter["voter"]
        cells = [plain(name), f"{voter['asked']:,}", f"{voter['missing']:,}", _percent(voter["accuracy"])]
        above, claimed = jury["skill"][name]["above"], jury["skill"][name]["claimed"] and jury["latent"]["told"]
        cells += [_percent(voter["chance"]), html_of(points(above)) if _known(above[0]) else "-"]
        cells += [_number(jury["latent"]["skill"][name] if claimed else None), _percent(jury["flips"][name])]
        rows.append(row_of(cells))
    head = ("voter", "asked", "missing", "right", "best constant answer", "above it (all right is 100)")
    return table_of((*head, "skill on solvable", "labels that flip without it"), rows) + f"<p>{_skill(jury)}</p>"


def _skill(jury: Mapping[str, Any]) -> str:
    """What the table of voters says, in words: who knows something without the audio, and who cannot be said to."""
    without = [v["voter"] for v in jury["voters"] if v["asked"] and not jury["skill"][v["voter"]]["claimed"]]
    text = (
        "The best constant answer always names the place where right answers stand most often in the orders asked, "
        "or the text that is most often right of a type of questions."
    )
    if without:
        text += f" No skill is claimed for {plain(', '.join(without))}: "
        text += "not shown to be right more often than the best constant answer."
    if len(jury["voters"]) == 1:
        text += " One voter alone does not tell its skill from the share of solvable questions."
    return text


def _verdicts(jury: Mapping[str, Any]) -> str:
    """A line per voter and condition: how many answers were right, wrong, unfinished and unreadable."""
    lines = []
    for name, of_voter in jury.get("verdicts", {}).items():
        for condition, counts in of_voter.items():
            said = ", ".join(f"{count:,} {plain(kind)}" for kind, count in counts.items())
            lines.append(f"<br>{plain(name)}, {plain(condition)}: {said}")
    return f"<p>Answers; unfinished and unreadable ones are missing votes.{''.join(lines)}</p>" if lines else ""


def _pairs(jury: Mapping[str, Any]) -> str:
    """How far the voters agree, by pairs and together."""
    agreement, constant = jury["agreement"], jury.get("constant", [])
    kept = len(jury["voters"]) - len(constant)
    if len(jury["voters"]) == 1:
        return "<p>One voter agrees with nobody: there are no kappas.</p>"
    rows = [row_of([plain(pair), _number(kappa)]) for pair, kappa in agreement["cohen"].items()]
    text = f"{plain(', '.join(constant))} left out: constant answers agree, but not on questions. " if constant else ""
    if kept > 1:
        text += (
            f"Fleiss' kappa {_number(agreement['fleiss'])}; these voters are worth "
            f"{_number(agreement['effective_voters'], '.2f')} independent ones."
        )
    return (table_of(("pair", "Cohen's kappa"), rows) if rows else "") + f"<p>{text}</p>"


def _known(value: float | None) -> bool:
    """Whether a number is there: neither None nor NaN."""
    return value is not None and value == value


def _number(value: float | None, form: str = ".3f") -> str:
    """The number, or a dash where it is missing."""
    return format(value, form) if value is not None and _known(value) else "-"


def _percent(value: float | None) -> str:
    """A share in [0, 1] in percent, or a dash where it is missing."""
    return f"{100 * value:.1f} %" if value is not None and _known(value) else "-"


def _where(jury: Mapping[str, Any]) -> str:
    """What the picture of places shows, and of how many answers."""
    counts = "; ".join(
        f"{p['answers']:,} answers of {plain(name)} to {p['questions']:,} questions"
        for name, p in jury["picks"].items()
    )
    return (
        "<p>Where the picked options stood when they were shown, beside where the right ones stood; a voter that knows "
        f"nothing and prefers no place picks all alike. Looked at: {counts}.</p>"
    )


def _texts(picks: Mapping[str, Any]) -> str:
    """A row per voter and type of questions: the most frequent answers, with their share of the right ones."""
    rows = []
    for name, of_voter in picks.items():
        for kind, texts in (("all", of_voter["by_text"]), *of_voter["by_kind"].items()):
            said = [
                f"“{plain(text[:40])}” {_percent(n)} <small>({_percent(right)})</small>" for text, n, right in texts
            ]
            rows.append(row_of([plain(name), plain(kind), ", ".join(said[:3])]))
    head = ("voter", "questions of type", "most frequent answers (share of the right ones)")
    return folded("Texts", table_of(head, rows, left=3))


def _sure(jury: Mapping[str, Any]) -> str:
    """What the latent classes say, above their histogram."""
    if len(jury["voters"]) == 1:
        return "<p>With one voter the picture has only as many bars as there are shares of right answers.</p>"
    return (
        f"<p>Two latent classes find {100 * jury['latent']['solvable']:.1f} % solvable without the audio. The "
        "probability that a question needs it orders questions more finely than the number of right votes.</p>"
    )


def _places(picks: Mapping[str, Any]) -> str:
    """A picture per voter of how often it picked each place, and how often the right option stood there."""
    figures = []
    for name, picked in picks.items():
        places = list(picked["by_place"])
        series = [
            Series(title, colour, [(n, picked[key][place]) for n, place in enumerate(places)])
            for title, colour, key in (("picked", "s0", "by_place"), ("right", "silence", "right_by_place"))
        ]
        figures.append(groups(name, places, series))
    return charts(figures)


def _histogram(counted: Mapping[str, Any], title: str) -> str:
    """A picture of a histogram that was counted already; counted: edges [bins + 1] and counts [bins]."""
    values = [(place, count) for place, count in enumerate(counted["counts"]) if count]
    return columns(f"Questions by {title}", counted["edges"], [Series("questions", "s0", values)], title)


def _heard(audio: Mapping[str, Any]) -> str:
    """What the audio contributes to every voter: accuracies, squares, tests, and how often it changes an answer."""
    pairs = [
        Pair(name, row["silence"], row["audio"], None, f"{100 * row['contribution'][0]:+.0f} points")
        for name, row in audio.items()
    ]
    figures = [dumbbells("Right answers", pairs)]
    figures += [_histogram(row["ac_p"], f"change by the audio: {name}") for name, row in audio.items()]
    return charts(figures) + _squares(audio) + _tests(audio)


def _squares(audio: Mapping[str, Any]) -> str:
    """A row per voter: questions right with the audio, in silence, both, neither."""
    head = ("voter", "right both ways", "with audio alone", "in silence alone (audio hurts)", "never")
    cells = ("both", "audio_only", "silence_only", "neither")
    rows = [row_of([plain(name), *(f"{row[cell]:,}" for cell in cells)]) for name, row in audio.items()]
    return table_of(head, rows)


def _tests(audio: Mapping[str, Any]) -> str:
    """A row per voter: accuracies, the contribution of the audio, and its tests."""
    rows = []
    for name, row in audio.items():
        cells = [plain(name), html_of(share(row["audio"])), html_of(share(row["silence"]))]
        cells += [html_of(points(row["contribution"]))]
        cells += [_number(row["audio_above_chance"]), _number(row["silence_above_chance"])]
        cells += [_number(row[key], ".2g") for key in ("mcnemar_exact_p", "mcnemar_mid_p", "mcnemar_holm_p")]
        rows.append(row_of(cells))
    head = ("voter", "with audio", "in silence", "contribution, by recording", "audio above best constant")
    return table_of((*head, "silence above best constant", "McNemar", "mid-p", "Holm"), rows)


def _about(jury: Mapping[str, Any]) -> str:
    """What the label shares with columns of the index, in bits, and how many options the questions have."""
    rows = [
        row_of([plain(name.replace("_", " ")), _number(m["bits"]), _percent(m["share_of_label_entropy"])])
        for name, m in jury["says_about"].items()
    ]
    options = ", ".join(f"{count:,} with {k}" for k, count in jury["num_choices"].items())
    head = ("of the question", "mutual information with the label, bits", "share of the label's entropy")
    return table_of(head, rows) + f"<p>Options: {options}.</p>"


def _categories(judged: Mapping[str, Any]) -> str:
    """The judge's counts of why weak questions need no audio."""
    rows = [row_of([plain(name), f"{count:,}"]) for name, count in judged["counts"].items()]
    rows.append(row_of(["undecided", f"{judged['undecided']:,}"]))
    text = f"Judged by {plain(judged['judge'])} from the text alone, by a procedure of this project."
    return table_of(("category", "weak questions"), rows) + f"<p>Implicit: {share(judged['implicit'])}. {text}</p>"
