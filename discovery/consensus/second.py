"""Is there another circuit, as good, that shares no edge with the first?

What a task needs may be there twice. The method searches again among all edges but the first
circuit's, for one that recovers as much on the tuning prompts. Before that the model without the
first circuit is asked: if all other edges together recover little, a search finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.graph import Graph
from acdc.metrics import Metric
from acdc.share import Share
from discovery.methods import Method, Scoring, last
from discovery.methods.choosing import choose, smallest
from discovery.runs.json_files import write_json

Mask = NDArray[np.bool_]  # [writers, readers]
Scores = NDArray[np.float64]  # [writers, readers]


@dataclass(frozen=True, eq=False)
class Second:
    """The search beside a circuit; shares are two-sided, on the tuning prompts."""

    first: float  # share that the first circuit recovers
    others: float  # that all other edges recover together
    mask: Mask | None  # the second circuit; None: nothing to find
    share: float | None  # that it recovers


def beside(
    method: Method, data: Data, metric: Metric, seed: int, first: Mask, tune: Data, folder: Path,
    margin: float, scores: Scores | None = None,
) -> Second:  # fmt: skip
    """The smallest circuit that the method finds without the first one's edges.

    One is as good if it recovers the first one's share less the margin. A search starts from
    others.json, which is written into the folder: the circuit of all other edges. `scores` are
    those that a scoring method gave to all edges, if they are known: they may have taken hours.
    """
    yardstick, others = Share(tune, metric), data.graph.legal & ~first
    own, rest = yardstick.of(first), yardstick.of(others)
    target = own - margin
    if rest < target:
        return Second(own, rest, None, None)
    if isinstance(method, Scoring):
        scores = method.scores(data, metric, seed) if scores is None else scores
        mask = _of_scores(method, data.graph, seed, scores, others, target, yardstick)
    else:
        mask = _of_search(method, data, metric, seed, others, target, tune, folder)
    return Second(own, rest, mask, yardstick.of(mask))


def _of_scores(
    method: Scoring, graph: Graph, seed: int, scores: Scores, others: Mask, target: float,
    yardstick: Share,
) -> Mask:  # fmt: skip
    # of the first circuit's edges: what comes last in the ranking
    barred = 0.0 if method.ranking == "absolute" else float(scores.min()) - 1
    ranked = np.where(others, scores, barred)

    def circuit(n_edges: int) -> Mask:
        sized = method.model_copy(update={"n_edges": n_edges, "threshold": None})
        return choose(sized, graph, ranked, seed).circuit.mask & others

    size, _ = smallest(lambda n: yardstick.of(circuit(n)), int(others.sum()), target)
    return circuit(size)


def _of_search(
    method: Method, data: Data, metric: Metric, seed: int, others: Mask, target: float, tune: Data,
    folder: Path,
) -> Mask:  # fmt: skip
    path = folder / "others.json"
    write_json(path, _json(data.graph, others))
    free = method.model_copy(update={"threshold": None, "budget": None, "start": str(path)})
    return last(free.reach(data, metric, seed, target, tune)).mask


def _json(graph: Graph, mask: Mask) -> dict[str, object]:
    return Circuit(graph, mask).to_json(about={"what": "all edges but the circuit's"})
