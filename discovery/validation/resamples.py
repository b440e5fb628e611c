"""Is the circuit the same on other prompts? The method run again on bootstrap resamples.

A circuit is a statistical estimate (Méloux et al. 2025). Scores of an edge are means over prompts,
so a scoring method is run once a prompt and its resamples are means of rows; a search, and any
method under mean ablation, is run again in full each time, hence fewer resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.forward import PatchedForward
from acdc.graph import Graph
from acdc.metrics import make_metric
from acdc.model import Model
from acdc.prompts import Prompts
from discovery.propose import edge_scores, search_steps, select_edges
from discovery.settings import ACDCMethod, Settings
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
    settings: Settings, model: Model, graph: Graph, prompts: Prompts, mask: Mask,
    resamples: int, searches: int, rng: np.random.Generator,
) -> Stability:  # fmt: skip
    """Run the settings' method on resampled prompts; `searches` of them if each is a search."""
    in_full = isinstance(settings.method, ACDCMethod) or settings.method.ablation == "mean"
    count = searches if in_full else resamples
    rows = rng.integers(len(prompts), size=(count, len(prompts)))
    circuits = (_again if in_full else _means)(settings, model, graph, prompts, rows)
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


def _again(
    settings: Settings, model: Model, graph: Graph, prompts: Prompts, rows: NDArray[np.int64]
) -> Iterator[Mask]:
    """The method in full on each resample."""
    method = settings.method
    for chosen in rows:
        with torch.no_grad():
            forward = PatchedForward(model, graph, prompts.take(chosen.tolist()), method.ablation)
            metric = make_metric(method.metric, forward.prompts, forward.clean.logits)
        if isinstance(method, ACDCMethod):
            *_, last = search_steps(method, settings.seed, forward, metric)
            yield last.mask
        else:
            scores = edge_scores(method, settings.seed, forward, metric)
            yield select_edges(method, graph, scores, settings.seed).circuit.mask


def _means(
    settings: Settings, model: Model, graph: Graph, prompts: Prompts, rows: NDArray[np.int64]
) -> Iterator[Mask]:
    """Each resample's scores as the mean of its prompts' scores."""
    method = settings.method
    assert not isinstance(method, ACDCMethod)  # it gives no scores
    each = []
    for i in range(len(prompts)):
        with torch.no_grad():
            forward = PatchedForward(model, graph, prompts.take([i]), method.ablation)
            metric = make_metric(method.metric, forward.prompts, forward.clean.logits)
        each.append(edge_scores(method, settings.seed, forward, metric))
    scores = np.stack(each)
    for chosen in rows:
        yield select_edges(method, graph, scores[chosen].mean(0), settings.seed).circuit.mask


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())
