"""How likely a question is solvable without its audio, given which voters were right: latent classes, or a 3PL curve.

Latent classes after Dawid and Skene (1979), on correctness instead of answers since the truth is known: a solvable
question is answered rightly by voter j with probability a_j, any other by luck, with probability g_ij: that of answers
that prefer places as the voter does (`own_luck` in `constant.py`; 1 / options in all orders, and where places are not
known).
Deviations: the second class has no free skill, which is what makes three voters enough; and no skill is below guessing,
or else the classes could change places: with voters that are mostly silent without the audio, what nobody answers
rightly would be the solvable class.
Several answers of a voter to one question, in other orders or drawn again, are not independent. Of a solvable question
a voter knows the answer with probability s_j, and each of its R answers is then right with a_j; else it guesses. Who
guesses either does so anew each time, or (with probability k_j) holds on to one option, which is right with g_ij: then
all its answers are, or none. With R = 1 these cannot be told apart, and s_j is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

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

    With r_ij right of R_ij answers, g_ij = `VoteMatrix.own`, B(p) = C(R, r) p^r (1 - p)^(R - r), and H = g where all
    are right, 1 - g where none is, else 0:
    G_ij = (1 - k_j) B(g_ij) + k_j H_ij, A_ij = s_j B(a_j) + (1 - s_j) G_ij.
    E: tau_i = pi prod_j A_ij / (the same + (1 - pi) prod_j G_ij), rho_ij = s_j B(a_j) / A_ij.
    M: pi = mean tau, s_j = sum tau rho / sum tau, a_j = sum tau rho r / sum tau rho R, at least the largest g_ij that j
    met, k_j the share of k_j H / G among what was guessed.
    """
    kinds, counts, back = _patterns(matrix)
    there, several = (kinds.asked > 0).astype(float), (kinds.asked > 1).any(axis=0)
    right, wrong = kinds.right.astype(float), (kinds.asked - kinds.right).astype(float)
    guess = kinds.guess("own")
    ways = gammaln(kinds.asked + 1) - gammaln(right + 1) - gammaln(wrong + 1)
    anew = np.exp(ways + right * np.log(guess) + wrong * np.log1p(-guess))
    held = np.where(wrong == 0, guess, np.where(right == 0, 1 - guess, 0.0))
    held = np.where(kinds.asked > 1, held, anew)
    floor = np.where(there > 0, guess, 1e-6).max(axis=0)
    share, knows = 0.5, np.where(several, 0.8, 1.0)
    a, holds = np.full(len(knows), 0.8), np.full(len(knows), 0.5)
    tau, iteration, skill = np.empty(0), 0, a
    while iteration < most:
        iteration += 1
        known = knows * np.exp(ways + right * np.log(a) + wrong * np.log1p(-a))
        guessed = (1 - holds) * anew + holds * held
        solved = known + (1 - knows) * guessed
        odds = np.log(share) - np.log1p(-share) + (np.log(solved) - np.log(guessed)).sum(axis=1)
        tau = 1 / (1 + np.exp(-np.clip(odds, -700, 700)))
        weight = (tau * counts)[:, None] * there
        rho, asked = known / solved, np.maximum(weight.sum(axis=0), 1e-12)
        new_share = float(np.clip((tau * counts).sum() / counts.sum(), 1e-6, 1 - 1e-6))
        answers = np.maximum((weight * rho * kinds.asked).sum(axis=0), 1e-12)
        new_a = np.clip((weight * rho * right).sum(axis=0) / answers, floor, 1 - 1e-6)
        new_knows = np.where(several, np.clip((weight * rho).sum(axis=0) / asked, 1e-6, 1.0), 1.0)
        unknown = (counts[:, None] * there - weight * rho) * (kinds.asked > 1)
        new_holds = (unknown * holds * held / guessed).sum(axis=0) / np.maximum(unknown.sum(axis=0), 1e-12)
        new_holds = np.where(several, np.clip(new_holds, 1e-6, 1 - 1e-6), 0.5)
        moved = max(float(np.abs(new - old).max()) for new, old in ((new_a, a), (new_knows, knows), (new_holds, holds)))
        moved = max(moved, abs(new_share - share))
        share, a, knows, holds = new_share, new_a, new_knows, new_holds
        skill = np.maximum((weight * right / np.maximum(kinds.asked, 1)).sum(axis=0) / asked, floor)
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
