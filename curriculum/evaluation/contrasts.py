"""What the audio contributes: accuracies under the conditions against each other, in tables, tests and subsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Bools, Texts
from ..contribution.accuracy import contribution
from ..contribution.jury import STRONG, WEAK
from ..statistics import cluster_mean, cluster_share, holm, mcnemar_exact
from .outcomes import MISSING, QuestionSet

AUDIO = "audio"


def contrast(questions: QuestionSet, rule: str, with_audio: str, without: str, rows: Bools) -> dict[str, Any]:
    """Accuracies of some questions [N] under two conditions, and what lies between them.

    The 2x2 table and McNemar's exact `p` are of the order of the file; with several orders of the options the
    accuracies and the contribution are means over them. `difference` has an interval clustered by recording.
    """
    a, b = questions.heard[with_audio], questions.heard[without]
    first_a, first_b = a.first(rule)[rows], b.first(rule)[rows]
    mean_a, mean_b, clip = a.right(rule)[rows], b.right(rule)[rows], questions.clip[rows]
    table = contribution(first_a, first_b)
    return {
        "conditions": [with_audio, without],
        "questions": int(rows.sum()),
        "with": list(cluster_share(mean_a, clip)),
        "without": list(cluster_share(mean_b, clip)),
        "difference": list(cluster_mean(mean_a - mean_b, clip)),
        "both": table.both,
        "only_with": table.audio_only,
        "only_without": table.silence_only,
        "neither": table.neither,
        "p": mcnemar_exact(table.audio_only, table.silence_only),
    }


def contributions(questions: QuestionSet, rule: str, rows: Bools) -> dict[str, Any]:
    """Condition without the audio -> contrast with the audio, over some questions [N]; {} where audio was not asked.

    `S`, where silence and mismatched audio were asked: A - (A_silence + A_mismatched) / 2, with its interval.
    """
    if AUDIO not in questions.heard or not rows.any():
        return {}
    others = [name for name in questions.heard if name != AUDIO]
    found: dict[str, Any] = {name: contrast(questions, rule, AUDIO, name, rows) for name in others}
    silence = next((name for name in others if name.startswith("silence")), None)
    if silence is not None and "mismatched" in others:
        a, s, m = (questions.heard[name].right(rule)[rows] for name in (AUDIO, silence, "mismatched"))
        found["S"] = list(cluster_mean(a - (s + m) / 2, questions.clip[rows]))
    return found


def own_labels(questions: QuestionSet, rule: str) -> Texts:
    """[N] weak where the model itself was right in silence, else strong; "" for all where silence was not asked.

    With several orders of the options, weak is right in more than half of them.
    """
    silence = next((name for name in questions.heard if name.startswith("silence") or name == "none"), None)
    labels = np.full(len(questions.keys), "", dtype="<U6")
    if silence is None:
        return labels
    heard = questions.heard[silence]
    there = heard.outcomes[rule][0] != MISSING
    labels[there] = np.where(heard.right(rule)[there] > 0.5, WEAK, STRONG)
    return labels


def subsets(questions: QuestionSet, rule: str, labels: Mapping[str, Texts]) -> dict[str, Any]:
    """Where labels come from -> label -> accuracies by condition and contributions of its questions.

    labels: origin -> [N] strong, weak or "".
    """
    found: dict[str, Any] = {}
    for origin, of_question in labels.items():
        parts = {}
        for label in (STRONG, WEAK):
            rows = of_question == label
            if rows.any():
                accuracy = {
                    name: list(cluster_share(heard.right(rule)[rows], questions.clip[rows]))
                    for name, heard in questions.heard.items()
                }
                parts[label] = {"questions": int(rows.sum()), "accuracy": accuracy}
                parts[label]["contribution"] = contributions(questions, rule, rows)
        if parts:
            found[origin] = parts
    return found


def correct_for_many(results: list[dict[str, Any]]) -> int:
    """Puts `p_holm` beside every `p` of some results, adjusted for their number; returns how many tests there are."""
    tests = [test for result in results for test in _tests(result)]
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p
    return len(tests)


def _tests(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [test for one in node for test in _tests(one)]
    if not isinstance(node, dict):
        return []
    own = [node] if isinstance(node.get("p"), float) else []
    return own + [test for one in node.values() for test in _tests(one)]
