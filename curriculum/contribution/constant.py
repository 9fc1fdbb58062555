"""The best constant answer, which every rate is measured against, and voters that give nothing but one.

Who always names the place where right answers stand most often, or the text that is most often right, knows nothing of
a question. So luck is not 1 / options. Where a voter was asked questions with K options, n_Kp times in an order that
shows the right one in place p, and where text t is right of a share q_t of a kind of questions (their type):

    g = max(max_p n_Kp / sum_p n_Kp, max_t q_t)

The first is the best place for each number of options in the orders that were asked: 0.38 in one order of
MMAU-test-mini, 1 / K in all orders, where every option stands in every place once. The second is the best text for each
kind. Both are maxima over the data at hand, so a little too high for few questions: nobody's knowledge is overstated.
Accuracies and skills are measured against g. The luck of independent answers (`expected_lucky_weak`, rule chance_test)
is the first part alone. The latent classes need what luck gave this voter and not the most it can give: `own_luck`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..statistics import wilson_interval

ALMOST_ALL = 0.8  # at most a fifth of the answers can then depend on what is asked
ENOUGH = 20  # questions of a kind, for a share in it to mean something
_MOST = 1 - 1e-6


def places_shown(truth: Ints, rotation: Ints | int, num_choices: Ints | int, orders: Ints | int) -> Ints:
    """[A] places in which options are shown, from their places truth [A] in the file, as `rotation.rotations` does.

    rotation: [A] or one, number of the order. num_choices: [A] or one. orders: [A] or one, in how many the voter was
    asked, at most K for K options.
    """
    wanted = np.minimum(orders, num_choices)
    places: Ints = np.asarray((truth - rotation * num_choices // wanted) % num_choices, np.int64)
    return places


def luck_of_places(truth: Ints, in_order: Ints, right_in_order: Ints, num_choices: Ints) -> tuple[Floats, Floats]:
    """[M] how often the best place is right, and [M] how often the voter's own preference for places is.

    Both are the same for all questions with as many options. truth: [M] place of the right option in the file.
    in_order, right_in_order: [M, R] answers, and right ones, in each order. num_choices: [M].
    """
    best: Floats = np.ones(len(num_choices)) / num_choices
    own, orders = best.copy(), in_order.shape[1]
    for options in np.unique(num_choices).tolist():
        rows = np.flatnonzero(num_choices == options)
        asked, right = np.zeros(options), np.zeros(options)
        for order in range(min(orders, options)):
            shown = places_shown(truth[rows], order, options, orders)
            asked += np.bincount(shown, in_order[rows, order], options)
            right += np.bincount(shown, right_in_order[rows, order], options)
        if asked.sum():
            best[rows] = min(_MOST, asked.max() / asked.sum())
        if len(rows) >= ENOUGH and asked.all():
            own[rows] = own_luck(asked, right)
    return best, own


def own_luck(asked: Floats, right: Floats) -> float:
    """How often a voter would be right that prefers places as this one does and knows nothing.

    asked, right: [K] answers, and right ones, where the right option stood in each place. With knowledge of a share w
    and preferences v_p, sum 1, the share of right ones is h_p = w + (1 - w) v_p, which gives both. Luck is the sum
    of v_p times the share of right options in p. That of always A is A's share, of no preference 1 / K.
    """
    h = right / asked
    known = min(1.0, max(0.0, (h.sum() - 1) / (len(h) - 1)))
    preferred: Floats = np.maximum(h - known, 0.0)
    preferred = preferred / preferred.sum() if preferred.sum() > 1e-9 else np.full(len(h), 1 / len(h))
    return float(np.clip(preferred @ (asked / asked.sum()), 1e-3, _MOST))


@dataclass(frozen=True)
class Picks:
    """What one voter picked in A answers, to questions of a sample.

    question: [A] number of the question. place, truth: [A] places shown of the picked option, -1 for none, and of the
    right one. option, answer: [A] their places in the file. num_choices: [A]. right: [A]. text, truth_text: [A] in
    lower case, "" for no answer. kind: [A] type of the question.
    """

    question: Ints
    place: Ints
    truth: Ints
    option: Ints
    answer: Ints
    num_choices: Ints
    right: Bools
    text: Sequence[str]
    truth_text: Sequence[str]
    kind: Sequence[str]


def best_texts(kinds: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Kind of question -> share of its questions that the text most often right is right of; "" for the other kinds.

    kinds, truths: of the questions of a sample. Kinds with fewer than ENOUGH questions are taken together.
    """
    sizes = Counter(kinds)
    of_kind: dict[str, list[str]] = {}
    for kind, text in zip(kinds, truths, strict=True):
        of_kind.setdefault(kind if sizes[kind] >= ENOUGH else "", []).append(text)
    return {
        kind: min(_MOST, max(Counter(texts).values()) / len(texts))
        for kind, texts in of_kind.items()
        if len(texts) >= ENOUGH
    }


def describe_picks(picks: Picks) -> dict[str, Any]:
    """How a voter's answers lie, ready for JSON: shares by place and by text, beside those of the right answers.

    Texts are triples of the text, its share of the answers, and of the right answers; the most frequent come first.
    """
    letters = [ascii_uppercase[place % 26] for place in range(int(picks.num_choices.max(initial=0)))]
    total = max(1, len(picks.place))

    def by_place(places: Ints) -> dict[str, float]:
        counts = np.bincount(places[places >= 0], minlength=len(letters))
        return {letter: float(count / total) for letter, count in zip(letters, counts, strict=True)}

    kinds = [kind for kind, size in Counter(picks.kind).most_common(8) if size >= ENOUGH]
    every = np.ones(len(picks.place), bool)
    return {
        "answers": len(picks.place),
        "questions": len(np.unique(picks.question)),
        "by_place": by_place(picks.place),
        "right_by_place": by_place(picks.truth),
        "by_text": _texts(picks, every, 5),
        "by_kind": {kind: _texts(picks, _of_kind(picks, kind), 3) for kind in kinds},
    }


def _of_kind(picks: Picks, kind: str) -> Bools:
    return np.array([one == kind for one in picks.kind], bool)


def _texts(picks: Picks, rows: Bools, most: int) -> list[tuple[str, float, float]]:
    """The most frequent texts of some answers: (text, share of these answers, share of their right answers)."""
    chosen = np.flatnonzero(rows).tolist()
    said, right = Counter(picks.text[row] for row in chosen), Counter(picks.truth_text[row] for row in chosen)
    return [(text, n / len(chosen), right[text] / len(chosen)) for text, n in said.most_common(most) if text]


def constant_answers(picks: Picks) -> list[dict[str, Any]]:
    """What a voter answers whatever is asked: a place, a text, or texts for kinds of questions; empty for nothing.

    It is called constant where one answer makes up more than ALMOST_ALL, and it is right no more often than that answer
    alone would be (Wilson's lower bound). Each: `answer`, `by` (place or text), `kind` ("" for all), `share` of its
    answers, `right` the share of right answers that are this one, `questions`.
    """
    every = np.ones(len(picks.place), bool)
    if not len(every):
        return []
    found = []
    place = int(np.bincount(picks.place[picks.place >= 0], minlength=1).argmax())
    shares = float((picks.place == place).mean()), float((picks.truth == place).mean())
    found += _constant(picks, every, "place", ascii_uppercase[place % 26], *shares)
    found += [one for text in _texts(picks, every, 1) for one in _constant(picks, every, "text", *text)]
    if not found:
        for kind in [kind for kind in sorted(set(picks.kind)) if kind]:
            rows = _of_kind(picks, kind)
            for text in _texts(picks, rows, 1):
                found += [one | {"kind": kind} for one in _constant(picks, rows, "text", *text)]
    return found


def is_constant(picks: Picks, constants: Sequence[Mapping[str, Any]]) -> bool:
    """Whether constant answers are (almost) all that a voter gave: one answer, or one for each kind of question."""
    covered = sum(one["questions"] for one in constants if one["kind"])
    asked = len(np.unique(picks.question))
    return any(not one["kind"] for one in constants) or covered > ALMOST_ALL * asked > 0


def _constant(picks: Picks, rows: Bools, by: str, answer: str, share: float, right: float) -> list[dict[str, Any]]:
    """The finding that one answer is constant among some answers, or none."""
    questions = len(np.unique(picks.question[rows]))
    accuracy = float(picks.right[rows].mean())
    if share <= ALMOST_ALL or questions < ENOUGH or wilson_interval(accuracy * questions, questions)[0] > right:
        return []
    return [{"by": by, "answer": answer, "kind": "", "share": share, "right": right, "questions": questions}]


def warning_of(name: str, constants: Sequence[Mapping[str, Any]]) -> str:
    """A sentence that names a voter whose answers are constant, "" for none."""
    if not constants:
        return ""
    parts = []
    for one in constants[:3]:
        what = f"place {one['answer']}" if one["by"] == "place" else f"“{one['answer'][:60]}”"
        asked = f" to questions of type {one['kind']}" if one["kind"] else ", whatever is asked"
        stands = "stand there" if one["by"] == "place" else "are that"
        share, right = 100 * one["share"], 100 * one["right"]
        parts.append(f"{what} in {share:.0f} % of its answers{asked} ({right:.0f} % of the right ones {stands})")
    more = f", and {len(constants) - 3} more types" if len(constants) > 3 else ""
    return f"{name} gives a constant answer: {'; '.join(parts)}{more}"
