"""A whole run on a card that is not there, beside the same on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import discovery as cd
from tests.fake_card import a_card

OF_THE_PLACE = ("edges.jsonl", "heads.json")


def found(device: str, folder: Path) -> cd.Discovered:
    model = cd.load("induction", device=device)
    task = cd.task("induction", model, n=8)
    return cd.discover(model, task, threshold=0.5, tune=4, test=4, folder=folder)


def test_a_run_on_a_card_finds_and_writes_what_the_cpu_does(tmp_path, monkeypatch):
    here = found("cpu", tmp_path / "here")
    with a_card(monkeypatch):
        there = found("cuda:0", tmp_path / "there")
    for name in OF_THE_PLACE:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert there.circuit.edges == here.circuit.edges and len(here.circuit) > 3
    written = json.loads((tmp_path / "there" / "result.json").read_text())
    assert written["machine"].endswith("cuda:0") and written["splits"] == here.result["splits"]
