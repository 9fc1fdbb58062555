"""Knows how silent votes become labels: audio-contribution filtering (ACF), the paper's majority of three.

Deviation from the paper: none in the rule. The paper does not say how an answer is matched; the votes carry the rule
they were matched by, and their raw text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import InputError
from .table import read_arrow, write_arrow

WEAK, STRONG = "weak", "strong"


def acf_labels(votes: np.ndarray, at_least: int = 2) -> np.ndarray:
    """Labels from votes under silence.

    votes: [N, voters] of 1 (right without the audio), 0 (wrong) or NaN (missing: no vote, never a wrong one).
    Returns [N] str: "weak" where `at_least` or more voters were right, "strong" where too few can still be,
    "" where missing votes leave it open.
    """
    votes = np.asarray(votes, float)
    right = np.nansum(votes, axis=1)
    possible = right + np.isnan(votes).sum(axis=1)
    return np.where(right >= at_least, WEAK, np.where(possible < at_least, STRONG, ""))


def lucky_weak_share(num_choices: np.ndarray, voters: int = 3, at_least: int = 2) -> float:
    """Expected share of questions that independent guessing alone makes weak: mean of P[Bin(voters, 1/K) >= k]."""
    from math import comb

    guess = 1 / np.asarray(num_choices, float)
    terms = [comb(voters, k) * guess**k * (1 - guess) ** (voters - k) for k in range(at_least, voters + 1)]
    return float(np.mean(np.sum(terms, axis=0)))


def label(votes: Sequence[str], out: str, at_least: int = 2, index: str | None = None) -> dict:
    """Reads one answer table per voter, labels every question of the index (or of the votes) and writes the labels.

    Args:
        votes: answer tables, one per voter, of the "silence" condition (columns uid, condition, correct).
        out: label table to write: uid, label, votes (how many were right), one 0/1 column per voter (null: no vote).
        at_least: right voters that make a question weak; the paper's majority of three is 2.
        index: where given, only its questions are labelled, and every one of them must have been voted on.

    Returns counts for the recipe's log.
    """
    if not 1 <= at_least <= len(votes):
        raise InputError(f"at_least must be between 1 and the number of voters {len(votes)}, got {at_least}")
    ballots = [_silent_votes(path) for path in votes]
    if index is None:
        uid = np.unique(np.concatenate([ballot[0] for ballot in ballots]))
    else:
        uid = np.sort(read_arrow(index).column("uid").to_numpy().astype(np.uint64))
    table = np.full((len(uid), len(votes)), np.nan)
    for j, (voted, correct) in enumerate(ballots):
        slot = np.searchsorted(uid, voted)
        inside = (slot < len(uid)) & (uid[np.minimum(slot, len(uid) - 1)] == voted)
        table[slot[inside], j] = correct[inside]
    labels = acf_labels(table, at_least)
    if (labels == "").any():
        raise InputError(f"{int((labels == '').sum())} questions lack votes; run the voters over the whole index")
    columns = {"uid": uid, "label": labels, "votes": np.nansum(table, axis=1).astype(np.int8)}
    columns |= {f"vote_{j}": pa.array(table[:, j], pa.float32(), from_pandas=True) for j in range(len(votes))}
    about = {"rule": f"at least {at_least} of {len(votes)} right under silence", "votes": [str(v) for v in votes]}
    write_arrow(pa.table(columns).replace_schema_metadata({"earwitness": json.dumps(about)}), out)
    return {"weak": int((labels == WEAK).sum()), "strong": int((labels == STRONG).sum())}


def _silent_votes(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    answers = read_arrow(path)
    silent = np.asarray(answers.column("condition").to_pylist()) == "silence"
    if not silent.any():
        raise InputError(f"{path}: no answers under the condition 'silence'; add it to the voter's `conditions`")
    uid = answers.column("uid").to_numpy().astype(np.uint64)[silent]
    if len(np.unique(uid)) != len(uid):
        raise InputError(f"{path}: the voter answered a question twice under silence; one vote per question counts")
    return uid, answers.column("correct").cast(pa.float64()).to_numpy()[silent]
