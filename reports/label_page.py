"""The report of a labelling job: one self-contained HTML file with tables, pictures, and questions to hear."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..curriculum.table import read_arrow
from ..datamodules.audio.waves import wav_bytes
from ..datamodules.shards.reader import ShardReader
from ..errors import InputError
from . import figures
from .page import html_of, page_of, points, row_of, share, table_of

_EXAMPLES = 3


def build_jury_page(
    jury: Mapping[str, Any], reader: ShardReader, labels: Path, answers: Mapping[str, str], out: Path
) -> Path:
    """Writes the page; returns where it is.

    jury: what `describe_jury` returns, with title, about and perhaps categories. reader: of the index. labels: the
    label table. answers: voter -> its answer table, for the examples.
    """
    parts = [f'<p class="warning"><b>Warning.</b> {escape(text)}.</p>' for text in jury["warnings"]]
    parts += [f'<p class="lead">{_lead(jury)}</p>']
    parts += ["<h2>The voters without the audio</h2>", _voters(jury), _verdicts(jury), _pairs(jury)]
    if jury.get("picks"):
        parts += ["<h2>What the voters answer</h2>", _where(jury), figures.picks(jury["picks"]), _texts(jury["picks"])]
    parts += ["<h2>How sure a label is</h2>", _sure(jury), figures.histogram(jury["ac_vote"], "P(audio required)")]
    if "audio" in jury:
        parts += ["<h2>With and without the audio</h2>", _squares(jury["audio"]), _tests(jury["audio"])]
        for name, row in jury["audio"].items():
            parts.append(figures.histogram(row["ac_p"], f"change by the audio: {name}"))
    parts += ["<h2>What the label says of a question</h2>", _about(jury)]
    if "categories" in jury:
        parts += ["<h2>Why weak questions need no audio</h2>", _categories(jury["categories"])]
    parts += ["<h2>Examples</h2>", _examples(reader, labels, answers, jury["condition"])]
    parts += ["<h2>How it was made</h2>", f"<pre>{escape(json.dumps(jury['about'], indent=1))}</pre>"]
    out.write_text(page_of(jury["title"], parts), encoding="utf-8")
    return out


def _lead(jury: Mapping[str, Any]) -> str:
    """The sentence under the heading: how many are weak, by which rule, and what luck alone would give."""
    counts, dealt = jury["counts"], jury.get("expected_weak_if_dealt")
    text = (
        f"Of {jury['questions']:,} questions, {counts['weak']:,} were answered without the audio (weak) and "
        f"{counts['strong']:,} were not (strong), by the rule “{escape(jury['rule'])}” under the condition "
        f"“{escape(jury['condition'])}”: {share(jury['weak'])} weak. Independent luck, right as often as the place "
        f"where most right answers stand, would make {100 * jury['expected_weak_by_luck']:.1f} % weak"
    )
    text += f"; these answers, had the right ones been dealt anew, {_percent(dealt)}." if _known(dealt) else "."
    return text + (f" {counts['unlabelled']:,} have no label." if counts["unlabelled"] else "")


def _voters(jury: Mapping[str, Any]) -> str:
    """A row per voter: how often it was asked and right without the audio, and what hangs on it."""
    rows = []
    for voter in jury["voters"]:
        name = voter["voter"]
        cells = [escape(name), f"{voter['asked']:,}", f"{voter['missing']:,}", _percent(voter["accuracy"])]
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
        text += f" No skill is claimed for {escape(', '.join(without))}: "
        text += "not shown to be right more often than the best constant answer."
    if len(jury["voters"]) == 1:
        text += " One voter alone does not tell its skill from the share of solvable questions."
    return text


def _verdicts(jury: Mapping[str, Any]) -> str:
    """A line per voter and condition: how many answers were right, wrong, unfinished and unreadable."""
    lines = []
    for name, of_voter in jury.get("verdicts", {}).items():
        for condition, counts in of_voter.items():
            said = ", ".join(f"{count:,} {escape(kind)}" for kind, count in counts.items())
            lines.append(f"<br>{escape(name)}, {escape(condition)}: {said}")
    return f"<p>Answers; unfinished and unreadable ones are missing votes.{''.join(lines)}</p>" if lines else ""


def _pairs(jury: Mapping[str, Any]) -> str:
    """How far the voters agree, by pairs and together."""
    agreement, constant = jury["agreement"], jury.get("constant", [])
    kept = len(jury["voters"]) - len(constant)
    if len(jury["voters"]) == 1:
        return "<p>One voter agrees with nobody: there are no kappas.</p>"
    rows = [row_of([escape(pair), _number(kappa)]) for pair, kappa in agreement["cohen"].items()]
    text = f"{escape(', '.join(constant))} left out: constant answers agree, but not on questions. " if constant else ""
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
        f"{p['answers']:,} answers of {escape(name)} to {p['questions']:,} questions"
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
                f"“{escape(text[:40])}” {_percent(n)} <small>({_percent(right)})</small>" for text, n, right in texts
            ]
            rows.append(row_of([escape(name), escape(kind), ", ".join(said[:3])]))
    return table_of(("voter", "questions of type", "most frequent answers (share of the right ones)"), rows)


def _sure(jury: Mapping[str, Any]) -> str:
    """What the latent classes say, above their histogram."""
    if len(jury["voters"]) == 1:
        return "<p>With one voter the picture has only as many bars as there are shares of right answers.</p>"
    return (
        f"<p>Two latent classes find {100 * jury['latent']['solvable']:.1f} % solvable without the audio. The "
        "probability that a question needs it orders questions more finely than the number of right votes.</p>"
    )


def _squares(audio: Mapping[str, Any]) -> str:
    """A row per voter: questions right with the audio, in silence, both, neither."""
    head = ("voter", "right both ways", "with audio alone", "in silence alone (audio hurts)", "never")
    cells = ("both", "audio_only", "silence_only", "neither")
    rows = [row_of([escape(name), *(f"{row[cell]:,}" for cell in cells)]) for name, row in audio.items()]
    return table_of(head, rows)


def _tests(audio: Mapping[str, Any]) -> str:
    """A row per voter: accuracies, the contribution of the audio, and its tests."""
    rows = []
    for name, row in audio.items():
        cells = [escape(name), html_of(share(row["audio"])), html_of(share(row["silence"]))]
        cells += [html_of(points(row["contribution"]))]
        cells += [_number(row["audio_above_chance"]), _number(row["silence_above_chance"])]
        cells += [_number(row[key], ".2g") for key in ("mcnemar_exact_p", "mcnemar_mid_p", "mcnemar_holm_p")]
        rows.append(row_of(cells))
    head = ("voter", "with audio", "in silence", "contribution, by recording", "audio above best constant")
    return table_of((*head, "silence above best constant", "McNemar", "mid-p", "Holm"), rows)


def _about(jury: Mapping[str, Any]) -> str:
    """What the label shares with columns of the index, in bits, and how many options the questions have."""
    rows = [
        row_of([escape(name.replace("_", " ")), _number(m["bits"]), _percent(m["share_of_label_entropy"])])
        for name, m in jury["says_about"].items()
    ]
    options = ", ".join(f"{count:,} with {k}" for k, count in jury["num_choices"].items())
    head = ("of the question", "mutual information with the label, bits", "share of the label's entropy")
    return table_of(head, rows) + f"<p>Options: {options}.</p>"


def _categories(judged: Mapping[str, Any]) -> str:
    """The judge's counts of why weak questions need no audio."""
    rows = [row_of([escape(name), f"{count:,}"]) for name, count in judged["counts"].items()]
    rows.append(row_of(["undecided", f"{judged['undecided']:,}"]))
    text = f"Judged by {escape(judged['judge'])} from the text alone, by a procedure of this project."
    return table_of(("category", "weak questions"), rows) + f"<p>Implicit: {share(judged['implicit'])}. {text}</p>"


def _examples(reader: ShardReader, labels: Path, answers: Mapping[str, str], condition: str) -> str:
    """The clearest weak and strong questions, with what every voter said without the audio."""
    table = read_arrow(labels)
    uid, name = table.column("uid").to_numpy(), table.column("label").to_pylist()
    required = np.nan_to_num(table.column("ac_vote").to_numpy(), nan=0.5)
    row_with = {int(u): row for row, u in enumerate(reader.numbers["uid"].tolist())}
    said = {voter: _said(path, condition) for voter, path in answers.items()}
    parts = []
    for label, order in (("weak", np.argsort(required)), ("strong", np.argsort(-required))):
        shown = [place for place in order.tolist() if name[place] == label][:_EXAMPLES]
        parts += [f"<h3>{label}</h3>"] if shown else []
        for place in shown:
            parts.append(_example(reader, row_with[int(uid[place])], said, float(required[place])))
    return "\n".join(parts)


def _said(path: str, condition: str) -> dict[int, str]:
    """uid -> what a voter said first under the condition."""
    table = read_arrow(path)
    if "raw" not in table.column_names:  # what a voter said is not kept everywhere
        return {}
    texts: dict[int, str] = {}
    columns = [table.column(name).to_pylist() for name in ("uid", "condition", "raw")]
    for uid, asked, raw in zip(*columns, strict=True):
        if asked == condition:
            texts.setdefault(uid, raw or "")
    return texts


def _example(reader: ShardReader, row: int, said: Mapping[str, Mapping[int, str]], required: float) -> str:
    """One question with its options, the right one in bold, its recording to play, and the voters' words."""
    question = reader.question(row)
    options = "".join(
        f"<li><b>{escape(choice)}</b></li>" if choice == question.answer else f"<li>{escape(choice)}</li>"
        for choice in question.choices
    )
    votes = "; ".join(f"{escape(name)}: “{escape(texts.get(question.uid, '-')[:80])}”" for name, texts in said.items())
    try:
        sound = base64.b64encode(wav_bytes(reader.wave(row))).decode()
        player = f'<audio controls src="data:audio/wav;base64,{sound}"></audio>'
    except InputError as error:
        player = f"<small>{escape(str(error))}</small>"
    return (
        f"<p><b>{escape(question.question)}</b> <small>{escape(question.key)}, P(audio required) {required:.2f}</small>"
        f"<ul>{options}</ul>{player}<br><small>without the audio, {votes}</small></p>"
    )
