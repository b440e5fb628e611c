"""Circuits from scores: published figures, literal twins of greedy and of pruning, errors."""

import numpy as np
import pytest
from test_parity import parity_model, parity_prompts

from acdc.attribution import eap_ig, random_scores
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.metrics import METRICS
from acdc.selection import RULES, greedy, select, select_on_paths, threshold, top_n

GRAPHS = {
    "plain": Graph(2, 4, 4, 8),
    "grouped": Graph(2, 4, 2, 8, kv="per_group"),
    "parallel": Graph(2, 2, 2, 8, parallel=True),
    "no_mlp": Graph(3, 2, 2, 8, has_mlp=False),
}
SEEDS = range(20)


@pytest.mark.parametrize(
    "rule, ranking, n_edges, value",
    [
        ("top_n", "absolute", 20, 1.859443),
        ("greedy", "absolute", 21, 1.979316),
        ("top_n", "signed", 20, 1.984747),
        ("greedy", "signed", 21, 2.278737),
    ],
)
def test_published_figures(rule, ranking, n_edges, value):
    model = parity_model()
    data = Data(model, model.graph(), parity_prompts())
    found = select(data.graph, eap_ig(data, METRICS["logit_diff"], 5), 22, ranking, rule)
    assert (found.requested, found.taken, found.n_edges) == (22, 22, n_edges)
    measured = data.circuits(METRICS["logit_diff"], [found.circuit.mask]).mean()
    assert measured == pytest.approx(value, abs=5e-7)


def stable(graph, mask):
    """Prune until stable, word for word: nodes need an edge in and one out, edges both ends."""
    mask = mask.copy()
    while True:
        nodes = [
            mask[w].any()
            and (
                w == 0 or any(mask[:, r].any() for r, e in enumerate(graph.readers) if w in e.nodes)
            )
            for w in range(len(graph.writers))
        ]
        before = mask.copy()
        for w, r in np.argwhere(mask).tolist():
            own = graph.readers[r].nodes
            mask[w, r] = nodes[w] and (not own or any(nodes[n] for n in own))
        if (mask == before).all():
            return mask


@pytest.mark.parametrize("kind", GRAPHS)
def test_pruned_is_prune_until_stable(kind):
    graph, sizes = GRAPHS[kind], set()
    for seed in SEEDS:
        mask = graph.legal & (np.random.default_rng(seed).random(graph.legal.shape) < 0.15)
        wanted = stable(graph, mask)
        assert (Circuit(graph, mask).pruned().mask == wanted).all()
        sizes.add((int(mask.sum()), int(wanted.sum())))
    assert any(0 < after < before for before, after in sizes)


def literal_greedy(graph, value, n_edges):
    """Look at every edge into a node that is in, each time; first of the best in index order."""
    mask, inside = np.zeros_like(graph.legal), set()
    for _ in range(n_edges):
        best = None
        for w, r in np.argwhere(graph.legal & ~mask).tolist():
            nodes = graph.readers[r].nodes
            is_open = not nodes or any(n in inside for n in nodes)
            if is_open and (best is None or value[w, r] > value[best]):
                best = (w, r)
        if best is None:
            break
        mask[best] = True
        inside.add(best[0])
    return mask


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("ranking", ["signed", "absolute"])
def test_greedy_is_its_literal_loop(kind, ranking):
    graph = GRAPHS[kind]
    for seed in SEEDS[:6]:
        scores = np.round(random_scores(graph, seed), 1)  # with ties
        value = np.abs(scores) if ranking == "absolute" else scores
        for n_edges in (0, 1, 7, graph.n_edges // 2, graph.n_edges):
            taken = literal_greedy(graph, value, n_edges)
            found = greedy(graph, scores, n_edges, ranking)
            assert found.taken == taken.sum()
            assert (found.circuit.mask == Circuit(graph, taken).pruned().mask).all()


def test_top_n_takes_the_best_and_of_equals_the_first():
    graph = GRAPHS["plain"]
    scores = np.zeros(graph.legal.shape)
    good, bad = graph.edge("input->logits"), graph.edge("input->m1")
    scores[good], scores[bad], scores[graph.edge("m1->logits")] = 1.0, -3.0, 2.0
    assert top_n(graph, scores, 2, "signed").circuit.edges == ["input->logits"]
    assert top_n(graph, scores, 2).circuit.edges == ["input->m1", "m1->logits"]
    rounded = np.round(random_scores(graph, 0))  # many equal ones
    ranked = sorted(np.argwhere(graph.legal).tolist(), key=lambda e: (-abs(rounded[tuple(e)]), e))
    for n_edges in range(0, graph.n_edges, 10):
        taken = np.zeros_like(graph.legal)
        for edge in ranked[:n_edges]:
            taken[tuple(edge)] = True
        found = top_n(graph, rounded, n_edges)
        assert (found.circuit.mask == Circuit(graph, taken).pruned().mask).all()
    zeros = np.zeros(graph.legal.shape)
    first = graph.senders.size  # every edge out of `input` comes first in the index
    assert top_n(graph, zeros, first).circuit.edges == ["input->logits"]
    whole = top_n(graph, zeros, graph.n_edges)
    assert (whole.circuit.mask == graph.legal).all() and whole.taken == graph.n_edges


def test_a_circuit_may_be_pruned_to_nothing():
    graph = GRAPHS["plain"]
    scores = np.zeros(graph.legal.shape)
    scores[graph.edge("input->m0")] = 1.0
    found = top_n(graph, scores, 1)
    assert (found.requested, found.taken, found.n_edges) == (1, 1, 0)
    assert found.circuit.scores[graph.edge("input->m0")] == 1.0


def test_a_circuit_has_no_scores_where_there_are_no_edges():
    graph = GRAPHS["plain"]
    scores = np.full(graph.legal.shape, 3.0)
    for rule in RULES:
        found = select(graph, scores, 9, "signed", rule).circuit.scores
        assert (found == np.where(graph.legal, 3.0, 0.0)).all()


def test_greedy_starts_at_the_logits_and_opens_a_group_with_one_head():
    graph = GRAPHS["grouped"]
    scores = np.full(graph.legal.shape, 0.0)
    for name, score in {"a1.h1->logits": 1.0, "input->a1.kv0<v>": 5.0, "input->m0": 9.0}.items():
        scores[graph.edge(name)] = score
    assert greedy(graph, scores, 2).circuit.edges == ["input->a1.kv0<v>", "a1.h1->logits"]
    assert top_n(graph, scores, 2).n_edges == 0


def test_threshold_keeps_what_reaches_it():
    graph = GRAPHS["plain"]
    scores = np.zeros(graph.legal.shape)
    scores[graph.edge("input->m1")], scores[graph.edge("m1->logits")] = -2.0, 2.0
    found = threshold(graph, scores, 2.0)
    assert found.circuit.edges == ["input->m1", "m1->logits"] and found.requested is None
    signed = threshold(graph, scores, 2.0, "signed")
    assert (signed.taken, signed.n_edges) == (1, 0)
    assert threshold(graph, scores, 2.1).taken == 0


def test_what_cannot_be_asked():
    graph = GRAPHS["plain"]
    scores = random_scores(graph, 0)
    for rule in ("top_n", "greedy"):
        for n_edges in (-1, graph.n_edges + 1):
            with pytest.raises(InputError, match=f"n_edges={n_edges}.*{graph.n_edges}"):
                select(graph, scores, n_edges, "signed", rule)
    for bad in (scores[1:], np.where(graph.legal, np.nan, 0.0)):
        with pytest.raises(InputError, match="finite"):
            top_n(graph, bad, 1)


def test_a_size_on_paths_is_the_smallest_that_has_it():
    graph = GRAPHS["plain"]
    scores = np.where(graph.legal, np.random.default_rng(0).standard_normal(graph.legal.shape), 0)
    for rule in RULES:
        for wanted in (1, 10, 40, graph.n_edges):
            found = select_on_paths(graph, scores, wanted, "absolute", rule)
            assert found.n_edges >= wanted and found.requested is not None
            if found.requested > wanted:
                less = select(graph, scores, found.requested - 1, "absolute", rule)
                assert less.n_edges < wanted
