"""From one score an edge to a circuit: threshold, the n best edges, or greedily from the logits.

Scores are [writers, readers], positive = the edge helps. Edges are ranked by the score itself
(`signed`) or by its size (`absolute`); equal ones by edge index, writer first, so a selection is
the same on every machine. `greedy` (as in EAP-IG, Hanna et al. 2024) only takes edges into nodes
that are already in, which scores normalised per reader need. Every circuit is then pruned of edges
on no path from `input` to `logits`, so it may have fewer edges than asked for, even none: a
Selection records both numbers. Knows no model, metric or prompts.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph

Ranking = Literal["signed", "absolute"]
Rule = Literal["top_n", "greedy"]
RANKINGS: tuple[Ranking, ...] = ("signed", "absolute")
RULES: tuple[Rule, ...] = ("top_n", "greedy")


@dataclass(frozen=True)
class Selection:
    """A pruned circuit and how it came about."""

    circuit: Circuit
    requested: int | None  # edges asked for; None for a threshold
    taken: int  # edges before pruning; greedy may run out of them

    @property
    def n_edges(self) -> int:
        """Edges after pruning."""
        return self.circuit.n_edges


def threshold(
    graph: Graph, scores: NDArray[np.float64], at_least: float, ranking: Ranking = "absolute"
) -> Selection:
    """Every edge whose score (or its size) is at least `at_least`, in the scores' unit."""
    chosen = graph.legal & (_ranked(graph, scores, ranking) >= at_least)
    return _selection(graph, scores, chosen, None)


def top_n(
    graph: Graph, scores: NDArray[np.float64], n_edges: int, ranking: Ranking = "absolute"
) -> Selection:
    """The n best edges. InputError unless 0 <= n_edges <= the graph's."""
    return _selection(graph, scores, best_edges(graph, scores, n_edges, ranking), n_edges)


def best_edges(
    graph: Graph, scores: NDArray[np.float64], n_edges: int, ranking: Ranking = "absolute"
) -> NDArray[np.bool_]:
    """[writers, readers]: the n best edges, dangling ones included; errors as `top_n`."""
    check_size(graph, n_edges)
    value = _ranked(graph, scores, ranking)
    legal = np.flatnonzero(graph.legal)
    best = legal[np.argsort(-value.ravel()[legal], kind="stable")[:n_edges]]
    chosen = np.zeros_like(graph.legal)
    chosen.flat[best] = True
    return chosen


def greedy(
    graph: Graph, scores: NDArray[np.float64], n_edges: int, ranking: Ranking = "absolute"
) -> Selection:
    """n times the best edge into a node that is already in, from `logits` on.

    An edge brings its writer in, with q, k and v; a shared k or v is open once one of its heads is
    in. InputError unless 0 <= n_edges <= the graph's.
    """
    check_size(graph, n_edges)
    value, inputs = _ranked(graph, scores, ranking), readers_of(graph)
    chosen, opened = np.zeros_like(graph.legal), set()
    heap: list[tuple[float, int, int]] = []
    fresh = [len(graph.readers) - 1]
    for taken in range(n_edges + 1):
        for reader in fresh:
            if reader not in opened:
                opened.add(reader)
                for writer in range(int(graph.senders[reader])):
                    heapq.heappush(heap, (-value[writer, reader], writer, reader))
        if taken == n_edges or not heap:
            break
        _, writer, reader = heapq.heappop(heap)
        chosen[writer, reader] = True
        fresh = list(dict.fromkeys(r for s in graph.read_at(reader) for r in inputs[writer, s]))
    return _selection(graph, scores, chosen, n_edges)


def select(
    graph: Graph, scores: NDArray[np.float64], n_edges: int, ranking: Ranking, rule: Rule
) -> Selection:
    """`top_n` or `greedy` by name; InputError for any other."""
    if rule not in RULES:
        raise InputError(f"rule={rule!r}: allowed are {', '.join(RULES)}")
    return (greedy if rule == "greedy" else top_n)(graph, scores, n_edges, ranking)


def select_on_paths(
    graph: Graph, scores: NDArray[np.float64], n_edges: int, ranking: Ranking, rule: Rule
) -> Selection:
    """The smallest selection of which at least n edges lie on paths from `input` to `logits`.

    More edges are asked for than are on paths; one more may bring in several. InputError as
    `select`.
    """
    check_size(graph, n_edges)
    low = high = n_edges  # circuits grow with the number asked for
    while select(graph, scores, high, ranking, rule).n_edges < n_edges:
        low, high = high + 1, min(2 * high, graph.n_edges)
    while low < high:
        middle = (low + high) // 2
        if select(graph, scores, middle, ranking, rule).n_edges >= n_edges:
            high = middle
        else:
            low = middle + 1
    return select(graph, scores, low, ranking, rule)


def check_size(graph: Graph, n_edges: int) -> None:
    """Raise InputError unless the graph has so many edges."""
    if not 0 <= n_edges <= graph.n_edges:
        raise InputError(
            f"n_edges={n_edges}: allowed are 1 to {graph.n_edges}, the edges of the graph"
        )


def readers_of(graph: Graph) -> dict[tuple[int, int], list[int]]:
    """(writer, span) -> readers that shape its output there."""
    places = [(w, s) for w in range(len(graph.writers)) for s in range(len(graph.spans))]
    out: dict[tuple[int, int], list[int]] = {place: [] for place in places}
    for index, reader in enumerate(graph.readers):
        for span in graph.shaped_at(index):
            for node in reader.shapes:
                out[node, span].append(index)
    return out


def _ranked(graph: Graph, scores: NDArray[np.float64], ranking: Ranking) -> NDArray[np.float64]:
    if ranking not in RANKINGS:
        raise InputError(f"ranking={ranking!r}: allowed are {', '.join(RANKINGS)}")
    if scores.shape != graph.legal.shape or not np.isfinite(scores).all():
        raise InputError(
            f"scores {scores.shape} must be finite and [writers, readers] = {graph.legal.shape}"
        )
    return np.abs(scores) if ranking == "absolute" else scores


def _selection(
    graph: Graph, scores: NDArray[np.float64], chosen: NDArray[np.bool_], requested: int | None
) -> Selection:
    circuit = Circuit(graph, chosen, np.where(graph.legal, scores, 0.0)).pruned()
    return Selection(circuit, requested, int(chosen.sum()))
