"""Circuits that a found one has to beat: of its size, of its shape, and likely ones.

    random   unions of paths from input to logits with as many edges (discovery/statistics)
    likely   the same, but every step of a path takes an edge with a probability in proportion to
             |its attribution|: what single effects alone would have given (EAP: Syed et al. 2023)
    shape    the circuit's own wiring with the heads permuted within each layer: wrong roles

At small sizes random circuits all do nothing, and beating them says little; the other two say more.
Random and likely circuits serve every circuit of one size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from acdc.attribution import eap
from acdc.graph import Graph
from discovery.statistics.random_circuits import random_masks
from discovery.validation.bench import SCORES, Bench, Floats, Mask
from discovery.validation.resampling import scrubbed_score


def likely_masks(bench: Bench, n_edges: int, size: int, rng: np.random.Generator) -> list[Mask]:
    """So many circuits of n_edges edges that prefer edges with large attributions.

    One backward pass on the bench's first part.
    """
    with torch.inference_mode(False), torch.no_grad():
        weights = np.abs(eap(bench.first(1).data, SCORES[bench.score]))
    return random_masks(bench.graph, n_edges, size, rng, weights)


def shape_masks(graph: Graph, mask: Mask, size: int, rng: np.random.Generator) -> list[Mask]:
    """So many circuits of the same shape on other heads."""
    return [misplaced(graph, mask, rng) for _ in range(size)]


def scrubbed_scores(bench: Bench, masks: Sequence[Mask], rng: np.random.Generator) -> Floats:
    """[masks, prompts]: the score of each, all else resampled, one shared draw."""
    return np.array([scrubbed_score(bench, mask, rng) for mask in masks])


def misplaced(graph: Graph, mask: Mask, rng: np.random.Generator) -> Mask:
    """The same edges between other heads of the same layers; groups of shared k, v move whole."""
    share, plain, columns = graph.n_heads // graph.n_kv_readers, graph.plain, graph.columns
    writers, readers = np.arange(len(graph.writers)), np.arange(len(graph.readers))

    def moved(layer: int, part: str, new: int, old: int) -> None:
        to, of = (columns[:, plain.reader(layer, part, head)] for head in (new, old))
        readers[to] = of

    for layer in range(graph.n_layers):
        groups = rng.permutation(graph.n_kv_readers).tolist()
        heads = [g * share + i for g in groups for i in rng.permutation(share).tolist()]
        for new, old in enumerate(heads):
            writers[graph.head(layer, new)] = graph.head(layer, old)
            moved(layer, "q", new, old)
        for new, old in enumerate(groups):
            for part in ("k", "v"):
                moved(layer, part, new, old)
    return mask[writers][:, readers]
