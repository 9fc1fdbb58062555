"""What knows nothing of a question and is right anyway: chance, the first option, the longest, the best place."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

import numpy as np

from .outcomes import QuestionSet


def baselines(questions: QuestionSet) -> dict[str, Any]:
    """Shares of right answers, in [0, 1], over the questions that can be asked; {} where answers are not known.

    chance: mean of 1 / options. first: always the first option. longest: the first of the longest options. best_place:
    the place that is right most often, and `place`, its letter.
    """
    rows = np.flatnonzero(questions.askable & (questions.truth >= 0))
    if not len(rows) or not questions.answered:
        return {}
    truth = questions.truth[rows]
    texts = [questions.choices[row] for row in rows.tolist()]
    longest = [max(options, key=len) == options[place] for options, place in zip(texts, truth.tolist(), strict=True)]
    places = np.bincount(truth)
    return {
        "questions": len(rows),
        "chance": float(np.mean(1 / questions.num_choices[rows])),
        "first": float(np.mean(truth == 0)),
        "longest": float(np.mean(longest)),
        "best_place": float(places.max() / len(rows)),
        "place": ascii_uppercase[int(places.argmax()) % 26],
    }
