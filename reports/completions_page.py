"""The page of a step's completions: each question with its options and what the policy said, best first."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
h1{font-size:1.3rem} section{border-top:1px solid #d5dae0;padding:.8rem 0} .meta{color:#5b6570;font-size:.85rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin-top:.4rem} td,th{text-align:left;padding:.2rem .5rem}
th{color:#5b6570;font-weight:500;border-bottom:1px solid #d5dae0}
td.n{text-align:right;font-variant-numeric:tabular-nums}
td.said{font-family:ui-monospace,monospace;white-space:pre-wrap;word-break:break-word;width:60%}
.up td:first-child{border-left:4px solid #1a7f5a} .down td:first-child{border-left:4px solid #c4453c}
.flat td:first-child{border-left:4px solid #b8c0c8} b.right{color:#1a7f5a} .cut{color:#9a6700}
"""


def completions_page(rows: list[dict[str, Any]], prompts: int) -> str:
    """HTML: each question with its options and its group, best first; green was worth more than the group's mean.

    Questions that taught something come first; completions with the same words and reward are one line.
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["uid"], row["key"]), []).append(row)
    shown = sorted(groups.values(), key=lambda group: all(row["advantage"] == 0 for row in group))[:prompts]
    step = rows[0]["step"] if rows else 0
    body = "".join(_section(group) for group in shown)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Completions, step {step}</title>"
        f"<style>{_STYLE}</style><h1>Completions of step {step}</h1>"
        f"<p class='meta'>{len(shown)} of {len(groups)} questions, those that taught something first. Green: worth "
        f"more than the mean of its group, red: less, grey: nothing to learn.</p>{body}</html>"
    )


def _section(group: list[dict[str, Any]]) -> str:
    first = group[0]
    choices = " &middot; ".join(
        f"<b class='right'>{escape(choice)}</b>" if choice == first["answer"] else escape(choice)
        for choice in first["choices"]
    )
    meta = [first["label"] or "unlabelled", escape(first["key"])]
    if first["silence"] is not None:
        meta.append(f"right in silence {first['silence']:.2f}")
    if not first["kept"]:
        meta.append("not trained on: no advantage")
    names = [name for name, _ in first["parts"]]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("said", *names, "reward", "advantage", "tokens"))
    ordered = sorted(group, key=lambda row: -(row["reward"] if row["reward"] is not None else float("-inf")))
    same: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in ordered:
        same.setdefault((row["completion"], row["reward"], row["finished"]), []).append(row)
    lines = "".join(_line(alike[0], len(alike)) for alike in same.values())
    return (
        f"<section><div>{escape(first['question'])}</div><div>{choices}</div>"
        f"<div class='meta'>{' | '.join(meta)}</div><table><tr>{head}</tr>{lines}</table></section>"
    )


def _line(row: dict[str, Any], times: int) -> str:
    kind = "flat" if row["advantage"] == 0 else "up" if row["advantage"] > 0 else "down"
    cut = "" if row["finished"] else " <span class='cut'>(cut)</span>"
    values = [*(value for _, value in row["parts"]), row["reward"], row["advantage"]]
    cells = "".join(f"<td class='n'>{'&ndash;' if value is None else f'{value:.2f}'}</td>" for value in values)
    said = escape(row["completion"]) or "<span class='meta'>nothing</span>"
    often = f" <span class='meta'>&times; {times}</span>" if times > 1 else ""
    return (
        f"<tr class='{kind}'><td class='said'>{said}{cut}{often}</td>{cells}<td class='n'>{row['num_tokens']}</td></tr>"
    )
