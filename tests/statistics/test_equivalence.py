"""Decision figures to the digit, laws of signs and scales, agreement with scipy."""

import numpy as np
import pytest
from scipy import stats

from acdc.errors import InputError
from discovery.statistics.equivalence import equivalence, mean_equivalence, non_equivalence


def scores(wins, n, ties=0):
    """Circuit and model with so many positive, tied and negative differences."""
    delta = np.concatenate([np.ones(wins), np.zeros(ties), -np.ones(n - wins - ties)])
    model = np.linspace(-1, 3, n)
    return model + delta, model


@pytest.mark.parametrize("n, first, last", [(100, 49, 51), (400, 177, 223), (1000, 427, 573)])
def test_equivalence_accepts_exactly_these_counts(n, first, last):
    near = [*range(first - 3, first + 4), n // 2, *range(last - 3, last + 4), 0, n]
    accepted = {k for k in near if equivalence(*scores(k, n)).rejected}
    assert accepted == {k for k in near if first <= k <= last}


@pytest.mark.parametrize("n, power", [(100, 0.24), (400, 0.98), (1000, 1.0)])
def test_power_of_equivalence_for_a_perfect_circuit(n, power):
    accepted = [k for k in range(n // 3, n - n // 3) if equivalence(*scores(k, n)).rejected]
    assert round(stats.binom.pmf(accepted, n, 0.5).sum(), 2) == power


def test_equivalence_is_two_binomial_tests():
    for k in (150, 180, 200, 221, 260):
        above = stats.binomtest(k, 400, 0.4, "greater").pvalue
        below = stats.binomtest(k, 400, 0.6, "less").pvalue
        assert equivalence(*scores(k, 400)).p_value == pytest.approx(max(above, below), rel=1e-9)


@pytest.mark.parametrize("n, first", [(100, 69), (400, 257), (1000, 626)])
def test_non_equivalence_rejects_from_these_counts(n, first):
    for k, rejected in [(first, True), (first - 1, False), (n - first, True), (n // 2, False)]:
        result = non_equivalence(*scores(k, n))
        assert result.rejected is rejected
        assert result.holds is (False if rejected else None)
    assert non_equivalence(*scores(n - first + 1, n)).rejected is False


def test_the_size_of_differences_does_not_move_the_sign_tests():
    rng = np.random.default_rng(0)
    model, delta = rng.normal(size=400), rng.normal(0.1, 1, 400)
    for test in (equivalence, non_equivalence):
        assert test(model + delta, model).p_value == test(model + 10 * delta, model).p_value
    balanced = np.concatenate([delta, -delta])
    twice = np.concatenate([model, model])
    assert non_equivalence(twice + balanced, twice).p_value == pytest.approx(1.0)
    assert equivalence(twice + balanced, twice).holds is True
    assert non_equivalence(model + np.abs(delta), model).holds is False
    assert equivalence(model + np.abs(delta), model).holds is False


def test_between_shown_and_refuted_lies_undecided():
    assert [equivalence(*scores(k, 400)).holds for k in (200, 224, 256, 257)] == [
        True, None, None, False,
    ]  # fmt: skip


def test_ties_count_half_and_a_left_over_half_counts_against():
    assert equivalence(*scores(150, 400, 100)).p_value == equivalence(*scores(200, 400)).p_value
    odd = equivalence(*scores(222, 400, 3))  # 223.5: taken as 224 against the upper bound
    assert odd.p_value == equivalence(*scores(224, 400)).p_value and odd.rejected is False
    assert odd.extra["ties"] == 3 and odd.statistic == 223.5 / 400
    half = non_equivalence(*scores(68, 100, 1)).p_value  # 68.5 of 100 is nearer to 50 than 69
    assert half == pytest.approx(non_equivalence(*scores(69, 100)).p_value)
    assert non_equivalence(*scores(68, 100)).p_value > half


@pytest.mark.parametrize("n", [76, 85, 100, 401])
def test_the_model_itself_is_accepted(n):
    result = equivalence(*scores(0, n, n))
    assert result.holds is True and result.extra["ties"] == n


def test_too_few_prompts_are_refused():
    with pytest.raises(InputError, match="equivalence: needs 76 prompts, got 40"):
        equivalence(*scores(20, 40))
    with pytest.raises(InputError, match="non-equivalence: needs 7 prompts, got 5"):
        non_equivalence(*scores(5, 5))
    assert non_equivalence(*scores(7, 7)).rejected is True
    with pytest.raises(InputError, match="mean equivalence: needs 2 prompts, got 1"):
        mean_equivalence(np.ones(1), np.ones(1))


def test_malformed_scores_and_levels_are_refused():
    circuit, model = scores(50, 100)
    with pytest.raises(InputError, match=r"circuit has shape \(99,\)"):
        equivalence(circuit[1:], model)
    with pytest.raises(InputError, match="not finite"):
        mean_equivalence(np.where(circuit > 1, np.nan, circuit), model)
    with pytest.raises(InputError, match="eps=0.5"):
        equivalence(circuit, model, eps=0.5)
    with pytest.raises(InputError, match="level=0.0"):
        non_equivalence(circuit, model, level=0.0)


def test_mean_equivalence_is_two_t_tests():
    rng = np.random.default_rng(1)
    model = rng.normal(2, 1.5, 200)
    for shift in (0.0, 0.2, 0.45, -0.3):
        delta = rng.normal(shift, 0.8, 200)
        margin = 0.2 * model.std(ddof=1)
        above = stats.ttest_1samp(delta, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(delta, margin, alternative="less").pvalue
        assert mean_equivalence(model + delta, model).p_value == pytest.approx(max(above, below))


def test_mean_equivalence_sees_what_signs_do_not():
    rng = np.random.default_rng(2)
    model = rng.normal(size=400)
    signs = np.where(np.arange(400) % 2, 1.0, -1.0)
    lopsided = np.where(signs > 0, 2.0, -0.01)  # as often above as below, but far above
    assert equivalence(model + lopsided, model).holds is True
    assert mean_equivalence(model + lopsided, model).holds is False
    assert mean_equivalence(model + 0.1 * signs, model).holds is True
    assert mean_equivalence(model + 5 * signs, model).holds is None


def test_mean_equivalence_without_spread():
    model = np.array([0.0, 1.0, 2.0, 3.0])
    assert mean_equivalence(model, model).p_value == 0.0
    assert mean_equivalence(model + 8.0, model).holds is False
    result = mean_equivalence(np.arange(4.0), np.ones(4))
    assert result.p_value is None and result.holds is None and "same" in result.extra["undefined"]


def test_the_mean_is_refuted_by_the_t_test_beyond_the_margin():
    rng = np.random.default_rng(3)
    model = rng.normal(size=50)
    delta = rng.normal(0.4, 1, 50)
    result = mean_equivalence(model + delta, model)
    outer = [
        stats.ttest_1samp(delta, margin, alternative="greater").pvalue
        for margin in (result.extra["margin"], -result.extra["margin"])
    ]
    far = 1 - stats.t.cdf((delta.mean() + result.extra["margin"]) / stats.sem(delta), 49)
    assert result.extra["p_opposite"] == pytest.approx(outer[0] + far)
    assert outer[1] == pytest.approx(far)
