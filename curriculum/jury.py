"""Knows how a jury's answers without the audio become labels: audio-contribution filtering (ACF) and its variations.

A ballot is how often each voter was right of how often it was asked: once in the paper, more often with rotated options
or repeated samples. A missing vote was not asked (0 of 0) and is never a wrong one.

Deviation from the paper: none in the rule `majority` with three voters. The paper does not say what happens to ties,
to missing votes or to unequal numbers of options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any, Literal, get_args

import numpy as np

from ..errors import InputError
from .identity import keyed

WEAK, STRONG = "weak", "strong"
Tie = Literal["strong", "weak", "drop", "random"]


@dataclass(frozen=True)
class Ballots:
    """Answers without the audio: `right` [N, m] of `asked` [N, m] (0: missing), over [N] numbers of options."""

    right: np.ndarray
    asked: np.ndarray
    num_choices: np.ndarray

    def __post_init__(self) -> None:
        if self.right.shape != self.asked.shape or self.right.ndim != 2 or len(self.num_choices) != len(self.right):
            raise ValueError(f"ballots of shapes {self.right.shape}, {self.asked.shape}, {self.num_choices.shape}")
        if ((self.right < 0) | (self.right > self.asked)).any():
            raise ValueError("a voter cannot be right more often than it was asked")

    @property
    def votes(self) -> np.ndarray:
        """[N, m] 1 where a voter was right in more than half of its answers, 0.5 in just half, NaN where missing."""
        share = np.divide(self.right, self.asked, out=np.full(self.right.shape, np.nan), where=self.asked > 0)
        return np.where(np.isnan(share), np.nan, (np.sign(share - 0.5) + 1) / 2)

    def without(self, voter: int) -> Ballots:
        """The other voters' ballots."""
        keep = np.arange(self.right.shape[1]) != voter
        return Ballots(self.right[:, keep], self.asked[:, keep], self.num_choices)


@dataclass(frozen=True)
class Rule:
    """When a question is weak. Exactly one of the first four is given.

    majority: more than half of the voters are right (the paper). at_least: so many voters are. fraction: at least this
    share of all answers is right. chance_test: the answers are right more often than guessing explains at this level.
    tie: what half of an even jury under `majority` means; the paper's "otherwise" is strong.
    """

    majority: bool = False
    at_least: int | None = None
    fraction: float | None = None
    chance_test: float | None = None
    tie: Tie = "strong"

    def __post_init__(self) -> None:
        given = [bool(self.majority), *(v is not None for v in (self.at_least, self.fraction, self.chance_test))]
        if sum(given) != 1:
            raise InputError("a rule is one of majority, at_least, fraction, chance_test")
        if self.tie not in get_args(Tie):
            raise InputError(f"rule.tie must be one of {', '.join(get_args(Tie))}, got {self.tie!r}")
        if self.at_least is not None and self.at_least < 1:
            raise InputError(f"rule.at_least must be at least 1, got {self.at_least}")
        for name in ("fraction", "chance_test"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"rule.{name} must lie in (0, 1], got {value}")

    def describe(self) -> str:
        """In words."""
        if self.majority:
            return f"majority of the voters (tie: {self.tie})"
        if self.at_least is not None:
            return f"at least {self.at_least} voters"
        if self.fraction is not None:
            return f"at least {self.fraction:.0%} of the answers"
        return f"more right answers than guessing explains at {self.chance_test}"


def parse_rule(spec: Mapping[str, Any] | str) -> Rule:
    """A rule as a file writes it: "majority", or a mapping like {at_least: 2} or {majority: true, tie: drop}."""
    if spec == "majority":
        return Rule(majority=True)
    if not isinstance(spec, Mapping) or set(spec) - set(Rule.__dataclass_fields__):
        raise InputError(f"rule {spec!r}: write majority, or a mapping of {', '.join(Rule.__dataclass_fields__)}")
    return Rule(**spec)


def jury_labels(ballots: Ballots, rule: Rule, uid: np.ndarray) -> np.ndarray:
    """[N] str: "weak", "strong", or "" where missing votes leave it open or a tie is dropped. uid: for random ties."""
    if rule.fraction is not None or rule.chance_test is not None:
        return _by_answers(ballots, rule)
    votes = ballots.votes
    voters = votes.shape[1]
    least, most = np.nansum(votes, axis=1), np.nansum(votes, axis=1) + np.isnan(votes).sum(axis=1)
    if rule.at_least is not None:
        if rule.at_least > voters:
            raise InputError(f"rule.at_least is {rule.at_least}, there are {voters} voters")
        return np.where(least >= rule.at_least, WEAK, np.where(most < rule.at_least, STRONG, ""))
    labels = np.where(least > voters / 2, WEAK, np.where(most < voters / 2, STRONG, ""))
    tied = (least == voters / 2) & (most == voters / 2)
    if rule.tie == "random":
        labels[tied] = np.where(keyed(uid[tied], "tie") & np.uint64(1), WEAK, STRONG)
    elif rule.tie != "drop":
        labels[tied] = rule.tie
    return labels


def _by_answers(ballots: Ballots, rule: Rule) -> np.ndarray:
    """Rules over all answers alike; a voter that was not asked changes the number of answers, nothing else."""
    right, asked = ballots.right.sum(axis=1), ballots.asked.sum(axis=1)
    if rule.fraction is not None:
        weak = right >= rule.fraction * asked - 1e-9
    else:
        assert rule.chance_test is not None
        weak = right >= chance_threshold(asked, ballots.num_choices, rule.chance_test)
    return np.where(asked == 0, "", np.where(weak, WEAK, STRONG))


def chance_threshold(asked: np.ndarray, num_choices: np.ndarray, level: float) -> np.ndarray:
    """[N] smallest k with P[Bin(asked, 1 / options) >= k] <= level."""
    from scipy.stats import binom

    pairs, back = np.unique(np.stack([asked, num_choices], axis=1), axis=0, return_inverse=True)
    return np.array([_smallest(int(n), int(k), level, binom) for n, k in pairs])[back.ravel()]


def _smallest(trials: int, choices: int, level: float, binom: Any) -> int:
    counts = np.arange(trials + 2)
    return int(counts[binom.sf(counts - 1, trials, 1 / choices) <= level][0])


def lucky_weak_share(num_choices: np.ndarray, voters: int = 3, at_least: int = 2) -> float:
    """Expected share of questions that independent guessing alone makes weak: mean of P[Bin(voters, 1/K) >= k]."""
    guess = 1 / np.asarray(num_choices, float)
    terms = [comb(voters, k) * guess**k * (1 - guess) ** (voters - k) for k in range(at_least, voters + 1)]
    return float(np.mean(np.sum(terms, axis=0)))


def expected_lucky_weak(ballots: Ballots, rule: Rule, draws: int = 64) -> float:
    """Share of the questions that this rule would call weak if every answer were an independent guess.

    Exact where every voter was asked once by a counting rule; otherwise by hashed draws over the ballots' own sizes.
    """
    asked = ballots.asked
    if rule.at_least is not None and (asked == 1).all():
        return lucky_weak_share(ballots.num_choices, asked.shape[1], rule.at_least)
    if rule.majority and (asked == 1).all() and asked.shape[1] % 2:
        return lucky_weak_share(ballots.num_choices, asked.shape[1], asked.shape[1] // 2 + 1)
    rows = np.arange(len(asked), dtype=np.uint64)
    weak = 0
    for draw in range(draws):
        random = np.random.Generator(np.random.Philox(key=int(keyed(rows[:1] * 0, "luck", draw)[0])))
        guessed = random.binomial(asked.astype(int), 1 / np.asarray(ballots.num_choices, float)[:, None])
        weak += int((jury_labels(Ballots(guessed, asked, ballots.num_choices), rule, rows) == WEAK).sum())
    return weak / (draws * len(asked))
