"""Decision figures against random circuits, corrections over edges, percentiles."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from acdc.errors import InputError
from discovery.statistics.against_random import (
    mean_squared,
    minimality,
    null_percentile,
    null_rank,
    partial_necessity,
    sufficiency,
)

MODEL = np.array([1.0, 2.0, 4.0])


def far(distances):
    """[..., 3]: scores at these distances (root mean square) from the model's."""
    return MODEL + np.asarray(distances, dtype=float)[..., None]


def beaten(count, circuits=100):
    """Distances of random circuits, `count` of them larger than 1."""
    return np.where(np.arange(circuits) < count, 2.0, 0.5)


def test_mean_squared_by_hand():
    assert mean_squared(np.array([1.0, 4.0, 4.0]), MODEL) == pytest.approx(4 / 3)
    assert mean_squared(far([0, 3]), MODEL).tolist() == [0, 9]


@pytest.mark.parametrize(
    "count, holds", [(100, True), (96, True), (95, None), (85, None), (84, False), (0, False)]
)
def test_sufficiency_needs_96_of_100(count, holds):
    result = sufficiency(far(1.0), far(beaten(count)), MODEL)
    assert result.holds is holds and result.rejected is (count >= 96)
    assert result.extra["beaten"] == count
    assert result.p_value == pytest.approx(stats.binomtest(count, 100, 0.9, "greater").pvalue)


def test_sufficiency_of_95_is_just_missed():
    assert sufficiency(far(1.0), far(beaten(95)), MODEL).p_value == pytest.approx(0.0576, abs=5e-5)


def test_a_tie_serves_neither():
    random = far(np.ones(100))
    assert sufficiency(far(1.0), random, MODEL).extra["beaten"] == 0
    assert partial_necessity(far(1.0), random, MODEL, far(9.0)).extra["beaten"] == 0


def test_within_the_margin_of_perfect_is_as_good_as_any():
    """Below it, who is closer is decided by rounding; above it, by who is closer."""
    better = far(np.full(100, 0.1))
    assert sufficiency(far(0.2), better, MODEL).extra["beaten"] == 0
    assert sufficiency(far(0.2), better, MODEL, 0.25).extra["beaten"] == 100
    assert sufficiency(far(0.3), better, MODEL, 0.25).extra["beaten"] == 0
    worse = far(np.full(100, 8.9))
    for own, count in ((8.8, 100), (8.7, 0)):  # the empty circuit is 9 away, the margin .25
        assert partial_necessity(far(own), worse, MODEL, far(9.0), 0.25).extra["beaten"] == count
    assert partial_necessity(far(8.8), worse, MODEL, far(9.0)).extra["beaten"] == 0


def test_what_does_nothing_is_not_necessary():
    """Neither its removal nor a random one's does anything: ties, far from cutting all."""
    none = far(np.zeros(100))
    assert partial_necessity(MODEL, none, MODEL, far(9.0), 0.9).holds is False
    assert partial_necessity(MODEL, none, MODEL, MODEL, 0.0).holds is False  # no effect at all


@pytest.mark.parametrize("count, holds", [(96, True), (95, None), (84, False)])
def test_partial_necessity_needs_96_of_100(count, holds):
    without_random = far(np.where(np.arange(100) < count, 0.5, 2.0))
    assert partial_necessity(far(1.0), without_random, MODEL, far(9.0)).holds is holds


def test_too_few_random_circuits():
    assert sufficiency(far(1.0), far(beaten(29, 29)), MODEL).holds is True
    with pytest.raises(InputError, match="sufficiency: needs 29 random circuits, got 28"):
        sufficiency(far(1.0), far(beaten(28, 28)), MODEL)
    with pytest.raises(InputError, match=r"random has shape \(100, 2\)"):
        sufficiency(far(1.0), far(beaten(96))[:, :2], MODEL)


def edges_exceeding(counts):
    """Effects that exceed exactly so many of the reference draws 1, 2, ... 100."""
    return np.array(counts) + 0.5, np.arange(1.0, 101.0)


@pytest.mark.parametrize("count, superfluous", [(84, True), (85, False)])
def test_one_edge_is_superfluous_up_to_84(count, superfluous):
    result = minimality(["a->b"], *edges_exceeding([count]))
    assert result.rejected is superfluous
    assert result.extra["edges"][0]["exceeds"] == count


def test_bonferroni_over_300_edges_ends_at_77():
    counts = [77, 78] + [100] * 298
    result = minimality([f"e{i}" for i in range(300)], *edges_exceeding(counts))
    assert result.extra["superfluous_bonferroni"] == ["e0"]
    assert result.extra["superfluous"] == ["e0", "e1"]


def test_corrections_are_ordered_and_bh_is_the_step_up_rule():
    counts = [70, 79, 80, 81, 82, 84, 90, 95, 100, 100]
    result = minimality([f"e{i}" for i in range(10)], *edges_exceeding(counts))
    p = np.sort([row["p"] for row in result.extra["edges"]])
    passing = np.flatnonzero(p <= 0.05 * np.arange(1, 11) / 10)
    assert len(result.extra["superfluous_bh"]) == passing.max() + 1 == result.statistic
    bonferroni, bh, plain = (
        result.extra[key] for key in ("superfluous_bonferroni", "superfluous_bh", "superfluous")
    )
    assert set(bonferroni) < set(bh) < set(plain)
    assert result.holds is False and result.correction == "Benjamini-Hochberg"


def test_results_are_ready_for_json():
    result = minimality(["a", "b"], *edges_exceeding([70, 100]))
    again = json.loads(json.dumps(asdict(result), allow_nan=False))
    assert again["extra"]["edges"][0] == result.extra["edges"][0]
    assert again["holds"] is False and again["correction"] == "Benjamini-Hochberg"


def test_minimality_is_shown_only_if_every_edge_matters():
    assert minimality(["a", "b"], *edges_exceeding([96, 100])).holds is True
    assert minimality(["a", "b"], *edges_exceeding([95, 100])).holds is None


def test_refusals_of_minimality():
    with pytest.raises(InputError, match="needs 4 reference draws, got 3"):
        minimality(["e"] * 300, np.ones(300), np.ones(3))
    with pytest.raises(InputError, match="no edges"):
        minimality([], np.ones(0), np.ones(100))
    with pytest.raises(InputError, match="effects has shape"):
        minimality(["a"], np.ones(2), np.ones(100))


def test_percentile_by_hand():
    family = np.arange(1.0, 100.0)  # 99 members
    top = null_percentile(100.0, family)
    assert (top.p_value, top.statistic, top.holds) == (0.01, 100.0, True)
    tied = null_percentile(95.0, family)
    assert tied.p_value == pytest.approx(0.06) and tied.holds is None
    assert tied.statistic == pytest.approx(100 * 94.5 / 99)
    assert null_percentile(0.0, family).holds is False
    with pytest.raises(InputError, match="needs 19 members of the null family, got 18"):
        null_percentile(1.0, family[:18])


def test_rank_in_a_null_family_by_hand():
    found = null_rank(0.9, np.array([0.1, 0.95, 0.9]))
    assert (found.p, found.rank, found.members) == (3 / 4, 3, 3)
    assert null_rank(1.0, np.zeros(63)).p == 1 / 64
    with pytest.raises(InputError, match="null"):
        null_rank(1.0, np.zeros(0))
