"""Scores by hand and by law."""

import numpy as np
import pytest
from scipy.special import expit

from acdc.errors import InputError
from discovery.scrubbing.score import (
    calibrated_information,
    constant_guess_loss,
    cross_entropy,
    effect,
    entropy,
    recovered,
    retained,
    variance_explained,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def losses(n, draws=1, seed=0, mean=1.0):
    """Model near 0, baseline near 4, scrubbed near `mean`, the last two correlated."""
    g = rng(seed)
    hard = g.exponential(size=n)
    scrubbed = mean * hard[:, None] + 0.3 * g.normal(size=(n, draws))
    return 0.01 * g.random(n), 3 + hard, scrubbed


def test_recovered_by_hand():
    model, base = np.array([0.0, 1.0]), np.array([4.0, 6.0])  # means 0.5 and 5
    found = recovered(model, base, np.array([[1.0, 2.0], [1.5, 2.5]]), "random", rng())
    assert found.value == pytest.approx((5 - 1.75) / 4.5)
    assert (found.baseline, found.model_loss, found.scrubbed_loss) == ("random", 0.5, 1.75)


def test_model_is_one_and_baseline_is_zero():
    model, base, _ = losses(50)
    for scrubbed, value in ((model, 1), (base, 0)):
        found = recovered(model, base, scrubbed[:, None], "b", rng())
        assert (found.value, found.low, found.high, found.error) == (value, value, value, 0)


@pytest.mark.parametrize("n, method", [(400, "BCa"), (5000, "percentile")])
def test_interval_and_error_agree(n, method):
    found = recovered(*losses(n), "b", rng())
    assert found.method == method and found.low < found.value < found.high
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(found.error, rel=0.12)


def test_error_is_calibrated_and_the_interval_covers():
    """60 seeds: spread over stated error within sampling noise, truth inside 95 % of the time."""
    found = [recovered(*losses(300, seed=s), "b", rng(s), resamples=300) for s in range(60)]
    truth = (4 - 1) / (4 - 0.005)
    spread = np.std([f.value for f in found], ddof=1)
    assert 0.8 < spread / np.mean([f.error for f in found]) < 1.25
    assert np.mean([f.low < truth < f.high for f in found]) > 0.85


@pytest.mark.parametrize(
    "change, words",
    [
        ({"baseline": np.arange(4.0)}, ["'none'", "nothing can be recovered"]),
        ({"baseline": np.array([0.5, 0.9, 2.1, 2.9])}, ["'none'", "nothing can be recovered"]),
        (
            {"model": np.ones(1), "baseline": np.ones(1), "scrubbed": np.ones((1, 2))},
            ["1 (model)", "1 (baseline)", "at least 2"],
        ),
        ({"scrubbed": np.full((4, 1), np.nan)}, ["finite"]),
    ],
)
def test_no_division_by_nothing(change, words):
    given = {"model": np.arange(4.0), "baseline": np.arange(4.0) + 5, "scrubbed": np.ones((4, 2))}
    with pytest.raises(InputError) as error:
        recovered(**{**given, **change}, name="none", generator=rng())
    assert all(word in str(error.value) for word in words)


def test_effect_by_hand():
    found = effect(np.array([1.0, 2.0]), np.array([[1.0, 0.0], [5.0, 3.0]]))  # 0, -1, 3, 1
    assert (found.mean, found.median, found.rms) == (0.75, 0.5, np.sqrt(11 / 4))
    assert (found.share_worse, found.share_1_nat) == (0.5, 0.25)
    assert found.scrub_variance == (0.5 + 2) / 2
    assert found.data_variance == 3.5**2 / 2 - 1.25 / 2
    assert effect(np.ones(2), np.ones((2, 1))).data_variance is None


def test_variances_are_split():
    g = rng(1)
    scrubbed = 3 * g.normal(size=(4000, 1)) + 2 * g.normal(size=(4000, 5))
    found = effect(np.zeros(4000), scrubbed)
    assert found.data_variance == pytest.approx(9, rel=0.08)
    assert found.scrub_variance == pytest.approx(4, rel=0.08)


def test_entropy_and_constant_guess():
    assert entropy([3, 3, 8, 8]) == pytest.approx(np.log(2))
    labels = np.array([0] * 3 + [1])
    constant = np.tile(np.log([0.75, 0.25]), (4, 1))
    assert constant_guess_loss(labels) == pytest.approx(cross_entropy(constant, labels).mean())


def test_calibration_undoes_scale_and_bias():
    g = rng(2)
    true = 3 * g.normal(size=20_000)
    labels = (g.random(20_000) < expit(true)).astype(int)
    right = cross_entropy(np.stack([0 * true, true], 1), labels).mean()
    found = calibrated_information(5 * true - 7, labels)
    assert found.loss == pytest.approx(right, abs=0.002)
    assert found.information == pytest.approx(1 - right / entropy(labels), abs=0.004)
    three = np.stack([0 * true, true, 0 * true - 50], 1) * 0.2 + [1.0, 0.0, 2.0]
    assert calibrated_information(three, labels).loss == pytest.approx(right, abs=0.002)


def test_calibration_of_noise_and_of_certainty():
    g = rng(3)
    labels = g.integers(2, size=4000)
    assert abs(calibrated_information(g.normal(size=4000), labels).information) < 0.005
    assert calibrated_information(labels * 2.0 - 1, labels).information > 0.999


def test_calibration_is_held_out():
    """On two samples a side a fit would look perfect; on the other half it is not."""
    labels, z = np.array([0, 1, 1, 0]), np.array([-1.0, -1.0, 1.0, 1.0])
    assert calibrated_information(z, labels).information < -1


def test_retained_by_hand():
    labels = np.array([0, 0, 1, 1])
    same, finer = retained(1 - labels, labels), retained(np.arange(4), labels)
    assert same.information == pytest.approx(np.log(2)) and same.beyond_label == 0
    assert finer.beyond_label == pytest.approx(np.log(2)) and finer.classes == 4
    assert (same.mean_class, finer.mean_class) == (2, 1)


def test_variance_explained_by_hand():
    activation = np.array([[0.0], [2.0], [10.0], [12.0]])
    assert variance_explained(activation, [0, 0, 1, 1]) == pytest.approx(100 / 104)
    assert variance_explained(activation, np.arange(4)) == pytest.approx(1)
    assert variance_explained(activation, np.zeros(4)) == 0
    assert variance_explained(np.ones((4, 2)), np.arange(4)) == 0


def test_what_differs_from_the_model_by_rounding_only_has_an_interval():
    model, baseline = rng(0).normal(0, 1, 20), rng(100).normal(4, 1, 20)
    scrubbed = model[:, None].copy()
    scrubbed[0] += 4e-16  # BCa has no limits here
    found = recovered(model, baseline, scrubbed, "empty", rng(2), resamples=200)
    assert found.low == found.value == found.high == pytest.approx(1)
