"""Intervals and tests for shares and paired differences, against numbers worked by hand or published."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.statistics import (
    Z95,
    cluster_bootstrap,
    cluster_error,
    holm,
    mcnemar,
    mcnemar_exact,
    paired_difference,
    wilson_interval,
)

LAW = settings(deadline=None, max_examples=100)


def test_wilson_by_hand():
    """z = 2. One of one: scale 1 + 4 = 5, centre (1 + 2) / 5, half 2 sqrt(0 + 1) / 5, so (0.2, 1).

    Two of four: scale 2, centre (1/2 + 1/2) / 2, half 2 sqrt(1/16 + 1/16) / 2 = sqrt(1/8).
    """
    assert wilson_interval(1, 1, z=2) == pytest.approx((0.2, 1.0), abs=1e-15)
    assert wilson_interval(0, 1, z=2) == pytest.approx((0.0, 0.8), abs=1e-15)
    assert wilson_interval(2, 4, z=2) == pytest.approx((0.5 - sqrt(1 / 8), 0.5 + sqrt(1 / 8)), abs=1e-15)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombe_s_published_intervals(successes, trials, low, high):
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3, four decimals."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_trials_knows_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@LAW
@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_bounds_solve_the_score_equation(trials, share):
    """A bound p is where the share lies z standard errors away: (share - p)^2 = z^2 p (1 - p) / n."""
    successes = round(share * trials)
    for bound in wilson_interval(successes, trials):
        distance = (successes / trials - bound) ** 2
        assert distance == pytest.approx(Z95**2 * bound * (1 - bound) / trials, abs=1e-12)


@LAW
@given(st.integers(1, 500), st.integers(0, 500))
def test_wilson_is_symmetric_in_right_and_wrong(trials, successes):
    successes = min(successes, trials)
    low, high = wilson_interval(successes, trials)
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-14)
    assert 0 <= low < high <= 1


def test_paired_difference_by_hand():
    """Four items, b = 2 gained, c = 1 lost: difference 1/4, standard error sqrt(3 - 1/4) / 4."""
    got = paired_difference(np.array([0, 0, 1, 1]), np.array([1, 1, 1, 0]), z=1)
    error = sqrt(2.75) / 4
    assert got == pytest.approx((0.25, 0.25 - error, 0.25 + error), abs=1e-15)


@LAW
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_paired_difference_is_the_formula_of_the_discordant_counts(both, gained, lost, neither):
    """(b - c) / N with standard error sqrt(b + c - (b - c)^2 / N) / N, at 95 %."""
    before = np.repeat([1, 0, 1, 0], [both, gained, lost, neither])
    after = np.repeat([1, 1, 0, 0], [both, gained, lost, neither])
    if not len(before):
        return
    n, net = len(before), gained - lost
    error = sqrt(max(0.0, gained + lost - net**2 / n)) / n
    expected = (net / n, net / n - Z95 * error, net / n + Z95 * error)
    assert paired_difference(before, after) == pytest.approx(expected, abs=1e-12)


def test_paired_difference_of_scores():
    """Gains 0.5 and 0.1: mean 0.3, deviations +-0.2, standard error 0.2 / sqrt(2)."""
    mean, low, high = paired_difference(np.array([0.25, 0.5]), np.array([0.75, 0.6]), z=1)
    assert (mean, high - mean, mean - low) == pytest.approx((0.3, 0.2 / sqrt(2), 0.2 / sqrt(2)), abs=1e-15)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1, 0], [1]), ([[1]], [[0]])])
def test_paired_difference_needs_two_equally_long_vectors(before, after):
    with pytest.raises(ValueError, match="equally long, non-empty"):
        paired_difference(np.array(before), np.array(after))


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (0, 5, 1 / 32),  # exact 2/32, less P[X = 0] = 1/32
        (9, 1, 12 / 1024),  # exact 2 (1 + 10) / 1024, less 10/1024
        (1, 7, 10 / 256),  # exact 2 (1 + 8) / 256, less 8/256: Fagerland (2013) prints 0.039
        (3, 3, 44 / 64),  # min(1, 2 x 42/64) = 1, less 20/64
        (2, 3, 22 / 32),  # min(1, 2 x 16/32) = 1, less 10/32
    ],
)
def test_mcnemar_mid_p_by_hand(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, abs=1e-15)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@LAW
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_counts_the_outcomes_at_least_as_far_out(gained, lost):
    """Where b and c differ: P[|X - n/2| > |b - n/2|] + 1/2 P[|X - n/2| = |b - n/2|] under Bin(n, 1/2)."""
    n = gained + lost
    far = abs(2 * gained - n)
    if not far:
        return
    further = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) > far)
    as_far = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) == far)
    assert mcnemar(gained, lost) == pytest.approx((further + as_far / 2) / 2**n, abs=1e-14)


def test_mcnemar_survives_thousands_of_discordant_pairs():
    """b = c = 1000: 1 - C(2000, 1000) / 2^2000, by Stirling 1 - (1 - 1/8000) / sqrt(1000 pi)."""
    assert mcnemar(1000, 1000) == pytest.approx(1 - (1 - 1 / 8000) / sqrt(1000 * np.pi), abs=1e-9)


@LAW
@given(st.integers(1, 10**6), st.floats(0, 1))
def test_wilson_is_statsmodels_interval(trials, share):
    from statsmodels.stats.proportion import proportion_confint

    successes = round(share * trials)
    expected = proportion_confint(successes, trials, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-12)


def test_wilson_of_shares_of_answers():
    """2.5 of 4 right where questions are asked in several orders: scale 2, centre (5/8 + 1/2) / 2 at z = 2."""
    low, high = wilson_interval(2.5, 4, z=2)
    assert ((low + high) / 2, (high - low) / 2) == pytest.approx((9 / 16, sqrt(15 / 256 + 1 / 16)), abs=1e-15)


@LAW
@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_statsmodels_exact_test_and_its_mid_p(both, gained, lost, neither):
    from scipy.stats import binom, binomtest
    from statsmodels.stats.contingency_tables import mcnemar as of_table

    n = gained + lost
    if not n:
        return
    exact = mcnemar_exact(gained, lost)
    assert exact == pytest.approx(of_table([[both, gained], [lost, neither]], exact=True).pvalue, abs=1e-12)
    assert exact == pytest.approx(binomtest(gained, n, 0.5).pvalue, abs=1e-12)
    assert mcnemar(gained, lost) == pytest.approx(exact - binom.pmf(min(gained, lost), n, 0.5), abs=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (0, 5, 2 / 32), (9, 1, 22 / 1024), (1, 7, 18 / 256), (3, 3, 1.0), (2, 3, 1.0), (6, 2, 74 / 256)],
)
def test_mcnemar_exact_by_hand(gained, lost, p):
    """2 P[Bin(b + c, 1/2) <= min(b, c)], at most 1: 6 and 2 give 2 (1 + 8 + 28) / 256."""
    assert mcnemar_exact(gained, lost) == pytest.approx(p, abs=1e-15)
    assert mcnemar_exact(lost, gained) == mcnemar_exact(gained, lost)


def test_mcnemar_of_a_whole_corpus_ends():
    """Half a million discordant pairs; at (n - d) / 2 and (n + d) / 2 the normal tail of d / sqrt(n) is near."""
    from scipy.stats import norm

    gained, lost = 250_500, 249_500
    assert mcnemar(gained, lost) == pytest.approx(2 * norm.sf(1_000 / sqrt(500_000)), rel=1e-4)
    assert mcnemar_exact(gained, lost) == pytest.approx(2 * norm.sf(999 / sqrt(500_000)), rel=1e-4)
    assert mcnemar(400_000, 100_000) == 0


def test_holm_by_hand():
    """0.01 x 3 = 0.03; 0.02 x 2 = 0.04; 0.03 x 1, not below what is smaller: 0.04. Never above 1."""
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04], abs=1e-15)
    assert holm([0.9, 0.6]) == pytest.approx([1, 1])
    assert holm([0.2]) == [0.2] and holm([]) == []


@LAW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_one_by_one_until_one_is_kept(p_values):
    """At any level: the smallest p at most level / m, the next at most level / (m - 1), ..., all before it too."""
    found = holm(p_values)
    order = np.argsort(p_values, kind="stable").tolist()
    for level in (0.01, 0.05, 0.2, 0.9, *(p for p in found if p < 0.999)):
        rejected = []
        for rank, place in enumerate(order):
            if p_values[place] * (len(order) - rank) > level + 1e-12:
                break
            rejected.append(place)
        assert sorted(rejected) == [place for place in range(len(order)) if found[place] <= level + 1e-12]


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_holm_is_statsmodels(size):
    from statsmodels.stats.multitest import multipletests

    p_values = (np.random.default_rng(size).random(size) ** 3).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-15)


def test_cluster_error_by_hand():
    """1, 1, 0, 0: deviations +-1/2. Recordings {1, 1}, {0, 0}: sums +1, -1: sqrt(2) / 4. {1, 0} twice: sums 0: none.

    On their own sqrt(4 / 4) / 4 = 1/4: what is alike within a recording is worth less than it seems.
    """
    values = np.array([1.0, 1, 0, 0])
    assert cluster_error(values, np.array([7, 7, 9, 9])) == pytest.approx(sqrt(2) / 4, abs=1e-15)
    assert cluster_error(values, np.array([7, 9, 7, 9])) == pytest.approx(0, abs=1e-15)
    assert cluster_error(values, np.array([3, 4, 5, 6])) == pytest.approx(1 / 4, abs=1e-15)


RANDOM_CLUSTERS = (
    st.integers(0, 2**32).map(np.random.default_rng).map(lambda r: (r.normal(size=40), r.integers(0, 15, 40)))
)


@LAW
@given(RANDOM_CLUSTERS)
def test_cluster_error_is_the_plain_one_and_the_products_within_clusters(sample):
    """SE^2 = SE_CLT^2 + n^-2 sum over clusters of sum over i != j of (s_i - mean)(s_j - mean), written out."""
    values, cluster = sample
    n, deviation = len(values), values - values.mean()
    square = (deviation**2).sum() / n**2
    square += (
        sum(deviation[i] * deviation[j] for i in range(n) for j in range(n) if i != j and cluster[i] == cluster[j])
        / n**2
    )
    assert cluster_error(values, cluster) == pytest.approx(sqrt(square), abs=1e-12)
    alone = cluster_error(values, np.arange(n))
    assert alone == pytest.approx(values.std() / sqrt(n), abs=1e-15)
    assert paired_difference(np.zeros(n), values, z=1)[2] - values.mean() == pytest.approx(alone, abs=1e-14)


def test_cluster_names_mean_nothing():
    values, number = np.array([1.0, 0, 1, 1, 0]), np.array([0, 1, 0, 2, 1])
    named = np.array(["b", "a", "b", "c", "a"])[np.argsort([0, 1, 2, 3, 4])]
    large = np.array([2**64 - 1, 5, 2**64 - 1, 9, 5], np.uint64)
    assert cluster_error(values, number) == cluster_error(values, named) == cluster_error(values, large)
    assert cluster_bootstrap(values, number, draws=50)[0] == cluster_bootstrap(values, large, draws=50)[0] == 0.6


def test_resampling_equal_values_gives_that_value():
    """Whatever is drawn; sizes differ, so a mean of cluster means or of sums would show."""
    found = cluster_bootstrap(np.full(6, 0.25), np.array([0, 0, 0, 1, 1, 2]), draws=200)
    assert found == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="nothing to resample"):
        cluster_bootstrap(np.empty(0), np.empty(0))


def test_two_clusters_are_resampled_by_hand():
    """Values 0, 0, 0 | 1. Both drawn (1/2): mean 1/4; the first twice (1/4): 0; the second twice (1/4): 1.

    A 40 % interval reaches from the 0.3 to the 0.7 quantile, both 1/4; a 60 % interval from 0 to 1.
    """
    values, cluster = np.array([0.0, 0, 0, 1]), np.array([5, 5, 5, 8])
    assert cluster_bootstrap(values, cluster, draws=4_000, level=0.4) == (0.25, 0.25, 0.25)
    assert cluster_bootstrap(values, cluster, draws=4_000, level=0.6) == (0.25, 0.0, 1.0)
    assert cluster_bootstrap(values, np.zeros(4), draws=100) == (0.25, 0.25, 0.25)


def clustered(recordings, each, spread, seed):
    """[N] values of recordings with a level of their own, and which recording."""
    random = np.random.default_rng(seed)
    level = random.normal(size=recordings) * spread
    values = np.repeat(level, each) + random.normal(size=recordings * each)
    return values, np.repeat(np.arange(recordings), each)


def test_the_bootstrap_is_reproducible_and_follows_its_seed():
    values, cluster = clustered(50, 3, 1, 0)
    first = cluster_bootstrap(values, cluster, seed=1, draws=500)
    assert cluster_bootstrap(values, cluster, seed=1, draws=500) == first
    other = cluster_bootstrap(values, cluster, seed=2, draws=500)
    assert other[0] == first[0] and other[1:] != first[1:]


def test_the_bootstrap_does_not_depend_on_how_it_is_cut_into_pieces():
    """3,000 clusters are drawn 1,333 draws at a time; here all at once, from the hashes that the docstring promises."""
    from earwitness.curriculum.identity import keyed, unit

    values, cluster = clustered(3_000, 1, 0, 3)
    places = np.arange(1_500 * 3_000, dtype=np.uint64)
    chosen = (unit(keyed(places, 5, "bootstrap")) * 3_000).astype(int).reshape(1_500, 3_000)
    low, high = np.quantile(values[chosen].mean(axis=1), [0.025, 0.975])
    assert cluster_bootstrap(values, cluster, seed=5, draws=1_500) == pytest.approx(
        (values.mean(), low, high), abs=1e-12
    )


@pytest.mark.parametrize("spread", [0, 2])
def test_on_a_large_sample_the_bootstrap_is_the_normal_interval_of_the_cluster_error(spread):
    values, cluster = clustered(1_000, 4, spread, 1)
    mean, low, high = cluster_bootstrap(values, cluster, draws=4_000)
    error = cluster_error(values, cluster)
    assert mean == pytest.approx(values.mean(), abs=1e-15)
    assert (low - mean, high - mean) == pytest.approx((-Z95 * error, Z95 * error), rel=0.08)


def test_questions_that_share_a_recording_make_the_interval_wider():
    """Correlation 4/5 within recordings of four: the variance is 1 + 3 x 4/5 = 3.4 times the plain one."""
    values, cluster = clustered(1_000, 4, 2, 1)
    _, low, high = cluster_bootstrap(values, cluster, draws=2_000)
    _, plain_low, plain_high = cluster_bootstrap(values, np.arange(4_000), draws=2_000)
    assert (high - low) / (plain_high - plain_low) == pytest.approx(sqrt(3.4), rel=0.1)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_many_clusters_of_few_kinds_are_drawn_by_kind_with_the_same_interval(level):
    """50,000 recordings of one to three questions, values -1, 0, 1: 15 kinds; the interval is the normal one."""
    from scipy.stats import norm

    random = np.random.default_rng(2)
    cluster = np.repeat(np.arange(50_000), random.integers(1, 4, 50_000))
    values = random.choice([-1.0, 0, 1], len(cluster), p=[0.1, 0.5, 0.4])
    mean, low, high = cluster_bootstrap(values, cluster, draws=6_000, level=level)
    half = norm.ppf((1 + level) / 2) * cluster_error(values, cluster)
    assert mean == values.mean()
    assert (low - mean, high - mean) == pytest.approx((-half, half), rel=0.08)
    assert cluster_bootstrap(values, cluster, draws=6_000, level=level) == (mean, low, high)


def test_drawing_by_kind_is_drawing_one_by_one():
    """Means and deviations of both ways over the same clusters; the number drawn is always that of the clusters."""
    from earwitness.curriculum import statistics

    random = np.random.default_rng(4)
    sums, sizes = random.integers(0, 2, 300).astype(float), random.integers(1, 4, 300).astype(float)
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    a = statistics._by_kind(kinds, counts, 0, 20_000)
    b = statistics._one_by_one(sums, sizes, 0, 20_000)
    assert a.mean() == pytest.approx(b.mean(), abs=4 * b.std() / sqrt(10_000))
    assert a.std() == pytest.approx(b.std(), rel=0.03)
    np.testing.assert_allclose(np.quantile(a, [0.1, 0.5, 0.9]), np.quantile(b, [0.1, 0.5, 0.9]), atol=0.003)
    np.testing.assert_array_equal(statistics._by_kind(np.array([[3.0, 4.0]]), np.array([7]), 0, 5), np.full(5, 0.75))
