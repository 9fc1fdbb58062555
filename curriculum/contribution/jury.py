"""Labels by a jury: audio-contribution filtering (ACF) and its variations.

A jury is a set of models, the voters, that answer every question without its audio. A question that enough of them
answer rightly is weak (the text gives it away), any other strong. A vote is how often a voter was right of how often
it was asked: once in the paper, more often with rotated options or repeated samples. A missing vote was not asked (0 of
0) and is never a wrong one. A voter that was right in just half of its answers is half a voter.

Deviation from the paper: none in the rule `majority` with three voters. The paper does not say what happens to ties,
to missing votes or to unequal numbers of options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import comb
from typing import Any, Literal, get_args

import numpy as np

from ...errors import InputError
from ..arrays import Floats, Hashes, Ints, Texts
from ..identity import keyed

WEAK, STRONG = "weak", "strong"
Tie = Literal["strong", "weak", "drop", "random"]


@dataclass(frozen=True)
class VoteMatrix:
    """The votes of m voters on N questions, from answers without the audio.

    right: [N, m] right answers. asked: [N, m] answers, 0 where the vote is missing. num_choices: [N] options.
    luck: [N, m] how often the best place is right, best: [N, m] the best place or text, own: [N, m] answers that prefer
    places as the voter does; see `constant.py`. Each is 1 / options where None.
    Raises ValueError where the shapes differ or a voter was right more often than asked.
    """

    right: Ints
    asked: Ints
    num_choices: Ints
    luck: Floats | None = None
    best: Floats | None = None
    own: Floats | None = None

    def __post_init__(self) -> None:
        if self.right.shape != self.asked.shape or self.right.ndim != 2 or len(self.num_choices) != len(self.right):
            raise ValueError(
                "right and asked must be [N, voters] and num_choices [N], got shapes "
                f"{self.right.shape}, {self.asked.shape}, {self.num_choices.shape}"
            )
        if ((self.right < 0) | (self.right > self.asked)).any():
            raise ValueError("a voter cannot be right more often than it was asked")

    def guess(self, which: Literal["luck", "best", "own"] = "luck") -> Floats:
        """[N, m] probability that a voter without any knowledge is right, in (0, 1)."""
        known: Floats | None = getattr(self, which)
        if known is not None:
            return known
        return np.broadcast_to(1 / np.asarray(self.num_choices, float)[:, None], self.right.shape)

    @property
    def votes(self) -> Floats:
        """[N, m] 1 where a voter was right in more than half of its answers, 0.5 in just half, NaN where missing."""
        share = np.divide(self.right, self.asked, out=np.full(self.right.shape, np.nan), where=self.asked > 0)
        return np.where(np.isnan(share), np.nan, (np.sign(share - 0.5) + 1) / 2)

    def without(self, voter: int) -> VoteMatrix:
        """The votes of all voters but one, given by its number."""
        keep = np.arange(self.right.shape[1]) != voter
        kept = {name: value[:, keep] for name in ("luck", "best", "own") if (value := getattr(self, name)) is not None}
        return VoteMatrix(self.right[:, keep], self.asked[:, keep], self.num_choices, **kept)


@dataclass(frozen=True)
class Rule:
    """When a question is weak. Exactly one of the first four is given; anything else raises InputError.

    majority: more than half of the voters are right (the paper). at_least: so many voters are. fraction: at least this
    share of all answers is right. chance_test: the answers are right more often than guessing explains at this level.
    tie: what just half of the voters means under `majority`; the paper's "otherwise" is strong.
    """

    majority: bool = False
    at_least: int | None = None
    fraction: float | None = None
    chance_test: float | None = None
    tie: Tie = "strong"

    def __post_init__(self) -> None:
        if not isinstance(self.majority, bool):
            raise InputError(f"rule.majority is true or left out, got {self.majority!r}")
        given = [self.majority, *(v is not None for v in (self.at_least, self.fraction, self.chance_test))]
        if sum(given) != 1:
            raise InputError("a rule is one of majority, at_least, fraction, chance_test")
        if self.tie not in get_args(Tie):
            raise InputError(f"rule.tie must be one of {', '.join(get_args(Tie))}, got {self.tie!r}")
        if self.tie != "strong" and not self.majority:
            raise InputError(f"rule.tie ({self.tie}) means nothing beside another rule than majority")
        if self.at_least is not None and not (_number(self.at_least, int) and self.at_least >= 1):
            raise InputError(f"rule.at_least must be a whole number from 1 on, got {self.at_least!r}")
        for name in ("fraction", "chance_test"):
            value = getattr(self, name)
            if value is not None and not (_number(value, int, float) and 0 < value <= 1):
                raise InputError(f"rule.{name} must lie in (0, 1], got {value!r}")

    def describe(self) -> str:
        """The rule in words, for reports."""
        if self.majority:
            return f"majority of the voters (tie: {self.tie})"
        if self.at_least is not None:
            return f"at least {self.at_least} voters"
        if self.fraction is not None:
            return f"at least {100 * self.fraction:g} % of the answers"
        return f"more right answers than guessing explains at {self.chance_test}"


def _number(value: Any, *kinds: type) -> bool:
    """Whether a value is a number of these kinds; booleans are not."""
    return isinstance(value, (*kinds, np.integer)) and not isinstance(value, bool)


def parse_rule(spec: Mapping[str, Any] | str) -> Rule:
    """A rule as a file writes it: "majority", or a mapping like {at_least: 2} or {majority: true, tie: drop}.

    Raises InputError for anything else.
    """
    if spec == "majority":
        return Rule(majority=True)
    if not isinstance(spec, Mapping) or set(spec) - set(Rule.__dataclass_fields__):
        raise InputError(f"rule {spec!r}: write majority, or a mapping of {', '.join(Rule.__dataclass_fields__)}")
    return Rule(**spec)


def jury_labels(matrix: VoteMatrix, rule: Rule, uid: Hashes) -> Texts:
    """[N] str: "weak", "strong", or "" where missing votes leave it open or a tie is dropped.

    uid: [N], for random ties. Under the rules that count voters a label is given where every way of filling in the
    missing votes gives it. Raises InputError for a rule that wants more voters than there are.
    """
    if rule.fraction is not None or rule.chance_test is not None:
        return _by_answers(matrix, rule)
    votes = matrix.votes
    voters = votes.shape[1]
    if rule.at_least is not None and rule.at_least > voters:
        raise InputError(f"rule.at_least is {rule.at_least}, there are {voters} voters")
    tie = np.full(len(votes), "" if rule.tie == "drop" else rule.tie)
    if rule.tie == "random":
        tie = np.where(keyed(uid, "tie") & np.uint64(1), WEAK, STRONG)
    least = np.nansum(votes, axis=1)
    lowest = _by_voters(least, voters, rule, tie)
    highest = _by_voters(least + np.isnan(votes).sum(axis=1), voters, rule, tie)
    return np.where(lowest == highest, lowest, "")


def _by_voters(right: Floats, voters: int, rule: Rule, tie: Texts) -> Texts:
    """[N] labels where `right` [N] of all voters are right; tie: [N] or one, the label of just half of them."""
    if rule.at_least is not None:
        return np.where(right >= rule.at_least, WEAK, STRONG)
    return np.where(right > voters / 2, WEAK, np.where(right < voters / 2, STRONG, tie))


def _by_answers(matrix: VoteMatrix, rule: Rule) -> Texts:
    """[N] labels by the rules over all answers alike; a missing vote only makes their number smaller."""
    right, asked = matrix.right.sum(axis=1), matrix.asked.sum(axis=1)
    if rule.fraction is not None:
        weak = right >= rule.fraction * asked - 1e-9
    else:
        assert rule.chance_test is not None
        weak = right >= _thresholds(matrix.asked, matrix.guess(), rule.chance_test)
    return np.where(asked == 0, "", np.where(weak, WEAK, STRONG))


def chance_threshold(asked: Ints, num_choices: Ints, level: float) -> Ints:
    """[N] smallest k with P[Bin(asked, 1 / options) >= k] <= level, for asked [N] and num_choices [N] options."""
    return _thresholds(np.asarray(asked)[:, None], 1 / np.asarray(num_choices, float)[:, None], level)


def _thresholds(asked: Ints, guess: Floats, level: float) -> Ints:
    """[N] smallest number of right answers that luck reaches with a probability of at most `level`.

    asked: [N, m] answers of each voter, each right with probability guess [N, m] by luck.
    """
    kinds, back = np.unique(np.concatenate([asked, guess], axis=1), axis=0, return_inverse=True)
    voters = asked.shape[1]
    thresholds = []
    for kind in kinds:
        chance = _by_luck(kind[:voters].astype(int), kind[voters:])
        tails = np.append(chance[::-1].cumsum()[::-1], 0.0)
        # The last bits of a tail that equals the level are not the level's.
        thresholds.append(int(np.flatnonzero(tails <= level * (1 + 1e-12))[0]))
    of_question: Ints = np.array(thresholds, np.int64)[back.ravel()]
    return of_question


def _by_luck(asked: Ints, guess: Floats) -> Floats:
    """[sum of asked + 1] probability of 0, 1, 2, ... right answers where voter j is right with guess[j] each time."""
    from scipy.stats import binom

    chance: Floats = np.ones(1)
    for answers, luck in zip(asked.tolist(), guess.tolist(), strict=True):
        chance = np.convolve(chance, binom.pmf(np.arange(answers + 1), answers, luck))
    return chance


def lucky_weak_share(num_choices: Ints, voters: int = 3, at_least: int = 2) -> float:
    """Expected share of questions that independent guessing alone makes weak: mean of P[Bin(voters, 1/K) >= k].

    num_choices: [N] options K. at_least: k, the right voters that make a question weak.
    """
    guess = 1 / np.asarray(num_choices, float)
    terms = [comb(voters, k) * guess**k * (1 - guess) ** (voters - k) for k in range(at_least, voters + 1)]
    return float(np.mean(np.sum(terms, axis=0)))


def expected_lucky_weak(matrix: VoteMatrix, rule: Rule) -> float:
    """Share of the questions that this rule would call weak if every answer were right by luck alone.

    Answers are then independent, and right as often as always naming the best place (`VoteMatrix.luck`).
    """
    kinds, counts = np.unique(np.concatenate([matrix.asked, matrix.guess()], axis=1), axis=0, return_counts=True)
    voters = matrix.asked.shape[1]
    chances = [_lucky_weak(kind[:voters].astype(int), kind[voters:], rule) for kind in kinds]
    return float(np.average(chances, weights=counts))


def _lucky_weak(asked: Ints, guess: Floats, rule: Rule) -> float:
    """The exact chance that luck, with `asked` [m] answers by each voter, makes one question weak."""
    from scipy.stats import binom

    if rule.tie == "random":
        return sum(_lucky_weak(asked, guess, replace(rule, tie=tie)) for tie in ("weak", "strong")) / 2
    if rule.fraction is not None or rule.chance_test is not None:
        total = int(asked.sum())
        least = np.ceil(rule.fraction * total - 1e-9) if rule.fraction is not None else 0
        if rule.chance_test is not None:
            least = _thresholds(asked[None], guess[None], rule.chance_test)[0]
        return float(_by_luck(asked, guess)[int(least) :].sum()) if total else 0.0
    chance: Floats = np.ones(1)  # of 0, 1, 2, ... halves of a voter being right
    for answers, luck in zip(asked.tolist(), guess.tolist(), strict=True):
        if answers:
            right = np.arange(answers + 1)
            halves = np.sign(2 * right - answers) + 1
            chance = np.convolve(chance, np.bincount(halves, binom.pmf(right, answers, luck), 3))
    # Missing votes leave open what they could decide: weak is what is weak with all of them wrong.
    tie = np.array("" if rule.tie == "drop" else rule.tie)
    return float(chance[_by_voters(np.arange(len(chance)) / 2, len(asked), rule, tie) == WEAK].sum())
