"""Circuits and scores from elsewhere beside our methods: `circuits compare files=`."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from mib_figures import FOLDER, there

from acdc import circuit_files
from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.selection import top_n
from discovery.methods.files import CircuitFile, ScoresFile, of_files
from discovery.methods.given import Given

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))
command = importlib.import_module("compare")
GRAPH = Graph(2, 2, 2, 8)


def write(path, mask, scores):
    data = Circuit(GRAPH, mask, scores).to_json()
    path.write_bytes(
        circuit_files.tensors(data) if path.suffix == ".pt" else json.dumps(data).encode()
    )


def test_what_a_file_is(tmp_path):
    rng = np.random.default_rng(0)
    scores = np.where(GRAPH.legal, rng.normal(size=GRAPH.legal.shape), 0)
    some = GRAPH.legal & (scores > 0.5)
    none = np.zeros_like(some)
    (tmp_path / "run").mkdir()
    write(tmp_path / "b.json", none, scores)
    write(tmp_path / "a.pt", some, np.zeros_like(scores))
    write(tmp_path / "c.json", some, scores)
    write(tmp_path / "d.pt", GRAPH.legal, scores)
    write(tmp_path / "run" / "circuit.json", some, scores)
    write(tmp_path / "run" / "other.json", none, scores)
    (tmp_path / "note.txt").write_text("no circuit")
    found = of_files([str(tmp_path), str(tmp_path / "run"), str(tmp_path / "run" / "other.json")])
    assert [one.label for one in found] == [
        "a.pt", "b.json", "c.json", "d.pt", "circuit.json", "other.json"
    ]  # fmt: skip
    kinds = [CircuitFile, ScoresFile, CircuitFile, ScoresFile, CircuitFile, ScoresFile]
    assert [type(one) for one in found] == kinds
    both = of_files([str(tmp_path / "b.json")] * 2)
    assert {one.label for one in both} == {f"{tmp_path.name}/b.json"}


def test_what_is_no_circuit_is_said(tmp_path):
    write(tmp_path / "nothing.json", np.zeros_like(GRAPH.legal), np.zeros(GRAPH.legal.shape))
    (tmp_path / "other.json").write_text('{"edges": {"input->logits": 0.5}}')
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("nothing.json", "no edge is kept, and no scores differ"),
        ("other.json", "no circuit in EAP-IG's form; each of `edges` needs in_graph"),
        ("empty", "neither a file nor a folder with .json or .pt files"),
        ("nowhere.pt", "neither a file nor a folder"),
    ):
        with pytest.raises(InputError, match=said):
            of_files([str(tmp_path / name)])


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_a_file_of_scores_is_a_circuit_once_its_size_is_said(tmp_path, suffix):
    """What `circuits validate circuit=FILE method.n_edges=4` validates."""
    scores = np.where(
        GRAPH.legal, np.arange(GRAPH.legal.size, 0, -1).reshape(GRAPH.legal.shape), 0.0
    )
    write(path := tmp_path / f"scores.{suffix}", np.zeros_like(GRAPH.legal), -scores)
    (found,) = Given(circuit=str(path), n_edges=20).find(SimpleNamespace(graph=GRAPH), None, 0)
    (every,) = Given(circuit=str(path), n_edges=GRAPH.n_edges).find(
        SimpleNamespace(graph=GRAPH), None, 0
    )
    assert (found.mask == top_n(GRAPH, -scores, 20).circuit.mask).all() and found.mask.any()
    assert every.mask.sum() == GRAPH.n_edges
    with pytest.raises(InputError, match="keeps no edge.*method.n_edges"):
        list(Given(circuit=str(path)).find(SimpleNamespace(graph=GRAPH), None, 0))


@there
def test_mibs_files_beside_a_method(tmp_path):
    """Both forms say the same; a circuit cut out of them is judged as it is."""
    here = FOLDER / "gpt2_like"
    scored = circuit_files.load(here / "importances.json")
    best = np.argsort(-np.abs(scored.scores), axis=None)[:60]
    kept = np.zeros_like(scored.mask)
    kept.flat[best] = True
    (tmp_path / "cut.json").write_text(json.dumps(Circuit(scored.graph, kept).to_json()))
    lines = (here / "pairs_all_lengths.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    parts = ["search", "tune", "test"]
    rows = [{**row, "split": parts[i % 3]} for i, row in enumerate(rows * 2)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [here / "importances.json", here / "importances.pt", tmp_path / "cut.json"]
    asked = [
        "model=hf", f"model.name={here / 'model'}",
        "task=pairs", f"task.path={tmp_path}/pairs.jsonl",
        "methods=[eap]", "targets=[0.8]", "curves=false", "ablation=resample", "tracking=disabled",
        f"files=[{','.join(map(str, names))}]",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        command.run(compose("compare", asked), tmp_path / "run", asked)
    rows = json.loads((tmp_path / "run" / "compare.json").read_text())["needed"]
    assert [(row["method"], row["target"]) for row in rows] == [
        ("eap", 0.8), ("importances.json", 0.8), ("importances.pt", 0.8), ("cut.json", None)
    ]  # fmt: skip
    one, other = ({k: v for k, v in row.items() if k not in ("method", "seconds", "circuit")}
                  for row in rows[1:3])  # fmt: skip
    assert one == other and one["edges"] <= scored.graph.n_edges
    assert rows[3]["edges"] == 60 and -9 < rows[3]["error share"] < 1
