"""A method at work: candidate circuits, by search or by scores, written down as they come.

`acdc` decides edge by edge. The others give every edge one number and take the best: information
flow routes (`ifr`), edge attribution patching (`eap`, `eap_ig`, `eap_ig_activations`), the exact
effect of each single knock-out (`exact`), and noise (`random`), which is what a method has to beat.
All end in the same record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from acdc import attribution
from acdc.errors import InputError
from acdc.forward import PatchedForward
from acdc.graph import Circuit, Graph
from acdc.metrics import Metric
from acdc.search import Decision, Guide, Order, Step, acdc
from acdc.selection import (
    Selection,
    best_edges,
    check_size,
    select,
    select_on_paths,
    threshold,
)
from discovery.flow_scores import edge_flow
from discovery.records import RunFolder
from discovery.settings import ACDCMethod, IGMethod, ScoreMethod, Settings
from discovery.statistics.random_circuits import random_mask
from discovery.tracking import TestedEdge, Tracker

INTEGRATED = {
    "eap_ig": attribution.eap_ig,
    "eap_ig_activations": attribution.eap_ig_activations,
}


@dataclass(frozen=True)
class Found:
    """What a method ended with."""

    circuit: Circuit
    metric: float | None  # of the circuit, where the method itself says so
    edges: tuple[TestedEdge, ...]  # tested or scored, in order
    counts: Mapping[str, int | float]  # what the method counts; goes into result.json
    score: str  # what circuit.json's scores are, in words
    seconds: float


def propose(
    settings: Settings, run: RunFolder, tracker: Tracker, forward: PatchedForward, metric: Metric
) -> Found:
    """Run the configured method, writing edges.jsonl and metrics.jsonl."""
    method = settings.method
    if isinstance(method, ACDCMethod):
        return _search(method, settings.seed, run, tracker, forward, metric)
    return _score(method, settings.seed, run, forward, metric)


# --- search


def _search(
    method: ACDCMethod, seed: int, run: RunFolder, tracker: Tracker, forward: PatchedForward,
    metric: Metric,
) -> Found:  # fmt: skip
    graph = forward.graph
    start, tests, step = time.perf_counter(), list[Decision](), None
    skipped, damage = 0, 0.0
    with tqdm(total=graph.n_edges, unit="edge", dynamic_ncols=True, smoothing=0.05) as bar:
        for number, step in enumerate(search_steps(method, seed, forward, metric)):
            tests += step.tests
            skipped, damage = skipped + step.n_skipped, damage + step.damage
            seconds = time.perf_counter() - start
            row = _metrics_row(graph, step)
            run.append_edges(_edge_row(graph, test) for test in step.tests)
            run.append_metrics({**row, "seconds": round(seconds, 3)})
            tracker.log(row, step=number)
            bar.update(step.n_settled - bar.n)
            name = graph.readers[step.visit.reader].name
            counts = f"{step.n_kept} kept, {step.n_tests} tests"
            bar.set_postfix_str(f"{name}, {counts}, {metric.name} {step.metric:.4g}", refresh=False)
    assert step is not None  # every graph has the reader `logits`
    found = _found(graph, metric, step, tests, time.perf_counter() - start)
    if method.shortlist is None:
        return found
    return replace(found, counts={**found.counts, "n_skipped": skipped, "skipped_damage": damage})


def search_steps(
    method: ACDCMethod, seed: int, forward: PatchedForward, metric: Metric
) -> Iterator[Step]:
    """The configured search, its guide's scores made first; see acdc.search."""
    order = Order(method.reader_order, method.sender_heads, method.gates, seed)
    guide = _guide(method, seed, forward, metric)
    return acdc(forward, metric, method.threshold, order, method.chunk, guide)


def _guide(method: ACDCMethod, seed: int, forward: PatchedForward, metric: Metric) -> Guide | None:
    """What steers the search, if anything: the guide's scores as an order, as a shortlist."""
    scorer = method.guiding()
    if scorer is None:
        return None
    shortlist, n_edges = method.shortlist, forward.graph.n_edges
    if shortlist is not None and shortlist > n_edges:
        raise InputError(f"method.shortlist={shortlist}: the graph has {n_edges} edges")
    scores = edge_scores(scorer, seed, forward, metric)
    return Guide(
        scores if method.weakest_first else None,
        None if shortlist is None else best_edges(forward.graph, scores, shortlist),
    )


def _found(
    graph: Graph, metric: Metric, last: Step, tests: list[Decision], seconds: float
) -> Found:
    scores = np.zeros(graph.legal.shape)
    for test in tests:
        if test.writer is not None:
            scores[test.writer, test.reader] = test.effect
    gates = [t for t in tests if t.writer is None]
    edges = (t for t in tests if t.writer is not None)
    return Found(
        circuit=Circuit(graph, last.mask, scores),
        metric=last.metric,
        edges=tuple(TestedEdge(t.name(graph), t.order, t.effect, t.kept) for t in edges),
        counts={
            "n_tests": last.n_tests,
            "n_gates": len(gates),
            "n_gates_kept": sum(t.kept for t in gates),
            "n_ties": sum(t.tie for t in tests),
            "n_passes": last.n_passes,
        },
        score=f"effect of the edge's removal when it was tested, in {metric.unit} of"
        f" {metric.name}, positive = the removal hurts; 0 = not tested",
        seconds=seconds,
    )


def _metrics_row(graph: Graph, step: Step) -> dict[str, Any]:
    return {
        "reader": graph.readers[step.visit.reader].name,
        "kind": step.visit.kind,
        "reason": step.reason,
        "metric": step.metric,
        "n_edges": step.n_edges,
        "n_kept": step.n_kept,
        "n_settled": step.n_settled,
        "n_tests": step.n_tests,
        "n_passes": step.n_passes,
        "n_skipped": step.n_skipped,
        "damage": step.damage,
    }


def _edge_row(graph: Graph, test: Decision) -> dict[str, Any]:
    return {
        "order": test.order,
        "edge": test.name(graph),
        "kind": "gate" if test.writer is None else "edge",
        "effect": test.effect,
        "metric": test.after,
        "kept": test.kept,
        "tie": test.tie,
    }


# --- scores


def edge_scores(
    method: ScoreMethod | IGMethod, seed: int, forward: PatchedForward, metric: Metric
) -> NDArray[np.float64]:
    """[writers, readers] of the configured method; positive = the edge helps (ifr: always >= 0)."""
    if isinstance(method, IGMethod):
        return INTEGRATED[method.name](forward, metric, method.steps)
    if method.name == "eap":
        return attribution.eap(forward, metric)
    if method.name == "random":
        return attribution.random_scores(forward.graph, seed)
    if method.name == "exact":
        return _exact(forward, metric)
    prompts = forward.prompts
    right = prompts.answers if prompts.has_answers else None
    wrong = prompts.wrong if prompts.has_answers and prompts.has_wrong else None
    return edge_flow(
        forward.model, forward.graph, prompts.clean, right=right, wrong=wrong
    ).scores  # fmt: skip


def _exact(forward: PatchedForward, metric: Metric) -> NDArray[np.float64]:
    with tqdm(total=forward.graph.n_edges, unit="edge", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(done - bar.n)

        return attribution.exact(forward, metric, progress)


def _score(
    method: ScoreMethod | IGMethod, seed: int, run: RunFolder, forward: PatchedForward,
    metric: Metric,
) -> Found:  # fmt: skip
    graph, start = forward.graph, time.perf_counter()
    if method.n_edges is not None:
        check_size(graph, method.n_edges)  # before the scores, which may take hours
    scores = edge_scores(method, seed, forward, metric)
    chosen = select_edges(method, graph, scores, seed)
    seconds = time.perf_counter() - start
    order = np.argsort(-np.abs(scores[graph.legal]), kind="stable")
    places = np.argwhere(graph.legal)[order].tolist()
    edges = tuple(
        TestedEdge(graph.edge_name(w, r), i, float(scores[w, r]), bool(chosen.circuit.mask[w, r]))
        for i, (w, r) in enumerate(places)
    )
    run.append_edges(
        {"order": e.order, "edge": e.edge, "kind": "score", "effect": e.effect, "kept": e.kept}
        for e in edges
    )
    requested = chosen.taken if chosen.requested is None else chosen.requested
    unit = "share of the flow" if method.name == "ifr" else f"{metric.unit} of {metric.name}"
    return Found(
        circuit=chosen.circuit,
        metric=None,
        edges=edges,
        counts={"n_edges_requested": requested, "n_edges_taken": chosen.taken},
        score=f"{method.name}, in {'arbitrary units' if method.name == 'random' else unit},"
        " positive = the edge helps",
        seconds=seconds,
    )


def select_edges(
    method: ScoreMethod | IGMethod, graph: Graph, scores: NDArray[np.float64], seed: int
) -> Selection:
    """The circuit that the method's own size or threshold makes of its scores."""
    if method.n_edges is None:
        assert method.threshold is not None  # settings: exactly one of the two is given
        return threshold(graph, scores, method.threshold, method.ranking)
    if method.rule == "paths":
        mask = random_mask(graph, method.n_edges, np.random.default_rng(seed))
        return Selection(Circuit(graph, mask, scores), method.n_edges, method.n_edges)
    choose = select if method.count == "asked" else select_on_paths
    return choose(graph, scores, method.n_edges, method.ranking, method.rule)
