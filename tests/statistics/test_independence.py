"""HSIC against its formula, dependence that a correlation does not see, undefined cases."""

import numpy as np
import pytest
from scipy import stats

from acdc.errors import InputError
from discovery.statistics.independence import independence


def rng(seed=0):
    return np.random.default_rng(seed)


def kernel(x):
    distances = np.abs(x[:, None] - x[None, :])
    width = np.median(distances[distances > 0])
    return np.exp(-(distances**2) / (2 * width**2))


def literal(x, y):
    """tr(K H L H) / (n - 1)^2, written out."""
    n = len(x)
    h = np.eye(n) - 1 / n
    return np.trace(kernel(x) @ h @ kernel(y) @ h) / (n - 1) ** 2


def test_the_statistic_is_the_formula():
    x = rng(1).normal(size=60)
    y = np.round(rng(2).standard_t(2, size=60), 1)  # ties and outliers
    assert independence(x, y, rng()).statistic == pytest.approx(literal(x, y), rel=1e-9)
    assert independence(x, x, rng()).extra["normalised"] == pytest.approx(1.0)


def test_the_p_value_is_the_rank_among_literal_permutations():
    x = rng(3).normal(size=25)
    y = x + rng(4).normal(size=25) * 1.5
    permuted, draws = [], rng(5)
    for _ in range(99):
        permuted.append(literal(x, y[draws.permutation(25)]))
    expected = (1 + (np.array(permuted) >= literal(x, y)).sum()) / 100
    found = independence(x, y, rng(5), permutations=99).p_value
    assert found == pytest.approx(expected)
    assert 1 / 100 <= found < 0.9


def test_sees_a_dependence_without_correlation():
    x = rng(6).normal(size=150)
    y = x**2 + 0.1 * rng(7).normal(size=150)
    assert stats.spearmanr(x, y).pvalue > 0.05
    assert stats.chatterjeexi(x, y).pvalue < 0.01
    result = independence(x, y, rng())
    assert result.p_value == 1 / 1001 and result.holds is False


def test_never_claims_independence():
    result = independence(rng(8).normal(size=80), rng(9).normal(size=80), rng())
    assert result.rejected is False and result.holds is None
    assert 0 <= result.extra["normalised"] < 0.2


def test_units_do_not_matter_and_seeds_repeat():
    x, y = rng(10).normal(size=50), rng(11).normal(size=50)
    a, b = independence(x, y, rng(1)), independence(1e4 * x - 7, y / 3, rng(1))
    assert a.p_value == b.p_value and a.statistic == pytest.approx(b.statistic)
    assert a.p_value != independence(x, y, rng(2)).p_value


def test_equal_permutations_count_as_at_least_as_large():
    # Two values each: most permutations give one of few HSICs, equal but for rounding.
    x = np.repeat([0.0, 1.0], 4)
    y = np.array([0.0, 1.0] * 4)  # the split with the smallest HSIC: nothing is smaller
    assert independence(x, y, rng(), permutations=200).p_value == 1.0


@pytest.mark.parametrize("constant", ["complement", "model"])
def test_a_constant_score_is_undefined(constant):
    scores = {"complement": rng(1).normal(size=20), "model": rng(2).normal(size=20)}
    scores[constant] = np.full(20, 0.1) + 1e-17
    result = independence(**scores, rng=rng())
    assert (result.p_value, result.rejected, result.holds) == (None, None, None)
    assert constant in result.extra["undefined"]


def test_refusals():
    x = rng(1).normal(size=30)
    with pytest.raises(InputError, match="needs 4 prompts, got 3"):
        independence(x[:3], x[:3], rng())
    with pytest.raises(InputError, match="permutations=18: must be at least 19"):
        independence(x, x, rng(), permutations=18)
