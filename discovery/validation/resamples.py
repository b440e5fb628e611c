"""Is the circuit the same on other prompts? The method run again on bootstrap resamples.

A circuit is a statistical estimate (Méloux et al. 2025). Scores of an edge are means over prompts,
so a scoring method is run once a prompt and its resamples are means of rows; a search, and any
method under mean ablation, is run again in full each time, hence fewer resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acdc.data import Data
from acdc.metrics import Metric
from discovery.methods import Method, Scoring, last
from discovery.methods.choosing import choose
from discovery.statistics.stability import inclusion, jaccard, nogueira
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
    circuits = (_means if means else _again)(method, data, metric, seed, rows)
    masks = np.array([m[graph.legal] for m in circuits])
    found, alike = inclusion(masks), jaccard(masks)
    own = mask[graph.legal]
    return Stability(
        resamples=count,
        edges=tuple(graph.edge_name(w, r) for w, r in np.argwhere(mask).tolist()),
        frequency=_floats(found.frequency[own]),
        low=_floats(found.low[own]),
        high=_floats(found.high[own]),
        stable=int(found.stable.sum()),
        undecided=int(found.undecided.sum()),
        jaccard=(float(alike.min()), float(np.median(alike)), float(alike.max())),
        phi=nogueira(masks),
        sizes=tuple(masks.sum(1).tolist()),
    )


def averages(method: Method, data: Data) -> bool:
    """Whether its scores on a resample are the mean of what they are on single prompts."""
    return method.by_prompt and data.ablation.by_prompt


def _again(
    method: Method, data: Data, metric: Metric, seed: int, rows: NDArray[np.int64]
) -> Iterator[Mask]:
    """The method in full on each resample."""
    for chosen in rows:
        yield last(method.find(data.take(chosen.tolist()), metric, seed)).mask


def _means(
    method: Method, data: Data, metric: Metric, seed: int, rows: NDArray[np.int64]
) -> Iterator[Mask]:
    """Each resample's scores as the mean of its prompts' scores."""
    assert isinstance(method, Scoring)  # averages() said so
    each = [method.scores(data.take([i]), metric, seed) for i in range(len(data))]
    scores = np.stack(each)
    for chosen in rows:
        yield choose(method, data.graph, scores[chosen].mean(0), seed).circuit.mask


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())
