"""Which knock-out K tells circuit and model apart most? The searches of completeness.

A circuit is complete if F(C without K) and F(M without K) agree for every set K of its nodes (Wang
et al. 2022, arXiv 2211.00593, section 4). There are 2^n sets, so K is searched: the empty set, all
of a class, random sets, and greedily; up to 12 nodes every set is tried. What is measured is the
caller's: a function from sets to gaps, larger = worse. A search is only a lower bound on the worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from acdc.errors import InputError

Subset = tuple[int, ...]  # increasing indices of nodes
Gaps = Callable[[Sequence[Subset]], Sequence[float]]  # all sets of a batch at once

EXACT_UP_TO = 12  # nodes; 4,096 sets


@dataclass(frozen=True)
class Tried:
    """One K and what came out."""

    subset: Subset
    nodes: tuple[str, ...]  # the same by name
    gap: float
    search: str  # empty, class <name>, random, greedy <run>, exact


@dataclass(frozen=True)
class WorstSearch:
    """Everything that was tried, in order; a set that two searches meet is measured once."""

    trail: tuple[Tried, ...]
    evaluations: int  # different sets measured
    budget: int  # most sets that the settings could have asked for

    @property
    def worst(self) -> Tried:
        """The largest gap, the first of equals."""
        return max(self.trail, key=lambda tried: tried.gap)


@dataclass(frozen=True)
class Effort:
    """How long to search; the defaults are Wang et al.'s."""

    random: int = 100  # sets, every node with probability 1/2
    runs: int = 10  # of the greedy search
    iterations: int = 10  # a run
    candidates: int = 10  # nodes tried an iteration


def all_subsets(n: int) -> list[Subset]:
    """All 2^n sets of n nodes, small ones first."""
    return [subset for size in range(n + 1) for subset in combinations(range(n), size)]


def search_worst(
    nodes: Sequence[str],
    gaps: Gaps,
    rng: np.random.Generator,
    classes: Mapping[str, Sequence[str]] | None = None,
    effort: Effort | None = None,
) -> WorstSearch:
    """Try the empty set, the classes, random sets and the greedy search; all sets up to 12 nodes.

    `gaps` takes increasing tuples of indices into `nodes`. The budget is 1 + classes + random +
    runs x iterations x candidates, and at most 2^nodes. InputError for unknown or repeated nodes,
    negative effort and gaps that are not finite.
    """
    effort, classes, n = effort or Effort(), classes or {}, len(nodes)
    index = {name: i for i, name in enumerate(nodes)}
    if len(index) != n:
        raise InputError(f"nodes: {n} names, of which only {len(index)} differ")
    unknown = [name for members in classes.values() for name in members if name not in index]
    if unknown:
        raise InputError(f"classes: {unknown[0]!r} is not among the {n} nodes")
    if min(effort.random, effort.runs, effort.iterations, effort.candidates) < 0:
        raise InputError(f"effort: no number of {effort} may be negative")
    search = _Search(nodes, gaps)
    search.measure([()], "empty")
    for name, members in classes.items():
        search.measure([tuple(sorted({index[member] for member in members}))], f"class {name}")
    draws = rng.random((effort.random, n)) < 0.5
    search.measure([tuple(np.flatnonzero(row).tolist()) for row in draws], "random")
    for run in range(effort.runs):
        _greedy(search, rng, effort, f"greedy {run}")
    greedy = effort.runs * effort.iterations * min(effort.candidates, n)
    budget = 1 + len(classes) + effort.random + greedy
    if n <= EXACT_UP_TO:
        search.measure(all_subsets(n), "exact")
        budget = 2**n
    return WorstSearch(tuple(search.trail), len(search.known), min(budget, 2**n))


def _greedy(search: _Search, rng: np.random.Generator, effort: Effort, label: str) -> None:
    """One run: per iteration add the best of some nodes, if it beats the run's best so far."""
    chosen: Subset = ()
    best = search.known[()]
    for _ in range(effort.iterations):
        rest = [i for i in range(len(search.nodes)) if i not in chosen]
        size = min(effort.candidates, len(rest))
        if not size:
            return
        drawn = rng.choice(rest, size, replace=False).tolist()
        trials = [tuple(sorted((*chosen, i))) for i in drawn]
        found = search.measure(trials, label)
        if max(found) > best:
            best = max(found)
            chosen = trials[found.index(best)]


class _Search:
    """Measures sets once each and remembers the order."""

    def __init__(self, nodes: Sequence[str], gaps: Gaps) -> None:
        self.nodes = nodes
        self.gaps = gaps
        self.known: dict[Subset, float] = {}
        self.trail: list[Tried] = []

    def measure(self, subsets: Sequence[Subset], label: str) -> list[float]:
        """The gap of each set."""
        fresh = [s for s in dict.fromkeys(subsets) if s not in self.known]
        values = list(self.gaps(fresh)) if fresh else []
        if len(values) != len(fresh) or not all(math.isfinite(v) for v in values):
            raise InputError(f"gaps: {len(fresh)} finite numbers expected, got {values[:5]}")
        self.known.update(zip(fresh, map(float, values), strict=True))
        self.trail += self._named(dict.fromkeys(subsets), label)
        return [self.known[s] for s in subsets]

    def _named(self, subsets: Iterable[Subset], label: str) -> list[Tried]:
        names = self.nodes
        return [Tried(s, tuple(names[i] for i in s), self.known[s], label) for s in subsets]
