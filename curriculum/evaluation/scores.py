"""Scores of one benchmark: official, strict and by letter beside each other, and accuracies of groups of questions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ..arrays import Bools
from ..statistics import cluster_share, wilson_interval
from .outcomes import DROPPED, NOT_ASKED, OUTCOMES, RIGHT, Heard, QuestionSet

FEWEST = 5  # questions of a group that is shown


def scores(questions: QuestionSet, condition: str) -> dict[str, Any]:
    """Rule -> `right`, `of`, `accuracy` (share, low, high) and what the answers were, in the order of the file.

    "official" has `dropped` besides: of its denominator the published scorer leaves them out. Every other rule counts
    all questions of the file, and what is missing, unfinished or unreadable as wrong.
    """
    heard = questions.heard[condition]
    found: dict[str, Any] = {"official": official(heard, np.ones(len(questions.keys), bool))}
    for rule, outcomes in heard.outcomes.items():
        first = outcomes[0]
        counts = np.bincount(first, minlength=len(OUTCOMES)).tolist()
        found[rule] = {
            "right": counts[RIGHT],
            "of": len(first),
            "accuracy": list(cluster_share((first == RIGHT).astype(float), questions.clip)),
            "answers": dict(zip(OUTCOMES, counts, strict=True)),
        }
    return found


def official(heard: Heard, rows: Bools) -> dict[str, Any]:
    """What the published scorer prints of some questions [N]: right ones, its denominator, what it dropped."""
    said = heard.official[rows]
    right, dropped = int((said == 1).sum()), int((said == DROPPED).sum())
    of = len(said) - dropped
    share = right / of if of else None
    return {"right": right, "of": of, "dropped": dropped, "accuracy": [share, *wilson_interval(right, of)]}


def groups(questions: QuestionSet, rule: str) -> dict[str, dict[str, Any]]:
    """Grouping -> value -> `questions` and, by condition, the accuracy (share, low, high) and the official share.

    Groups of fewer than FEWEST questions are taken together as "(fewer than 5 questions)".
    """
    found: dict[str, dict[str, Any]] = {}
    for facet, values in questions.facets.items():
        sizes = Counter(values)
        names = [value if sizes[value] >= FEWEST else f"(fewer than {FEWEST} questions)" for value in values]
        texts = np.array([name or "(none)" for name in names])
        found[facet] = {name: _group(questions, rule, texts == name) for name in sorted(set(texts.tolist()))}
    return found


def _group(questions: QuestionSet, rule: str, rows: Bools) -> dict[str, Any]:
    group: dict[str, Any] = {"questions": int(rows.sum())}
    for condition, heard in questions.heard.items():
        group[condition] = list(cluster_share(heard.first(rule)[rows], questions.clip[rows]))
        group[f"official {condition}"] = official(heard, rows)["accuracy"][0]
    return group


def orders(questions: QuestionSet, condition: str, rule: str) -> dict[str, Any]:
    """What the order of the options does, over the questions that were asked in several; {} where none was.

    mean: accuracy over all orders. consistent: share of questions with the same option picked in every order.
    majority: accuracy of the option that was picked most often, of equals the one picked first. any, all: share of
    questions that were right in any, in all orders. by_place: letter of the place the right option was shown in ->
    accuracy and answers.
    """
    heard = questions.heard[condition]
    outcomes, option = heard.outcomes[rule], heard.option
    asked = outcomes != NOT_ASKED
    rows = np.flatnonzero(asked.sum(axis=0) > 1)
    if not len(rows):
        return {}
    right, same, majority = heard.right(rule)[rows], [], []
    for row in rows.tolist():
        picked = option[asked[:, row], row].tolist()
        same.append(len(set(picked)) == 1 and picked[0] >= 0)
        votes = Counter(one for one in picked if one >= 0).most_common(1)
        majority.append(bool(votes) and _is_right(questions, row, votes[0][0]))
    clip = questions.clip[rows]
    places = questions.picks(condition)
    hit = np.array([_is_right(questions, q, o) for q, o in zip(places.question, places.option, strict=True)], bool)
    by_place = {
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place]: {
            "accuracy": float(hit[places.truth == place].mean()),
            "answers": int((places.truth == place).sum()),
        }
        for place in sorted(set(places.truth.tolist()) - {-1})
    }
    return {
        "questions": len(rows),
        "orders": int(asked[:, rows].sum(axis=0).max()),
        "mean": list(cluster_share(right, clip)),
        "consistent": list(cluster_share(np.array(same, float), clip)),
        "majority": list(cluster_share(np.array(majority, float), clip)),
        "any": float((right > 0).mean()),
        "all": float((right == 1).mean()),
        "by_place": by_place,
    }


def _is_right(questions: QuestionSet, row: int, option: int) -> bool:
    """Whether an option is the right one, or reads the same: a benchmark may show it twice."""
    truth = int(questions.truth[row])
    choices = questions.choices[row]
    return option >= 0 and truth >= 0 and choices[option].strip().lower() == choices[truth].strip().lower()
