"""Areas, precision and intervals, worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc.errors import InputError
from discovery.truth.measures import (
    ROC,
    median_over,
    precision_at_size,
    roc_of_circuits,
    roc_of_scores,
)

TRUE = np.array([True, True, False, False])


def points(roc):
    return list(zip(roc.false.tolist(), roc.true.tolist(), strict=True))


def test_a_perfect_and_a_wrong_ranking():
    right = roc_of_scores(np.array([4.0, 3, 2, 1]), TRUE)
    assert points(right) == [(0, 0), (0, 0.5), (0, 1), (0.5, 1), (1, 1)]
    assert right.auroc == right.pessimistic == 1
    wrong = roc_of_scores(np.array([1.0, 2, 3, 4]), TRUE)
    assert wrong.auroc == wrong.pessimistic == 0


def test_ties_count_half_or_as_wrong():
    tied = roc_of_scores(
        np.array([2.0, 1, 1, 0]), TRUE
    )  # the second true one ties with a false one
    assert points(tied) == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]
    assert tied.auroc == (1 + 1 + 0.5 + 1) / 4
    assert tied.pessimistic == 0.5 + 0.5 * 0.5
    all_tied = roc_of_scores(np.zeros(4), TRUE)
    assert (all_tied.auroc, all_tied.pessimistic) == (0.5, 0)


@pytest.mark.parametrize(
    ("along", "area"), [((0, 1), 0), ((0, 0.5, 1), 0.25), ((0, 0.25, 1), 0.1875),
                        ((0, 0.25, 0.5, 1), 0.3125)],
)  # fmt: skip
def test_the_pessimistic_area_on_the_diagonal(along, area):
    diagonal = ROC(np.array(along, float), np.array(along, float))
    assert diagonal.pessimistic == area and diagonal.auroc == 0.5


def test_a_search_that_stops_short():
    """Half of the truth and nothing false: straight on to everything, or nothing more."""
    short = roc_of_circuits([np.array([True, False, False, False])], TRUE)
    assert points(short) == [(0, 0), (0, 0.5), (1, 1)]
    assert (short.auroc, short.pessimistic) == (0.75, 0.5)


def test_a_circuit_that_is_beaten_at_both_rates_is_left_out():
    good, bad = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert points(roc_of_circuits([bad, good], TRUE)) == points(roc_of_circuits([good], TRUE))


def test_precision_shares_the_last_places_among_ties():
    assert precision_at_size(np.array([4.0, 1, 3, 2]), TRUE) == 0.5
    assert precision_at_size(np.array([4.0, 1, 1, 1]), TRUE) == (1 + 1 / 3) / 2
    assert precision_at_size(np.zeros(4), TRUE) == 0.5


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_the_auroc_is_the_chance_that_a_true_one_ranks_above(items):
    scores, true = np.array([float(s) for s, _ in items]), np.array([t for _, t in items])
    if true.all() or not true.any():
        with pytest.raises(InputError, match="a ROC needs both kinds"):
            roc_of_scores(scores, true)
        return
    pairs = [(a > b) + (a == b) / 2 for a in scores[true] for b in scores[~true]]
    roc = roc_of_scores(scores, true)
    assert roc.auroc == pytest.approx(np.mean(pairs), abs=1e-12)
    strictly = [(scores[~true] < a).mean() for a in scores[true]]  # ties are wrong
    assert roc.pessimistic == pytest.approx(np.mean(strictly), abs=1e-12)


def test_nested_circuits_rank_as_their_number_says():
    nested = [TRUE, np.array([True, False, False, False]), np.ones(4, bool)]
    scores = np.sum(nested, axis=0, dtype=float)  # in how many each is
    assert scores.tolist() == [3, 2, 1, 1]
    assert points(roc_of_scores(scores, TRUE)) == points(roc_of_circuits(nested, TRUE))


def test_a_median_and_its_interval():
    rng = np.random.default_rng(0)
    found = median_over({"a": [0.2, 0.4], "b": [1.0, 1.0, 1.0]}, rng)
    assert found.median == 1.0
    assert found.low < 0.5 and found.high == 1.0  # "a" may be drawn twice
    alone = median_over({"a": [0.7] * 3}, rng)
    assert (alone.median, alone.low, alone.high) == (0.7, 0.7, 0.7)
    draws = [0.1, 0.3, 0.4, 0.8, 0.9]  # of one circuit: the plain bootstrap of a median
    plain = [np.median(rng.choice(draws, 5)) for _ in range(4000)]
    one = median_over({"a": draws}, rng, level=0.5, resamples=4000)
    assert (one.low, one.high) == tuple(np.quantile(plain, [0.25, 0.75]))
    with pytest.raises(InputError, match="a value of every circuit"):
        median_over({"a": []}, rng)
