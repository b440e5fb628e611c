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


def test_two_runs_have_no_one_circuit(tmp_path):
    with pytest.raises(InputError, match="a circuit is one run's"):
        export.write_circuit([tmp_path, tmp_path], tmp_path / "out.pt")
