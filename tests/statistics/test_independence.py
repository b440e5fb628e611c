"""HSIC against its formula, what the empty circuit knows taken out, what is within the margin."""

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.statistics.independence import (
    STRATUM,
    _dependence,
    independence,
    local_orders,
    off_cubic,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def kernel(x):
    distances = np.abs(x[:, None] - x[None, :])
    width = np.median(distances[distances > 0])
    return np.exp(-(distances**2) / (2 * width**2))


def literal(x, y):
    """tr(K H L H), written out."""
    h = np.eye(len(x)) - 1 / len(x)
    return np.trace(kernel(x) @ h @ kernel(y) @ h)


def test_the_p_value_is_the_rank_among_literal_permutations():
    x = np.round(rng(3).standard_t(2, size=25), 1)  # ties and outliers
    y = x + rng(4).normal(size=25) * 1.5
    draws, again = rng(5), rng(5)
    permuted = [literal(x, y[draws.permutation(25)]) for _ in range(99)]
    expected = (1 + (np.array(permuted) >= literal(x, y)).sum()) / 100
    p, size = _dependence(x, y, lambda: again.permutation(25), 99)
    assert p == pytest.approx(expected) and 1 / 100 <= p < 0.9
    assert size == pytest.approx(literal(x, y) / np.sqrt(literal(x, x) * literal(y, y)))


def test_equal_permutations_count_as_at_least_as_large():
    # Two values each: most permutations give one of few HSICs, equal but for rounding.
    x = np.repeat([0.0, 1.0], 4)
    y = np.array([0.0, 1.0] * 4)  # the split with the smallest HSIC: nothing is smaller
    assert _dependence(x, y, lambda: rng().permutation(8), 200)[0] == 1.0
    assert _dependence(np.zeros(8), y, lambda: rng().permutation(8), 200) == (1.0, 0.0)


def test_local_orders_exchange_neighbours_only():
    given = rng(1).normal(size=45)
    rank = np.argsort(np.argsort(given))
    draw = local_orders(given, rng(2))
    for _ in range(20):
        order = draw()
        assert sorted(order.tolist()) == list(range(45))
        assert np.abs(rank[order] - rank).max() < STRATUM + 2
    assert (draw() != np.arange(45)).any()


def test_what_is_off_the_cubic():
    x = rng(1).normal(size=30)
    y = 3 * x - 2 + x**2 + np.sin(4 * x)
    np.testing.assert_allclose(off_cubic(y, x), y - np.polyval(np.polyfit(x, y, 3), x), atol=1e-9)
    assert not off_cubic(5 * x**3 + 1, x).any() and not off_cubic(np.full(30, 2.0), x).any()
    np.testing.assert_allclose(off_cubic(y, np.full(30, 7.0)), y - y.mean())


def hard_prompts(n=200, seed=0):
    """Model and empty circuit that both score worse on hard prompts."""
    hard = rng(seed).normal(size=n)
    return 5 + hard + 0.5 * rng(seed + 1).normal(size=n), hard


def test_the_whole_model_passes_and_no_circuit_fails():
    """Its complement is the empty circuit, which does know the model's score a little."""
    model, empty = hard_prompts()
    assert np.corrcoef(model, empty)[0, 1] > 0.8
    whole = independence(empty, model, empty, 0.5, rng())
    assert whole.holds is True and whole.extra["beyond"] == 0
    slightly = independence(empty + 1e-4 * model, model, empty, 0.5, rng())  # dependent, negligible
    assert slightly.holds is True and slightly.extra["p_opposite"] < 0.05
    nothing = independence(model, model, empty, 0.5, rng())
    assert nothing.holds is False and nothing.extra["beyond"] == 200


def test_a_dependence_that_is_no_correlation_is_seen():
    model, empty = hard_prompts(seed=4)
    own = model - empty - 5
    left = empty + 4 * (own**2 - own.var()) + 2
    assert independence(left, model, empty, 0.5, rng()).holds is False


def test_what_differs_without_knowing_the_model_is_not_decided():
    model, empty = hard_prompts(seed=6)
    found = independence(empty + 3 + rng(90).normal(size=200), model, empty, 0.5, rng())
    assert found.rejected is False and found.holds is None


def test_prompt_difficulty_alone_does_not_refute():
    """Complement and model follow the empty circuit in any way, and nothing else is shared."""
    for seed in range(8, 14):
        model, empty = hard_prompts(seed=seed)
        follows = 2 * np.tanh(empty) + rng(seed).normal(size=200) + 4
        assert independence(follows, model, empty, 0.5, rng()).holds is None


def test_nine_in_ten_within_the_margin():
    model, empty = hard_prompts()
    left = empty + np.where(np.arange(200) < 12, 9.0, 0.0)
    assert independence(left, model, empty, 0.5, rng()).rejected is True  # 188 of 200
    left = empty + np.where(np.arange(200) < 13, 9.0, 0.0)
    assert independence(left, model, empty, 0.5, rng()).rejected is False


def test_units_do_not_matter_and_seeds_repeat():
    model, empty = hard_prompts()
    left = 0.3 * model + rng(3).normal(size=200)
    one = independence(left, model, empty, 0.5, rng(1))
    other = independence(1e4 * left, 1e4 * model, 1e4 * empty, 5e3, rng(1))
    assert one.extra["p_opposite"] == other.extra["p_opposite"]
    assert one.extra["normalised"] == pytest.approx(other.extra["normalised"])


def test_refusals():
    x = rng(1).normal(size=40)
    with pytest.raises(InputError, match="needs 29 prompts, got 28"):
        independence(x[:28], x[:28], x[:28], 0.1, rng())
    with pytest.raises(InputError, match="permutations=18: must be at least 19"):
        independence(x, x, x, 0.1, rng(), permutations=18)
    with pytest.raises(InputError, match="margin=-0.1"):
        independence(x, x, x, -0.1, rng())
