"""Scores of MIB's own code (Mueller et al. 2025) on small random models, prompts of many lengths.

The files are no part of the project. They are looked for in the folder `mib` of
CIRCUIT_DISCOVERY_DATA, by default ../shared/data beside the project. Theirs are sums over the batch
where ours are means, and an edge that helps is negative in their `exact`; nothing else is adapted,
but for Gemma 2 (see below).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acdc.attribution import clean_corrupted, eap, eap_ig, exact
from acdc.bridge import load_pretrained
from acdc.data import Data
from acdc.metrics import LOGIT_DIFF, Metric
from acdc.model import Model
from acdc.prompts import Prompts

BESIDE = Path(__file__).parents[2] / "../shared/data"
FOLDER = Path(os.environ.get("CIRCUIT_DISCOVERY_DATA", BESIDE)) / "mib"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "gpt2_like").is_dir(), reason=f"no figures of MIB in {FOLDER}"
)
Scoring = Callable[[Data, Metric], NDArray[np.float64]]
METHODS: dict[str, tuple[Scoring, float]] = {  # and what theirs are multiplied by
    "EAP": (eap, 12), "EAP-IG-inputs": (partial(eap_ig, steps=5), 12),
    "clean-corrupted": (clean_corrupted, 12), "exact": (exact, -1),
}  # fmt: skip
PLAIN = {"gpt2_like": 1e-8, "gpt2_deep_like": 1e-8, "qwen2_like": 1e-6}  # rotary tables in float32


@cache
def model(name: str) -> Model:
    return load_pretrained(str(FOLDER / name / "model"), torch.float64, "cpu").model


def data(name: str) -> list[Data]:
    """The pairs of all lengths, those of one length together."""
    lines = (FOLDER / name / "pairs_all_lengths.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    found = list[Data]()
    for length in sorted({len(row["clean_ids"]) for row in rows}):
        own = [row for row in rows if len(row["clean_ids"]) == length]
        clean, corrupt = (torch.tensor([r[f"{s}_ids"] for r in own]) for s in ("clean", "corrupt"))
        answers, wrong = (tuple(tuple(r[s]) for r in own) for s in ("answers", "wrong"))
        some = Prompts(clean, corrupt, answers, wrong, length - 1)
        found.append(Data(model(name), model(name).graph(), some))
    return found


def ours(name: str, method: Scoring) -> dict[str, float]:
    """Scores by edge: means over all pairs."""
    parts = [(len(part), method(part, LOGIT_DIFF)) for part in data(name)]
    scores = sum(n * found for n, found in parts) / sum(n for n, _ in parts)
    graph = model(name).graph()
    return {
        graph.edge_name(*edge): scores[tuple(edge)] for edge in np.argwhere(graph.legal).tolist()
    }


def theirs(name: str, method: str) -> dict[str, float]:
    found = json.loads((FOLDER / name / "scores.json").read_text())
    (run,) = (r for r in found["runs"] if r["key"] == f"all_lengths/{method}/patching/batch12")
    return dict(zip(found["edges"], run["scores"], strict=True))


def off(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest difference, of the largest."""
    assert one.keys() == other.keys()
    largest = max(map(abs, other.values()))
    return max(abs(one[edge] - other[edge]) for edge in one) / largest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PLAIN)
def test_scores_are_theirs(name, method):
    if name == "gpt2_deep_like" and method == "clean-corrupted":
        pytest.skip("not among their figures")
    score, factor = METHODS[method]
    scaled = {edge: factor * value for edge, value in theirs(name, method).items()}
    assert off(ours(name, score), scaled) < PLAIN[name]
