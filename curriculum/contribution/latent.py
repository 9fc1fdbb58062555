"""How likely a question is solvable without its audio, given which voters were right: latent classes, or a 3PL curve.

Latent classes after Dawid and Skene (1979), on correctness instead of answers since the truth is known: a solvable
question is answered rightly by voter j with probability s_j, any other by luck, with probability g_ij: that of answers
that prefer places as the voter does (`own_luck` in `constant.py`; 1 / options in all orders, and where places are not
known).
Deviations: the second class has no free parameters, which is what makes three voters enough; a voter that was asked
several times counts once, by the share of its right answers, because its answers to one question are not independent;
and no skill is below guessing, or else the classes could change places: with voters that are mostly silent without the
audio, what nobody answers rightly would be the solvable class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Floats, Ints
from .jury import VoteMatrix

_NODES = 41


@dataclass(frozen=True)
class LatentClass:
    """Two classes of questions: those that voters can solve without the audio, and those that they guess.

    With a single voter share and skill are not determined, only what they make together.

    solvable: share of the first. skill: [m] share of those that each voter answers rightly; NaN for one that was never
    asked. posterior: [N] probability that a question is solvable, given its votes.
    """

    solvable: float
    skill: Floats
    posterior: Floats
    iterations: int  # of the fit; the most allowed where it did not settle

    @property
    def contribution(self) -> Floats:
        """[N] AC_vote = P(the audio is required | votes), in [0, 1]."""
        return 1 - self.posterior


def _patterns(matrix: VoteMatrix) -> tuple[VoteMatrix, Ints, Ints]:
    """The distinct rows of the vote matrix, how often each occurs, and which one every question has [N].

    There are few, however many questions, so that fits cost the same for any number.
    """
    columns = [matrix.right, matrix.asked, np.asarray(matrix.num_choices)[:, None]]
    if matrix.own is not None:
        columns += [_numbered(matrix.own[:, j])[:, None] for j in range(matrix.own.shape[1])]
    packed = np.concatenate(columns, axis=1).astype(np.int16)
    view = np.ascontiguousarray(packed).view([("", packed.dtype)] * packed.shape[1]).ravel()
    _, first, back, counts = np.unique(view, return_index=True, return_inverse=True, return_counts=True)
    own = None if matrix.own is None else matrix.own[first]
    kinds = VoteMatrix(matrix.right[first], matrix.asked[first], np.asarray(matrix.num_choices)[first], own=own)
    return kinds, counts, back


def _numbered(values: Floats) -> Ints:
    """[N] the number of each value among the different ones, of which there are few."""
    return np.searchsorted(np.unique(values), values)


def latent_class(matrix: VoteMatrix, tolerance: float = 1e-9, most: int = 2_000) -> LatentClass:
    """Fits the two classes by expectation maximisation, until nothing moves by `tolerance` or `most` iterations.

    With c_ij = right / asked, g_ij = `VoteMatrix.own`, and products over the voters that were asked:
    E: tau_i = pi prod_j s_j^c (1 - s_j)^(1 - c) / (the same + (1 - pi) prod_j g_ij^c (1 - g_ij)^(1 - c)).
    M: pi = mean tau, s_j = sum_i tau_i c_ij / sum_i tau_i, at least the largest g_ij that j met.
    """
    kinds, counts, back = _patterns(matrix)
    there = (kinds.asked > 0).astype(float)
    right = kinds.right / np.maximum(kinds.asked, 1)
    wrong = there - right
    guess = kinds.guess("own")
    by_luck = (right * np.log(guess) + wrong * np.log1p(-guess)).sum(axis=1)
    floor = np.where(there > 0, guess, 1e-6).max(axis=0)
    share, skill = 0.5, np.full(right.shape[1], 0.8)
    tau, iteration = np.empty(0), 0
    while iteration < most:
        iteration += 1
        by_skill = (right * np.log(skill) + wrong * np.log1p(-skill)).sum(axis=1)
        odds = np.log(share) - np.log1p(-share) + by_skill - by_luck
        tau = 1 / (1 + np.exp(-np.clip(odds, -700, 700)))
        weight = tau * counts
        new_share = float(np.clip(weight.sum() / counts.sum(), 1e-6, 1 - 1e-6))
        asked = (weight[:, None] * there).sum(axis=0)
        new_skill = np.clip((weight[:, None] * right).sum(axis=0) / np.maximum(asked, 1e-12), floor, 1 - 1e-6)
        moved = max(abs(new_share - share), float(np.abs(new_skill - skill).max()))
        share, skill = new_share, new_skill
        if moved < tolerance:
            break
    return LatentClass(share, np.where(there.any(axis=0), skill, np.nan), tau[back], iteration)


@dataclass(frozen=True)
class ThreeParameter:
    """Voters: discrimination [m], ability [m]. Questions, without the audio: difficulty [N] and its deviation [N]."""

    discrimination: Floats
    ability: Floats
    difficulty: Floats
    deviation: Floats


def three_parameter(matrix: VoteMatrix) -> ThreeParameter:
    """3PL with the guess g fixed: P(right) = g_ij + (1 - g_ij) sigmoid(a_j (theta_j - b_i)), b_i ~ Normal(0, 1).

    Marginal likelihood of the voters' a and theta over 41 Gauss-Hermite nodes of b; difficulties are posterior means.
    Of use with five voters or more (Birnbaum 1968; here questions are the items and voters the persons).
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    kinds, counts, back = _patterns(matrix)
    right, wrong = kinds.right.astype(float), (kinds.asked - kinds.right).astype(float)
    share = counts[:, None] / counts.sum()
    guesses, number = np.unique(kinds.guess("own"), axis=0, return_inverse=True)
    alike = [(guess[:, None], np.flatnonzero(number.ravel() == k)) for k, guess in enumerate(guesses)]
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    log_weights = np.log(weights / weights.sum())
    voters = right.shape[1]

    def posterior(parameters: Floats) -> tuple[Floats, Floats, Floats]:
        """[patterns] log-likelihoods, [patterns, nodes] posterior, [voters, nodes] a (theta - b)."""
        z = np.exp(parameters[:voters, None]) * (parameters[voters:, None] - nodes)
        joint = np.empty((len(right), len(nodes)))
        for guess, rows in alike:
            log_p, log_q = np.log(guess + (1 - guess) * expit(z)), np.log1p(-guess) + log_expit(-z)
            joint[rows] = log_weights + right[rows] @ log_p + wrong[rows] @ log_q
        likelihood = np.logaddexp.reduce(joint, axis=1)
        return likelihood, np.exp(joint - likelihood[:, None]), z

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """Mean negative log-likelihood with a slight pull to a = 1, theta = 0; and its slope."""
        likelihood, likely, z = posterior(parameters)
        known, by_z = expit(z), np.zeros_like(z)
        for guess, rows in alike:
            weighted = share[rows] * likely[rows]
            rise = (1 - guess) * known * (1 - known) / (guess + (1 - guess) * known)
            by_z += rise * (right[rows].T @ weighted) - known * (wrong[rows].T @ weighted)
        slope = np.concatenate([(by_z * z).sum(axis=1), (by_z * np.exp(parameters[:voters, None])).sum(axis=1)])
        pull = 1e-3 / voters
        return float(pull * (parameters**2).sum() - share[:, 0] @ likelihood), 2 * pull * parameters - slope

    fitted = minimize(loss, np.zeros(2 * voters), jac=True, method="L-BFGS-B").x
    likely = posterior(fitted)[1]
    mean = likely @ nodes
    deviation = np.sqrt(np.maximum(likely @ nodes**2 - mean**2, 0.0))
    return ThreeParameter(np.exp(fitted[:voters]), fitted[voters:], mean[back], deviation[back])
