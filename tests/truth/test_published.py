"""Circuits from papers: counts by group, edges by hand, and the path from a model to a case."""

import numpy as np
import pytest
import torch

from acdc.ablation import RESAMPLE
from acdc.bridge import read_bridge
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.metrics import KL
from acdc.native import untrained_bridge
from acdc.prompts import Prompts
from discovery.methods.scores import EAP
from discovery.models.choices import HFModel
from discovery.truth import bench, published
from discovery.truth.published import CIRCUITS, DOCSTRING, GREATER_THAN, IOI, for_model


def kinds(edges):
    """How many edges there are from and to each kind of node."""

    def kind(name):
        return "h" if ".h" in name else name[0]

    pairs = [tuple(map(kind, edge.split("->"))) for edge in edges]
    return {pair: pairs.count(pair) for pair in sorted(set(pairs))}


@pytest.mark.parametrize(("circuit", "edges"), [(IOI, 963), (GREATER_THAN, 235), (DOCSTRING, 24)])
def test_edges_exist_once_and_are_as_many_as_were_published(circuit, edges):
    assert len(set(circuit.edges)) == len(circuit.edges) == edges
    mask = circuit.graph.mask(circuit.edges)
    assert mask.sum() == edges
    touched = circuit.graph.touched(mask)
    assert np.array_equal(touched[1:], circuit.true_nodes(circuit.graph)[1:])


def test_the_graphs_have_the_published_sizes():
    assert IOI.graph.n_edges == 32491 and DOCSTRING.graph.n_edges == 1281


def test_ioi_by_groups():
    assert len(set(IOI.nodes)) == 26 + 12
    assert [len(heads) for heads in IOI.heads.values()] == [2, 3, 4, 4, 2, 3, 8]
    assert kinds(IOI.edges) == {
        ("i", "m"): 12, ("m", "m"): 66, ("m", "l"): 12, ("i", "l"): 1,
        ("m", "h"): 567, ("h", "m"): 123, ("i", "h"): 45, ("h", "h"): 124, ("h", "l"): 13,
    }  # fmt: skip
    assert len(IOI.between_heads) == 182
    assert {"a2.h2->a5.h5<k>", "a8.h6->a9.h9<q>", "a0.h1->a7.h3<v>"} <= set(IOI.edges)
    assert not {"a5.h5->a9.h9<q>", "a8.h6->a9.h9<k>", "a2.h2->a5.h5<q>"} & set(IOI.edges)


def test_greater_than_by_groups():
    assert kinds(GREATER_THAN.edges) == {
        ("i", "h"): 9, ("i", "m"): 4, ("h", "h"): 54, ("m", "m"): 42,
        ("h", "m"): 4 + 23, ("m", "h"): 72 + 17, ("h", "l"): 6, ("m", "l"): 4,
    }  # fmt: skip
    assert {"m4->a5.h5<q>", "a0.h1->m3", "m8->m11"} <= set(GREATER_THAN.edges)
    assert not {"m4->a5.h5<k>", "a0.h3->m3", "m3->logits"} & set(GREATER_THAN.edges)


def test_docstring_head_by_head():
    into = {}
    for edge in DOCSTRING.edges:
        writer, reader = edge.split("->")
        into.setdefault(reader, []).append(writer)
    assert into == {
        "a0.h5<v>": ["input"], "a1.h4<v>": ["input", "a0.h5"],
        "a1.h2<q>": ["input", "a0.h5"], "a1.h2<k>": ["input", "a0.h5"],
        "a2.h0<q>": ["input", "a0.h5"], "a2.h0<k>": ["input", "a0.h5"], "a2.h0<v>": ["a1.h4"],
        "a3.h0<v>": ["input", "a0.h5"], "a3.h6<v>": ["input", "a0.h5"],
        "a3.h0<q>": ["a1.h4"], "a3.h6<q>": ["a1.h4"],
        "a3.h0<k>": ["a1.h2", "a2.h0"], "a3.h6<k>": ["a1.h2", "a2.h0"],
        "logits": ["a3.h0", "a3.h6"],
    }  # fmt: skip


def stand_in(graph):
    """A random model of a shape, narrow: the widths alone are not the real one's."""
    return read_bridge(
        untrained_bridge({
            "n_layers": graph.n_layers, "n_heads": graph.n_heads, "d_model": 2 * graph.n_heads,
            "d_head": 2, "d_mlp": 8, "n_ctx": 8, "d_vocab": 20, "attn_only": not graph.has_mlp,
            "act_fn": "gelu_new", "normalization_type": "LN",
            "positional_embedding_type": "standard",
        }),
        "stand-in",
    ).to(torch.float64)  # fmt: skip


def prompts(n=4):
    clean = torch.randint(20, (n, 6), generator=torch.Generator().manual_seed(0))
    return Prompts(clean, (clean + 1) % 20, ((1,),) * n, ((2,),) * n, 5)


@pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
def test_a_stand_in_of_the_same_shape_makes_a_case_that_runs(circuit):
    case = for_model(circuit, stand_in(circuit.graph), prompts())
    assert case.edges.sum() == len(circuit.edges) and case.source == circuit.source
    assert circuit.true_nodes(case.graph).sum() == len(circuit.nodes)
    data = Data(case.model, case.graph, case.prompts, RESAMPLE)
    whole, own, none = data.circuits(
        KL, [case.graph.legal, case.edges, np.zeros_like(case.edges)]
    ).mean(1)
    assert abs(whole) < 1e-9 and own > 1e-6 and none > 1e-6 and abs(own - none) > 1e-9
    if circuit is IOI:
        judged = bench.judged("published", case, EAP(n_edges=1), 0)
        assert (judged.n_true, judged.n_edges) == (963, 32491) and not judged.why_not
        assert judged.edges is not None and judged.nodes is not None  # of chance: random weights


def test_a_model_of_another_shape_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="ioi: it is a circuit of GPT-2 small .*this model has 4"):
        for_model(IOI, stand_in(DOCSTRING.graph), prompts())
    with pytest.raises(InputError, match="4 key/value heads"):
        IOI.true_nodes(Graph(12, 12, 4, 768, kv="per_group"))


def test_without_gpt2_the_set_says_what_it_needs(monkeypatch):
    def load(self, device, check=None):
        raise InputError("name='gpt2' is not here")

    monkeypatch.setattr(HFModel, "load", load)
    with pytest.raises(InputError, match="needs GPT-2 small, model=hf model.name=gpt2"):
        next(published.cases(0))


def test_with_gpt2_its_two_tasks_are_built_and_judged(monkeypatch):
    model = stand_in(IOI.graph)

    class Loaded:
        pass

    loaded = Loaded()
    loaded.model = model
    seen = []

    class Build:
        def __init__(self, n):
            self.n = n

        def build(self, loaded, seed):
            seen.append((self.n, seed))
            return prompts(3)

    monkeypatch.setattr(HFModel, "load", lambda self, device, check=None: loaded)
    monkeypatch.setattr("discovery.choices.registry.load", lambda group, name: Build)
    assert [case.name for case in published.cases(5)] == ["ioi", "greater_than"]
    assert seen == [(64, 5), (64, 5)]
