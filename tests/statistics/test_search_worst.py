"""Searches against enumeration: never above the exact worst, seeded, within the budget."""

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.statistics.search_worst import Effort, all_subsets, search_worst

SMALL = Effort(random=5, runs=3, iterations=4, candidates=3)


def rng(seed=0):
    return np.random.default_rng(seed)


def one_by_one(gap):
    """A function of one set as a function of many."""
    return lambda subsets: [gap(subset) for subset in subsets]


def names(n):
    return [f"a0.h{i}" for i in range(n)]


def landscape(n, seed):
    """A gap with pairwise interactions."""
    weight = np.triu(rng(seed).normal(size=(n, n)))

    def gap(subset):
        chosen = list(subset)
        return float(abs(0.1 + weight[np.ix_(chosen, chosen)].sum()))

    return gap


def test_all_subsets():
    assert all_subsets(2) == [(), (0,), (1,), (0, 1)]
    assert len(set(all_subsets(10))) == 1024


@pytest.mark.parametrize("seed", range(5))
def test_up_to_twelve_nodes_the_worst_is_exact(seed):
    gap = landscape(8, seed)
    found = search_worst(names(8), one_by_one(gap), rng(), effort=SMALL)
    assert found.worst.gap == max(gap(subset) for subset in all_subsets(8))
    assert found.evaluations == found.budget == 256
    heuristic = [t.gap for t in found.trail if t.search != "exact"]
    assert max(heuristic) <= found.worst.gap
    assert len(found.trail) == 256 + len(heuristic)


def test_greedy_finds_an_additive_worst():
    gap = lambda subset: float(sum(subset))  # noqa: E731
    effort = Effort(random=0, runs=1, iterations=14, candidates=14)
    found = search_worst(names(14), one_by_one(gap), rng(), effort=effort)
    assert found.worst.subset == tuple(range(1, 14))
    assert {t.search for t in found.trail} == {"empty", "greedy 0"}


def test_greedy_is_blind_to_a_pair_that_only_acts_together():
    gap = lambda subset: float({3, 11} <= set(subset))  # noqa: E731
    effort = Effort(random=0, runs=5, iterations=10, candidates=14)
    assert search_worst(names(14), one_by_one(gap), rng(), effort=effort).worst.gap == 0
    random = Effort(random=60, runs=0)
    assert search_worst(names(14), one_by_one(gap), rng(), effort=random).worst.gap == 1


def test_greedy_keeps_only_what_beats_the_best_so_far():
    found = search_worst(
        names(14), one_by_one(lambda s: -float(len(s))), rng(), effort=Effort(0, 2, 3, 4)
    )
    assert {len(t.subset) for t in found.trail} == {0, 1}
    assert found.worst.search == "empty"


def test_classes_are_tried_by_name():
    classes = {"movers": ["a0.h2", "a0.h1"], "none": []}
    gap = landscape(14, 1)
    found = search_worst(names(14), one_by_one(gap), rng(), classes, Effort(0, 0))
    assert [(t.search, t.nodes) for t in found.trail] == [
        ("empty", ()),
        ("class movers", ("a0.h1", "a0.h2")),
        ("class none", ()),
    ]
    assert found.trail[1].gap == gap((1, 2))
    assert found.budget == 3


def test_budget_holds_and_nothing_is_measured_twice():
    measured = []

    def gaps(subsets):
        measured.extend(subsets)
        return [float(len(subset) % 5) for subset in subsets]

    found = search_worst(names(20), gaps, rng(), effort=SMALL)
    assert len(measured) == len(set(measured)) == found.evaluations < len(found.trail)
    assert found.evaluations <= found.budget == 1 + 5 + 3 * 4 * 3
    assert all(list(subset) == sorted(subset) for subset in measured)


def test_random_sets_hold_half_of_the_nodes():
    found = search_worst(names(40), one_by_one(len), rng(), effort=Effort(200, 0))
    sizes = [len(t.subset) for t in found.trail if t.search == "random"]
    assert len(sizes) == 200 and np.mean(sizes) == pytest.approx(20, abs=1)


def test_seeds_repeat():
    gap = one_by_one(landscape(16, 3))
    a, b, c = (search_worst(names(16), gap, rng(seed), effort=SMALL) for seed in (1, 1, 2))
    assert a == b and a != c


def test_refusals():
    with pytest.raises(InputError, match="2 names, of which only 1"):
        search_worst(["a", "a"], one_by_one(len), rng())
    with pytest.raises(InputError, match="'b' is not among"):
        search_worst(["a"], one_by_one(len), rng(), {"x": ["b"]})
    with pytest.raises(InputError, match="may be negative"):
        search_worst(["a"], one_by_one(len), rng(), effort=Effort(random=-1))
    with pytest.raises(InputError, match="finite"):
        search_worst(["a"], lambda subsets: [float("nan")] * len(subsets), rng())
    with pytest.raises(InputError, match="1 finite numbers expected"):
        search_worst(["a"], lambda subsets: [], rng())
