"""Decision figures to the digit, laws of signs, ties and scales, agreement with scipy."""

import numpy as np
import pytest
from scipy import stats

from acdc.errors import InputError
from discovery.statistics.equivalence import effect_margin, equivalence, mean_equivalence


def scores(wins, n, ties=0):
    """Circuit and model with so many positive, tied and negative differences of size 1."""
    delta = np.concatenate([np.ones(wins), np.zeros(ties), -np.ones(n - wins - ties)])
    model = np.linspace(-1, 3, n)
    return model + delta, model


def signs(wins, n, ties=0):
    """The test of them, with a margin of one half."""
    return equivalence(*scores(wins, n, ties), 0.5)


@pytest.mark.parametrize("n, first, last", [(100, 49, 51), (200, 92, 108), (400, 177, 223)])
def test_equivalence_accepts_exactly_these_counts(n, first, last):
    near = [*range(first - 3, first + 4), n // 2, *range(last - 3, last + 4), 0, n]
    accepted = {k for k in near if signs(k, n).rejected}
    assert accepted == {k for k in near if first <= k <= last}


@pytest.mark.parametrize("n, power", [(100, 0.24), (400, 0.98), (1000, 1.0)])
def test_power_of_equivalence_for_a_perfect_circuit_without_ties(n, power):
    accepted = [k for k in range(n // 3, n - n // 3) if signs(k, n).rejected]
    assert round(stats.binom.pmf(accepted, n, 0.5).sum(), 2) == power


def test_equivalence_is_two_binomial_tests():
    for k in (150, 180, 200, 221, 260):
        above = stats.binomtest(k, 400, 0.4, "greater").pvalue
        below = stats.binomtest(k, 400, 0.6, "less").pvalue
        assert signs(k, 400).p_value == pytest.approx(max(above, below), rel=1e-9)


@pytest.mark.parametrize("n, first", [(100, 69), (400, 257), (1000, 626)])
def test_the_opposite_is_the_published_test_of_non_equivalence(n, first):
    for k, holds in [(first, False), (first - 1, None), (n - first, False)]:
        found = signs(k, n)
        assert found.holds is holds and (found.extra["p_opposite"] <= 0.05) is (holds is False)
        j = np.arange(n + 1)
        far = np.abs(j - n / 2) >= abs(k - n / 2)
        expected = stats.binom.pmf(j[far], n, 0.6).sum()
        assert found.extra["p_opposite"] == pytest.approx(min(1.0, expected))


def test_only_the_margin_decides_what_differs():
    """Scaling differences and margin alike changes nothing; below the margin all are ties."""
    rng = np.random.default_rng(0)
    model, delta = rng.normal(size=400), rng.normal(0.3, 1, 400)
    one, ten = (
        equivalence(model + delta, model, 0.2),
        equivalence(10 * (model + delta), 10 * model, 2.0),
    )
    assert one.p_value == ten.p_value and 0 < one.extra["ties"] < 400
    assert equivalence(model + np.abs(delta), model, 0.0).holds is False
    covered = equivalence(model + np.abs(delta), model, 10.0)
    assert covered.holds is True and covered.extra["ties"] == 400
    exact = equivalence(np.full(80, 1.5), np.full(80, 1.0), 0.5)
    assert exact.extra["ties"] == 80  # a difference of just the margin is none


def test_between_shown_and_refuted_lies_undecided():
    assert [signs(k, 400).holds for k in (200, 224, 256, 257)] == [True, None, None, False]


def test_ties_count_half_and_a_left_over_half_counts_against():
    assert signs(150, 400, 100).p_value == signs(200, 400).p_value
    odd = signs(222, 400, 3)  # 223.5: taken as 224 against the upper bound
    assert odd.p_value == signs(224, 400).p_value and odd.rejected is False
    assert odd.extra["ties"] == 3 and odd.statistic == 223.5 / 400
    assert odd.extra["wins"] + odd.extra["ties"] + odd.extra["losses"] == 400


@pytest.mark.slow
def test_ties_make_it_no_less_strict():
    """At the edge of the null, P(win) - P(loss) = -.2, it rejects no more often with ties."""
    rng, shares = np.random.default_rng(0), []
    for tied in (0.0, 0.4, 0.7):
        win, loss = (0.8 - tied) / 2, (1.2 - tied) / 2
        counts = rng.multinomial(200, [win, tied, loss], size=4000)
        p = [signs(int(w), 200, int(t)).p_value for w, t, _ in counts]
        shares.append(np.mean(np.array(p) <= 0.05))
    assert max(shares) <= 0.055 and shares[2] < shares[0]


@pytest.mark.parametrize("n", [76, 85, 100, 401])
def test_the_model_itself_is_accepted(n):
    assert signs(0, n, n).holds is True and signs(0, n, n).extra["ties"] == n


def test_the_margin_is_a_share_of_a_sure_effect():
    model, empty = np.array([3.0, 5.0, 4.0, 4.0]), np.array([1.0, 3.0, 1.0, 3.0])
    assert effect_margin(model, empty, 0.1) == pytest.approx(0.2)
    assert effect_margin(empty, model, 0.1) == pytest.approx(0.2)  # whichever is better
    assert effect_margin(np.array([1.0, -1.0]), np.array([-1.0, 1.0])) == 0.0
    with pytest.raises(InputError, match="share=1.0"):
        effect_margin(model, empty, 1.0)


def test_too_few_prompts_are_refused():
    with pytest.raises(InputError, match="equivalence: needs 76 prompts, got 40"):
        signs(20, 40)
    with pytest.raises(InputError, match="mean equivalence: needs 2 prompts, got 1"):
        mean_equivalence(np.ones(1), np.ones(1), np.zeros(1))


def test_malformed_scores_levels_and_margins_are_refused():
    circuit, model = scores(50, 100)
    with pytest.raises(InputError, match=r"scores has shape \(99,\)"):
        equivalence(circuit[1:], model, 0.5)
    with pytest.raises(InputError, match="not finite"):
        mean_equivalence(np.where(circuit > 1, np.nan, circuit), model, model - 1)
    with pytest.raises(InputError, match="eps=0.5"):
        equivalence(circuit, model, 0.5, eps=0.5)
    with pytest.raises(InputError, match="level=0.0"):
        equivalence(circuit, model, 0.5, level=0.0)
    with pytest.raises(InputError, match="margin=-1.0 must be 0 or more"):
        equivalence(circuit, model, -1.0)


def test_mean_equivalence_is_two_t_tests():
    """Of the difference plus and minus a tenth of the effect, prompt by prompt."""
    rng = np.random.default_rng(1)
    model, empty = rng.normal(5, 1.5, 200), rng.normal(0, 1, 200)
    for shift in (0.0, 0.2, 0.45, -0.3):
        delta = rng.normal(shift, 0.8, 200)
        tenth = (model - empty) / 10
        above = stats.ttest_1samp(delta + tenth, 0, alternative="greater").pvalue
        below = stats.ttest_1samp(delta - tenth, 0, alternative="less").pvalue
        for sign in (1, -1):  # a task on which the model is worse than the empty circuit
            found = mean_equivalence(sign * (model + delta), sign * model, sign * empty)
            assert found.p_value == pytest.approx(max(above, below))


def test_mean_equivalence_sees_what_signs_do_not():
    rng = np.random.default_rng(2)
    model = rng.normal(5, 1, size=400)
    empty = model - 5 + rng.normal(0, 0.1, 400)
    sides = np.where(np.arange(400) % 2, 1.0, -1.0)
    lopsided = np.where(sides > 0, 4.0, -0.6)  # as often above as below, but far above
    assert equivalence(model + lopsided, model, 0.5).holds is True
    assert mean_equivalence(model + lopsided, model, empty).holds is False
    assert mean_equivalence(model + 0.1 * sides, model, empty).holds is True
    assert mean_equivalence(model + 8 * sides, model, empty).holds is None


def test_mean_equivalence_of_the_model_and_of_nothing():
    model, empty = np.array([3.0, 5.0, 4.0, 4.0]), np.array([1.0, 3.0, 1.0, 3.0])
    assert mean_equivalence(model, model, empty).holds is True
    assert mean_equivalence(empty, model, empty).holds is False
    constant = mean_equivalence(model + 0.1, model, model - 2.0)
    assert constant.p_value == 0.0 and constant.holds is True
    result = mean_equivalence(model, model, model)
    assert result.p_value is None and result.holds is None
    assert "do not surely differ" in result.extra["undefined"]


def test_the_mean_is_refuted_by_the_t_test_beyond_the_margin():
    rng = np.random.default_rng(3)
    model = rng.normal(4, 1, size=50)
    empty, delta = np.zeros(50), rng.normal(-0.7, 1, 50)
    result = mean_equivalence(model + delta, model, empty)
    beyond = stats.ttest_1samp(delta + model / 10, 0, alternative="less").pvalue
    far = stats.ttest_1samp(-delta + model / 10, 0, alternative="greater").pvalue
    assert result.extra["p_opposite"] == pytest.approx(beyond + far)
    assert result.extra["margin"] == pytest.approx(model.mean() / 10)
