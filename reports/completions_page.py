"""The page of a step's completions: each question with its options and what the policy said, best first."""

from __future__ import annotations

from typing import Any

from .page import page_of, plain, row_of, table_of


def completions_page(rows: list[dict[str, Any]], prompts: int) -> str:
    """HTML: each question with its options and its group, best first; green was worth more than the group's mean.

    Questions that taught something come first; completions with the same words and reward are one line.
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["uid"], row["key"]), []).append(row)
    shown = sorted(groups.values(), key=lambda group: all(row["advantage"] == 0 for row in group))[:prompts]
    step = rows[0]["step"] if rows else 0
    lead = (
        f'<p class="lead">{len(shown)} of {len(groups)} questions, those that taught something first. Green: worth '
        "more than the mean of its group, red: less, grey: nothing to learn.</p>"
    )
    return page_of(f"Completions of step {step}", [lead, *(_section(group) for group in shown)])


def _section(group: list[dict[str, Any]]) -> str:
    first = group[0]
    choices = " &middot; ".join(
        f'<b class="good">{plain(choice)}</b>' if choice == first["answer"] else plain(choice)
        for choice in first["choices"]
    )
    meta = [plain(first["label"] or "unlabelled"), plain(first["key"])]
    if first["silence"] is not None:
        meta.append(f"right in silence {first['silence']:.2f}")
    if not first["kept"]:
        meta.append("not trained on: no advantage")
    names = [name for name, _ in first["parts"]]
    head = [plain(name) for name in ("said", *names, "reward", "advantage", "tokens")]
    ordered = sorted(group, key=lambda row: -(row["reward"] if row["reward"] is not None else float("-inf")))
    same: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in ordered:
        same.setdefault((row["completion"], row["reward"], row["finished"]), []).append(row)
    lines = [_line(alike[0], len(alike)) for alike in same.values()]
    return (
        f"<section><h3>{plain(first['question'])}</h3><p>{choices}<br><small>{' | '.join(meta)}</small></p>"
        f"{table_of(head, lines)}</section>"
    )


def _line(row: dict[str, Any], times: int) -> str:
    kind = "flat" if row["advantage"] == 0 else "up" if row["advantage"] > 0 else "down"
    cut = "" if row["finished"] else ' <small class="doubt">(cut)</small>'
    values = [*(value for _, value in row["parts"]), row["reward"], row["advantage"]]
    numbers = ["-" if value is None else f"{value:.2f}" for value in values]
    said = plain(row["completion"]) or "<small>nothing</small>"
    often = f" <small>&times; {times}</small>" if times > 1 else ""
    return row_of([f'<span class="said">{said}</span>{cut}{often}', *numbers, str(row["num_tokens"])], kind)
