"""A run's circuit in others' forms."""

import importlib
import json
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from acdc import circuit_files
from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.schema import Spans

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
export = importlib.import_module("export")


def test_each_form_says_the_same(tmp_path):
    graph = Graph(2, 2, 1, 8, kv="per_group")
    scores = np.where(graph.legal, np.random.default_rng(0).normal(size=graph.legal.shape), 0)
    circuit = Circuit(graph, graph.legal & (scores > 0), scores)
    (tmp_path / "circuit.json").write_text(json.dumps(circuit.to_json()))
    for suffix in ("json", "pt"):
        export.write_circuit([tmp_path], out := tmp_path / f"out.{suffix}")
        again = circuit_files.load(out, graph)
        assert (again.mask == circuit.mask).all() and (again.scores == circuit.scores).all()
    export.write_circuit([tmp_path], out := tmp_path / "out.graphml")
    read = nx.read_graphml(out, force_multigraph=True)
    wanted = circuit.to_networkx()
    assert sorted(read.nodes) == sorted(wanted.nodes)
    assert sorted(read.edges(data="score")) == sorted(wanted.edges(data="score"))
    assert sorted(read.edges(data="reader")) == sorted(wanted.edges(data="reader"))


def test_an_attribution_graph_by_hand(tmp_path):
    """Of a head's q and v one link, in the sum of their scores; roles as supernodes."""
    graph = Graph(2, 2, 2, 8)
    edges = {"input->a0.h1<q>": 0.5, "input->a0.h1<v>": -2.0, "a0.h1->m1": 1.0, "m1->logits": 3.0}
    scores = np.zeros(graph.legal.shape)
    for name, score in edges.items():
        scores[graph.edge(name)] = score
    data = Circuit(graph, scores != 0, scores).to_json()
    (tmp_path / "circuit.json").write_text(json.dumps(data))
    heads = {"a0.h1": {"candidates": ["mover", "other"]}, "a1.h1": {"candidates": ["mover"]}}
    told = {"prompts": [{"tokens": ["The", " cat", " sat"]}], "heads": heads}
    (tmp_path / "heads.json").write_text(json.dumps(told))
    (tmp_path / "result.json").write_text(json.dumps({"model": "google/Gemma-2-2b"}))
    export.write_circuit([tmp_path], out := tmp_path / "mine.neuronpedia.json")
    made = json.loads(out.read_text())
    about = {key: made["metadata"][key] for key in ("slug", "scan", "prompt", "prompt_tokens")}
    assert about == {
        "slug": "mine", "scan": "gemma-2-2b", "prompt": "The cat sat",
        "prompt_tokens": ["The", " cat", " sat"],
    }  # fmt: skip
    nodes = {node["clerp"]: node["node_id"] for node in made["nodes"]}
    assert nodes == {"input": "E_0_0", "a0.h1": "0_1_2", "m1": "1_2_2", "logits": "3_0_2"}
    links = {(link["source"], link["target"]): link["weight"] for link in made["links"]}
    assert links == {("E_0_0", "0_1_2"): -1.5, ("0_1_2", "1_2_2"): 1.0, ("1_2_2", "3_0_2"): 3.0}
    assert made["links"][0]["parts"] == {"q": 0.5, "v": -2.0}
    assert made["qParams"]["supernodes"] == [["mover", "0_1_2"]]
    for node in made["nodes"]:  # what graph-schema 1.0.0 and circuit-tracer's reader ask for
        kinds = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str,
                 "jsNodeId": str, "clerp": str}  # fmt: skip
        assert {key: type(node[key]) for key in kinds} == kinds


def test_a_circuit_over_spans_has_its_nodes_where_they_are_read(tmp_path):
    """An induction circuit's shape: what the key says is at the match, the query at the end."""
    spans = Spans(("start", "match", "end"), tuple(map(tuple, np.tri(3, dtype=bool).tolist())),
                  (False, False, True))  # fmt: skip
    graph = Graph(2, 1, 1, 8, spans=spans)
    edges = ["input->a0.h0<v>@start", "a0.h0->a1.h0<k>@match", "input->a1.h0<q>@end",
             "a1.h0->logits"]  # fmt: skip
    circuit = Circuit(graph, graph.mask(edges), np.where(graph.mask(edges), 2.0, 0.0))
    (tmp_path / "circuit.json").write_text(json.dumps(circuit.to_json()))
    prompt = {"tokens": ["b", "c", "A", "B", "A"], "marks": {"match": 3, "end": 4}}
    (tmp_path / "heads.json").write_text(json.dumps({"prompts": [prompt], "heads": {}}))
    export.write_circuit([tmp_path], out := tmp_path / "mine.neuronpedia.json")
    made = json.loads(out.read_text())
    links = {(link["source"], link["target"]): link["parts"] for link in made["links"]}
    assert links == {
        ("E_0_2", "0_0_3"): {"v": 2.0}, ("0_0_3", "1_0_4"): {"k": 2.0},
        ("E_0_4", "1_0_4"): {"q": 2.0}, ("1_0_4", "3_0_4"): {"in": 2.0},
    }  # fmt: skip
    assert {node["node_id"] for node in made["nodes"]} == {end for link in links for end in link}
    export.write_circuit([tmp_path], out := tmp_path / "out.pt")
    assert circuit_files.load(out, graph.plain).edges == circuit.without_spans().edges
    export.write_circuit([tmp_path], out := tmp_path / "out.json")
    assert circuit_files.load(out).edges == circuit.edges
    export.write_circuit([tmp_path], out := tmp_path / "out.graphml")
    read = nx.read_graphml(out, force_multigraph=True)
    assert {reader for *_, reader in read.edges(data="reader")} == {
        edge.partition("->")[2] for edge in edges
    }


def test_two_runs_have_no_one_circuit(tmp_path):
    with pytest.raises(InputError, match="a circuit is one run's"):
        export.write_circuit([tmp_path, tmp_path], tmp_path / "out.pt")
