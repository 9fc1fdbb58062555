"""The report of a jury's labels: how every voter voted, how sure the labels are, and what guessing alone would give."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from ..arrays import Floats, Texts
from ..statistics import cluster_bootstrap, cluster_error, holm, mcnemar, mcnemar_exact, wilson_interval
from ..table import Categorical, Table
from .accuracy import contribution
from .agreement import cohen_kappa, effective_voters, fleiss_kappa, flip_rates, in_bins, mutual_information, voter_table
from .jury import WEAK, Rule, VoteMatrix, expected_lucky_weak, jury_labels
from .latent import latent_class
from .measures import chance_corrected
from .votes import Tally, matched, vote_matrix


def describe_jury(
    tallies: Mapping[str, Mapping[str, Tally]],
    table: Table,
    rule: Rule,
    condition: str = "silence",
    draws: int = 10_000,
) -> dict[str, Any]:
    """Everything the report of a label table shows, ready for JSON.

    tallies: voter -> condition -> tally. table: the questions, with num_choices and, where known, clip, source,
    question_type and duration_s. condition: the one without the audio. draws: of the bootstrap.
    """
    names, uid = list(tallies), table.uid
    choices = np.asarray(table.columns["num_choices"]).astype(int)
    matrix = vote_matrix([of_voter.get(condition) for of_voter in tallies.values()], uid, choices)
    labels = jury_labels(matrix, rule, uid)
    weak, labelled = int((labels == WEAK).sum()), int((labels != "").sum())
    fitted = latent_class(matrix)
    report: dict[str, Any] = {
        "rule": rule.describe(),
        "condition": condition,
        "questions": len(uid),
        "weak": [weak / max(1, labelled), *wilson_interval(weak, labelled)],
        "counts": {name or "unlabelled": int((labels == name).sum()) for name in ("weak", "strong", "")},
        "expected_weak_by_luck": expected_lucky_weak(matrix, rule),
        "num_choices": {str(k): int(n) for k, n in zip(*np.unique(choices, return_counts=True), strict=True)},
        "latent": {"solvable": fitted.solvable, "skill": dict(zip(names, fitted.skill.tolist(), strict=True))},
        "voters": voter_table(matrix, names),
        "agreement": _agreement(matrix, names),
        "flips": dict(zip(names, flip_rates(matrix, rule, uid), strict=True)),
        "says_about": _says_about(labels, table),
        "ac_vote": _histogram(fitted.contribution[matrix.asked.sum(axis=1) > 0], (0.0, 1.0)),
    }
    audible = {name: t for name, t in tallies.items() if {"audio", condition} <= set(t)}
    if audible:
        report["audio"] = _audio(audible, table, condition, draws)
    return report


def _agreement(matrix: VoteMatrix, names: list[str]) -> dict[str, Any]:
    """Kappas of every two voters and of all, and how many independent voters they are worth; a tie counts as wrong."""
    votes = np.where(matrix.votes == 0.5, 0.0, matrix.votes)
    pairs = combinations(range(len(names)), 2)
    return {
        "cohen": {f"{names[i]} / {names[j]}": cohen_kappa(votes[:, i], votes[:, j]) for i, j in pairs},
        "fleiss": fleiss_kappa(votes),
        "effective_voters": effective_voters(votes),
    }


def _says_about(labels: Texts, table: Table) -> dict[str, dict[str, float]]:
    """Mutual information of the labels [N] with what else is known of the questions."""
    shared = {}
    for name in ("source", "question_type"):
        column = table.columns.get(name)
        if isinstance(column, Categorical):
            values = np.array([*column.names, ""])[column.codes]
            shared[name] = mutual_information(labels, values)
    duration = table.columns.get("duration_s")
    if isinstance(duration, np.ndarray):
        shared["duration"] = mutual_information(labels, in_bins(duration.astype(float)))
    return shared


def _histogram(values: Floats, span: tuple[float, float], bins: int = 20) -> dict[str, list[float]]:
    """Edges and counts of equal bins over the span, without NaN."""
    counts, edges = np.histogram(values[~np.isnan(values)], bins=bins, range=span)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _audio(
    tallies: Mapping[str, Mapping[str, Tally]], table: Table, condition: str, draws: int
) -> dict[str, dict[str, Any]]:
    """Per voter: the 2x2 table of audio x silence, its tests, intervals by recording, accuracies above chance."""
    all_rows = {name: _one_voter(t["audio"], t[condition], table, draws) for name, t in tallies.items()}
    rows = {name: row for name, row in all_rows.items() if row is not None}
    for name, p in zip(rows, holm([row["mcnemar_exact_p"] for row in rows.values()]), strict=True):
        rows[name]["mcnemar_holm_p"] = p
    return rows


def _one_voter(heard: Tally, silent: Tally, table: Table, draws: int) -> dict[str, Any] | None:
    """One voter's row of the table, over the questions it was asked both ways; None where there are none."""
    order = np.argsort(table.uid)
    in_heard, in_silent = matched(heard.uid, silent.uid)
    inside, place = matched(heard.uid[in_heard], table.uid[order])
    row = order[place]
    in_heard, in_silent = in_heard[inside], in_silent[inside]
    asked = (heard.asked[in_heard] > 0) & (silent.asked[in_silent] > 0)
    in_heard, in_silent, row = in_heard[asked], in_silent[asked], row[asked]
    if not len(row):
        return None
    audio, quiet = heard.right[in_heard] / heard.asked[in_heard], silent.right[in_silent] / silent.asked[in_silent]
    a, s = audio > 0.5, quiet > 0.5
    square = contribution(a, s)
    clip = table.columns.get("clip")
    clip = clip.codes if isinstance(clip, Categorical) else clip
    cluster = row if clip is None else clip[row]
    choices = np.asarray(table.columns["num_choices"])[row]
    p_change = heard.rate()[in_heard] - silent.rate()[in_silent]
    return {
        "questions": square.questions,
        "both": square.both,
        "audio_only": square.audio_only,
        "silence_only": square.silence_only,
        "neither": square.neither,
        "audio": [float(audio.mean()), *wilson_interval(float(audio.sum()), len(audio))],
        "silence": [float(quiet.mean()), *wilson_interval(float(quiet.sum()), len(quiet))],
        "audio_above_chance": chance_corrected(audio, choices),
        "silence_above_chance": chance_corrected(quiet, choices),
        "contribution": list(cluster_bootstrap(audio - quiet, cluster, draws=draws)),
        "cluster_error": cluster_error(audio - quiet, cluster),
        "mcnemar_exact_p": mcnemar_exact(square.audio_only, square.silence_only),
        "mcnemar_mid_p": mcnemar(square.audio_only, square.silence_only),
        "ac_p": _histogram(p_change, (-1.0, 1.0)),
    }
