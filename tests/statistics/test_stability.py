"""Inclusion with its undecided band, Jaccard, Nogueira's figure at its two fixed points."""

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.statistics.intervals import binomial_interval
from discovery.statistics.stability import inclusion, jaccard_of_pairs, nogueira


def columns(*counts, b=100):
    """[b, edges]: each edge in the first so many circuits."""
    return np.arange(b)[:, None] < np.array(counts)


def test_inclusion_by_hand():
    found = inclusion(columns(100, 61, 60, 50, 40, 39, 0))
    assert found.stable.tolist() == [True, True] + [False] * 5
    assert found.undecided.tolist() == [False, False, True, True, True, False, False]
    assert found.unstable.tolist() == [False] * 5 + [True, True]
    assert found.frequency.tolist() == [1, 0.61, 0.6, 0.5, 0.4, 0.39, 0]
    assert found.low[1] == binomial_interval(61, 100).low
    assert found.high[4] == binomial_interval(40, 100).high


def test_inclusion_needs_circuits():
    assert inclusion(columns(6, b=6)).stable.all()
    with pytest.raises(InputError, match="inclusion: needs 6 circuits, got 5"):
        inclusion(columns(5, b=5))


def test_jaccard_by_hand():
    masks = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert jaccard_of_pairs(masks) == pytest.approx([1 / 3, 0, 0, 0, 0, 1])


def test_jaccard_is_the_literal_ratio():
    masks = np.random.default_rng(0).random((7, 50)) < 0.3
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    literal = [(masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() for i, j in pairs]
    assert jaccard_of_pairs(masks) == pytest.approx(literal)


def test_nogueira_is_one_for_equal_circuits_and_zero_for_random_ones():
    rng = np.random.default_rng(1)
    one = rng.random(500) < 0.1
    assert nogueira(np.tile(one, (30, 1))) == 1.0
    values = []
    for _ in range(60):
        masks = np.zeros((20, 200), dtype=bool)
        for row in masks:
            row[rng.choice(200, 30, replace=False)] = True
        values.append(nogueira(masks))
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(60)
    assert np.std(values) < 0.02
    half = masks.copy()
    half[:, :30] = True  # a shared core
    assert 0.3 < nogueira(half) < 0.9


def test_nogueira_by_hand():
    # Two circuits of two edges of four, one edge shared: p = 1, 1/2, 1/2, 0, mean size 2.
    masks = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool)
    assert nogueira(masks) == pytest.approx(1 - (2 * (0 + 0.25 + 0.25 + 0) / 4) / 0.25)


def test_nogueira_is_undefined_for_empty_and_full():
    assert nogueira(np.zeros((3, 5), dtype=bool)) is None
    assert nogueira(np.ones((3, 5), dtype=bool)) is None


@pytest.mark.parametrize("figure", [inclusion, jaccard_of_pairs, nogueira])
def test_refusals(figure):
    with pytest.raises(InputError, match="needs 2 circuits, got 1"):
        figure(np.ones((1, 5), dtype=bool))
    with pytest.raises(InputError, match="must be"):
        figure(np.ones(5, dtype=bool))
