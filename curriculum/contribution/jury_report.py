"""The report of a jury's labels: how every voter voted, how sure the labels are, and what guessing alone would give."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations
from math import nan
from typing import Any

import numpy as np

from ..arrays import Floats, Texts
from ..statistics import Z95, cluster_bootstrap, cluster_error, holm, mcnemar, mcnemar_exact, wilson_interval
from ..table import Categorical, Table
from .accuracy import contribution
from .agreement import cohen_kappa, effective_voters, fleiss_kappa, flip_rates, in_bins, mutual_information, voter_table
from .constant import Picks, constant_answers, describe_picks, is_constant, warning_of
from .jury import WEAK, Rule, VoteMatrix, expected_lucky_weak, jury_labels
from .latent import latent_class
from .measures import above_luck
from .votes import Tally, matched, vote_matrix


def describe_jury(
    tallies: Mapping[str, Mapping[str, Tally]],
    table: Table,
    rule: Rule,
    condition: str = "silence",
    draws: int = 10_000,
    picks: Mapping[str, Picks] | None = None,
) -> dict[str, Any]:
    """Everything the report of a label table shows, ready for JSON.

    tallies: voter -> condition -> tally. table: the questions, with num_choices and, where known, clip, source,
    question_type and duration_s. condition: the one without the audio. draws: of the bootstrap. picks: voter -> what it
    picked under the condition, where that is known; voters that give a constant answer are named in `warnings`.
    """
    names, uid = list(tallies), table.uid
    choices = np.asarray(table.columns["num_choices"]).astype(int)
    matrix = vote_matrix([of_voter.get(condition) for of_voter in tallies.values()], uid, choices)
    labels = jury_labels(matrix, rule, uid)
    weak, labelled = int((labels == WEAK).sum()), int((labels != "").sum())
    fitted = latent_class(matrix)
    found = {name: constant_answers(of_voter) for name, of_voter in (picks or {}).items()}
    constant = [name for name, of_voter in (picks or {}).items() if is_constant(of_voter, found[name])]
    report: dict[str, Any] = {
        "rule": rule.describe(),
        "condition": condition,
        "questions": len(uid),
        "weak": [weak / max(1, labelled), *wilson_interval(weak, labelled)],
        "counts": {name or "unlabelled": int((labels == name).sum()) for name in ("weak", "strong", "")},
        "expected_weak_by_luck": expected_lucky_weak(matrix, rule),
        "num_choices": {str(k): int(n) for k, n in zip(*np.unique(choices, return_counts=True), strict=True)},
        "latent": {
            "solvable": fitted.solvable,
            "skill": dict(zip(names, fitted.skill.tolist(), strict=True)),
            "told": len(names) > 1,  # one voter gives only the product of share and skill
        },
        "voters": voter_table(matrix, names),
        "skill": {name: _skill(matrix, j, _clusters(table), name in constant) for j, name in enumerate(names)},
        "agreement": _agreement(matrix, names, constant),
        "flips": dict(zip(names, flip_rates(matrix, rule, uid), strict=True)),
        "says_about": _says_about(labels, table),
        "ac_vote": _histogram(fitted.contribution[matrix.asked.sum(axis=1) > 0], (0.0, 1.0)),
    }
    if picks is not None:
        report["picks"] = {name: describe_picks(of_voter) for name, of_voter in picks.items()}
        report["constant"] = constant
        report["constant_answers"] = found
        report["expected_weak_if_dealt"] = expected_if_dealt(picks, rule)
    report["warnings"] = [text for name, answers in found.items() if (text := warning_of(name, answers))]
    audible = {name: t for name, t in tallies.items() if {"audio", condition} <= set(t)}
    if audible:
        report["audio"] = _audio(audible, table, condition, draws)
    return report


def _skill(matrix: VoteMatrix, voter: int, cluster: Any, constant: bool) -> dict[str, Any]:
    """What a voter knows beyond the best constant answer: `above` with its 95 % interval by recording, and `claimed`.

    Claimed only where the interval lies above 0 and the voter's answers are not constant. cluster: [N] recordings.
    """
    asked = matrix.asked[:, voter] > 0
    if not asked.any():
        return {"above": [nan, nan, nan], "claimed": False}
    above = above_luck(matrix.right[asked, voter] / matrix.asked[asked, voter], matrix.guess("best")[asked, voter])
    mean, error = float(above.mean()), cluster_error(above, cluster[asked])
    low = mean - Z95 * error
    return {"above": [mean, low, mean + Z95 * error], "claimed": low > 0 and not constant}


def _clusters(table: Table) -> Any:
    """[N] numbers that are equal where questions share a recording."""
    clip = table.columns.get("clip")
    clip = clip.codes if isinstance(clip, Categorical) else clip
    return np.arange(len(table)) if clip is None else clip


def expected_if_dealt(picks: Mapping[str, Picks], rule: Rule) -> float:
    """Share of the sampled questions that would be weak, had the right answers been dealt to places anew.

    Every voter keeps its picks; the right one is at each place of the file as often as it is among questions with as
    many options. Unlike `expected_lucky_weak` this knows how far a voter's answers hang together, and the voters'.
    NaN without picks.
    """
    every = list(picks.values())
    questions = np.unique(np.concatenate([one.question for one in every])) if every else np.empty(0, np.int64)
    if not len(questions):
        return nan
    choices, truth = np.ones(len(questions), np.int64), np.zeros(len(questions), np.int64)
    for one in every:
        slot = np.searchsorted(questions, one.question)
        choices[slot], truth[slot] = one.num_choices, one.answer
    most = int(choices.max())
    right = np.zeros((len(questions), most, len(every)), np.int64)
    asked = np.zeros((len(questions), len(every)), np.int64)
    for j, one in enumerate(every):
        slot, said = np.searchsorted(questions, one.question), one.option >= 0
        np.add.at(right[:, :, j], (slot[said], one.option[said]), 1)
        np.add.at(asked[:, j], slot, 1)
    weight = np.zeros((len(questions), most))
    for options in np.unique(choices):
        rows = choices == options
        weight[rows, :options] = np.bincount(truth[rows], minlength=options) / rows.sum()
    flat = VoteMatrix(
        right.reshape(-1, len(every)), np.repeat(asked, most, axis=0), np.repeat(choices, most).astype(np.int64)
    )
    labels = jury_labels(flat, rule, np.repeat(questions.astype(np.uint64), most)).reshape(len(questions), most)
    return float((weight * (labels == WEAK)).sum() / len(questions))


def _agreement(matrix: VoteMatrix, names: list[str], constant: Collection[str] = ()) -> dict[str, Any]:
    """Kappas of every two voters and of all, and how many independent voters they are worth; a tie counts as wrong.

    Those that give a constant answer are left out (NaN): they agree on where answers lie, not on questions.
    """
    votes = np.where(matrix.votes == 0.5, 0.0, matrix.votes)
    kappas = {}
    for i, j in combinations(range(len(names)), 2):
        left_out = {names[i], names[j]} & set(constant)
        kappas[f"{names[i]} / {names[j]}"] = nan if left_out else cohen_kappa(votes[:, i], votes[:, j])
    kept = votes[:, [name not in constant for name in names]]
    return {
        "cohen": kappas,
        "fleiss": fleiss_kappa(kept),
        "effective_voters": effective_voters(kept) if kept.shape[1] else nan,
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
    choices = np.asarray(table.columns["num_choices"]).astype(int)
    both = [[t[which] for t in tallies.values()] for which in ("audio", condition)]
    luck = [vote_matrix(of_condition, table.uid, choices).guess("best") for of_condition in both]
    all_rows = {
        name: _one_voter(t["audio"], t[condition], table, draws, [of_condition[:, j] for of_condition in luck])
        for j, (name, t) in enumerate(tallies.items())
    }
    rows = {name: row for name, row in all_rows.items() if row is not None}
    for name, p in zip(rows, holm([row["mcnemar_exact_p"] for row in rows.values()]), strict=True):
        rows[name]["mcnemar_holm_p"] = p
    return rows


def _one_voter(heard: Tally, silent: Tally, table: Table, draws: int, luck: list[Floats]) -> dict[str, Any] | None:
    """One voter's row of the table, over the questions it was asked both ways; None where there are none.

    luck: [N] how often the best constant answer is right, with the audio and without.
    """
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
    cluster = _clusters(table)[row]
    p_change = heard.rate()[in_heard] - silent.rate()[in_silent]
    return {
        "questions": square.questions,
        "both": square.both,
        "audio_only": square.audio_only,
        "silence_only": square.silence_only,
        "neither": square.neither,
        "audio": [float(audio.mean()), *wilson_interval(float(audio.sum()), len(audio))],
        "silence": [float(quiet.mean()), *wilson_interval(float(quiet.sum()), len(quiet))],
        "audio_above_chance": float(above_luck(audio, luck[0][row]).mean()),
        "silence_above_chance": float(above_luck(quiet, luck[1][row]).mean()),
        "contribution": list(cluster_bootstrap(audio - quiet, cluster, draws=draws)),
        "cluster_error": cluster_error(audio - quiet, cluster),
        "mcnemar_exact_p": mcnemar_exact(square.audio_only, square.silence_only),
        "mcnemar_mid_p": mcnemar(square.audio_only, square.silence_only),
        "ac_p": _histogram(p_change, (-1.0, 1.0)),
    }
