"""A whole run on a card that is not there, beside the same on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import discovery as cd
from acdc import search
from tests.fake_card import a_card

OF_THE_PLACE = ("edges.jsonl", "heads.json", "routes.jsonl")


def found(device: str, folder: Path, method: str = "acdc") -> cd.Discovered:
    model = cd.load("induction", device=device)
    task = cd.task("induction", model, n=8)
    how = {"threshold": 0.5} if method == "acdc" else {} if method == "best" else {"n_edges": 20}
    return cd.discover(model, task, method, tune=4, test=4, folder=folder, **how)


def test_a_run_on_a_card_finds_and_writes_what_the_cpu_does(tmp_path, monkeypatch):
    """Bit for bit, if it tries as many cuts at once, which a card has reason not to."""
    monkeypatch.setattr(search, "CARD_BATCH_COST", search.BATCH_COST)
    here = found("cpu", tmp_path / "here")
    with a_card(monkeypatch):
        there = found("cuda:0", tmp_path / "there")
    for name in OF_THE_PLACE:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert there.circuit.edges == here.circuit.edges and len(here.circuit) > 3
    written = json.loads((tmp_path / "there" / "result.json").read_text())
    assert written["machine"].endswith("cuda:0") and written["splits"] == here.result["splits"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card here")
@pytest.mark.parametrize("method", ["acdc", "ifr", "eap_ig", "iterative", "learned", "best"])
def test_a_run_on_a_real_card_finds_the_same_again(tmp_path, method):
    there, again = (found("cuda", tmp_path / name, method) for name in ("there", "again"))
    assert there.circuit.edges == again.circuit.edges and len(there.circuit) > 3
    assert again.result["splits"] == there.result["splits"]
    if method in ("acdc", "ifr", "eap_ig"):  # what is learnt need not be the CPU's, bit for bit
        assert found("cpu", tmp_path / "here", method).circuit.edges == there.circuit.edges
    if method == "acdc":
        assert cd.validate(there, budget="1m").verdict
