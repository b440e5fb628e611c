"""Intervals against formulas, their coverage, groups, and figures that are undefined."""

import numpy as np
import pytest
from scipy import stats

from acdc.errors import InputError
from discovery.statistics.intervals import (
    binomial_interval,
    mean_interval,
    mean_of_ratios,
    ratio_of_means,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_mean_interval_is_near_the_t_interval():
    values = rng(1).normal(3, 2, 200)
    found = mean_interval(values, rng())
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(expected.low, abs=0.05)
    assert found.high == pytest.approx(expected.high, abs=0.05)
    assert found.n == 200 and found.undefined == ""


def test_intervals_of_means_and_ratios_cover():
    inside, draws = np.zeros(2), rng(2)
    for _ in range(200):
        base = draws.gamma(4.0, 1.0, 120)
        top = 0.6 * base + draws.normal(0, 0.5, 120)
        mean = mean_interval(top, draws, resamples=500)
        ratio = ratio_of_means(top, base, draws, resamples=500)
        inside += [mean.low <= 2.4 <= mean.high, ratio.low <= 0.6 <= ratio.high]
    assert (inside >= 180).all() and (inside < 200).all()


def test_groups_widen_the_interval_of_dependent_prompts():
    draws, inside = rng(3), np.zeros(2)
    labels = [f"template {i}" for i in range(40) for _ in range(8)]
    for _ in range(150):
        values = np.repeat(draws.normal(size=40), 8) + 0.3 * draws.normal(size=320)
        plain = mean_interval(values, draws, resamples=300)
        grouped = mean_interval(values, draws, labels, resamples=300)
        inside += [plain.low <= 0 <= plain.high, grouped.low <= 0 <= grouped.high]
    assert grouped.n == 40 and grouped.estimate == pytest.approx(plain.estimate)
    assert inside[1] >= 132 and inside[0] < 105


def test_a_group_of_one_prompt_each_is_no_grouping():
    values = rng(4).normal(size=40)
    assert mean_interval(values, rng(), list(range(40))).low == mean_interval(values, rng()).low


def test_unequal_groups_keep_the_mean_over_prompts():
    found = mean_interval(np.array([1.0, 1, 1, 5]), rng(), ["a", "a", "a", "b"])
    assert found.estimate == 2.0 and found.n == 2


def test_ratio_of_means_is_not_mean_of_ratios():
    top, base = np.array([1.0, 4.0] * 20), np.array([1.0, 2.0] * 20)
    assert ratio_of_means(top, base, rng()).estimate == pytest.approx(5 / 3)
    assert mean_of_ratios(top, base, rng()).estimate == pytest.approx(1.5)


def test_an_exact_ratio_has_an_interval_of_no_width():
    base = rng(5).gamma(4.0, 1.0, 30)
    for found in (ratio_of_means(0.5 * base, base, rng()), mean_interval(np.full(9, 0.5), rng())):
        assert found.low == found.high == pytest.approx(0.5)


def test_a_denominator_around_zero_is_undefined_and_flagged():
    draws = rng(6)
    top, base = draws.normal(1, 1, 80), draws.normal(0, 1, 80)
    found = ratio_of_means(top, base - base.mean() + 0.01, rng())
    assert (found.estimate, found.low, found.high) == (None, None, None)
    assert "denominator" in found.undefined and found.n == 80
    assert ratio_of_means(top, np.zeros(80), rng()).undefined
    assert not ratio_of_means(top, base + 5, rng()).undefined
    assert not ratio_of_means(top, base - 5, rng()).undefined


def test_one_denominator_near_zero_undoes_the_mean_of_ratios():
    top, base = np.ones(50), np.full(50, 2.0)
    base[7] = -1e-4
    found = mean_of_ratios(top, base, rng())
    assert found.estimate is None and found.undefined == "1 of 50 denominators are near 0"
    assert ratio_of_means(top, base, rng()).estimate == pytest.approx(50 / 98, abs=1e-5)
    assert mean_of_ratios(top, np.zeros(50), rng(), ["a", "b"] * 25).n == 2


def test_seeds_repeat():
    values = rng(7).normal(size=30)
    assert mean_interval(values, rng(1)) == mean_interval(values, rng(1))
    assert mean_interval(values, rng(1)).low != mean_interval(values, rng(2)).low


def test_binomial_interval_solves_its_equations():
    found = binomial_interval(95, 100)
    assert stats.binom.sf(94, 100, found.low) == pytest.approx(0.025)
    assert stats.binom.cdf(95, 100, found.high) == pytest.approx(0.025)
    assert (binomial_interval(0, 10).low, binomial_interval(10, 10).high) == (0, 1)


def test_refusals():
    with pytest.raises(InputError, match="interval: needs 2 prompts, got 1"):
        mean_interval(np.ones(1), rng())
    with pytest.raises(InputError, match="interval: needs 2 groups, got 1"):
        mean_interval(np.arange(4.0), rng(), ["a"] * 4)
    with pytest.raises(InputError, match="groups: 3 labels for 4 prompts"):
        mean_interval(np.arange(4.0), rng(), ["a"] * 3)
    with pytest.raises(InputError, match="denominator has shape"):
        ratio_of_means(np.ones(4), np.ones(3), rng())
    with pytest.raises(InputError, match="count=11, n=10"):
        binomial_interval(11, 10)
    with pytest.raises(InputError, match="level=1.5"):
        mean_interval(np.arange(4.0), rng(), level=1.5)


def test_resamples_that_differ_by_rounding_only_have_an_interval():
    """BCa has none there: a circuit that is the model but for the last bit of one prompt."""
    a, b = np.ones(100), np.ones(100)
    a[0], b[0] = -1e-18, 0.0
    found = ratio_of_means(a, b, np.random.default_rng(0))
    assert (found.low, found.estimate, found.high) == (1.0, 1.0, 1.0)
