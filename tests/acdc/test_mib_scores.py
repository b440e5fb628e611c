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

from acdc.attribution import batch_means, clean_corrupted, eap, eap_ig, exact
from acdc.bridge import load_pretrained
from acdc.data import Data
from acdc.graph import Graph
from acdc.metrics import LOGIT_DIFF
from acdc.model import Model
from acdc.prompts import Prompts
from discovery.methods.scores import IFR

BESIDE = Path(__file__).parents[2] / "../shared/data"
FOLDER = Path(os.environ.get("CIRCUIT_DISCOVERY_DATA", BESIDE)) / "mib"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "gpt2_like").is_dir(), reason=f"no figures of MIB in {FOLDER}"
)
Scoring = Callable[..., NDArray[np.float64]]
METHODS: dict[str, tuple[Scoring, float]] = {  # and what theirs are multiplied by
    "EAP": (eap, 12), "EAP-IG-inputs": (partial(eap_ig, steps=5), 12),
    "clean-corrupted": (clean_corrupted, 12), "exact": (exact, -1),
}  # fmt: skip
PLAIN = {"gpt2_like": 1e-8, "gpt2_deep_like": 1e-8, "qwen2_like": 1e-6}  # rotary tables in float32


@cache
def model(name: str) -> Model:
    return load_pretrained(str(FOLDER / name / "model"), torch.float64, "cpu").model


def data(name: str) -> Data:
    """The pairs of all lengths."""
    lines = (FOLDER / name / "pairs_all_lengths.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    prompts = Prompts.of_rows(
        *([row[side] for row in rows] for side in ("clean_ids", "corrupt_ids")),
        *([tuple(row[side]) for row in rows] for side in ("answers", "wrong")),
    )
    return Data(model(name), model(name).graph(), prompts)


def by_edge(graph: Graph, scores: NDArray[np.float64]) -> dict[str, float]:
    edges = [tuple(edge) for edge in np.argwhere(graph.legal).tolist()]
    return {graph.edge_name(*edge): scores[edge] for edge in edges}


def theirs(name: str, method: str, batch: int = 12) -> dict[str, float]:
    found, key = json.loads((FOLDER / name / "scores.json").read_text()), "all_lengths"
    (run,) = (r for r in found["runs"] if r["key"] == f"{key}/{method}/patching/batch{batch}")
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
    found = data(name)
    assert off(by_edge(found.graph, score(found, LOGIT_DIFF)), scaled) < PLAIN[name]


@pytest.mark.parametrize("method", ["EAP", "EAP-IG-inputs"])
def test_the_weights_of_a_short_last_batch_are_theirs(method):
    """12 pairs in batches of 5, 5 and 2; without the option the two differ."""
    score, _ = METHODS[method]
    scaled = {edge: 5 * value for edge, value in theirs("gpt2_like", method, 5).items()}
    some = data("gpt2_like")
    one = partial(score, metric=LOGIT_DIFF)
    assert off(by_edge(some.graph, batch_means(one, some, 5)), scaled) < 1e-8
    assert off(by_edge(some.graph, one(some)), scaled) > 0.1


# ---- Gemma 2: a norm follows the sum of a layer's heads ------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_scores_of_gemma_2_are_theirs_where_no_norm_follows_the_writer(method):
    """Edges from the embedding and the MLPs; a head's share of the norm is another thing."""
    score, factor = METHODS[method]
    some = data("gemma2_like")
    found = by_edge(some.graph, score(some, LOGIT_DIFF))
    scaled = {edge: factor * value for edge, value in theirs("gemma2_like", method).items()}
    heads = [edge for edge in found if ".h" in edge.split("->")[0]]
    largest = max(map(abs, scaled.values()))
    far = {edge: abs(found[edge] - scaled[edge]) / largest for edge in found}
    assert max(value for edge, value in far.items() if edge not in heads) < 1e-6
    assert max(far[edge] for edge in heads) > 1e-3


@pytest.mark.parametrize("method", ["EAP", "EAP-IG-inputs", "clean-corrupted"])
def test_scores_of_gemma_2_are_theirs_with_the_norm_ignored(method):
    """All edges, heads' too."""
    score, factor = METHODS[method]
    some = data("gemma2_like")
    found = score(some, LOGIT_DIFF, post_norm="ignored")
    scaled = {edge: factor * value for edge, value in theirs("gemma2_like", method).items()}
    assert off(by_edge(some.graph, found), scaled) < 1e-6


# ---- information flow routes: their processing is what differs -----------------------------------


@pytest.mark.parametrize("name", [*PLAIN, "gemma2_like"])
def test_shares_with_uniform_weights_are_theirs(name):
    """Biases folded, LayerNorm models centred, positions nobody's, Gemma 2's heads unnormed."""
    some = data(name)
    found = IFR(weights="uniform").scores(some, LOGIT_DIFF, 0)
    found = by_edge(some.graph, found)
    assert off(found, theirs(name, "information-flow-routes")) < PLAIN.get(name, 1e-6)
