"""Arms compared on the same questions: accuracies before and after, gains, contrasts and what seeds add to them.

Each question of an arm has the mean over the arm's seeds; intervals are over questions, those of one cluster (a
recording, or a source) being dependent. How far seeds lie apart is another thing, and stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from math import erfc, nan, sqrt
from typing import Any

import numpy as np

from ..arrays import Bools, Floats, Hashes, Texts
from ..contribution.jury import STRONG, WEAK
from ..statistics import Z95, cluster_error, cluster_share, holm, mcnemar_exact

ALL = "all"
LABELS = (WEAK, STRONG, ALL)


@dataclass(frozen=True)
class Trial:
    """One run of an arm on N questions: 1 where a model was right, else 0.

    before, after: [N] of the model that training began with and of the one it ended with. models: name -> [N] of all,
    in the order of training, where there are some in between.
    """

    arm: str
    train: int
    draw: int
    before: Floats
    after: Floats
    models: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """The questions of one benchmark that every run answered.

    cluster: [N] equal where answers depend on each other. label: [N] weak, strong or "". left_out: questions that some
    run answered and others did not.
    """

    benchmark: str
    cluster: Hashes
    label: Texts
    trials: Sequence[Trial]
    left_out: int = 0

    def rows(self, label: str) -> Bools:
        """[N] bool: the questions with a label, or all."""
        return np.ones(len(self.label), bool) if label == ALL else np.asarray(self.label == label)

    @property
    def arms(self) -> list[str]:
        """The arms in the order of the trials."""
        return list(dict.fromkeys(trial.arm for trial in self.trials))

    def of(self, arm: str, seeds: set[tuple[int, int]] | None = None) -> list[Trial]:
        """The trials of an arm, of some (train, draw) seeds or of all."""
        return [t for t in self.trials if t.arm == arm and (seeds is None or (t.train, t.draw) in seeds)]


def compared(asked: Sequence[Asked], reference: str, family: str = "kind") -> dict[str, Any]:
    """Everything about the arms, ready for JSON.

    accuracy: arm x benchmark x label: `before`, `after`, `gain` with intervals, `p` of the gain, the spread of seeds.
    contrasts: the same keys: `difference` of the arm's `after` from the reference's, over the seeds both have.
    stages: arm x benchmark x label x two neighbouring models: the `gain` from one to the next.
    interactions: arm x benchmark: gain on strong minus gain on weak, and its `difference` from the reference's.
    Every p has its `p_holm` beside it: over the tests of its kind, or with family "all" over all of them.
    """
    accuracy = [_accuracy(one, arm, label) for one in asked for arm in one.arms for label in LABELS]
    contrasts = [
        _contrast(one, arm, reference, label)
        for one in asked
        for arm in one.arms
        if arm != reference
        for label in LABELS
    ]
    interactions = [_interaction(one, arm, reference) for one in asked for arm in one.arms]
    stages = [row for one in asked for arm in one.arms for label in LABELS for row in _stages(one, arm, label)]
    kinds: dict[str, list[dict[str, Any]]] = {
        "accuracy": [one for one in accuracy if one["questions"]],
        "contrasts": [one for one in contrasts if one["questions"]],
        "stages": [one for one in stages if one["questions"]],
        "interactions": [one for one in interactions if one["questions"][0] and one["questions"][1]],
    }
    families = list(kinds.values()) if family == "kind" else [[test for tests in kinds.values() for test in tests]]
    for tests in families:
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
    return {
        "reference": reference,
        "family": family,
        "tests": {name: len(tests) for name, tests in kinds.items()},
        "left_out": {one.benchmark: one.left_out for one in asked},
        **kinds,
    }


def _accuracy(asked: Asked, arm: str, label: str) -> dict[str, Any]:
    rows, trials = asked.rows(label), asked.of(arm)
    cluster = asked.cluster[rows]
    before, after = (_mean(trials, name)[rows] for name in ("before", "after"))
    gain, p = mean_and_p(after - before, cluster)
    return {
        "arm": arm,
        "benchmark": asked.benchmark,
        "label": label,
        "questions": int(rows.sum()),
        "clusters": len(np.unique(cluster)),
        "before": list(cluster_share(before, cluster)),
        "after": list(cluster_share(after, cluster)),
        "gain": gain,
        "p": p,
        "runs": [
            {
                "train": t.train,
                "draw": t.draw,
                "after": _share(t.after[rows]),
                "gain": _share((t.after - t.before)[rows]),
            }
            for t in trials
        ],
        "spread": {"after": spread(trials, rows, "after"), "gain": spread(trials, rows, "gain")},
    }


def _stages(asked: Asked, arm: str, label: str) -> list[dict[str, Any]]:
    """The change from each model of an arm to the next; none where there is none between the first and the last."""
    rows, trials = asked.rows(label), asked.of(arm)
    names = list(trials[0].models)
    found = []
    for first, second in pairwise(names) if len(names) > 2 else ():
        delta = np.mean([trial.models[second] - trial.models[first] for trial in trials], axis=0)[rows]
        gain, p = mean_and_p(delta, asked.cluster[rows])
        key = {"arm": arm, "benchmark": asked.benchmark, "label": label, "from": first, "to": second}
        found.append(key | {"questions": int(rows.sum()), "gain": gain, "p": p})
    return found


def _contrast(asked: Asked, arm: str, reference: str, label: str) -> dict[str, Any]:
    rows = asked.rows(label)
    seeds = {(t.train, t.draw) for t in asked.of(arm)} & {(t.train, t.draw) for t in asked.of(reference)}
    own, other = asked.of(arm, seeds), asked.of(reference, seeds)
    delta = _mean(own, "after")[rows] - _mean(other, "after")[rows] if seeds else np.zeros(0)
    difference, p = mean_and_p(delta, asked.cluster[rows] if seeds else np.zeros(0, np.uint64))
    found: dict[str, Any] = {"arm": arm, "reference": reference, "benchmark": asked.benchmark, "label": label}
    found |= {"questions": int(rows.sum()) if seeds else 0, "seeds": len(seeds), "difference": difference, "p": p}
    if len(seeds) == 1:  # with one run of each, the exact test of the questions themselves
        gained, lost = int((delta > 0).sum()), int((delta < 0).sum())
        found |= {"gained": gained, "lost": lost, "p_mcnemar": mcnemar_exact(gained, lost)}
    return found


def _interaction(asked: Asked, arm: str, reference: str) -> dict[str, Any]:
    weak, strong = asked.rows(WEAK), asked.rows(STRONG)
    gain = _mean(asked.of(arm), "after") - _mean(asked.of(arm), "before")
    value, p = interaction(gain, weak, strong, asked.cluster)
    found: dict[str, Any] = {
        "arm": arm,
        "benchmark": asked.benchmark,
        "questions": [int(weak.sum()), int(strong.sum())],
    }
    found |= {"interaction": value, "p": p, "difference": None}
    seeds = {(t.train, t.draw) for t in asked.of(arm)} & {(t.train, t.draw) for t in asked.of(reference)}
    if arm != reference and seeds:
        own, other = asked.of(arm, seeds), asked.of(reference, seeds)
        change = [_mean(trials, "after") - _mean(trials, "before") for trials in (own, other)]
        found["difference"], _ = interaction(change[0] - change[1], weak, strong, asked.cluster)
    return found


def interaction(gain: Floats, weak: Bools, strong: Bools, cluster: Hashes) -> tuple[list[float], float]:
    """The mean gain of strong questions minus that of weak ones: (value, low, high) at 95 %, and its p.

    gain: [N]; weak, strong: [N] bool; cluster: [N], and a cluster may hold both. Its error is that of the coefficient
    of a regression on the label with clustered errors.
    """
    if not weak.any() or not strong.any():
        return [nan, nan, nan], 1.0
    value = float(gain[strong].mean() - gain[weak].mean())
    part = np.zeros(len(gain))
    part[strong] = (gain[strong] - gain[strong].mean()) / strong.sum()
    part[weak] = -(gain[weak] - gain[weak].mean()) / weak.sum()
    used = weak | strong
    _, number = np.unique(cluster[used], return_inverse=True)
    sums = np.bincount(number, weights=part[used])
    if len(sums) < 2:
        return [value, nan, nan], 1.0
    error = float(np.sqrt((sums**2).sum()))
    return [value, value - Z95 * error, value + Z95 * error], two_sided(value, error)


def mean_and_p(delta: Floats, cluster: Hashes) -> tuple[list[float], float]:
    """The mean of [N] differences as (mean, low, high) at 95 %, and its two-sided p by the normal distribution.

    cluster: [N]. Of fewer than two clusters there is no interval, and p is 1; where all clusters are alike, p is that
    of the sign test over them.
    """
    if not len(delta):
        return [nan, nan, nan], 1.0
    mean, error = float(delta.mean()), cluster_error(delta, cluster)
    _, number = np.unique(cluster, return_inverse=True)
    if number.max() < 1:
        return [mean, nan, nan], 1.0
    if error < 1e-12:
        sums = np.bincount(number, weights=delta)
        return [mean, mean, mean], mcnemar_exact(int((sums > 0).sum()), int((sums < 0).sum()))
    return [mean, mean - Z95 * error, mean + Z95 * error], two_sided(mean, error)


def two_sided(value: float, error: float) -> float:
    """P[|Z| >= |value| / error] of a standard normal Z; 1 of nothing and 0 of something where the error is 0."""
    return erfc(abs(value) / error / sqrt(2)) if error > 0 else float(value == 0)


def spread(trials: Sequence[Trial], rows: Bools, what: str) -> dict[str, Any]:
    """Axis -> standard deviation over its seeds of an accuracy or a gain on some questions [N], the other axis held.

    Axes: train, draw; "both" where they only change together. {} of one run.
    """
    value = {(t.train, t.draw): _share((t.after - (t.before if what == "gain" else 0.0))[rows]) for t in trials}
    found: dict[str, Any] = {}
    for axis, held in (("train", 1), ("draw", 0)):
        groups = [list(one) for _, one in groupby(sorted(value, key=lambda s: s[held]), key=lambda s: s[held])]
        groups = [one for one in groups if len(one) > 1]
        if groups:
            parts = [np.array([value[seed] for seed in one]) for one in groups]
            degrees = sum(len(part) - 1 for part in parts)
            squares = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
            found[axis] = {"sd": sqrt(squares / degrees), "seeds": degrees + len(parts)}
    if not found and len(value) > 1:
        found["both"] = {"sd": float(np.std(list(value.values()), ddof=1)), "seeds": len(value)}
    return found


def _mean(trials: Sequence[Trial], name: str) -> Floats:
    """[N] mean over the trials of what a model had right."""
    found: Floats = np.mean([getattr(trial, name) for trial in trials], axis=0)
    return found


def _share(values: Floats) -> float:
    return float(values.mean()) if len(values) else nan


def in_silence(results: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row of `silence` that belongs to one of `accuracy`; None where silence was not asked."""
    key = ("arm", "benchmark", "label")
    return next((one for one in results.get("silence") or () if all(one[k] == row[k] for k in key)), None)
