"""The funnel of a build as JSON: what came in, what was kept, what was dropped by reason, source and type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ...curriculum.preview.synthetic import SOURCES
from ..asking.runner import Asker
from .balance import Placed, is_longest
from .stages import Stages

# Of 571,118 questions of AudioMCQ, from its figure of statistics.
TYPES = {"speech": 268_299, "sound": 223_126, "music": 46_373, "temporal": 33_320}


def funnel_of(stages: Stages) -> list[dict[str, Any]]:
    """One entry a stage: in, kept, dropped by reason, and the same by source and by type.

    What one stage keeps is what the next takes in.
    """
    found = []
    for name, entry in stages.done.items():
        dropped: Counter[str] = Counter()
        groups: dict[str, dict[str, dict[str, int]]] = {"source": {}, "type": {}}
        for reason, source, kind, count in entry["counts"]:
            if reason:
                dropped[reason] += count
            for by, value in (("source", source), ("type", kind)):
                row = groups[by].setdefault(value, {"in": 0, "kept": 0})
                row["in"] += count
                row["kept"] += 0 if reason else count
        found.append(
            {"stage": name, "in": entry["in"], "kept": entry["kept"], "dropped": dict(dropped.most_common())}
            | {f"by_{by}": values for by, values in groups.items()}
        )
    return found


class Composition:
    """Counts of what was written: by source and type, of places of the answer, of longest options."""

    def __init__(self) -> None:
        self.by_source: Counter[str] = Counter()
        self.by_type: Counter[str] = Counter()
        self.places: Counter[int] = Counter()
        self.longest = self.count = 0

    def counted(self, placed: Iterable[Placed]) -> Iterable[Placed]:
        """The same records, counted as they go by."""
        for one in placed:
            self.count += 1
            self.by_source[one.draft.item.source] += 1
            self.by_type[one.draft.type] += 1
            self.places[one.choices.index(one.draft.answer)] += 1
            self.longest += is_longest(one.draft)
            yield one

    def record(self) -> dict[str, Any]:
        """The counts as JSON, beside those of the paper."""
        paper = {"TACOS": "TACOS"} | {name: name for name in SOURCES}
        return {
            "questions": self.count,
            "by_source": {n: [self.by_source[n], SOURCES.get(n, 0)] for n in sorted({*self.by_source, *paper})},
            "by_type": {n: [self.by_type[n], TYPES.get(n, 0)] for n in sorted({*self.by_type, *TYPES})},
            "places": [self.places[place] for place in range(4)],
            "longest": self.longest,
        }


def cost_of(askers: Mapping[str, Asker]) -> dict[str, Any]:
    """Role -> model, answers, tokens and money of all runs together."""
    found: dict[str, Any] = {}
    for role, asker in askers.items():
        tokens = asker.ledger.tokens
        money = asker.model.cost(tokens.prompt, tokens.completion)
        found[role] = {"model": asker.model.model, **tokens._asdict(), "money": round(money, 4)}
    return found
