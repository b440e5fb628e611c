"""From a Scoring's numbers to a circuit, written down as every method's work is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.graph import Graph
from acdc.metrics import Metric
from acdc.selection import Selection, check_size, select, select_on_paths, threshold
from acdc.share import Share, lower
from discovery.methods.found import Found, Resume, Step
from discovery.methods.method import Scoring
from discovery.runs.folder import TestedEdge
from discovery.statistics.random_circuits import random_mask

LISTED = 1000  # edges of a score run that are written out one by one; the rest is in scores.npz
FIRST = 8  # edges that are tried first on the way to a target


def find(
    method: Scoring, data: Data, metric: Metric, seed: int, resume: Resume | None
) -> Iterator[Step | Found]:
    """Score every edge, choose the best."""
    method.asked_for()
    if method.n_edges is not None:
        check_size(data.graph, method.n_edges)  # before the scores, which may take hours
    for made in method.ranks(data, metric, seed, resume):
        if isinstance(made, Found):
            yield from end(method, data, metric, seed, made.scores)
        else:
            yield made


def reach(
    method: Scoring, data: Data, metric: Metric, seed: int, target: float, tune: Data,
    resume: Resume | None,
) -> Iterator[Step | Found]:  # fmt: skip
    """Score every edge; the fewest of the best that reach the target. See Method.reach."""
    steps = method.ranks(data, metric, seed, resume)
    yield from fewest(method, steps, data, metric, seed, target, tune)


def fewest(
    method: Scoring, steps: Iterable[Step | Found], data: Data, metric: Metric, seed: int,
    target: float, tune: Data,
) -> Iterator[Step | Found]:  # fmt: skip
    """Steps that end in scores, and the fewest of the best edges by these that reach the target."""
    for made in steps:
        if isinstance(made, Found):
            yield from _fewest(method, data, metric, seed, target, tune, made.scores)
        else:
            yield made


def _fewest(
    method: Scoring, data: Data, metric: Metric, seed: int, target: float, tune: Data,
    scores: NDArray[np.float64],
) -> Iterator[Step | Found]:  # fmt: skip
    by_size = shares_by_size(method, data.graph, scores, seed, Share(tune, metric))
    size, reached = smallest(lambda n: lower(by_size(n)), data.graph.n_edges, target)
    sized = method.model_copy(update={"n_edges": size})
    for made in end(sized, data, metric, seed, scores):
        if isinstance(made, Found):
            made = replace(made, counts={**made.counts, "tune_share": reached})
        yield made


def shares_by_size(
    method: Scoring, graph: Graph, scores: NDArray[np.float64], seed: int, yardstick: Share
) -> Callable[[int], dict[str, float]]:
    """What so many of the best edges recover (Share.each); asked again, it is not run again."""

    @cache
    def shares(n_edges: int) -> dict[str, float]:
        sized = method.model_copy(update={"n_edges": n_edges})
        return yardstick.each(choose(sized, graph, scores, seed).circuit.mask)

    return shares


def smallest(share: Callable[[int], float], most: int, target: float) -> tuple[int, float]:
    """The smallest size that reaches the target, and its share; all edges if none does.

    Sizes are doubled up to one that does and then bisected to 2 %: where the share does not grow
    with size everywhere, a smaller one may be missed.
    """
    low, high = 0, min(FIRST, most)
    found = share(high)
    while found < target and high < most:
        low, high = high, min(2 * high, most)
        found = share(high)
    while found >= target and high - low > max(1, high // 50):
        middle = (low + high) // 2
        own = share(middle)
        if own >= target:
            high, found = middle, own
        else:
            low = middle
    return high, found


def end(
    method: Scoring, data: Data, metric: Metric, seed: int, scores: NDArray[np.float64]
) -> Iterator[Step | Found]:
    """Choose the best of edges that are scored.

    One Step with those that are kept and the LISTED strongest, strongest first.
    """
    graph, chosen = data.graph, choose(method, data.graph, scores, seed)
    order = np.argsort(-np.abs(scores[graph.legal]), kind="stable")
    listed = np.flatnonzero(
        chosen.circuit.mask[graph.legal][order] | (np.arange(len(order)) < LISTED)
    )
    ends = np.argwhere(graph.legal)[order][listed].tolist()
    edges = tuple(
        TestedEdge(graph.edge_name(w, r), i, float(scores[w, r]), bool(chosen.circuit.mask[w, r]))
        for i, (w, r) in zip(listed.tolist(), ends, strict=True)
    )
    rows = (
        {"order": e.order, "edge": e.edge, "kind": "score", "effect": e.effect, "kept": e.kept}
        for e in edges
    )
    yield Step(tuple(rows), done=graph.n_edges)
    requested = chosen.taken if chosen.requested is None else chosen.requested
    yield Found(
        mask=chosen.circuit.mask,
        scores=chosen.circuit.scores,
        score=in_words(method, metric),
        ranks=True,
        counts={"n_edges_requested": requested, "n_edges_taken": chosen.taken},
        edges=edges,
    )


def in_words(method: Scoring, metric: Metric) -> str:
    """What the method's scores are, their unit and sign."""
    unit = method.unit or f"{metric.unit} of {metric.name}"
    return f"{method.label}, in {unit}, positive = the edge helps"


def choose(method: Scoring, graph: Graph, scores: NDArray[np.float64], seed: int) -> Selection:
    """The circuit that the method's own size or threshold makes of scores."""
    if method.n_edges is None:
        assert method.threshold is not None  # settings: exactly one of the two is given
        return threshold(graph, scores, method.threshold, method.ranking)
    if method.rule == "paths":
        n_edges = min(method.n_edges, int(graph.on_paths.sum()))
        mask = random_mask(graph, n_edges, np.random.default_rng(seed))
        return Selection(Circuit(graph, mask, scores), n_edges, method.n_edges)
    rule = select if method.count == "asked" else select_on_paths
    return rule(graph, scores, method.n_edges, method.ranking, method.rule)
