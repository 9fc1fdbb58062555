"""Pages: an overview above an explorer of questions, in one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..boundary.files import made_folder, write_text
from ..errors import InputError
from .page import folded, heading, html_of, page_of, plain, seen, text_of
from .records import OUTCOMES, Item, Overview, Verdict
from .sounds import Sounds, gather

_KEYS = "<kbd>/</kbd> searches, <kbd>j</kbd> and <kbd>k</kbd> go on and back, <kbd>p</kbd> plays."


def write_page(
    path: str | Path,
    overview: Overview,
    items: Sequence[Item] = (),
    compare: Sequence[tuple[str, str]] = (),
    embed_mb: float = 40.0,
    beside_mb: float = 100.0,
) -> Path:
    """Writes the page; returns where it is.

    items: shown in the explorer; none leaves it out. compare: (before, after), pairs of voters whose changes can be
    filtered. embed_mb: megabytes of recordings inside the file, in the order of the items. beside_mb: further ones of
    shards, as files in a folder beside the page; beyond that they are left out and the page says so. Raises InputError
    where two items have one id.
    """
    target = Path(path)
    made_folder(target.parent)
    parts = [*_head(overview)]
    for section in overview.sections:
        parts += [heading(section.title), section.html]
    script, behind, media = "", "", "data:"
    if items:
        sounds = gather((item.audio for item in items if item.audio is not None), target, embed_mb, beside_mb)
        parts += [heading("Questions"), _explorer(items, compare, sounds)]
        script = text_of("explorer.js") + text_of("explorer_view.js")
        behind = "\n".join(
            f'<script type="text/plain" id="clip-{place}">{block}</script>' for place, block in sounds.blocks.items()
        )
        media = "data: 'self' file:" if sounds.linked else media
    if overview.about:
        made = json.dumps(overview.about, indent=1, default=str, ensure_ascii=False)
        parts += [heading("How it was made"), folded("Files, settings and versions", f"<pre>{plain(made)}</pre>")]
    write_text(target, page_of(overview.title, parts, script, behind, media))
    return target


def _head(overview: Overview) -> Iterable[str]:
    if overview.lead:
        yield f'<p class="lead">{plain(overview.lead)}</p>'
    if overview.verdicts:
        yield f'<div class="verdicts">{"".join(map(_verdict, overview.verdicts))}</div>'
    for text in overview.warnings:
        yield f'<p class="warning"><b>Warning.</b> {plain(text.rstrip("."))}.</p>'


def _verdict(verdict: Verdict) -> str:
    return (
        f'<section class="verdict {plain(verdict.tone)}"><h2>{plain(verdict.asks)}</h2>'
        f'<div class="says">{html_of(plain(verdict.says))}</div><p>{plain(verdict.because)}</p></section>'
    )


def _explorer(items: Sequence[Item], compare: Sequence[tuple[str, str]], sounds: Sounds) -> str:
    """The empty explorer and its data, which no text can end: < is written as an escape."""
    data = json.dumps(_data(items, compare, sounds), separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return f"""<p class="keys">{_KEYS}</p>
<noscript><p class="note">The questions are shown by a script of this page.</p></noscript>
<form id="x-form" role="search" aria-label="Filters"><div id="x-first"></div>
<details id="x-fold" open><summary>Filters and order</summary><div id="x-more"></div></details>
<button id="x-clear" type="button">Clear</button></form>
<p id="x-count" role="status"></p><p id="x-order"></p>
<div class="panes"><div id="x-list" role="listbox" tabindex="0" aria-label="Questions">
<div id="x-space" role="presentation"></div></div>
<article id="x-item" tabindex="-1" aria-label="The chosen question"></article></div>
<script type="application/json" id="questions-data">{data}</script>"""


def _data(items: Sequence[Item], compare: Sequence[tuple[str, str]], sounds: Sounds) -> dict[str, Any]:
    """What the explorer reads: names once, and of every question a list without names."""
    voters = _Names(reply.voter for item in items for reply in item.replies)
    conditions = _Names(reply.condition for item in items for reply in item.replies)
    facts = {name: _Names(()) for item in items for name in item.facts}
    numbers = list(dict.fromkeys(name for item in items for name in item.numbers))
    known: set[str] = set()
    rows = []
    for item in items:
        if item.id in known:
            raise InputError(f"two questions of the page have the id {item.id!r}; a link must lead to one of them")
        known.add(item.id)
        choices = [seen(choice) for choice in item.choices]
        rows.append(
            [
                seen(item.id),
                seen(item.question),
                choices,
                list(item.choices).index(str(item.answer)) if item.answer in item.choices else None,
                [names.at(item.facts.get(name, "")) for name, names in facts.items()],
                [_finite(item.numbers.get(name)) for name in numbers],
                -1 if item.audio is None else sounds.places[item.audio.id],
                [
                    [
                        *(voters.at(reply.voter), conditions.at(reply.condition), reply.rotation),
                        *(OUTCOMES.index(reply.outcome), *_said(reply.pick, reply.text, item.choices)),
                    ]
                    for reply in item.replies
                ],
            ]
        )
    return {
        "voters": voters.shown,
        "conditions": conditions.shown,
        "outcomes": OUTCOMES,
        "compare": [[voters.at(a), voters.at(b)] for a, b in compare],
        "facts": [{"name": seen(name), "values": names.shown} for name, names in facts.items()],
        "numbers": [seen(name) for name in numbers],
        "clips": sounds.clips,
        "items": rows,
    }


def _said(pick: str | None, text: str, choices: Sequence[str]) -> tuple[int | str, int | str]:
    """The pick as place of an option, -1 for none; the text, 0 where it is the pick."""
    place: int | str = -1 if pick is None else choices.index(pick) if pick in choices else seen(pick)
    return place, 0 if text == (pick or "") else seen(text)


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


class _Names:
    """Texts by their numbers, in the order they come; "" is -1."""

    def __init__(self, names: Iterable[str]) -> None:
        self._places: dict[str, int] = {}
        for name in names:
            self.at(name)

    def at(self, name: str) -> int:
        """The number of a text."""
        return self._places.setdefault(name, len(self._places)) if name else -1

    @property
    def shown(self) -> list[str]:
        """The texts in order."""
        return [seen(name) for name in self._places]
