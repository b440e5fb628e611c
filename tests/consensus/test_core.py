"""The core of many circuits: its bound by hand, halves, and planted circuits found again."""

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.consensus.core import core, halves


def columns(*counts, n=10):
    """[n, edges]: each edge in the first so many circuits."""
    return np.arange(n)[:, None] < np.array(counts)


def test_the_bound_by_hand():
    """3 edges in all of 10 circuits of 4 of 100 edges: k^2 / p = .16, and at tau = 1 as much."""
    masks = columns(10, 10, 10, 8, 2, *[0] * 95)
    found = core(masks, 0.1)
    assert found.mean_size == 4.0
    # tau = .6: .16 / .2 = .8 > .4; .7: .4 <= .4, and 4 edges are in at least 7 of 10
    assert (found.share, found.size) == (0.7, 4) and found.bound == pytest.approx(0.4)
    strict = core(masks, 0.06)
    assert (strict.share, strict.size) == (1.0, 3) and strict.bound == pytest.approx(0.16)
    assert strict.edges.tolist() == [True] * 3 + [False] * 97


def test_no_core_says_why():
    found = core(columns(10, 10, 10, 8, 2, *[0] * 95), 0.05)
    assert found.size == 0 and found.share is None and found.bound is None
    assert "3 edges are in all 10 circuits" in found.empty and "0.16" in found.empty
    assert not core(np.zeros((10, 7), bool), 0.1).size


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_is_a_share(rate):
    with pytest.raises(InputError, match="between 0 and 1"):
        core(columns(5), rate)


@pytest.mark.parametrize("n", [4, 9, 32])
def test_halves_are_complementary_and_differ(n):
    found = halves(n, 6, np.random.default_rng(0))
    assert len(found) == 12 and found == halves(n, 6, np.random.default_rng(0))
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert len(first) == len(second) == n // 2 and not set(first) & set(second)
        assert first == sorted(first) and set(first + second) <= set(range(n))
    assert len({tuple(half) for half in found}) >= 4


def test_too_few_prompts():
    with pytest.raises(InputError, match="3 prompts: at least 4"):
        halves(3, 6, np.random.default_rng(0))


PLANTED, EDGES, PROMPTS, TAKEN = 20, 4000, 40, 40


def planted_core(seed, rate, signal=1.1):
    """Edges' effects on prompts: `signal` for the planted, noise of 1 for all; the best taken."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(PROMPTS, EDGES))
    effects[:, :PLANTED] += signal
    masks = np.zeros((20, EDGES), bool)
    for mask, rows in zip(masks, halves(PROMPTS, 10, rng), strict=True):
        mask[np.argsort(-effects[rows].mean(0))[:TAKEN]] = True
    return core(masks, rate), masks


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_false_discoveries_in_planted_circuits_stay_below_the_rate(rate):
    """50 seeds. One circuit alone is half chance; the core is not, and finds what was planted."""
    shares, single, power, counts, bounds = [], [], [], [], []
    for seed in range(50):
        found, masks = planted_core(seed, rate)
        false = found.edges[PLANTED:].sum()
        shares.append(false / max(1, found.size))
        counts.append(false)
        bounds.append(found.bound or 0.0)
        single.append(masks[0, PLANTED:].sum() / TAKEN)
        power.append(found.edges[:PLANTED].mean())
    assert np.mean(shares) <= rate and np.mean(counts) <= np.mean(bounds)
    assert np.mean(single) > 0.5 and np.mean(power) > 0.8


def test_without_signal_there_is_no_core():
    sizes = [planted_core(seed, 0.1, signal=0.0)[0].size for seed in range(50)]
    assert np.mean(np.array(sizes) > 0) <= 0.1
