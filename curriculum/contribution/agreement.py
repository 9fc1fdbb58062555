"""Agreement of the voters of a jury, how much each decides, and what a label says of source, type and length."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from ..arrays import Floats, Hashes, Texts
from .jury import Rule, VoteMatrix, jury_labels
from .measures import above_luck


def cohen_kappa(a: Floats, b: Floats) -> float:
    """Cohen's kappa of two voters over the questions both were asked; NaN where all answers are right, or all wrong.

    a, b: [N] of 0/1, NaN where missing.
    """
    from sklearn.metrics import cohen_kappa_score

    both = ~(np.isnan(a) | np.isnan(b))
    if len(np.unique([a[both], b[both]])) < 2:
        return float("nan")
    return float(cohen_kappa_score(a[both], b[both]))


def fleiss_kappa(votes: Floats) -> float:
    """Fleiss' kappa of m voters over the questions that all were asked; NaN where it is not defined.

    votes: [N, m] of 0/1, NaN where missing.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa as of_counts

    whole = votes[~np.isnan(votes).any(axis=1)]
    if not len(whole) or votes.shape[1] < 2 or len(np.unique(whole)) < 2:
        return float("nan")
    right = (whole > 0.5).sum(axis=1)
    return float(of_counts(np.stack([right, votes.shape[1] - right], axis=1), method="fleiss"))


def effective_voters(votes: Floats) -> float:
    """m / (1 + (m - 1) r): how many independent voters are as good as these, r their mean pairwise correlation.

    votes: [N, m] of 0/1, NaN where missing.
    """
    voters = int(votes.shape[1])
    pairs = []
    for i, j in combinations(range(voters), 2):
        both = ~(np.isnan(votes[:, i]) | np.isnan(votes[:, j]))
        a, b = votes[both, i], votes[both, j]
        if len(a) and a.std() > 0 and b.std() > 0:
            pairs.append(float(np.corrcoef(a, b)[0, 1]))
    mean = float(np.mean(pairs)) if pairs else 0.0
    return voters / max(1 + (voters - 1) * mean, 1 / voters)


def flip_rates(matrix: VoteMatrix, rule: Rule, uid: Hashes) -> list[float]:
    """Of each voter, the share of labels that change without it, over the questions labelled both times.

    uid: [N]. Under `at_least` the other voters need as large a share of right ones, rounded to a whole number. NaN for
    a single voter.
    """
    whole, rates = jury_labels(matrix, rule, uid), []
    voters = matrix.right.shape[1]
    smaller = rule
    if rule.at_least is not None:
        smaller = Rule(at_least=max(1, round(rule.at_least * (voters - 1) / voters)), tie=rule.tie)
    for voter in range(voters):
        if voters == 1:
            return [float("nan")]
        without = jury_labels(matrix.without(voter), smaller, uid)
        both = (whole != "") & (without != "")
        rates.append(float((whole[both] != without[both]).mean()) if both.any() else float("nan"))
    return rates


def mutual_information(labels: Texts, values: Texts) -> dict[str, float]:
    """Mutual information of two text columns [N] in bits, and its share of the label's entropy; "" is missing."""
    from sklearn.metrics import mutual_info_score

    keep = (labels != "") & (values != "")
    if not keep.any():
        return {"bits": float("nan"), "share_of_label_entropy": float("nan")}
    bits = float(mutual_info_score(labels[keep], values[keep]) / np.log(2))
    _, counts = np.unique(labels[keep], return_counts=True)
    p = counts / counts.sum()
    entropy = float(-(p * np.log2(p)).sum())
    return {"bits": bits, "share_of_label_entropy": bits / entropy if entropy > 0 else 0.0}


def in_bins(values: Floats, bins: int = 8) -> Texts:
    """[N] names of equally filled bins of the values [N], "" for NaN; for mutual information with a label."""
    finite = np.isfinite(values)
    cuts = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.unique(np.quantile(values[finite], cuts)) if finite.any() else np.empty(0)
    return np.where(finite, np.searchsorted(edges, values, side="right").astype(str), "")


def voter_table(matrix: VoteMatrix, names: list[str]) -> list[dict[str, Any]]:
    """Per voter: how many questions it was asked and not asked, its accuracy, and that corrected for luck.

    chance: what the best constant answer gets right of the same questions. above_chance: 0 for it, 1 for all right.
    """
    rows, guess = [], matrix.guess("best")
    for j, name in enumerate(names):
        asked = matrix.asked[:, j] > 0
        share, luck = matrix.right[asked, j] / matrix.asked[asked, j], guess[asked, j]
        rows.append(
            {
                "voter": name,
                "asked": int(asked.sum()),
                "missing": int((~asked).sum()),
                "accuracy": float(share.mean()) if asked.any() else float("nan"),
                "chance": float(luck.mean()) if asked.any() else float("nan"),
                "above_chance": float(above_luck(share, luck).mean()) if asked.any() else float("nan"),
            }
        )
    return rows
