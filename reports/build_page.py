"""The page of a build: the funnel, composition beside the paper's, canaries, the text-only probe, examples to hear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..boundary.files import write_text
from .page import page_of, row_of, table_of


def build_page(funnel: Mapping[str, Any], examples: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Writes the page and returns its path.

    funnel: as in funnel.json. examples: question, choices, answer, why (kept, or the reason), key, and `sound`, an
    address of the recording for the browser, "" for none.
    """
    parts = [f"<p class=lead>{funnel['composition']['questions']:,} questions.</p>", "<h2>Funnel</h2>"]
    parts += [_stages(funnel["stages"]), "<h2>Composition, beside AudioMCQ's</h2>"]
    for name in ("by_source", "by_type"):
        parts.append(_beside(name.removeprefix("by_"), funnel["composition"][name]))
    parts += ["<h2>Answers in the text</h2>", _balance(funnel["composition"])]
    if funnel["probe"]:
        parts += ["<h2>Answered without the audio</h2>", _probe(funnel["probe"])]
    parts += ["<h2>What the grader catches</h2>", _canaries(funnel["canaries"])]
    parts += ["<h2>Cost of all runs</h2>", _cost(funnel["cost"]), "<h2>Examples</h2>", *map(_example, examples)]
    write_text(path, page_of("Questions built", parts))
    return path


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for stage in stages:
        dropped = "<br>".join(f"{escape(reason)}: {count:,}" for reason, count in stage["dropped"].items())
        rows.append(row_of([escape(stage["stage"]), f"{stage['in']:,}", f"{stage['kept']:,}", dropped or "-"]))
    return table_of(("stage", "in", "kept", "dropped"), rows)


def _beside(what: str, counts: Mapping[str, Sequence[int]]) -> str:
    """Counts and shares of what was built, and of the paper."""
    ours, theirs = (max(1, sum(pair[place] for pair in counts.values())) for place in (0, 1))
    rows = [
        row_of([escape(name), f"{a:,}", f"{100 * a / ours:.1f} %", f"{b:,}", f"{100 * b / theirs:.1f} %"])
        for name, (a, b) in counts.items()
    ]
    return table_of((what, "built", "share", "AudioMCQ", "share"), rows)


def _balance(composition: Mapping[str, Any]) -> str:
    count = max(1, composition["questions"])
    places = [f"{100 * places / count:.1f} %" for places in composition["places"]]
    table = table_of(("", "first", "second", "third", "fourth"), [row_of(["answer's place", *places])])
    return f"{table}<p>The answer alone is the longest option in {100 * composition['longest'] / count:.1f} %.</p>"


def _probe(probe: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        row_of([escape(name), f"{row['probed']:,}", f"{100 * row['accuracy']:.1f} %", f"{row['fell']:,}"])
        for name, row in probe.items()
    ]
    return table_of(("questions", "probed", "right, of all orders (chance 25 %)", "fall"), rows)


def _canaries(caught: Mapping[str, Any]) -> str:
    if not caught:
        return "<p class=warning>No canaries: what a grade is worth is not known.</p>"
    dimensions = list(next(iter(caught.values()))["by"])
    rows = []
    for kind, row in caught.items():
        graded = max(1, row["graded"])
        by = [f"{100 * row['by'][name] / graded:.0f} %" for name in dimensions]
        rows.append(row_of([escape(kind), f"{row['graded']:,}", f"{100 * row['caught'] / graded:.0f} %", *by]))
    return table_of(("planted fault", "graded", "caught", *(name.replace("_", " ") for name in dimensions)), rows)


def _cost(cost: Mapping[str, Mapping[str, Any]]) -> str:
    names = ("answers", "prompt", "completion", "money")
    rows = [row_of([escape(role), escape(row["model"]), *(f"{row[n]:,}" for n in names)]) for role, row in cost.items()]
    return table_of(("role", "model", "answers", "tokens in", "tokens out", "money"), rows)


def _example(example: Mapping[str, Any]) -> str:
    right = example["answer"]
    options = "".join(f"<li>{f'<b>{escape(o)}</b>' if o == right else escape(o)}</li>" for o in example["choices"])
    sound = f'<audio controls src="{escape(example["sound"])}"></audio>' if example["sound"] else ""
    head = f"<b>{escape(example['question'])}</b> <small>{escape(example['key'])}: {escape(example['why'])}</small>"
    return f"<p>{head}<ul>{options}</ul>{sound}</p>"
