"""Everything that is said of a model on one benchmark, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Texts
from ..contribution.constant import constant_answers, describe_picks, warning_of
from .baselines import baselines
from .contrasts import AUDIO, contributions, own_labels, subsets
from .outcomes import QuestionSet
from .scores import groups, orders, scores

OWN = "this model's own answers without the audio"


def describe_benchmark(questions: QuestionSet, rule: str, labels: Mapping[str, Texts]) -> dict[str, Any]:
    """All figures of one benchmark: scores, groups, baselines, contributions, subsets, orders and picks.

    rule: that contributions, groups and orders are measured with. labels: origin -> [N] strong, weak or "". Without
    known answers only the picks are described.
    """
    picks = {name: _picks(questions, name) for name in questions.heard}
    found: dict[str, Any] = {"rule": rule, "questions": len(questions.keys), "picks": picks, "warnings": []}
    if not questions.answered:
        found["warnings"].append("the file has no answers: nothing is judged, predictions are written")
        return found
    every = np.ones(len(questions.keys), bool)
    own = own_labels(questions, rule)
    given = dict(labels) | ({OWN: own} if (own != "").any() and AUDIO in questions.heard else {})
    found |= {
        "baselines": baselines(questions),
        "scores": {name: scores(questions, name) for name in questions.heard},
        "groups": groups(questions, rule),
        "contribution": contributions(questions, rule, every),
        "subsets": subsets(questions, rule, given),
        "orders": {name: found for name in questions.heard if (found := orders(questions, name, rule))},
    }
    found["warnings"] += [text for name in questions.heard if (text := picks[name]["warning"])]
    return found


def _picks(questions: QuestionSet, condition: str) -> dict[str, Any]:
    """How the picks lie by place and by text, and what is constant among them, in words."""
    picks = questions.picks(condition)
    if not questions.answered:
        picks_of_answers = {k: v for k, v in describe_picks(picks).items() if k != "right_by_place"}
        return picks_of_answers | {"constant": [], "warning": ""}
    constants = constant_answers(picks)
    warning = warning_of(f"under {condition} the model", constants)
    return describe_picks(picks) | {"constant": constants, "warning": warning}
