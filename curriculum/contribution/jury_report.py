"""Knows what must stand beside a claim about labels: who voted how, how sure it is, and what luck alone would do."""

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
from .votes import Tally, ballots_of, matched


def describe_jury(
    tallies: Mapping[str, Mapping[str, Tally]],
    table: Table,
    rule: Rule,
    condition: str = "silence",
    draws: int = 10_000,
) -> dict[str, Any]:
    """Everything the report of a label table shows, ready for JSON.

    table: the questions, with num_choices and, where known, clip, source, question_type and duration_s.
    """
    names, uid = list(tallies), table.uid
    choices = np.asarray(table.columns["num_choices"]).astype(int)
    ballots = ballots_of([found.get(condition) for found in tallies.values()], uid, choices)
    labels = jury_labels(ballots, rule, uid)
    weak, labelled = int((labels == WEAK).sum()), int((labels != "").sum())
    fitted = latent_class(ballots)
    found: dict[str, Any] = {
        "rule": rule.describe(),
        "condition": condition,
        "questions": len(uid),
        "weak": [weak / max(1, labelled), *wilson_interval(weak, labelled)],
        "counts": {name or "unlabelled": int((labels == name).sum()) for name in ("weak", "strong", "")},
        "expected_weak_by_luck": expected_lucky_weak(ballots, rule),
        "num_choices": {str(k): int(n) for k, n in zip(*np.unique(choices, return_counts=True), strict=True)},
        "latent": {"solvable": fitted.solvable, "skill": dict(zip(names, fitted.skill.tolist(), strict=True))},
        "voters": voter_table(ballots, names),
        "agreement": _agreement(ballots, names),
        "flips": dict(zip(names, flip_rates(ballots, rule, uid), strict=True)),
        "says_about": _says_about(labels, table),
        "ac_vote": _histogram(fitted.contribution[ballots.asked.sum(axis=1) > 0], (0.0, 1.0)),
    }
    audible = {name: t for name, t in tallies.items() if {"audio", condition} <= set(t)}
    if audible:
        found["audio"] = _audio(audible, table, condition, draws)
    return found


def _agreement(ballots: VoteMatrix, names: list[str]) -> dict[str, Any]:
    votes = np.where(ballots.votes == 0.5, 0.0, ballots.votes)
    pairs = combinations(range(len(names)), 2)
    return {
        "cohen": {f"{names[i]} / {names[j]}": cohen_kappa(votes[:, i], votes[:, j]) for i, j in pairs},
        "fleiss": fleiss_kappa(votes),
        "effective_voters": effective_voters(votes),
    }


def _says_about(labels: Texts, table: Table) -> dict[str, dict[str, float]]:
    """Mutual information of the label with what else is known of a question."""
    found = {}
    for name in ("source", "question_type"):
        column = table.columns.get(name)
        if isinstance(column, Categorical):
            values = np.array([*column.names, ""])[column.codes]
            found[name] = mutual_information(labels, values)
    duration = table.columns.get("duration_s")
    if isinstance(duration, np.ndarray):
        found["duration"] = mutual_information(labels, in_bins(duration.astype(float)))
    return found


def _histogram(values: Floats, span: tuple[float, float], bins: int = 20) -> dict[str, list[float]]:
    counts, edges = np.histogram(values[~np.isnan(values)], bins=bins, range=span)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _audio(
    tallies: Mapping[str, Mapping[str, Tally]], table: Table, condition: str, draws: int
) -> dict[str, dict[str, Any]]:
    """Per voter: the 2x2 table of audio x silence, its tests, intervals by recording, accuracies above chance."""
    found = {name: _one_voter(t["audio"], t[condition], table, draws) for name, t in tallies.items()}
    rows = {name: row for name, row in found.items() if row is not None}
    for name, p in zip(rows, holm([row["mcnemar_exact_p"] for row in rows.values()]), strict=True):
        rows[name]["mcnemar_holm_p"] = p
    return rows


def _one_voter(heard: Tally, silent: Tally, table: Table, draws: int) -> dict[str, Any] | None:
    """None where no question was answered both ways."""
    order = np.argsort(table.uid)
    mine, theirs = matched(heard.uid, silent.uid)
    uid = heard.uid[mine]
    inside, place = matched(uid, table.uid[order])
    row = order[place]
    mine, theirs = mine[inside], theirs[inside]
    asked = (heard.asked[mine] > 0) & (silent.asked[theirs] > 0)
    mine, theirs, row = mine[asked], theirs[asked], row[asked]
    if not len(row):
        return None
    audio, quiet = heard.right[mine] / heard.asked[mine], silent.right[theirs] / silent.asked[theirs]
    a, s = audio > 0.5, quiet > 0.5
    square = contribution(a, s)
    clip = table.columns.get("clip")
    clip = clip.codes if isinstance(clip, Categorical) else clip
    cluster = row if clip is None else clip[row]
    choices = np.asarray(table.columns["num_choices"])[row]
    p_change = heard.rate()[mine] - silent.rate()[theirs]
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
