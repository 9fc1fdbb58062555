"""The label table: weak or strong for every question, from voters that answered in silence, and how it came about.

Columns: uid, label ("weak", "strong", null where votes are missing or a tie was dropped), votes (voters right in
silence, two halves are one), vote_0 ... (one column per voter: share of its answers that were right, null where it was
not asked), ac_vote (probability that the audio is required, from the latent classes) and, where voters also heard the
audio, p_audio, p_silence, ac_p, ac_log, ac_cal, necessity; where they heard a mismatched recording susceptibility; with
five voters and more difficulty. Shards are never touched: other voters are another table.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...boundary.environment import hidden_in
from ...boundary.words import say
from ...errors import InputError
from ..arrays import Floats, Hashes, Ints, Texts
from ..table import read_arrow, write_arrow
from .jury import STRONG, WEAK, Rule, VoteMatrix, jury_labels, lucky_weak_share, parse_rule
from .latent import latent_class, three_parameter
from .measures import expected_contribution, log_contribution, necessity, susceptibility
from .verdicts import check_tables
from .votes import Tally, matched, over_voters, read_tallies, vote_matrix

__all__ = ["STRONG", "WEAK", "acf_labels", "label", "lucky_weak_share", "make_labels", "published_labels"]
_FORMAT = 2
_ENOUGH_FOR_3PL = 5


def acf_labels(votes: Floats, at_least: int = 2) -> Texts:
    """Labels from votes under silence.

    votes: [N, voters] of 1 (right without the audio), 0 (wrong) or NaN (missing: no vote, never a wrong one); shares
    of right answers, as in the columns vote_0 ..., count as right above one half.
    Returns [N] str: "weak" where `at_least` or more voters were right, "strong" where too few can still be,
    "" where missing votes leave it open.
    """
    votes = np.asarray(votes, float)
    asked = 2 * (~np.isnan(votes)).astype(np.int64)
    right = np.sign(np.nan_to_num(votes) - 0.5).astype(np.int64) + 1
    matrix = VoteMatrix(right, asked, np.full(len(votes), 4))
    return jury_labels(matrix, Rule(at_least=at_least), np.zeros(len(votes), np.uint64))


def label(
    votes: Sequence[str] | Mapping[str, str] | Mapping[str, Mapping[str, Tally]],
    out: str,
    at_least: int | None = None,
    index: str | None = None,
    rule: Mapping[str, Any] | str | None = None,
    condition: str = "silence",
    allow_missing: bool = False,
    about: Mapping[str, Any] | None = None,
    only: Hashes | None = None,
    max_unreadable: float = 0.2,
) -> dict[str, int]:
    """Reads one answer table per voter, labels every question of the index (or of the votes) and writes the labels.

    Args:
        votes: answer tables, one per voter, or voter -> table (columns uid, condition, correct; see `votes.py`), or
            voter -> what `read_tallies` returned.
        out: label table to write.
        at_least: right voters that make a question weak; short for the rule {at_least: ...}.
        index: where given, only its questions are labelled, and every one of them must have been voted on.
        rule: see `Rule`; the paper's majority by default.
        condition: the condition without the audio.
        allow_missing: leave the label of questions without enough votes null instead of refusing. Where the votes were
            asked and are unfinished or unreadable, it always is: asking again would not help.
        about: what else the table should remember: models, prompts, matching rules.
        only: uids to label instead of all.
        max_unreadable: share of a voter's answers, of 20 at least, that may be unfinished or unreadable.

    Returns counts of the labels. Raises InputError for a rule that does not fit the voters, answers that lack the
    condition, questions without enough votes, and voters that `max_unreadable` refuses.
    """
    tables: dict[str, Any] = (
        dict(votes) if isinstance(votes, Mapping) else {f"voter {n}": path for n, path in enumerate(votes)}
    )
    chosen = _rule(rule, at_least, len(tables))
    tallies = {name: given if isinstance(given, Mapping) else read_tallies(given) for name, given in tables.items()}
    check_tables(tables, max_unreadable)
    for name, of_voter in tallies.items():
        if condition not in of_voter:
            where = name if tables[name] is of_voter else tables[name]
            why = f"no answers under the condition {condition!r}; add it to the voter's `conditions`"
            raise InputError(f"{where}: {why}")
    uid, num_choices, content = _questions(tallies, condition, index)
    if only is not None:
        kept = np.isin(uid, only)
        uid, num_choices = uid[kept], num_choices[kept]
    if not len(uid):
        raise InputError(f"{index or 'the votes'}: there is no question to label")
    columns, counts = make_labels(tallies, uid, num_choices, chosen, condition)
    lacking, unread = _left_open(columns, [of_voter[condition] for of_voter in tallies.values()])
    if lacking and not allow_missing:
        raise InputError(f"{lacking} questions lack votes; run the voters over the whole index, or allow_missing")
    if unread:
        say(f"{unread} questions get no label: votes that could decide are unfinished or unreadable", file=sys.stderr)
    known: dict[str, Any] = {"format": _FORMAT, "rule": chosen.describe(), "condition": condition, "index": content}
    paths = {name: str(path) for name, path in tables.items() if not isinstance(path, Mapping)}
    known |= {"voters": [{"name": name, "answers": path} for name, path in paths.items()], **_software()}
    write_labels(columns, known | dict(about or {}), out)
    return counts


def _rule(rule: Mapping[str, Any] | str | None, at_least: int | None, voters: int) -> Rule:
    """The rule that was asked for, in one way or the other; InputError for both, and for one that cannot be met."""
    if rule is not None and at_least is not None:
        raise InputError("give either at_least or rule")
    if not voters:
        raise InputError("there is no voter; give one answer table per voter")
    if at_least is not None and not 1 <= at_least <= voters:
        raise InputError(f"at_least must be between 1 and the number of voters {voters}, got {at_least}")
    return parse_rule("majority" if rule is None else rule) if at_least is None else Rule(at_least=at_least)


def _left_open(columns: Mapping[str, np.ndarray], tallies: Sequence[Tally]) -> tuple[int, int]:
    """How many questions have no label since votes were never given, and since those given cannot be read."""
    gap, never = (np.zeros(len(columns["uid"]), bool) for _ in range(2))
    for number, tally in enumerate(tallies):
        missing = np.isnan(columns[f"vote_{number}"])
        rows, place = matched(columns["uid"], tally.uid)
        unread = np.zeros_like(missing)
        if tally.unread is not None:
            unread[rows] = tally.unread[place] > 0
        gap |= missing
        never |= missing & ~unread
    open_ = (columns["label"] == "") & gap  # without a gap it is a tie that was dropped
    return int((open_ & never).sum()), int((open_ & ~never).sum())


def _questions(
    tallies: Mapping[str, Mapping[str, Tally]], condition: str, index: str | None
) -> tuple[Hashes, Ints, str]:
    """The uids [N] to label, ascending, how many options each question has [N], and a hash of the index ("": none)."""
    if index is None:
        uid = np.unique(np.concatenate([of_voter[condition].uid for of_voter in tallies.values()]))
        return uid, np.full(len(uid), 4), ""
    table = read_arrow(index)
    uid = table.column("uid").to_numpy().astype(np.uint64)
    order = np.argsort(uid)
    choices = table.column("num_choices").to_numpy()[order] if "num_choices" in table.column_names else None
    content = hashlib.sha256(uid[order].tobytes()).hexdigest()[:16]
    return uid[order], np.full(len(uid), 4) if choices is None else choices.astype(int), content


def make_labels(
    tallies: Mapping[str, Mapping[str, Tally]],
    uid: Hashes,
    num_choices: Ints,
    rule: Rule,
    condition: str = "silence",
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Columns [N] of the label table over the questions uid [N] with num_choices [N] options, and counts of the labels.

    tallies: voter -> condition -> tally.
    """
    matrix = vote_matrix([of_voter.get(condition) for of_voter in tallies.values()], uid, num_choices)
    labels = jury_labels(matrix, rule, uid)
    votes = matrix.votes
    columns: dict[str, np.ndarray] = {"uid": uid, "label": labels, "votes": np.nansum(votes, axis=1).astype(np.int8)}
    share = np.divide(matrix.right, matrix.asked, out=np.full(votes.shape, np.nan), where=matrix.asked > 0)
    columns |= {f"vote_{j}": share[:, j].astype(np.float32) for j in range(votes.shape[1])}
    asked = matrix.asked.sum(axis=1) > 0
    columns["ac_vote"] = np.where(asked, latent_class(matrix).contribution, np.nan).astype(np.float32)
    if votes.shape[1] >= _ENOUGH_FOR_3PL:
        columns["difficulty"] = np.where(asked, three_parameter(matrix).difficulty, np.nan).astype(np.float32)
    columns |= _continuous(tallies, uid, condition)
    counts = {name: int((labels == name).sum()) for name in (WEAK, STRONG)}
    if (labels == "").any():
        counts["unlabelled"] = int((labels == "").sum())
    return columns, counts


def _continuous(tallies: Mapping[str, Mapping[str, Tally]], uid: Hashes, condition: str) -> dict[str, Floats]:
    """Measures [N] that need answers under two conditions, as means over the voters that have both."""
    columns: dict[str, Floats] = {}
    heard = [(f["audio"], f[condition]) for f in tallies.values() if {"audio", condition} <= set(f)]
    if heard:
        columns |= _with_audio(heard, uid)
    mismatched = [(f["mismatched"], f[condition]) for f in tallies.values() if {"mismatched", condition} <= set(f)]
    if mismatched:
        values = []
        for other, silent in mismatched:
            in_silent, in_other = matched(silent.uid, other.uid)
            moved = susceptibility(silent.rate()[in_silent], other.rate()[in_other])
            values.append((silent.uid[in_silent], moved))
        columns["susceptibility"] = over_voters(values, uid)
    return {name: value.astype(np.float32) for name, value in columns.items()}


def _with_audio(pairs: Sequence[tuple[Tally, Tally]], uid: Hashes) -> dict[str, Floats]:
    """Measures [N] from every voter's answers with the audio and in silence."""
    values: dict[str, list[tuple[Hashes, Floats]]] = {
        name: [] for name in ("p_audio", "p_silence", "ac_p", "ac_log", "ac_cal")
    }
    for heard, silent in pairs:
        in_heard, in_silent = matched(heard.uid, silent.uid)
        p_a, p_0 = heard.rate()[in_heard], silent.rate()[in_silent]
        both = ~np.isnan(p_a - p_0)
        p_a, p_0 = np.where(both, p_a, np.nan), np.where(both, p_0, np.nan)
        of_voter: dict[str, Floats] = {
            "p_audio": p_a,
            "p_silence": p_0,
            "ac_p": expected_contribution(p_a, p_0),
            "ac_log": log_contribution(p_a, p_0),
            "ac_cal": heard.log_excess[in_heard] - silent.log_excess[in_silent],
        }
        for name, value in of_voter.items():
            values[name].append((heard.uid[in_heard], value))
    columns = {name: over_voters(pairs_of_name, uid) for name, pairs_of_name in values.items()}
    calibrated = columns.pop("ac_cal")
    columns["necessity"] = necessity(columns["p_audio"], columns["p_silence"])[0]
    if not np.isnan(calibrated).all():
        columns["ac_cal"] = calibrated
    return columns


def write_labels(columns: Mapping[str, np.ndarray], about: Mapping[str, Any], out: str | Path) -> str:
    """Writes columns [N] as a label table that remembers what `about` says of its making; returns its fingerprint."""
    arrays = {}
    about = dict(hidden_in(about))
    for name, values in columns.items():
        if values.dtype.kind == "U":
            kept = pa.array((values == STRONG).astype(np.int8), mask=values == "")
            arrays[name] = pa.DictionaryArray.from_arrays(kept, pa.array([WEAK, STRONG], pa.string()))
        else:
            arrays[name] = pa.array(values, from_pandas=True)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name in sorted(columns):
        digest.update(name.encode() + np.ascontiguousarray(columns[name]).tobytes())
    fingerprint = digest.hexdigest()[:16]
    metadata = {"earwitness": json.dumps({**about, "fingerprint": fingerprint}, default=str)}
    write_arrow(pa.table(arrays).replace_schema_metadata(metadata), out, compression="zstd")
    return fingerprint


def published_labels(index: str, out: str) -> dict[str, int]:
    """Writes the labels that the corpus was published with (`audio-contribution`); returns counts of the labels.

    Raises InputError where the index has no such labels.
    """
    table = read_arrow(index)
    if "audio_contribution" not in table.column_names:
        raise InputError(f"{index}: no column audio_contribution; index the shards again")
    uid = table.column("uid").to_numpy().astype(np.uint64)
    labels = np.array([value or "" for value in table.column("audio_contribution").to_pylist()])
    if not (labels != "").any():
        raise InputError(f"{index}: none of its questions was published with a label")
    write_labels({"uid": uid, "label": labels}, {"format": _FORMAT, "rule": "as published", **_software()}, out)
    counts = {name: int((labels == name).sum()) for name in (WEAK, STRONG)}
    return counts | ({"unlabelled": int((labels == "").sum())} if (labels == "").any() else {})


def read_about(path: str | Path) -> dict[str, Any]:
    """What a label table remembers of its making; InputError where it is no label table."""
    metadata = read_arrow(path).schema.metadata or {}
    try:
        about: dict[str, Any] = json.loads(metadata[b"earwitness"])
        return about
    except (KeyError, ValueError):
        raise InputError(f"{path}: not a label table of `earwitness label`; it does not say how it was made") from None


def _software() -> dict[str, Any]:
    """The versions of the packages that labels may depend on, as far as they are installed."""
    versions = {}
    for name in ("earwitness", "torch", "transformers", "vllm"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"software": versions}
