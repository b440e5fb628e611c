"""Random circuits to compare with: unions of paths from `input` to `logits`.

A path is drawn from the logits backwards: at every node each of its incoming edges is equally
likely, until the node is `input`. A node with i writers before it is thus passed with probability
of about 1 / (i + 1), and paths are short: about ln(writers) edges. Circuits are unions of such
paths; the last few edges, where a whole path would be too many, are short cuts between nodes that
are on a path already, each equally likely. So every edge lies on a path, and the count is met.
With weights a step takes an edge with a probability in proportion to its weight: random circuits
that look likely. One step in ten still takes any edge, so that every node is met.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ANY = 0.1  # share of weighted steps that take any edge
BLOCK = 100  # paths drawn at least at once; if none has a new edge, short cuts take over


@dataclass(frozen=True, eq=False)
class Inflated:
    """A circuit and one random path more."""

    mask: Mask  # [writers, readers]
    added: Ints  # [new edges, 2]: writer, reader


def random_mask(
    graph: Graph, n_edges: int, rng: np.random.Generator, weights: Floats | None = None
) -> Mask:
    """[writers, readers]: a random union of paths; see `random_masks`."""
    return random_masks(graph, n_edges, 1, rng, weights)[0]


def random_masks(
    graph: Graph, n_edges: int, size: int, rng: np.random.Generator, weights: Floats | None = None
) -> list[Mask]:
    """[writers, readers] each: so many random unions of paths with exactly `n_edges` edges.

    `weights` [writers, readers], 0 or more, say how likely a step takes each of a node's edges.
    InputError unless the graph has so many edges on paths and the weights are such.
    """
    most = int(graph.on_paths.sum())
    if not 1 <= n_edges <= most:
        raise InputError(f"n_edges={n_edges}: must lie within 1 and the graph's {most} on paths")
    walks = _Walks(graph) if weights is None else _WeightedWalks(graph, weights)
    return [_random(walks, graph, n_edges, rng) for _ in range(size)]


def _random(walks: _Walks, graph: Graph, n_edges: int, rng: np.random.Generator) -> Mask:
    while True:  # small circuits may get stuck on too few nodes; then start again
        mask = _grow(walks, graph, n_edges, rng)
        if mask.sum() == n_edges:
            return mask


def inflate(graph: Graph, mask: Mask, rng: np.random.Generator) -> Inflated:
    """Add a random path that has at least one new edge; InputError if the circuit is full.

    Knocking out one of the added edges gives the null of minimality (Shi et al. 2024). Every edge
    of the result lies on a path if every edge of `mask` does.
    """
    if not (graph.on_paths & ~mask).any():
        most = graph.on_paths.sum()
        raise InputError(f"mask: all {most} edges on paths are in, so no path can be added")
    walks, added = _Walks(graph), np.zeros((0, 2), dtype=np.int64)
    while not len(added):  # short cuts lack where a whole node is missing and no path met it
        path, writer, reader = walks.draw(BLOCK, rng)
        first = _first_new(mask, writer, reader)
        if len(first):
            first = first[path[first] == path[first].min()]
            added = np.stack([writer[first], reader[first]], axis=1)
        else:
            added = _short_cuts(graph, Circuit(graph, mask).pruned().mask, 1, rng)
    inflated = mask.copy()
    inflated[tuple(added.T)] = True
    return Inflated(inflated, added)


def complement(graph: Graph, mask: Mask) -> Mask:
    """[writers, readers]: every edge that is not in the circuit."""
    return graph.legal & ~mask


class _Walks:
    """Draws paths, from token to token where there are spans.

    Holds the readers of each place, a node at a span, as arrays.
    """

    def __init__(self, graph: Graph) -> None:
        self.senders, self.spans = graph.senders, len(graph.spans)
        self.last = np.array(graph.read_at(len(graph.readers) - 1))
        readers: list[list[int]] = [[] for _ in range(len(graph.writers) * self.spans)]
        for index, reader in enumerate(graph.readers):
            for place in (n * self.spans + s for n in reader.nodes for s in graph.shaped_at(index)):
                readers[place].append(index)
        self.span = np.array([reader.span for reader in graph.readers])
        self.count = np.array([len(found) for found in readers])
        self.readers = np.zeros((len(readers), self.count.max(initial=1)), dtype=np.int64)
        for place, found in enumerate(readers):
            self.readers[place, : len(found)] = found
        self.logits = len(graph.readers) - 1

    def draw(self, paths: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """[edges] each: number of the path, in order, and writer and reader."""
        path, reader = np.arange(paths), np.full(paths, self.logits)
        steps = []
        while len(path):
            writer = rng.integers(self.senders[reader])
            steps.append((path, writer, reader))
            on = writer > 0
            path, place = path[on], self._place(writer, reader, rng)[on]
            # All readers of a node see the same writers, so this is uniform over its edges.
            reader = self.readers[place, rng.integers(self.count[place])]
        path, writer, reader = map(np.concatenate, zip(*steps, strict=True))
        order = np.argsort(path, kind="stable")
        return path[order], writer[order], reader[order]

    def _place(self, writer: Ints, reader: Ints, rng: np.random.Generator) -> Ints:
        """Where the edges come from; `logits` may read at the last token of several spans."""
        span = self.span[reader]
        if len(self.last) > 1:
            span = np.where(reader == self.logits, rng.choice(self.last, len(reader)), span)
        else:
            span = np.where(reader == self.logits, self.last[0], span)
        return writer * self.spans + span


class _WeightedWalks(_Walks):
    """Draws paths whose steps prefer edges of large weight."""

    def __init__(self, graph: Graph, weights: Floats) -> None:
        super().__init__(graph)
        if weights.shape != graph.legal.shape or not np.isfinite(weights).all():
            raise InputError(f"weights {weights.shape} must be finite and {graph.legal.shape}")
        if (weights < 0).any():
            raise InputError(f"weights: none may be negative, the least is {weights.min()}")
        into = [own[:count].tolist() for own, count in zip(self.readers, self.count, strict=True)]
        found, chances, ends = list[Ints](), list[Floats](), [0]
        for readers in [*into, [self.logits]]:  # of every place, and of the logits
            pairs = [np.argwhere(graph.legal[:, [r]]) + [0, r] for r in readers]
            edges = np.concatenate([np.zeros((0, 2), dtype=np.int64), *pairs])
            weight = weights[edges[:, 0], edges[:, 1]]
            total = weight.sum()
            chance = np.full(len(edges), 1 / max(1, len(edges)))
            if total:
                chance = ANY * chance + (1 - ANY) * weight / total
            found.append(edges)
            chances.append(chance)
            ends.append(ends[-1] + len(edges))
        self.edge, self.ends = np.concatenate(found), np.array(ends)
        self.until = np.cumsum(np.concatenate(chances))  # of all nodes' edges, one after another

    def draw(self, paths: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """See _Walks.draw."""
        path, place = np.arange(paths), np.full(paths, len(self.ends) - 2)
        steps = []
        while len(path):
            low, high = self.ends[place], self.ends[place + 1]
            begin = np.where(low > 0, self.until[low - 1], 0.0)
            target = begin + rng.random(len(path)) * (self.until[high - 1] - begin)
            taken = np.clip(np.searchsorted(self.until, target, "right"), low, high - 1)
            writer, reader = self.edge[taken].T
            steps.append((path, writer, reader))
            on = writer > 0
            path, place = path[on], self._place(writer, reader, rng)[on]
        path, writer, reader = map(np.concatenate, zip(*steps, strict=True))
        order = np.argsort(path, kind="stable")
        return path[order], writer[order], reader[order]


def _grow(walks: _Walks, graph: Graph, n_edges: int, rng: np.random.Generator) -> Mask:
    """A union of paths and short cuts with at most `n_edges` edges."""
    mask, missing = np.zeros_like(graph.legal), n_edges
    while missing:
        paths = BLOCK + missing // 4
        path, writer, reader = walks.draw(paths, rng)
        first = _first_new(mask, writer, reader)
        total = np.cumsum(np.bincount(path[first], minlength=paths))
        taken = first[path[first] < int((total <= missing).sum())]
        mask[writer[taken], reader[taken]] = True
        missing -= len(taken)
        if len(taken) < len(first) or not len(first):
            break
    if 0 < missing < n_edges:
        mask[tuple(_short_cuts(graph, mask, missing, rng).T)] = True
    return mask


def _first_new(mask: Mask, writer: Ints, reader: Ints) -> Ints:
    """Where each edge that is not in the mask occurs first."""
    edge = writer * mask.shape[1] + reader
    first = np.unique(edge, return_index=True)[1]
    return first[~mask[writer[first], reader[first]]]


def _short_cuts(graph: Graph, mask: Mask, count: int, rng: np.random.Generator) -> Ints:
    """[up to count, 2]: absent edges between places of a union of paths, each equally likely."""
    written = np.zeros((len(graph.writers), len(graph.spans)), dtype=bool)
    at = [graph.read_at(r) for r in range(len(graph.readers))]
    for reader, spans in enumerate(at):
        written[:, spans] |= mask[:, reader, None]
    leave = np.stack([written[:, spans].any(1) for spans in at], axis=1)
    enter = np.array([
        not r.nodes or bool(written[np.ix_(r.nodes, graph.shaped_at(i))].any())
        for i, r in enumerate(graph.readers)
    ])  # fmt: skip
    free = np.argwhere(graph.legal & ~mask & leave & enter[None, :])
    return free[rng.permutation(len(free))[:count]]
