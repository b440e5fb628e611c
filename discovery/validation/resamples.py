"""Is the circuit the same on other prompts? The method run again on bootstrap resamples.

A circuit is a statistical estimate (Méloux et al. 2025). Scores of an edge are means over prompts,
so a scoring method is run once a prompt and its resamples are means of rows; a search, and any
method under mean ablation, is run again in full each time, hence fewer resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acdc.data import Data
from acdc.metrics import Metric
from discovery.consensus.circuits import averages, circuits
from discovery.methods import Method
from discovery.statistics.stability import inclusion, jaccard_of_pairs, nogueira
from discovery.validation.bench import Mask


@dataclass(frozen=True)
class Stability:
    """How often each edge of the circuit was found again, and how alike the circuits are."""

    resamples: int
    edges: tuple[str, ...]  # of the circuit
    frequency: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    stable: int  # edges of any resample whose exact interval lies above one half
    undecided: int  # whose interval holds one half
    jaccard: tuple[float, float, float]  # least, median, largest over pairs of resamples
    phi: float | None  # Nogueira's stability: 1 equal, 0 as random sets of that size
    sizes: tuple[int, ...]  # edges of each resample's circuit


def stability(
    method: Method, data: Data, metric: Metric, seed: int, mask: Mask,
    resamples: int, searches: int, rng: np.random.Generator,
) -> Stability:  # fmt: skip
    """Run the method on resamples of the data; `searches` of them if each is run in full."""
    graph, means = data.graph, averages(method, data)
    count = resamples if means else searches
    rows = rng.integers(len(data), size=(count, len(data)))
    found = circuits(method, data, metric, rows.tolist(), [seed] * count)
    masks = np.array([m[graph.legal] for m in found])
    often, alike = inclusion(masks), jaccard_of_pairs(masks)
    own = mask[graph.legal]
    return Stability(
        resamples=count,
        edges=tuple(graph.edge_name(w, r) for w, r in np.argwhere(mask).tolist()),
        frequency=_floats(often.frequency[own]),
        low=_floats(often.low[own]),
        high=_floats(often.high[own]),
        stable=int(often.stable.sum()),
        undecided=int(often.undecided.sum()),
        jaccard=(float(alike.min()), float(np.median(alike)), float(alike.max())),
        phi=nogueira(masks),
        sizes=tuple(masks.sum(1).tolist()),
    )


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())
