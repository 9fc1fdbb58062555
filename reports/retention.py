"""What every stage kept: accuracy with the audio before and after it, on weak, strong and all questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..curriculum.evaluation.changes import mean_interval, share_interval
from .overview import title_of
from .page import html_of, plain, points, row_of, share, table_of
from .records import Section
from .tally import Tally

GROUPS = ("label=weak", "label=strong", "all")
Interval = Sequence[float]  # a number in [0, 1] or [-1, 1] with the ends of its 95 % interval


@dataclass(frozen=True)
class Kept:
    """One group of questions over one stage: shares of right answers `before` and `after`, and their paired change.

    stage: in words, like "SFT to GRPO". group: as `title_of` takes it. questions: how many.
    """

    stage: str
    group: str
    questions: int
    before: Interval
    after: Interval
    change: Interval

    @property
    def lost(self) -> bool:
        """Whether the whole interval of the change lies below zero."""
        return self.change[2] < 0

    def warning(self) -> str:
        """A sentence for a group that was lost."""
        _, low, high = self.change
        return (
            f"{self.stage}: the questions “{title_of(self.group)}” fell by {-100 * self.change[0]:.1f} points "
            f"[{-100 * high:.1f}, {-100 * low:.1f}], from {100 * self.before[0]:.1f} to {100 * self.after[0]:.1f} %; "
            "whatever this stage gained elsewhere, it lost this."
        )


def kept_in_results(result: Mapping[str, Any]) -> list[Kept]:
    """Of the models of a `results.json`, in the order of training."""
    changes = {(gain["from"], gain["to"], gain["group"]): gain["difference"] for gain in result["gains"]}
    found = []
    for before, after in pairwise(result["models"]):
        for group in GROUPS:
            if (change := changes.get((before, after, group))) is not None:
                a, b = (result["models"][name][group] for name in (before, after))
                found.append(Kept(f"{before} to {after}", group, a["questions"], a["audio"], b["audio"], change))
    return found


def kept_in(tally: Tally) -> list[Kept]:
    """Of the models of a page, in the order of training, by their answers to the questions that both were asked."""
    found = []
    for before, after in pairwise(tally.paired):
        a, b = tally.of(before, "audio"), tally.of(after, "audio")
        for group in GROUPS:
            if group not in tally.groups:
                continue
            rows = tally.groups[group] & ~np.isnan(a) & ~np.isnan(b)
            if rows.any():
                cluster = tally.cluster[rows]
                numbers = share_interval(a[rows], cluster), share_interval(b[rows], cluster)
                change = mean_interval(b[rows] - a[rows], cluster)
                found.append(Kept(f"{before} to {after}", group, int(rows.sum()), *numbers, change))
    return found


def kept_in_log(stage: str, log: Mapping[str, Sequence[tuple[int, float]]]) -> list[Kept]:
    """Of the validation before a stage's first step and the last one, as its log has them; [] for logs of before."""
    found = []
    for group in GROUPS:
        name = group.partition("=")[2] or "all"
        values = {}
        for kind in (f"accuracy/audio/{name}", f"change/audio/{name}"):
            values[kind] = [log.get(f"val/{kind}{end}", ()) for end in ("", "/low", "/high")]
        accuracy, change = values.values()
        if all(change) and all(accuracy) and len(change[0]) > 1:
            before, after = ([series[place][1] for series in accuracy] for place in (0, -1))
            found.append(Kept(stage, group, 0, before, after, [series[-1][1] for series in change]))
    return found


def retention_table(kept: Sequence[Kept]) -> str:
    """The table of some stages, those changes red or green whose interval does not hold zero."""
    rows = []
    for one in kept:
        kind = "bad" if one.lost else "good" if one.change[1] > 0 else ""
        change = html_of(points(one.change))
        cells = [plain(one.stage), plain(title_of(one.group))]
        cells += [f"{one.questions:,}"] if one.questions else []
        cells += [html_of(share(one.before)), html_of(share(one.after))]
        rows.append(row_of([*cells, f'<b class="{kind}">{change}</b>' if kind else change]))
    number = ("n",) if any(one.questions for one in kept) else ()
    return table_of(("stage", "questions", *number, "before", "after", "change, points"), rows, "Retention", left=2)


def retention_section(kept: Sequence[Kept]) -> Section | None:
    """What every stage kept, with a sentence for each group that it lost; None for one model."""
    if not kept:
        return None
    said = "".join(f'<p class="warning">{plain(one.warning())}</p>' for one in kept if one.lost)
    text = (
        "<p>Right answers with the audio, before and after each stage: the same questions, paired; intervals of 95 %, "
        "each for itself. A stage that trains on some questions may lose the others, and the whole.</p>"
    )
    return Section("What each stage kept", said + text + retention_table(kept))
