"""Completeness and minimality (Wang et al. 2022, section 4): knock parts out of circuit and model.

Completeness: F(C without K) should be F(M without K) for every set K of the circuit's nodes, so a
backup that the circuit lacks shows up once its primary is gone. Minimality: each node and edge
should matter, alone or once something else (K) is gone. Sets and their best partners are chosen on
one half of the prompts and measured on the other: a maximum over many sets is high by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError
from discovery.statistics.against_random import minimality
from discovery.statistics.intervals import Interval, mean_interval
from discovery.statistics.random_circuits import inflate
from discovery.statistics.result import TestResult, undefined
from discovery.statistics.search_worst import Effort, search_worst
from discovery.validation.bench import Bench, Floats, Mask, without

SHARE = 0.9  # of the random paths' edges and nodes that an item must exceed
NODE_NULL = f"every node matters more than {SHARE:g} of the nodes that random paths bring in"


@dataclass(frozen=True)
class KnockOut:
    """One set K: what circuit and model still do without it."""

    nodes: tuple[str, ...]
    search: str  # how K was come by: empty, class <name>, random, greedy <run>, exact
    circuit: float  # mean F(C without K)
    model: float  # mean F(M without K)
    gap: float  # |difference of the means| on the half that K was chosen on


@dataclass(frozen=True)
class Completeness:
    """The worst K found and what it is worth on prompts that it was not chosen on."""

    tried: tuple[KnockOut, ...]
    worst: KnockOut
    worst_gap: Interval  # mean F(C without K) - F(M without K), other half
    empty_gap: Interval  # the same for no K: plain faithfulness
    evaluations: int
    budget: int


def circuit_nodes(bench: Bench, mask: Mask) -> list[int]:
    """Writers that kept edges touch, `input` not among them."""
    return [w for w in np.flatnonzero(bench.graph.touched(mask)).tolist() if w != 0]


def completeness(
    bench: Bench, mask: Mask, rng: np.random.Generator,
    classes: Mapping[str, Sequence[str]], effort: Effort,
) -> Completeness:  # fmt: skip
    """Search for the K under which circuit and model differ most."""
    names, nodes = bench.graph.writers, circuit_nodes(bench, mask)
    half = np.arange(bench.n) % 2 == 0
    known: dict[tuple[int, ...], tuple[Floats, Floats]] = {}

    def gaps(subsets: Sequence[tuple[int, ...]]) -> list[float]:
        gone = [[nodes[i] for i in subset] for subset in subsets]
        kept = bench.scores([without(mask, writers) for writers in gone], alike=mask)
        rest = bench.scores([without(bench.graph.legal, writers) for writers in gone])
        known.update(zip(subsets, zip(kept, rest, strict=True), strict=True))
        return [abs(float((known[s][0] - known[s][1])[half].mean())) for s in subsets]

    here = set(names[n] for n in nodes)
    inside = {c: [m for m in members if m in here] for c, members in classes.items()}
    found = search_worst(
        [names[n] for n in nodes], gaps, rng, {c: m for c, m in inside.items() if m}, effort
    )
    tried = tuple(
        KnockOut(t.nodes, t.search, *(float(s.mean()) for s in known[t.subset]), gap=t.gap)
        for t in found.trail
    )
    best = max(range(len(tried)), key=lambda i: tried[i].gap)
    differences = [(c - m)[~half] for c, m in (known[found.trail[best].subset], known[()])]
    return Completeness(
        tried, tried[best], *(mean_interval(d, rng) for d in differences),
        evaluations=found.evaluations, budget=found.budget,
    )  # fmt: skip


@dataclass(frozen=True)
class Minimality:
    """Whether edges and nodes matter more than ones from random paths put into the circuit."""

    edges: TestResult
    nodes: TestResult
    partners: tuple[tuple[str, ...], ...]  # the sets K that an item may need gone to matter
    changes: Floats  # [edges, prompts], |score with the edge - without|, on half of the prompts
    random_changes: Floats  # [draws, prompts], of edges of random paths put in
    rows: NDArray[np.int64]  # the prompts of both


def minimality_tests(
    bench: Bench, mask: Mask, rng: np.random.Generator,
    partners: Sequence[Sequence[int]], draws: int, level: float,
) -> Minimality:  # fmt: skip
    """Test each edge and node; `partners` are sets of writers, the empty one among them.

    InputError for a circuit of no or of all edges: there is nothing to leave out or to put in.
    """
    graph, trial = bench.graph, _Trial(bench, partners)
    edges, nodes = np.argwhere(mask), circuit_nodes(bench, mask)
    changes = trial.squares_of_edges(mask, edges)
    node_effects = trial.squares(mask, [without(mask, [n]) for n in nodes]).mean(-1)
    null_edges, null_nodes = list[Floats](), list[float]()
    for _ in range(draws):
        grown, edge, fresh = _random_part(bench, mask, rng)
        cuts = [_cut_edge(grown, *edge), *(without(grown, [n]) for n in fresh)]
        own, *others = trial.squares(grown, cuts)
        null_edges.append(own)
        null_nodes += [float(other.mean()) for other in others]
    edge_names = [graph.edge_name(w, r) for w, r in edges.tolist()]
    node_names = [graph.writers[n] for n in nodes]
    return Minimality(
        replace(
            minimality(
                edge_names, changes.mean(-1), np.array(null_edges).mean(-1), SHARE, level
            ),
            name="minimality of edges",
        ),
        _of_nodes(node_names, node_effects, null_nodes, level),
        tuple(tuple(graph.writers[w] for w in k) for k in partners),
        np.sqrt(changes), np.sqrt(np.array(null_edges)), np.flatnonzero(~trial.half),
    )  # fmt: skip


def _of_nodes(
    names: Sequence[str], effects: Floats, null: Sequence[float], level: float
) -> TestResult:
    """Undefined where random paths bring in too few new nodes: the circuit has most of them."""
    try:
        result = minimality(names, effects, np.array(null), SHARE, level)
    except InputError as error:
        reason = f"random paths bring in too few nodes that the circuit lacks ({error})"
        rows = [{"edge": n, "effect": e} for n, e in zip(names, effects.tolist(), strict=True)]
        result = undefined("minimality", "", len(null), level, reason)
        result = replace(result, extra={**result.extra, "edges": rows, "superfluous_bh": []})
    return replace(result, name="minimality of nodes", null=NODE_NULL)


def _cut_edge(mask: Mask, writer: int, reader: int) -> Mask:
    out = mask.copy()
    out[writer, reader] = False
    return out


def _random_part(
    bench: Bench, mask: Mask, rng: np.random.Generator
) -> tuple[Mask, tuple[int, int], list[int]]:
    """The circuit with a random path put in, one edge of it, and at most one node it brought in."""
    own = {0, *circuit_nodes(bench, mask)}
    grown = inflate(bench.graph, mask, rng)
    writer, reader = grown.added[rng.integers(len(grown.added))].tolist()
    fresh = [n for n in circuit_nodes(bench, grown.mask) if n not in own]
    return grown.mask, (writer, reader), [int(rng.choice(fresh))] if fresh else []


class _Trial:
    """Squared changes of the score by a cut, under the partner set that shows it best."""

    def __init__(self, bench: Bench, partners: Sequence[Sequence[int]]) -> None:
        self.bench, self.partners = bench, [list(k) for k in partners]
        self.half = np.arange(bench.n) % 2 == 0

    def squares(self, whole: Mask, cuts: Sequence[Mask]) -> Floats:
        """[cuts, prompts]: the partner chosen on one half of the prompts, the rest of them."""
        squares = []
        for writers in self.partners:
            masks = [without(one, writers) for one in (whole, *cuts)]
            before, *after = self.bench.scores(masks, alike=masks[0])
            squares.append(np.square(np.array(after) - before))
        return self._best(np.array(squares))

    def squares_of_edges(self, whole: Mask, edges: NDArray[np.integer]) -> Floats:
        """The same of cuts of one edge each: [edges, 2] -> [edges, prompts]."""
        masks = [without(whole, writers) for writers in self.partners]
        return self._best(np.square([self.bench.edge_changes(mask, edges) for mask in masks]))

    def _best(self, each: Floats) -> Floats:
        """[partners, cuts, prompts] -> [cuts, prompts]."""
        best = each[:, :, self.half].mean(-1).argmax(0)
        return each[:, :, ~self.half][best, np.arange(each.shape[1])]
