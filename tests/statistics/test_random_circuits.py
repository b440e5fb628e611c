"""Every edge on a path, the count met, the stated distribution of paths, seeds."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from scipy import stats

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.schema import ALL, Spans
from discovery.statistics.random_circuits import _WeightedWalks, complement, inflate, random_mask

TWO = Spans(("s1", "end"), ((True, False), (True, True)), (False, True))

GRAPHS = {
    "plain": Graph(3, 4, 4, 8),
    "attention only": Graph(2, 3, 3, 8, has_mlp=False),
    "parallel": Graph(3, 2, 2, 8, parallel=True),
    "groups": Graph(3, 4, 2, 8, kv="per_group"),
    "one head": Graph(1, 1, 1, 8),
    "spans": Graph(2, 3, 3, 8, spans=TWO),
}
SMOLLM2 = Graph(30, 9, 3, 576)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_size_is_met_and_every_edge_is_on_a_path(name):
    graph, most = GRAPHS[name], int(GRAPHS[name].on_paths.sum())
    sizes = sorted({*range(1, min(most, 40)), most // 2, most - 1, most} - {0})
    for n_edges in sizes:
        mask = random_mask(graph, n_edges, rng(n_edges))
        assert mask.sum() == n_edges
        assert (Circuit(graph, mask).pruned().mask == mask).all()


@pytest.mark.parametrize("n_edges", [44, 300, 2000])
def test_a_real_graph(n_edges):
    draws = rng()
    masks = [random_mask(SMOLLM2, n_edges, draws) for _ in range(8)]
    for mask in masks:
        assert mask.sum() == n_edges
        assert (Circuit(SMOLLM2, mask).pruned().mask == mask).all()
    assert len({mask.tobytes() for mask in masks}) == 8


def test_the_same_seed_gives_the_same_circuit():
    a, b, c = (random_mask(SMOLLM2, 100, rng(seed)) for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any()


def test_paths_have_the_stated_probabilities():
    graph = GRAPHS["one head"]
    # Of the three edges into the logits each 1/3; of the MLP's two 1/2; of q, k and v 1/3.
    probability = {"input->logits": 1 / 3, "input->m0 m0->logits": 1 / 6}
    for part in "qkv":
        into = f"input->a0.h0<{part}>"
        probability[f"{into} a0.h0->logits"] = 1 / 9
        probability[f"{into} a0.h0->m0 m0->logits"] = 1 / 18
    empty, draws = np.zeros_like(graph.legal), rng()
    drawn = [" ".join(Circuit(graph, inflate(graph, empty, draws).mask).edges) for _ in range(3000)]
    assert set(drawn) == set(probability)
    observed = [drawn.count(path) for path in probability]
    expected = [3000 * p for p in probability.values()]
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_inflating_adds_one_path():
    graph, draws = GRAPHS["plain"], rng()
    for _ in range(30):
        mask = random_mask(graph, 12, draws)
        found = inflate(graph, mask, draws)
        assert len(found.added) >= 1
        assert not mask[tuple(found.added.T)].any()
        assert found.mask.sum() == 12 + len(found.added)
        assert (found.mask & mask == mask).all()
        assert (Circuit(graph, found.mask).pruned().mask == found.mask).all()
        assert _on_one_path(graph, found)


def _on_one_path(graph, found):
    """The added edges are met in one order: nothing forks."""
    walk = nx.DiGraph()
    for w, r in found.added.tolist():
        nodes = [graph.writers[n] for n in graph.readers[r].nodes] or ["logits"]
        walk.add_edge(graph.writers[w], nodes[0])
    degrees = [*dict(walk.in_degree).values(), *dict(walk.out_degree).values()]
    return max(degrees) == 1 and nx.is_directed_acyclic_graph(walk)


def test_inflating_an_almost_full_and_a_full_circuit():
    graph = GRAPHS["groups"]
    mask = graph.legal.copy()
    edge = np.argwhere(mask)[17]
    mask[tuple(edge)] = False
    assert inflate(graph, mask, rng()).added.tolist() == [edge.tolist()]
    for full in (graph, GRAPHS["spans"]):
        with pytest.raises(InputError, match="no path can be added"):
            inflate(full, full.on_paths, rng())


def test_short_cuts_take_over_where_paths_bring_nothing_new():
    mask = SMOLLM2.legal.copy()
    edge = SMOLLM2.edge("a29.h3->m29")
    mask[edge] = False
    assert inflate(SMOLLM2, mask, rng()).added.tolist() == [list(edge)]


def test_a_node_that_paths_rarely_meet_is_found_in_the_end():
    graph = Graph(12, 8, 8, 64)
    mask = graph.legal.copy()
    mask[graph.mlp(11)] = mask[:, graph.reader(11, "mlp")] = False
    for seed in range(6):
        assert len(inflate(graph, mask, rng(seed)).added) == 2


def test_complement():
    graph = GRAPHS["plain"]
    mask = random_mask(graph, 20, rng())
    rest = complement(graph, mask)
    assert (rest ^ mask == graph.legal).all() and not (rest & mask).any()


def test_refusals():
    for graph in (GRAPHS["plain"], GRAPHS["spans"]):
        for n_edges in (0, int(graph.on_paths.sum()) + 1):
            with pytest.raises(InputError, match=f"n_edges={n_edges}"):
                random_mask(graph, n_edges, rng())


def test_at_spans_some_edges_lead_nowhere():
    """What the last layer does before the end is read by nothing."""
    graph = GRAPHS["spans"]
    nowhere = graph.legal & ~graph.on_paths
    names = {graph.readers[r].name for r in np.flatnonzero(nowhere.any(0))}
    assert "m1@s1" in names and not any(name.endswith("@end") for name in names)
    assert (GRAPHS["plain"].on_paths == GRAPHS["plain"].legal).all()


@pytest.mark.parametrize("change", [{}, {"joint": True}, {"parallel": True}, {"has_mlp": False}])
@pytest.mark.parametrize("last", [(False, True), (True, True)])
def test_edges_on_paths_are_those_that_pruning_leaves(change, last):
    for spans in (ALL, replace(TWO, last=last)):
        graph = Graph(3, 4, 2, 8, kv="per_group", spans=spans, **change)
        assert (graph.on_paths == Circuit(graph, graph.legal).pruned().mask).all()


@pytest.mark.parametrize("name", GRAPHS)
def test_weighted_circuits_meet_every_size_on_paths(name):
    graph, most = GRAPHS[name], int(GRAPHS[name].on_paths.sum())
    weights = np.where(graph.legal, rng(1).random(graph.legal.shape) ** 8, 0.0)
    for n_edges in sorted({1, 2, min(most, 17), most // 2, most} - {0}):
        mask = random_mask(graph, n_edges, rng(n_edges), weights)
        assert mask.sum() == n_edges and (Circuit(graph, mask).pruned().mask == mask).all()


@pytest.mark.slow
def test_weighted_steps_have_the_stated_probabilities():
    """Of one head's graph: m0->logits has weight 3 and input->logits 1, a0.h0->logits none."""
    graph = GRAPHS["one head"]
    weights = np.zeros(graph.legal.shape)
    weights[graph.edge("m0->logits")], weights[graph.edge("input->logits")] = 3.0, 1.0
    draws, masks = rng(), []
    for _ in range(3000):
        masks.append(random_mask(graph, 1, draws, weights))
    assert all(mask[graph.edge("input->logits")] for mask in masks)  # the only path of one edge
    path, writer, _ = _WeightedWalks(graph, weights).draw(6000, rng(2))
    last = np.unique(path, return_index=True)[1]
    counts = np.bincount(writer[last], minlength=3)
    expected = 6000 * (0.1 / 3 + 0.9 * np.array([1 / 4, 0, 3 / 4]))
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_weights_must_be_such():
    graph = GRAPHS["plain"]
    with pytest.raises(InputError, match="none may be negative"):
        random_mask(graph, 3, rng(), -np.ones(graph.legal.shape))
    with pytest.raises(InputError, match="must be finite"):
        random_mask(graph, 3, rng(), np.ones((2, 2)))
