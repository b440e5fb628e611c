"""Files of circuits: both forms say the same, and nothing that could run code is read."""

import json
import pickle

import numpy as np
import pytest
import torch

from acdc import circuit_files
from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2, d_model=8)
GROUPED = Graph(n_layers=2, n_heads=4, n_kv_heads=2, d_model=8, kv="per_group")


def drawn(graph, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.where(graph.legal, rng.normal(size=graph.legal.shape), 0.0)
    return Circuit(graph, graph.legal & (rng.random(graph.legal.shape) < 0.3), scores)


@pytest.mark.parametrize("graph", [GRAPH, GROUPED], ids=["heads", "groups"])
@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_a_circuit_comes_back_as_it_was(tmp_path, graph, suffix):
    circuit = drawn(graph)
    path = tmp_path / f"circuit.{suffix}"
    data = circuit.to_json()
    path.write_bytes(circuit_files.tensors(data) if suffix == "pt" else json.dumps(data).encode())
    again = circuit_files.load(path, graph)
    assert (again.mask == circuit.mask).all() and (again.scores == circuit.scores).all()


def test_the_tensors_by_hand(tmp_path):
    """One layer of one head: columns are q, k, v, MLP, logits; rows input, head, MLP."""
    graph = Graph(1, 1, 1, 8)
    names = ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"]
    scores = torch.zeros(3, 5)
    scores[0] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    scores[1, 4], scores[2, 0] = 6.0, float("nan")  # m0 -> a0.h0<q> is no edge
    kept = torch.zeros(3, 5, dtype=torch.bool)
    kept[0, 4] = True
    cfg = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8}
    file = {"cfg": cfg, "src_nodes": ["input", "a0.h0", "m0"], "dst_nodes": names,
            "edges_scores": scores, "edges_in_graph": kept,
            "nodes_in_graph": torch.tensor([True, False, False])}  # fmt: skip
    torch.save(file, tmp_path / "own.pt")
    found = circuit_files.load(tmp_path / "own.pt", graph)
    assert found.edges == ["input->logits"]
    assert found.scores[graph.edge("input->a0.h0<v>")] == 3
    assert found.scores[graph.edge("a0.h0->logits")] == 6
    for changed, said in (
        ({"dst_nodes": names[::-1]}, "dst_nodes are not the 5"),
        ({"edges_scores": scores.T}, r"must be \[writers, readers\] = \(3, 5\)"),
        ({"cfg": {"n_layers": 1}}, "cfg .*n_heads"),
        ({"nodes_in_graph": None}, "malformed member"),
    ):
        torch.save({**file, **changed}, tmp_path / "bad.pt")
        with pytest.raises(InputError, match=said):
            circuit_files.load(tmp_path / "bad.pt", graph)


class Own:
    """An object, as a pickle may hold."""

    def __reduce__(self):
        return (print, ("this has run",))


def test_objects_are_not_read(tmp_path, capsys):
    path = tmp_path / "own.pt"
    for write in (lambda: torch.save({"cfg": Own()}, path), lambda: path.write_bytes(
        pickle.dumps({"cfg": Own()}, protocol=2)
    )):  # fmt: skip
        write()
        with pytest.raises(InputError, match="tensors and plain containers"):
            circuit_files.load(path, GRAPH)
    assert "this has run" not in capsys.readouterr().out
    for bad, said in (("[1]", "holds a list"), ("not a file of tensors", "circuit file")):
        if bad == "[1]":
            torch.save([1], path)
        else:
            path.write_text(bad)
        with pytest.raises(InputError, match=said):
            circuit_files.load(path, GRAPH)
