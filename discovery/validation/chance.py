"""Circuits that a found one has to beat: random ones of its size, and its own shape misplaced.

Random circuits are unions of paths from input to logits with as many edges (discovery/statistics).
`misplaced` keeps the circuit's wiring and permutes the heads within each layer: same shape, wrong
roles. The same family serves every circuit of one size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acdc.graph import Graph
from discovery.statistics.random_circuits import complement, random_mask
from discovery.validation.bench import Bench, Floats, Mask
from discovery.validation.resampling import scrub_circuit


@dataclass(frozen=True)
class Family:
    """Scores of random circuits of one size: [circuits, prompts]."""

    kept: Floats  # with everything else cut
    removed: Floats  # with the circuit cut out of the model
    scrubbed: Floats  # with everything else resampled, one shared draw


def random_family(bench: Bench, n_edges: int, size: int, rng: np.random.Generator) -> Family:
    """Score `size` random circuits of n_edges edges."""
    masks = [random_mask(bench.graph, n_edges, rng) for _ in range(size)]
    scrubbed = [scrub_circuit(bench, m, "shared", 1, rng).score[:, 0] for m in masks]
    removed = bench.scores([complement(bench.graph, m) for m in masks])
    return Family(bench.scores(masks), removed, np.array(scrubbed))


def misplaced_scores(bench: Bench, mask: Mask, size: int, rng: np.random.Generator) -> Floats:
    """[size]: mean score under resampling of the circuit with heads permuted in every layer."""
    return np.array(
        [
            scrub_circuit(bench, misplaced(bench.graph, mask, rng), "shared", 1, rng).score.mean()
            for _ in range(size)
        ]
    )


def misplaced(graph: Graph, mask: Mask, rng: np.random.Generator) -> Mask:
    """The same edges between other heads of the same layers; groups of shared k, v move whole."""
    share = graph.n_heads // graph.n_kv_readers
    writers, readers = np.arange(len(graph.writers)), np.arange(len(graph.readers))
    for layer in range(graph.n_layers):
        groups = rng.permutation(graph.n_kv_readers).tolist()
        heads = [g * share + i for g in groups for i in rng.permutation(share).tolist()]
        for new, old in enumerate(heads):
            writers[graph.head(layer, new)] = graph.head(layer, old)
            readers[graph.reader(layer, "q", new)] = graph.reader(layer, "q", old)
        for new, old in enumerate(groups):
            for part in ("k", "v"):
                readers[graph.reader(layer, part, new)] = graph.reader(layer, part, old)
    return mask[writers][:, readers]
