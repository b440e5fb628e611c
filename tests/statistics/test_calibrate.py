"""The calibration tells a test that holds its level from one that does not."""

import numpy as np
import pytest

from discovery.statistics.intervals import Interval
from scripts import calibrate


def row(run, null=True, continuous=False):
    case = calibrate.Case("test", "situation", null, 100, run, continuous, simulations=300)
    return calibrate.rejections(case, np.random.default_rng(0))


def test_a_uniform_p_value_passes():
    found = row(lambda rng: rng.random(), continuous=True)
    assert not found["fails"] and found["low"] < 0.05 < found["high"]


@pytest.mark.parametrize(
    "run, continuous",
    [(lambda rng: rng.random() / 3, False), (lambda rng: rng.random() ** 0.5, True)],
    ids=["rejects too often", "not uniform"],
)
def test_a_wrong_p_value_fails(run, continuous):
    assert row(run, continuous=continuous)["fails"]


def test_power_is_no_failure():
    found = row(lambda rng: 0.0, null=False)
    assert found["rejected"] == 1.0 and not found["fails"]


def test_an_interval_that_misses_fails():
    narrow = lambda rng: Interval(0.0, -0.1, 0.1, 0.95, 9, "none")  # noqa: E731
    assert calibrate.coverage("x", 9, 1.0, narrow, np.random.default_rng(0))["fails"]
    assert not calibrate.coverage("x", 9, 0.0, narrow, np.random.default_rng(0))["fails"]


def test_every_test_has_a_null_and_a_power():
    cases = [
        *calibrate.equivalence_cases(),
        *calibrate.independence_cases(),
        *calibrate.random_circuit_cases(),
        *calibrate.minimality_cases(),
        *calibrate.percentile_cases(),
    ]
    nulls, powers = ({c.test for c in cases if c.null is null} for null in (True, False))
    assert nulls == powers and len(nulls) == 9  # independence twice
    rng = np.random.default_rng(0)
    assert all(0 < case.run(rng) <= 1 or case.n >= 400 for case in cases)
