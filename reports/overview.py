"""The top of a page about models: did they learn, from hearing, and what did they lose? All from its questions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isnan
from typing import Any

import numpy as np

from ..curriculum.arrays import Bools, Floats
from ..curriculum.evaluation.changes import mean_interval, share_interval
from ..curriculum.statistics import holm, mcnemar
from .charts import Pair, charts, dumbbells, percent
from .page import folded, html_of, plain, points, row_of, share, table_of
from .records import Section, Verdict
from .tally import Tally

TITLES = {
    "all": "all questions",
    "label=weak": "labelled weak",
    "label=strong": "labelled strong",
    "label=unlabelled": "without a label",
    "planted=heard": "can only be heard (truth)",
    "planted=logic": "answered by logic (truth)",
    "planted=prior": "answered by habit (truth)",
    "planted=leaks": "leaks in the text (truth)",
}
_MAIN = ("set", "label", "planted")  # facts whose groups stand in the pictures


def title_of(group: str) -> str:
    """A group in words."""
    return TITLES.get(group, group.replace("=", ": ").replace("_", " "))


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Neighbours in the order of training, and the first with the last."""
    return list(pairwise(names)) + ([(names[0], names[-1])] if len(names) > 2 else [])


def verdicts(tally: Tally) -> list[Verdict]:
    """What stands at the top: of several models in the order of training what changed, of one what it knows."""
    names = tally.paired
    if not names:
        return [_known(tally, *asked) for asked in list(tally.right)[:3]]
    if len(names) == 1:
        return _of_one(tally, names[0])
    first, last = names[0], names[-1]
    return [_learnt(tally, first, last), _from_hearing(tally, first, last), _lost(tally, first, last)]


def _learnt(tally: Tally, first: str, last: str) -> Verdict:
    a, b, cluster = _matched(tally, tally.of(first, "audio"), tally.of(last, "audio"))
    change = mean_interval(b - a, cluster)
    because = f"Right with the audio on {percent(a.mean())} ({first}) and {percent(b.mean())} ({last}) of "
    return Verdict("Did it learn?", _points(change), because + f"the same {len(a):,} questions.", _tone(change))


def _from_hearing(tally: Tally, first: str, last: str) -> Verdict:
    parts = [tally.of(name, condition) for name in (first, last) for condition in ("audio", tally.silent)]
    a, s, b, t, cluster = _matched(tally, *parts)
    change, quiet = mean_interval((b - t) - (a - s), cluster), mean_interval(t - s, cluster)
    because = (
        f"The change of what the audio contributes, with it minus in silence: {points(mean_interval(a - s, cluster))} "
        f"before, {points(mean_interval(b - t, cluster))} now. Accuracy in silence changed by {points(quiet)}."
    )
    return Verdict("From hearing?", _points(change), because, _tone(change))


def _lost(tally: Tally, first: str, last: str) -> Verdict:
    a, b, _ = _matched(tally, tally.of(first, "audio"), tally.of(last, "audio"))
    knew, lost = int((a > 0.5).sum()), int(((a > 0.5) & (b <= 0.5)).sum())
    fell = [row for row in gains(tally) if row.names == (first, last) and row.holm < 0.05 and row.change[0] < 0]
    because = f"of {knew:,} that {first} had right with the audio, {last} has wrong. "
    because += (
        "Groups that fell: " + ", ".join(title_of(row.group) for row in fell) if fell else "No group of questions fell"
    )
    return Verdict("What did it lose?", _questions(lost), because + ".", "bad" if fell else "plain")


def _of_one(tally: Tally, name: str) -> list[Verdict]:
    a, s, cluster = _matched(tally, tally.of(name, "audio"), tally.of(name, tally.silent))
    heard = mean_interval(a - s, cluster)
    hears = f"With the audio minus in silence, where it is right on {percent(s.mean())}."
    hurts = f"of {len(a):,} it has right in silence and wrong with the audio."
    return [
        _known(tally, name, "audio"),
        Verdict("From hearing?", _points(heard), hears, _tone(heard)),
        Verdict("What does the audio spoil?", _questions(int(((a <= 0.5) & (s > 0.5)).sum())), hurts),
    ]


def _known(tally: Tally, name: str, condition: str) -> Verdict:
    """Accuracy under one condition beside the best constant answer, which it must beat to mean anything."""
    right, cluster = _matched(tally, tally.of(name, condition))
    value, best = share_interval(right, cluster), tally.constant(~np.isnan(tally.of(name, condition)))
    tone = "good" if value[1] > best else "bad" if value[2] < best else "unclear"
    because = f"{name}, {condition}: of {len(right):,} questions; the best constant answer is right on {percent(best)}."
    return Verdict("What does it know?", share(value), because, tone)


def _matched(tally: Tally, *columns: Floats) -> list[Any]:
    """The columns [N], and the recordings, of the questions that all were asked."""
    rows = np.all([~np.isnan(column) for column in columns], axis=0)
    return [*(column[rows] for column in columns), tally.cluster[rows]]


def _questions(count: int) -> str:
    return f"{count:,} question{'' if count == 1 else 's'}"


def _points(value: Sequence[float]) -> str:
    number, _, interval = points(value).partition(" [")
    return f"{number} points [{interval}"


def _tone(value: Sequence[float]) -> str:
    return "good" if value[1] > 0 else "bad" if value[2] < 0 else "unclear"


class Gain:
    """What changed between two models on a group: `change` with audio, `quiet` in silence, `heard` in contribution.

    names: before and after. gained, lost: questions. p, holm: McNemar's mid-p and the same for all tests of the page.
    """

    def __init__(self, tally: Tally, names: tuple[str, str], group: str, rows: Bools) -> None:
        self.names, self.group, self.holm = names, group, 1.0
        before, after = names
        a, b, cluster = _matched(
            tally, _within(tally.of(before, "audio"), rows), _within(tally.of(after, "audio"), rows)
        )
        self.count, self.change = len(a), mean_interval(b - a, cluster)
        self.gained, self.lost = int(((b > 0.5) & (a <= 0.5)).sum()), int(((a > 0.5) & (b <= 0.5)).sum())
        self.p = mcnemar(self.gained, self.lost)
        s, t, quiet = _matched(
            tally, _within(tally.of(before, tally.silent), rows), _within(tally.of(after, tally.silent), rows)
        )
        self.quiet = mean_interval(t - s, quiet)


def _within(values: Floats, rows: Bools) -> Floats:
    return np.where(rows, values, np.nan)


def gains(tally: Tally) -> list[Gain]:
    """Every pair of models on every group of questions, with p-values adjusted for their number (Holm)."""
    found = [Gain(tally, pair, group, rows) for pair in pairs_of(tally.paired) for group, rows in tally.groups.items()]
    found = [gain for gain in found if gain.count]
    for gain, p in zip(found, holm([gain.p for gain in found]), strict=True):
        gain.holm = p
    return found


def gain_section(tally: Tally) -> Section:
    """What changed from one model to the next; coloured only what holds for all tests of the page together."""
    every = gains(tally)
    main = [gain for gain in every if gain.group == "all" or gain.group.partition("=")[0] in _MAIN]
    rest = [gain for gain in every if gain not in main]
    text = (
        "<p>The same questions, paired; intervals of 95 % by recording. Green and red are changes that hold at 5 % for "
        f"all {len(every)} tests of these tables together (Holm), not one by one.</p>"
    )
    return Section(
        "What changed", text + _gain_table(main) + (folded("Other groups", _gain_table(rest)) if rest else "")
    )


def _gain_table(found: Sequence[Gain]) -> str:
    rows = []
    for gain in found:
        kind = "" if gain.holm >= 0.05 else "good" if gain.change[0] > 0 else "bad"
        change = html_of(points(gain.change))
        cells = [plain(" to ".join(gain.names)), plain(title_of(gain.group)), f"{gain.count:,}"]
        cells += [f'<b class="{kind}">{change}</b>' if kind else change]
        cells += ["-" if isnan(gain.quiet[0]) else html_of(points(gain.quiet)), f"{gain.gained:,}", f"{gain.lost:,}"]
        rows.append(row_of([*cells, f"{gain.p:.2g}", f"{gain.holm:.2g}"]))
    head = ("models", "questions", "n", "with audio, points", "in silence", "gained", "lost", "McNemar mid-p", "Holm")
    return table_of(head, rows, "What changed", left=2)


def accuracy_section(tally: Tally) -> Section:
    """Accuracy with the audio and in silence, of every model and main group, with what luck alone would give."""
    groups = {name: rows for name, rows in tally.groups.items() if name.partition("=")[0] in ("all", *_MAIN)}
    figures, table = [], []
    for group, rows in tally.groups.items():
        luck, even = tally.constant(rows), tally.guessing(rows)
        drawn = []
        for number, name in enumerate(tally.paired):
            a, s, cluster = _matched(
                tally, _within(tally.of(name, "audio"), rows), _within(tally.of(name, tally.silent), rows)
            )
            if not len(a):
                continue
            heard, quiet, gap = share_interval(a, cluster), share_interval(s, cluster), mean_interval(a - s, cluster)
            known = None if isnan(luck) else luck
            drawn.append(Pair(name, quiet, heard, known, f"{100 * gap[0]:+.0f} points"))
            cells = [plain(title_of(group)) if number == 0 else "", plain(name), f"{len(a):,}", html_of(share(heard))]
            cells += [html_of(share(quiet)), html_of(points(gap)), f"{int(((a <= 0.5) & (s > 0.5)).sum()):,}"]
            cells += ["-" if isnan(luck) else percent(luck), "-" if isnan(even) else percent(even)]
            table.append(row_of(cells, "sum" if number == 0 else ""))
        if group in groups and drawn:
            figures.append(dumbbells(f"{title_of(group)}, n = {int(rows.sum()):,}", drawn))
    head = ("questions", "model", "n", "with audio", "in silence", "contribution", "audio hurts")
    numbers = table_of(
        (*head, "best constant answer", "even guess"), table, "Accuracy with and without the audio", left=2
    )
    return Section(
        "With and without the audio",
        charts(figures) + _luck() + _constants(tally) + _weak(tally) + folded("Numbers", numbers),
    )


def conditions_section(tally: Tally) -> Section | None:
    """Accuracy under every condition, mismatched recordings and fragments too; None where the pairs say it all."""
    if set(tally.conditions) <= {"audio", tally.silent} and len(tally.paired) == len(tally.voters):
        return None
    rows = []
    for group, taken in tally.groups.items():
        if group.partition("=")[0] not in ("all", *_MAIN):
            continue
        for voter, condition in tally.right:
            right, cluster = _matched(tally, _within(tally.of(voter, condition), taken))
            if len(right):
                cells = [plain(title_of(group)), plain(voter), plain(condition), f"{len(right):,}"]
                rows.append(
                    row_of([*cells, html_of(share(share_interval(right, cluster))), percent(tally.constant(taken))])
                )
    head = ("questions", "model", "heard", "n", "right", "best constant answer")
    return Section("Every condition", table_of(head, rows, "Accuracy under every condition", left=3))


def _luck() -> str:
    return (
        '<p class="note">The dotted line is what luck gives on these very questions: the best constant answer, always '
        "the place, or for each type of question the text, that is right most often. The pale bar between the dots is "
        "the contribution of the audio.</p>"
    )


def _constants(tally: Tally) -> str:
    said = "".join(f"<br>{plain(text)}." for text in tally.constants())
    return (
        f'<p class="warning"><b>Constant answers.</b> Being right this way is no knowledge and no guessing of single '
        f"questions: the right ones among them are those that happen to have this answer.{said}</p>"
        if said
        else ""
    )


def _weak(tally: Tally) -> str:
    """Why the audio may contribute more to weak questions than to strong ones, where it does."""
    weak, strong = tally.groups.get("label=weak"), tally.groups.get("label=strong")
    if weak is None or strong is None or not tally.paired:
        return ""
    said = []
    for name in tally.paired[1:] or tally.paired:
        (a, s), (b, t) = (
            [float(np.nanmean(_within(tally.of(name, heard), rows))) for heard in ("audio", tally.silent)]
            for rows in (weak, strong)
        )
        if a - s > b - t:
            said.append(
                f"{plain(name)}: {percent(a)} - {percent(s)} = {100 * (a - s):+.1f} points against "
                f"{percent(b)} - {percent(t)} = {100 * (b - t):+.1f}"
            )
    if not said:
        return ""
    return (
        '<p class="note"><b>Why the audio contributes more to weak questions</b> than to strong ones '
        f"({'; '.join(said)}). This is no contradiction. “Weak” says that the voters, other models before this "
        "training, could do without the audio. The contribution says what this model does better with it than without: "
        "training on weak questions, heard with their recordings, teaches hearing too, and they are often the easier "
        "ones to hear.</p>"
    )
