"""Counts against published figures, names, JSON round trips, pruning."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from acdc.circuit import SCORES, Circuit
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.schema import Spans

COUNTS = [  # layers, heads, kv heads, mlp, parallel -> edges with k/v per query head, per group
    ((2, 2, 2, True, False), 46, 46),
    ((2, 4, 4, True, False), 110, 110),
    ((4, 4, 4, True, False), 479, 479),
    ((12, 12, 12, True, False), 32_491, 32_491),
    ((6, 8, 8, True, True), 3_580, 3_580),
    ((30, 9, 3, True, False), 123_211, 70_651),
    ((24, 14, 2, True, False), 179_749, 79_813),
    ((28, 16, 8, True, False), 317_171, 213_907),
    ((4, 8, 8, False, False), 1_281, 1_281),
    ((2, 8, 8, False, False), 257, 257),
]


def graph(sizes=(2, 4, 4, True, False), kv="per_query_head"):
    layers, heads, groups, mlp, parallel = sizes
    return Graph(layers, heads, groups, 32, mlp, parallel, kv)


@pytest.mark.parametrize("sizes, ungrouped, grouped", COUNTS)
def test_edge_counts(sizes, ungrouped, grouped):
    assert graph(sizes).n_edges == graph(sizes).legal.sum() == ungrouped
    assert graph(sizes, "per_group").n_edges == graph(sizes, "per_group").legal.sum() == grouped


@pytest.mark.parametrize(
    "sizes, digest",
    [((12, 12, 12, True, False), "6672d04286447197"), ((2, 4, 4, True, False), "8e6f070afa3d735e")],
)
def test_edge_names_have_the_published_digest(sizes, digest):
    names = Circuit(graph(sizes), graph(sizes).legal).edges
    assert hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("layers", [1, 2])
def test_with_spans_the_last_layer_leads_on_from_where_the_logits_read_only(layers):
    """Of the first span only keys and values: they are seen from the second, the last token's."""
    spans = Spans(("a", "b"), ((True, False), (True, True)), (False, True))
    found = replace(graph((layers, 2, 2, True, False)), spans=spans)
    dead = {f"a{layers - 1}.h0<q>@a", f"a{layers - 1}.h1<q>@a", f"m{layers - 1}@a"}
    assert dead < {reader.name for reader in found.readers}
    for index, reader in enumerate(found.readers):
        expected = found.legal[:, index] & (reader.name not in dead)
        assert (found.on_paths[:, index] == expected).all(), reader.name
    assert (graph().on_paths == graph().legal).all()


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_names_and_indices_are_inverse(kv):
    g = graph((3, 6, 2, True, False), kv)
    assert len(set(g.writers)) == len(g.writers) and len(g.reader_index) == len(g.readers)
    for w, r in np.argwhere(g.legal).tolist():
        assert g.edge(g.edge_name(w, r)) == (w, r)
    for i, reader in enumerate(g.readers):
        assert g.reader(reader.layer, reader.part, reader.group) == i
    for layer in range(3):
        for head in range(6):
            for reader in g.head_readers(layer, head):
                assert g.head(layer, head) in g.readers[reader].nodes


@pytest.mark.parametrize("mlp", [True, False])
def test_places_are_where_the_nodes_are(mlp):
    of = graph((3, 4, 4, mlp, False))
    for layer in range(3):
        for head in range(4):
            assert of.place(of.head(layer, head)) == (layer, head)
            assert of.is_head(of.head(layer, head))
        if mlp:
            assert of.place(of.mlp(layer)) == (layer, 4) and not of.is_head(of.mlp(layer))
    assert of.place(0)[0] == -1 and not of.is_head(0)


def test_parallel_blocks_have_no_edge_from_attention_to_their_own_mlp():
    assert graph().legal[graph().head(1, 0), graph().reader(1, "mlp")]
    parallel = graph((2, 4, 4, True, True))
    assert not parallel.legal[parallel.head(1, 0), parallel.reader(1, "mlp")]
    with pytest.raises(InputError, match="a1.h0->m1"):
        parallel.edge("a1.h0->m1")


def test_a_circuit_cannot_be_changed():
    circuit = Circuit(graph(), graph().mask(["input->logits"]))
    with pytest.raises(ValueError):
        circuit.mask[0, 0] = True
    with pytest.raises(InputError, match="mask"):
        Circuit(graph(), np.ones((3, 3), dtype=bool))


@pytest.mark.parametrize("mlp, parallel", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_json_round_trip(kv, mlp, parallel, tmp_path):
    g = graph((2, 4, 2, mlp, parallel), kv)
    rng = np.random.default_rng(0)
    mask = g.legal & (rng.random(g.legal.shape) < 0.3)
    circuit = Circuit(g, mask, np.where(g.legal, rng.normal(size=g.legal.shape), 0))
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(circuit.to_json(note="x")))
    for back in (Circuit.load(path), Circuit.load(path, g)):
        assert back.graph == g
        assert (back.mask == circuit.mask).all() and (back.scores == circuit.scores).all()


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_scores_in_a_file_of_their_own_are_read_back_with_the_circuit(kv, tmp_path):
    g = graph((2, 4, 2, True, False), kv)
    rng = np.random.default_rng(0)
    mask = g.legal & (rng.random(g.legal.shape) < 0.1)
    circuit = Circuit(g, mask, np.where(g.legal, rng.normal(size=g.legal.shape), 0))
    path, (data, scores) = tmp_path / "circuit.json", circuit.split_json(note="x")
    assert circuit.split_json(note="x") == (data, scores)  # byte for byte
    assert all(edge["in_graph"] for edge in data["edges"].values()) and data["note"] == "x"
    path.write_text(json.dumps(data))
    (tmp_path / SCORES).write_bytes(scores)
    for other in (None, g, graph((2, 4, 2, True, False), "per_query_head")):
        back = Circuit.load(path, other)
        whole = Circuit.from_json(circuit.to_json(), other)
        assert (back.mask == whole.mask).all() and (back.scores == whole.scores).all()
    assert (Circuit.from_json(data).mask == circuit.mask).all()  # whoever does not look beside it


def test_scores_that_are_missing_or_another_models_are_refused(tmp_path):
    g = graph()
    circuit = Circuit(g, g.mask(["input->m1"]), np.where(g.legal, 1.0, 0))
    path, (data, _) = tmp_path / "circuit.json", circuit.split_json()
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="scores.npz beside it, which is missing.*circuits export"):
        Circuit.load(path)
    other = graph((1, 4, 2, True, False))
    (tmp_path / SCORES).write_bytes(Circuit(other, other.legal).split_json()[1])
    with pytest.raises(InputError, match=r"scores \(6, 14\) must be \[writers, readers\] = \(11, "):
        Circuit.load(path)
    for torn in (b"", b"PK\x03\x04", b"no zip", circuit.split_json()[1][:300]):
        (tmp_path / SCORES).write_bytes(torn)
        with pytest.raises(InputError, match="no scores that can be read"):
            Circuit.load(path)
    path.write_text(json.dumps({**data, "scores": "../scores.npz"}))
    with pytest.raises(InputError, match="allowed is 'scores.npz'"):
        Circuit.load(path)


def test_json_is_eap_igs_format():
    g = graph((2, 4, 2, True, False), "per_group")
    data = Circuit(g, g.mask(["input->a1.kv1<k>", "m1->logits"])).to_json()
    assert data["cfg"] == {
        "n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32
    }  # fmt: skip
    kept = {name for name, e in data["edges"].items() if e["in_graph"]}
    assert kept == {"input->a1.h2<k>", "input->a1.h3<k>", "m1->logits"}
    assert all(isinstance(e["score"], float) for e in data["edges"].values())
    inside = [n for n, v in data["nodes"].items() if v["in_graph"]]
    assert inside == ["input", "a1.h2", "a1.h3", "m1", "logits"]
    assert next(iter(data["nodes"])) == "input" and list(data["nodes"])[-1] == "logits"


def test_the_logits_are_a_node_of_every_file_but_of_a_circuit_only_if_an_edge_enters():
    g = graph()
    inner, last = Circuit(g, g.mask(["input->m1"])), Circuit(g, g.mask(["input->logits"]))
    assert inner.nodes == ["input", "m1"] and last.nodes == ["input", "logits"]
    for circuit in (inner, last):
        assert circuit.to_json()["nodes"]["logits"] == {"in_graph": True}


def test_a_group_that_is_in_for_some_of_its_heads_is_refused_whichever_comes_last():
    g = graph((2, 4, 2, True, False), "per_group")
    data = Circuit(g, g.mask(["m0->a1.kv1<k>"])).to_json()
    kept, cut = {"score": 0.0, "in_graph": True}, {"score": 0.0, "in_graph": False}
    for copies in ((kept, cut), (cut, kept)):
        edges = dict(zip(("m0->a1.h2<k>", "m0->a1.h3<k>"), copies, strict=True))
        with pytest.raises(InputError, match="m0->a1.kv1<k> holds only some"):
            Circuit.from_json({**data, "edges": edges})


def test_plain_multi_head_attention_with_mlps_is_what_is_meant_if_nothing_else_is_said():
    assert Graph(2, 4, 4, 32) == graph()
    assert Graph(2, 4, 4, 32).describe().endswith("MLPs, kv per_query_head: 110 edges")


def test_a_graph_describes_itself():
    sizes = {"no MLPs": (False, False), "parallel MLPs": (True, True), "MLPs": (True, False)}
    for words, (mlp, parallel) in sizes.items():
        g = graph((2, 4, 2, mlp, parallel), "per_group")
        assert g.describe() == (
            f"2 layers x 4 heads, 2 key/value heads, {words}, kv per_group: {g.n_edges} edges"
        )


def test_foreign_files_are_read_by_name_or_refused():
    g = graph((2, 4, 2, True, False), "per_group")
    cfg = {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32}
    entry = {"score": 0.5, "in_graph": True}
    plain = Circuit.from_json({"cfg": cfg, "nodes": {}, "edges": {"m0->m1": entry}})
    assert plain.edges == ["m0->m1"] and plain.graph.n_kv_heads == 4
    assert plain.scores.sum() == plain.scores[plain.graph.edge("m0->m1")] == 0.5
    bare = Circuit.from_json({"cfg": cfg, "nodes": {}, "edges": {"m0->m1": {"in_graph": True}}})
    assert bare.edges == ["m0->m1"] and not bare.scores.any()
    with pytest.raises(InputError, match="unknown edge 'm1->m0'"):
        Circuit.from_json({"cfg": cfg, "nodes": {}, "edges": {"m1->m0": entry}})
    with pytest.raises(InputError, match="some of its group"):
        Circuit.from_json({"cfg": cfg, "nodes": {}, "edges": {"m0->a1.h2<k>": entry}}, g)
    with pytest.raises(InputError, match="missing"):
        Circuit.from_json({"nodes": {}})
    with pytest.raises(InputError, match="2 layers x 4 heads"):
        Circuit.from_json({"cfg": cfg, "edges": {}}, graph((3, 4, 4, True, False)))


def test_pruning_keeps_paths_from_input_to_logits():
    g = graph((2, 4, 2, True, False), "per_group")
    path = ["input->a0.kv0<v>", "a0.h1->a1.kv1<k>", "a1.h2->logits"]
    dangling = ["m0->a1.h2<q>", "a0.h3->logits", "input->m1", "input->a0.h2<q>"]
    circuit = Circuit(g, g.mask(path + dangling))
    assert sorted(circuit.pruned().edges) == sorted(path)
    assert Circuit(g, g.mask(["m0->m1"])).pruned().n_edges == 0
    assert circuit.nodes == [
        "input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0", "a1.h2", "a1.h3", "m1", "logits"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["m7->logits", "input->m7", "m7->m7", "m1->m0", "input", "->m0"])
def test_an_edge_that_is_none_is_refused_by_name(name):
    """Without such a writer, without such a reader, or against the order of layers."""
    graph = Graph(2, 2, 1, 8)
    with pytest.raises(InputError, match=f"edge '{name}' does not exist in this graph .2 layers"):
        graph.edge(name)
