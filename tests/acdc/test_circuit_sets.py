"""Circuits as sets of edges, by the laws of sets and by hand."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph

SMALL = Graph(2, 2, 1, 8, True, False, "per_group")
LEGAL = np.argwhere(SMALL.legal)
subsets = st.lists(st.integers(0, len(LEGAL) - 1), unique=True)


def circuit(numbers, scale=1.0):
    mask = np.zeros_like(SMALL.legal)
    for number in numbers:
        mask[tuple(LEGAL[number])] = True
    return Circuit(SMALL, mask, scale * mask)


@settings(deadline=None)  # the first call may wait for a busy machine
@given(subsets, subsets)
def test_operators_are_those_of_sets_of_names(one, two):
    a, b = circuit(one), circuit(two, 2.0)
    left, right = set(a), set(b)
    assert set(a & b) == left & right and set(a | b) == left | right
    assert set(a - b) == left - right and set(a ^ b) == left ^ right
    assert (a <= b) == (left <= right) and (a >= b) == (left >= right)
    assert len(a) == len(left) == a.n_edges
    union = left | right
    assert a.jaccard(b) == (len(left & right) / len(union) if union else 1.0)
    both = a | b
    own = {name: both.scores[SMALL.edge(name)] for name in both}
    assert own == {name: 1.0 if name in left else 2.0 for name in union}


def test_an_edge_or_a_node_is_in_it():
    one = Circuit(SMALL, SMALL.mask(["input->a0.kv0<k>", "a0.h1->logits"]))
    assert "input->a0.kv0<k>" in one and "input->m0" not in one
    assert "a0.h0" in one and "logits" in one and "m1" not in one and 3 not in one
    with pytest.raises(InputError, match="'m0->m0' does not exist"):
        assert "m0->m0" in one


def test_without_nodes_nothing_enters_or_leaves_them():
    whole = Circuit(SMALL, SMALL.legal)
    left = whole.without("a0.h1", "m1")
    gone = [name for name in whole if name not in left]
    for name in whole:
        writer, _, reader = name.partition("->")
        own = writer in ("a0.h1", "m1") or reader == "m1" or reader == "a0.h1<q>"
        assert (name in gone) == (own or reader.startswith("a0.kv0"))
    with pytest.raises(InputError, match="node 'a7.h0' does not exist"):
        whole.without("a7.h0")


def test_two_graphs_do_not_mix():
    other = Graph(2, 2, 2, 8)
    with pytest.raises(InputError, match="circuits of two graphs: 2 layers"):
        assert circuit([]) & Circuit(other, other.legal)


def test_as_a_networkx_graph_a_shared_key_enters_each_head():
    one = Circuit(SMALL, SMALL.mask(["input->a0.kv0<k>", "a0.h1->logits"]))
    found = one.to_networkx()
    assert isinstance(found, nx.MultiDiGraph)
    assert sorted(found.edges(keys=True)) == [
        ("a0.h1", "logits", "logits"),
        ("input", "a0.h0", "a0.kv0<k>"),
        ("input", "a0.h1", "a0.kv0<k>"),
    ]
    assert set(found.nodes) == set(one.nodes)
    assert nx.has_path(found, "input", "logits")


def test_a_circuit_without_edges_is_one():
    assert not circuit([]) and circuit([1]) and circuit([]).jaccard(circuit([])) == 1


def test_a_nodes_strength_is_its_largest_score_in_or_out():
    """Of kept edges; what a group of heads reads is each head's."""
    scores = np.zeros(SMALL.legal.shape)
    wanted = {"input->a0.kv0<k>": -3.0, "a0.h1->logits": 5.0, "input->a0.h0<q>": 4.0, "m0->m1": 2.0}
    for name, score in wanted.items():
        scores[SMALL.edge(name)] = score
    scores[SMALL.edge("input->m1")] = 9.0  # not kept
    found = Circuit(SMALL, SMALL.mask(list(wanted)), scores).strength
    assert dict(zip(SMALL.writers, found.tolist(), strict=True)) == {
        "input": 4, "a0.h0": 4, "a0.h1": 5, "m0": 2, "a1.h0": 0, "a1.h1": 0, "m1": 2,
    }  # fmt: skip
