"""MIB's submissions: what is written is within the rules, and each rule is told when broken."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from acdc import circuit_files
from acdc.attribution import random_scores
from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.selection import top_n
from discovery.mib import submission

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))
mib = importlib.import_module("mib")
SMALL = Graph(2, 2, 2, 8)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Models of two layers in the place of theirs, and a file of scores."""
    monkeypatch.setattr(submission, "SIZES", dict.fromkeys(submission.SIZES, (2, 2)))
    circuit = Circuit(SMALL, np.zeros_like(SMALL.legal), random_scores(SMALL, 1))
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(circuit.to_json()))
    return path


def test_their_models_have_the_edges_that_they_count():
    counts = {"gpt2": 32491, "qwen2.5": 179749, "gemma2": 74218, "llama3": 1592881}
    for name, n_edges in counts.items():
        layers, heads = submission.SIZES[name]
        assert Graph(layers, heads, heads, 8).n_edges == n_edges
    assert len(submission.NAMES) == 13 and len(submission.LIMITS) == 9


@pytest.mark.parametrize("form", ["json", "pt"])
@pytest.mark.parametrize("binary", [False, True])
def test_what_is_written_is_accepted(small, tmp_path, capsys, form, binary):
    out = tmp_path / "mine"
    words = ["submit", str(out), f"ioi_gpt2={small}", f"mcqa_llama3={small}", "--form", form]
    mib.submission(words + ["--circuits"] * binary)
    said = capsys.readouterr().out
    assert "within MIB's stated rules" in said and "wrong" not in said
    files = sorted((out / "ioi_gpt2").iterdir())
    assert [path.suffix for path in files] == [f".{form}"] * (9 if binary else 1)
    scores = circuit_files.load(small).scores
    if not binary:
        assert (circuit_files.load(files[0]).scores == scores).all()
        assert len(circuit_files.read(files[0])["edges"]) == SMALL.n_edges
        return
    for path in files:
        n_edges = int(float(path.stem) / 100 * SMALL.n_edges)
        found = circuit_files.load(path)
        assert (found.mask == top_n(SMALL, scores, n_edges).circuit.mask).all()
        assert (found.scores == found.mask).all()


def test_each_rule_is_told(small, tmp_path, monkeypatch):
    out = tmp_path / "mine"
    submission.write(out, {"ioi_gpt2": small, "mcqa_llama3": small})
    file = out / "ioi_gpt2" / "importances.json"
    good = json.loads(file.read_text())
    assert not [one for one in submission.check(out) if one.wrong]

    def told(**changed):
        file.write_text(json.dumps({**good, **changed}))
        (found,) = (one for one in submission.check(out) if one.wrong)
        assert found.where.startswith("ioi_gpt2")
        return found.says

    edges = good["edges"]
    first = next(iter(edges))
    assert "both score and in_graph" in told(edges={**edges, first: {"score": 1.0}})
    assert "both score and in_graph" in told(edges={**edges, first: {"in_graph": True}})
    assert "score a number" in told(
        edges={**edges, first: {"score": float("nan"), "in_graph": True}}
    )
    assert "'m1->a0.h0<q>'" in told(edges={**edges, "m1->a0.h0<q>": edges[first]})
    assert "'a7.h0'" in told(nodes={"a7.h0": {"in_graph": True}})
    assert "missing or malformed member ('n_layers')" in told(cfg={})
    assert "3 layers x 2 heads; ioi_gpt2 has 2 x 2" in told(cfg={**good["cfg"], "n_layers": 3})
    flat = {name: {"score": 0, "in_graph": False} for name in edges}
    assert "1 circuits; nine are asked for" in told(edges=flat)
    monkeypatch.setattr(submission, "MOST_BYTES", 100)
    assert all("above 50 MB" in one.says for one in submission.check(out) if one.wrong)


def test_rules_of_the_folder(small, tmp_path):
    out = tmp_path / "mine"
    submission.write(out, {"ioi_gpt2": small}, binary=True)
    warned = [one.says for one in submission.check(out)]
    assert warned[0].startswith("1 tasks (ioi)") and warned[1].startswith("1 models (gpt2)")
    large, small_one = out / "ioi_gpt2" / "50.json", out / "ioi_gpt2" / "0.1.json"
    small_one.write_bytes(large.read_bytes())  # two of the largest: one is at the 20 % place
    (found,) = (one for one in submission.check(out) if one.wrong)
    assert "its place allows 20 % at most" in found.says
    (out / "ioi_gpt2" / "more.json").write_bytes(large.read_bytes())
    (out / "ioi_gpt3").mkdir()
    (out / "mcqa_llama3").mkdir()
    said = {one.where: one.says for one in submission.check(out) if one.wrong}
    assert said["ioi_gpt2"].startswith("10 files") and "no entry" in said["ioi_gpt3"]
    assert said["mcqa_llama3"] == "no .json or .pt file"


def test_refusals(small, tmp_path, capsys):
    for words, said in (
        (["submit", f"{tmp_path}/x", f"ioi_gpt3={small}"], "ioi_gpt3: no entry of MIB's"),
        (["submit", f"{tmp_path}/x", "ioi_gpt2"], "ioi_gpt2: write NAME=PATH"),
        (["submit", str(tmp_path), f"ioi_gpt2={small}"], "holds something already"),
        (["check", f"{tmp_path}/nowhere"], "there is no such folder"),
    ):
        with pytest.raises(SystemExit) as stop:
            mib.submission(words)
        assert stop.value.code == 2 and said in capsys.readouterr().err
    torch.save({"cfg": {}}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match="cfg"):
        submission.write(tmp_path / "x", {"ioi_gpt2": tmp_path / "bad.pt"})
