"""The page of models from their answers alone: accuracy, changes, moves, contribution, and every question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .contribution import answers_section, contribution_section, moves_section
from .overview import accuracy_section, conditions_section, gain_section, pairs_of, verdicts
from .pages import write_page
from .records import Item, Overview, Section
from .retention import kept_in, retention_section
from .tally import Tally


def write_model_page(
    path: str | Path,
    title: str,
    items: Sequence[Item],
    lead: str = "",
    warnings: Sequence[str] = (),
    sections: Sequence[Section] = (),
    about: Mapping[str, object] | None = None,
    votes: Sequence[Item] | None = None,
    embed_mb: float = 40.0,
) -> Path:
    """Writes the page of one model, or of several in the order of training; returns where it is.

    items: the questions with the models' answers; facts `set`, `label` and `planted` have pictures of their own.
    sections: what else is known, shown behind. votes: the items again with answers of others, like voters, which the
    explorer shows and nothing counts. embed_mb: see `write_page`.
    """
    tally = Tally(items)
    found = [accuracy_section(tally)] if tally.paired else []
    retention = retention_section(kept_in(tally))
    found = [*([] if retention is None else [retention]), *found]
    found += [gain_section(tally)] if len(tally.paired) > 1 else []
    further = (moves_section(tally), contribution_section(tally), conditions_section(tally), answers_section(tally))
    found += [section for section in further if section is not None]
    overview = Overview(title, lead, verdicts(tally), warnings, [*found, *sections], about or {})
    shown = items if votes is None else votes
    return write_page(path, overview, shown, pairs_of(tally.paired), embed_mb)
