"""Arms against each other: numbers worked by hand, and statsmodels on random tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from earwitness.curriculum.evaluation.arms import Asked, Trial, compared, interaction, mean_and_p, spread, two_sided

EACH = np.arange(6, dtype=np.uint64)
GAIN = np.array([1, 1, 0, 0, 0, -1], float)
STRONG = np.array([1, 1, 1, 1, 0, 0], bool)


def test_the_interaction_by_hand():
    """Strong: +1 +1 0 0, mean 1/2; weak: 0 -1, mean -1/2; difference 1, its variance 4/4 / 16 + 2/4 / 4 = 3/16."""
    (value, low, high), p = interaction(GAIN, ~STRONG, STRONG, EACH)
    error = math.sqrt(3 / 16)
    assert value == 1.0
    assert (low, high) == pytest.approx((1 - 1.959964 * error, 1 + 1.959964 * error), abs=1e-6)
    assert (low, p) == pytest.approx((0.151311, 0.020921), abs=1e-5)


def test_a_recording_with_both_labels_makes_the_interaction_more_certain():
    """The first strong and the first weak question share one: (1/8 - 1/4)^2 instead of 1/64 + 1/16; in all 1/8."""
    (value, low, high), _ = interaction(GAIN, ~STRONG, STRONG, np.array([0, 1, 2, 3, 0, 4], np.uint64))
    assert value == 1.0 and (high - low) / 2 == pytest.approx(1.959964 * math.sqrt(1 / 8), abs=1e-6)


def random_table(seed: int, rows: int = 400, clusters: int = 90):
    draw = np.random.default_rng(seed)
    cluster = draw.integers(0, clusters, rows).astype(np.uint64)
    shift = draw.normal(size=clusters)[cluster]
    return cluster, draw.random(rows) < 0.45, np.sign(np.round(draw.normal(size=rows) + shift + 0.1, 0))


@pytest.mark.parametrize("seed", range(5))
def test_intervals_are_those_of_a_regression_with_clustered_errors(seed):
    import statsmodels.api as sm

    cluster, strong, gain = random_table(seed)
    how = {"cov_type": "cluster", "cov_kwds": {"groups": cluster.astype(int), "use_correction": False}}
    mean, p = mean_and_p(gain, cluster)
    fit = sm.OLS(gain, np.ones((len(gain), 1))).fit(**how)
    assert mean == pytest.approx([fit.params[0], *fit.conf_int()[0]], abs=1e-10) and p == pytest.approx(fit.pvalues[0])
    value, p = interaction(gain, ~strong, strong, cluster)
    fit = sm.OLS(gain, np.stack([np.ones(len(gain)), strong], 1)).fit(**how)
    assert value == pytest.approx([fit.params[1], *fit.conf_int()[1]], abs=1e-10) and p == pytest.approx(fit.pvalues[1])


@pytest.fixture(scope="module")
def asked() -> Asked:
    """40 questions, half of them weak, two on a recording; two arms with two seeds each, one with a third."""
    draw = np.random.default_rng(7)
    cluster, label = np.arange(40, dtype=np.uint64) // np.uint64(2), np.array(["weak"] * 20 + ["strong"] * 20)
    before = (draw.random(40) < 0.5).astype(float)
    trials = [
        Trial(arm, train, 1, before, (draw.random(40) < share).astype(float))
        for arm, share, seeds in (("base", 0.5, (1, 2)), ("better", 0.8, (1, 2, 3)))
        for train in seeds
    ]
    return Asked("set", cluster, label, trials)


def row_of(found, kind, **wanted):
    (row,) = [one for one in found[kind] if all(one[key] == value for key, value in wanted.items())]
    return row


def test_arms_are_paired_by_question_over_the_seeds_that_both_have(asked):
    found = compared([asked], "base")
    row = row_of(found, "contrasts", arm="better", label="strong")
    a, b = (np.mean([t.after for t in asked.of(arm) if t.train < 3], axis=0)[20:] for arm in ("base", "better"))
    assert row["seeds"] == 2 and row["questions"] == 20
    assert row["difference"][0] == pytest.approx(float((b - a).mean()))
    after = row_of(found, "accuracy", arm="better", label="all")
    assert after["after"][0] == pytest.approx(np.mean([t.after.mean() for t in asked.of("better")]))
    assert after["clusters"] == 20 and [run["train"] for run in after["runs"]] == [1, 2, 3]
    assert after["spread"]["after"]["train"]["sd"] == pytest.approx(
        np.std([run["after"] for run in after["runs"]], ddof=1)
    )


def test_what_a_stage_lost_is_not_hidden_by_the_stage_before_it():
    """Of ten weak questions SFT brings eight and GRPO loses three: +8 - 3 = +5, and the loss stands by itself."""
    start, sft, grpo = np.zeros(10), np.r_[np.ones(8), 0, 0], np.r_[np.ones(5), np.zeros(5)]
    trial = Trial("a", 1, 1, start, grpo, {"backbone": start, "SFT": sft, "GRPO": grpo})
    found = compared([Asked("set", np.arange(10, dtype=np.uint64), np.full(10, "weak"), [trial])], "a")
    weak = [row for row in found["stages"] if row["label"] == "weak"]
    assert [(row["from"], row["to"], round(row["gain"][0], 6)) for row in weak] == [
        ("backbone", "SFT", 0.8),
        ("SFT", "GRPO", -0.3),
    ]
    assert weak[1]["gain"][2] < 0 and row_of(found, "accuracy", label="weak")["gain"][0] == 0.5


@pytest.mark.parametrize("family", ["kind", "all"])
def test_p_values_are_adjusted_in_their_family_as_statsmodels_does(asked, family):
    from statsmodels.stats.multitest import multipletests

    found = compared([asked], "base", family)
    kinds = [found[kind] for kind in ("accuracy", "contrasts", "stages", "interactions")]
    assert [len(kind) for kind in kinds] == list(found["tests"].values()) == [6, 3, 0, 2]
    for tests in kinds if family == "kind" else [[test for kind in kinds for test in kind]]:
        wanted = multipletests([test["p"] for test in tests], method="holm")[1]
        assert [test["p_holm"] for test in tests] == pytest.approx(list(wanted))


def test_with_one_run_of_each_the_exact_test_stands_beside(asked):
    from statsmodels.stats.contingency_tables import mcnemar

    one = Asked("set", asked.cluster, asked.label, [t for t in asked.trials if t.train == 1])
    row = row_of(compared([one], "base"), "contrasts", label="all")
    a, b = (t.after.astype(bool) for t in one.trials)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert (row["gained"], row["lost"]) == (table[1][0], table[0][1])
    assert row["p_mcnemar"] == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_the_two_axes_of_seeds_are_told_apart():
    """By hand: train moves the accuracy by 0.2, the draw by 0.4; sd = half the distance times the root of 2."""

    def trial(train, draw, right):
        return Trial("a", train, draw, np.zeros(10), np.r_[np.ones(right), np.zeros(10 - right)])

    rows = np.ones(10, bool)
    crossed = [trial(1, 1, 3), trial(2, 1, 5), trial(1, 2, 7), trial(2, 2, 9)]
    found = spread(crossed, rows, "after")
    assert found["train"]["sd"] == pytest.approx(0.1 * math.sqrt(2))
    assert found["draw"]["sd"] == pytest.approx(0.2 * math.sqrt(2))
    assert list(spread([crossed[0], crossed[3]], rows, "after")) == ["both"]
    assert spread(crossed[:1], rows, "after") == {}


def test_where_nothing_varies_no_certainty_is_made_up():
    """One cluster has no interval; equal clusters have the sign test's p: 2 * (1/2)^3."""
    mean, p = mean_and_p(np.ones(5), np.zeros(5, np.uint64))
    assert mean[0] == 1 and math.isnan(mean[1]) and p == 1
    assert mean_and_p(np.ones(3), np.arange(3, dtype=np.uint64)) == ([1, 1, 1], 0.25)
    assert mean_and_p(np.zeros(3), np.arange(3, dtype=np.uint64))[1] == 1
    assert two_sided(0.0, 1.0) == 1 and two_sided(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
