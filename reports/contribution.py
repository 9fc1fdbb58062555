"""What the audio contributes, question by question: states, who moved between them, bins, and what is answered."""

from __future__ import annotations

from urllib.parse import urlencode

import numpy as np

from ..curriculum.arrays import Bools
from ..curriculum.evaluation.changes import STATES, bin_edges, in_bins, moves, share_interval
from .charts import Series, charts, colour_of, columns, groups, lines, percent, stacked
from .flows import ribbons
from .overview import pairs_of
from .page import folded, plain, row_of, table_of
from .records import OUTCOMES, Section
from .tally import Tally

WORDS = {
    "heard": "right with audio alone",
    "both": "right both ways",
    "hurts": "right in silence alone",
    "neither": "never right",
}
_MEASURES = ("ac_vote", "ac_p", "difficulty", "necessity")
_ENOUGH = 5  # questions in a bin, for a point in the picture


def link(words: str, **chosen: str) -> str:
    """A link to the questions that fit; chosen: filters of the explorer."""
    return f'<a href="#{plain(urlencode(chosen))}">{plain(words)}</a>'


def moves_section(tally: Tally) -> Section | None:
    """Who moved from guessed to heard and back, between every two models; None for one model."""
    figures, tables = [], []
    for number, (before, after) in enumerate(pairs_of(tally.paired)):
        counts = moves(tally.states(before), tally.states(after))
        name = f"{before} to {after}"
        words = [WORDS[state] for state in STATES]
        figures.append(ribbons(name, counts, words, list(STATES), (before, after)))
        rows = []
        for a, state in enumerate(STATES):
            cells = [plain(WORDS[state])]
            for b, other in enumerate(STATES):
                count = f"{counts[a, b]:,}"
                moved = a != b and counts[a, b]
                cells.append(link(count, change=f"{number}.{state}.{other}") if moved else count)
            rows.append(row_of(cells))
        to, back = int(counts[1, 0]), int(counts[0, 1])
        learnt, forgot = int(counts[3, 0] + counts[2, 0]), int(counts[0, 3] + counts[0, 2])
        tables.append(
            f"<h3>{plain(name)}</h3><p>{to:,} moved from guessed (right both ways) to heard (with the audio alone), "
            f"{back:,} back. {learnt:,} that were wrong with the audio are heard now; {forgot:,} that were heard are "
            "wrong with it.</p>" + table_of((f"{plain(before)}, then:", *map(plain, words)), rows, plain(name))
        )
    if not figures:
        return None
    text = (
        "<p>Each question by whether it is right with the audio and in silence. Right both ways may be knowledge, the "
        "text or luck; only right with the audio alone shows that it was heard. Numbers in the tables lead to the "
        "questions.</p>"
    )
    return Section("Who moved", text + charts(figures) + folded("Numbers", "".join(tables)))


def contribution_section(tally: Tally) -> Section | None:
    """States of every model, histogram of the labels' contribution, and accuracy by its bins."""
    figures = []
    if tally.paired:
        rows = {
            name: {WORDS[state]: float(count) for state, count in zip(STATES, _counts(tally, name), strict=True)}
            for name in tally.paired
        }
        figures.append(stacked("Questions by what the audio did", rows, {WORDS[s]: s for s in STATES}, whole=True))
    text = ""
    for measure in _MEASURES:
        values = np.array([item.numbers.get(measure, np.nan) for item in tally.items])
        if np.isfinite(values).sum() < _ENOUGH or len(np.unique(values[np.isfinite(values)])) < 2:
            continue
        figures += [_histogram(tally, values, measure), *_by_bin(tally, values, measure)]
        text = (
            f"<p>{_MEANING.get(measure, measure)} A good training raises the line with audio where the audio is "
            "needed, without raising the line in silence; the gap between the lines is the contribution.</p>"
        )
        break
    return Section("Contribution", text + charts(figures)) if figures else None


_MEANING = {
    "ac_vote": "ac_vote is the probability, from the voters' silent answers alone, that a question needs the audio.",
    "ac_p": "ac_p is the change of the voters' share of right answers by the audio.",
}


def _counts(tally: Tally, name: str) -> list[int]:
    found = tally.states(name)
    return [int((found == place).sum()) for place in range(len(STATES))]


def _histogram(tally: Tally, values: np.ndarray, measure: str) -> str:
    edges = bin_edges(values, 16)
    labels = sorted({item.facts.get("label", "") for item in tally.items}, reverse=True)
    series = []
    for number, label in enumerate(labels):
        taken = np.array([item.facts.get("label", "") == label for item in tally.items])
        bins = in_bins(np.where(taken, values, np.nan), edges)
        counts = np.bincount(bins[bins >= 0], minlength=16)
        series.append(
            Series(label or "questions", colour_of(label, number), [(b, int(n)) for b, n in enumerate(counts) if n])
        )
    return columns(f"Questions by {measure}", edges.tolist(), series, measure)


def _by_bin(tally: Tally, values: np.ndarray, measure: str) -> list[str]:
    edges = bin_edges(values, 8)
    bins = in_bins(values, edges)
    figures = []
    for name in tally.paired:
        series = []
        for condition, colour in (("audio", "audio"), (tally.silent, "silence")):
            right = tally.of(name, condition)
            points, bands = [], []
            for b in range(len(edges) - 1):
                rows: Bools = (bins == b) & ~np.isnan(right)
                if rows.sum() >= _ENOUGH:
                    band = share_interval(right[rows], tally.cluster[rows])
                    points.append((float(edges[b] + edges[b + 1]) / 2, band[0]))
                    bands.append(band)
            series.append(Series("with audio" if condition == "audio" else "in silence", colour, points, bands))
        figures.append(
            lines(f"{name}: right answers by {measure}", series, measure, 0.0, 1.0, span=(edges[0], edges[-1]))
        )
    return figures


def answers_section(tally: Tally) -> Section | None:
    """Where picked options stood and what they said, beside the right ones, of every model in every condition."""
    figures, rows = [], []
    for voter, condition in tally.right:
        spread = tally.spread(voter, condition)
        if not spread["answers"]:
            continue
        places = list(spread["by_place"])
        series = [
            Series("picked", "s0", [(n, spread["by_place"][place]) for n, place in enumerate(places)]),
            Series("right", "silence", [(n, spread["right_by_place"][place]) for n, place in enumerate(places)]),
        ]
        figures.append(groups(f"{voter}, {condition}", places, series))
        for kind, texts in (("all", spread["by_text"]), *spread["by_kind"].items()):
            said = ", ".join(
                f"“{plain(words[:40])}” {percent(often)} <small>({percent(right)})</small>"
                for words, often, right in texts[:3]
            )
            rows.append(row_of([plain(voter), plain(condition), plain(kind), said]))
    if not figures:
        return None
    head = ("model", "heard", "questions of type", "most frequent answers (share of the right ones)")
    text = "<p>Where the picked options stood when they were shown, beside the right ones.</p>"
    return Section(
        "What is answered", text + charts(figures) + folded("Texts", table_of(head, rows, left=4)) + _outcomes(tally)
    )


def _outcomes(tally: Tally) -> str:
    """How many answers were right, wrong, unfinished, unreadable and missing."""
    rows = [
        row_of([plain(voter), plain(condition), *(f"{counts[kind]:,}" for kind in OUTCOMES)])
        for (voter, condition), counts in tally.outcomes.items()
    ]
    text = "<p>Accuracies are shares of all answers: what is unfinished, unreadable or missing is not right.</p>"
    return table_of(("model", "heard", *OUTCOMES), rows, "Outcomes", left=2) + text
