"""Knows how labels are told: one self-contained HTML file with the jury's tables, pictures, and samples to hear."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from ..curriculum.table import read_arrow
from ..datamodules.audio.waves import wav_bytes
from ..datamodules.shards.reader import ShardReader
from ..datamodules.storage.files import Reading
from ..errors import InputError
from . import figures
from .run_page import CSS, html_of, points, share, table_of

_EXAMPLES = 3


def build_jury_page(found: Mapping[str, Any], job: Any, answers: Mapping[str, str], out: Path) -> Path:
    """Writes the page of what `describe_jury` found."""
    parts = [f"<h1>{escape(found['title'])}</h1>", f'<p class="lead">{_lead(found)}</p>']
    parts += ["<h2>The voters without the audio</h2>", _voters(found), _pairs(found)]
    parts += ["<h2>How sure a label is</h2>", _sure(found), figures.histogram(found["ac_vote"], "P(audio required)")]
    if "audio" in found:
        parts += ["<h2>With and without the audio</h2>", _squares(found["audio"]), _tests(found["audio"])]
        merged = [
            figures.histogram(row["ac_p"], f"change by the audio: {name}") for name, row in found["audio"].items()
        ]
        parts += merged
    parts += ["<h2>What the label says of a question</h2>", _about(found)]
    if "categories" in found:
        parts += ["<h2>Why weak questions need no audio</h2>", _categories(found["categories"])]
    parts += ["<h2>Examples</h2>", _examples(job, answers)]
    parts += ["<h2>How it was made</h2>", f"<pre>{escape(_made(found))}</pre>"]
    head = f'<meta charset="utf-8"><title>{escape(found["title"])}</title><style>{CSS}</style>'
    body = "\n".join(parts)
    out.write_text(
        f"<!doctype html><html lang=en><head>{head}</head><body>\n{body}\n</body></html>\n", encoding="utf-8"
    )
    return out


def _lead(found: Mapping[str, Any]) -> str:
    counts = found["counts"]
    text = (
        f"Of {found['questions']:,} questions, {counts['weak']:,} can be answered without the audio (weak) and "
        f"{counts['strong']:,} cannot (strong), by the rule “{escape(found['rule'])}” under the condition "
        f"“{escape(found['condition'])}”: {share(found['weak'])} weak. Guessing alone would make "
        f"{100 * found['expected_weak_by_luck']:.1f} % weak."
    )
    return text + (f" {counts['unlabelled']:,} have no label." if counts["unlabelled"] else "")


def _voters(found: Mapping[str, Any]) -> str:
    rows = []
    for voter in found["voters"]:
        name = voter["voter"]
        cells = [escape(name), f"{voter['asked']:,}", f"{voter['missing']:,}", _percent(voter["accuracy"])]
        cells += [_number(voter["above_chance"]), _number(found["latent"]["skill"][name] if voter["asked"] else nan)]
        cells += [_percent(found["flips"][name])]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ("voter", "asked", "missing", "right", "above chance", "skill on solvable", "labels that flip without it")
    return table_of(head, rows)


def _pairs(found: Mapping[str, Any]) -> str:
    agreement = found["agreement"]
    rows = [f"<tr><td>{escape(pair)}</td><td>{_number(kappa)}</td></tr>" for pair, kappa in agreement["cohen"].items()]
    text = (
        f"Fleiss' kappa {_number(agreement['fleiss'])}; these voters are worth "
        f"{_number(agreement['effective_voters'], '.2f')} independent ones."
    )
    return (table_of(("pair", "Cohen's kappa"), rows) if rows else "") + f"<p>{text}</p>"


def _number(value: float, form: str = ".3f") -> str:
    return "-" if value != value else format(value, form)


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f} %"


def _sure(found: Mapping[str, Any]) -> str:
    return (
        f"<p>Two latent classes find {100 * found['latent']['solvable']:.1f} % solvable without the audio. The "
        "probability that a question needs it orders questions more finely than the number of right votes.</p>"
    )


def _squares(audio: Mapping[str, Any]) -> str:
    head = ("voter", "right both ways", "with audio alone", "in silence alone (audio hurts)", "never")
    rows = [
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{row[key]:,}</td>" for key in ("both", "audio_only", "silence_only", "neither"))
        + "</tr>"
        for name, row in audio.items()
    ]
    return table_of(head, rows)


def _tests(audio: Mapping[str, Any]) -> str:
    rows = []
    for name, row in audio.items():
        cells = [escape(name), html_of(share(row["audio"])), html_of(share(row["silence"]))]
        cells += [html_of(points(row["contribution"]))]
        cells += [_number(row["audio_above_chance"]), _number(row["silence_above_chance"])]
        cells += [_number(row[key], ".2g") for key in ("mcnemar_exact_p", "mcnemar_mid_p", "mcnemar_holm_p")]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ("voter", "with audio", "in silence", "contribution, by recording", "audio above chance")
    return table_of((*head, "silence above chance", "McNemar", "mid-p", "Holm"), rows)


def _about(found: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{_number(m['bits'])}</td>"
        f"<td>{_percent(m['share_of_label_entropy'])}</td></tr>"
        for name, m in found["says_about"].items()
    ]
    options = ", ".join(f"{count:,} with {k}" for k, count in found["num_choices"].items())
    head = ("of the question", "mutual information with the label, bits", "share of the label's entropy")
    return table_of(head, rows) + f"<p>Options: {options}.</p>"


def _categories(found: Mapping[str, Any]) -> str:
    rows = [f"<tr><td>{escape(name)}</td><td>{count:,}</td></tr>" for name, count in found["counts"].items()]
    rows.append(f"<tr><td>undecided</td><td>{found['undecided']:,}</td></tr>")
    text = f"Judged by {escape(found['judge'])} from the text alone, by a procedure of this project."
    return table_of(("category", "weak questions"), rows) + f"<p>Implicit: {share(found['implicit'])}. {text}</p>"


def _examples(job: Any, answers: Mapping[str, str]) -> str:
    """The clearest weak and strong questions, with what every voter said without the audio."""
    labels = read_arrow(Path(job.out) / "labels.arrow")
    uid, name = labels.column("uid").to_numpy(), labels.column("label").to_pylist()
    required = np.nan_to_num(labels.column("ac_vote").to_numpy(), nan=0.5)
    reader = ShardReader(job.index, Reading(shards=job.shards))
    row_of = {int(u): row for row, u in enumerate(reader.numbers["uid"].tolist())}
    said = {voter: _said(path, job.condition) for voter, path in answers.items()}
    parts = []
    for label, order in (("weak", np.argsort(required)), ("strong", np.argsort(-required))):
        shown = [place for place in order.tolist() if name[place] == label][:_EXAMPLES]
        parts += [f"<h3>{label}</h3>"] if shown else []
        for place in shown:
            parts.append(_example(reader, row_of[int(uid[place])], said, float(required[place])))
    return "\n".join(parts)


def _said(path: str, condition: str) -> dict[int, str]:
    table = read_arrow(path)
    if "raw" not in table.column_names:  # what a voter said is not kept everywhere
        return {}
    found: dict[int, str] = {}
    columns = [table.column(name).to_pylist() for name in ("uid", "condition", "raw")]
    for uid, asked, raw in zip(*columns, strict=True):
        if asked == condition:
            found.setdefault(uid, raw or "")
    return found


def _example(reader: ShardReader, row: int, said: Mapping[str, Mapping[int, str]], required: float) -> str:
    question = reader.question(row)
    options = "".join(
        f"<li>{'<b>' if each == question.answer else ''}{escape(each)}{'</b>' if each == question.answer else ''}</li>"
        for each in question.choices
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


def _made(found: Mapping[str, Any]) -> str:
    return json.dumps(found["about"], indent=1)
