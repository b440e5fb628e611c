"""Scores of MIB's own code (Mueller et al. 2025) on small random models, prompts of many lengths.

The files are no part of the project. They are looked for in the folder `mib` of
CIRCUIT_DISCOVERY_DATA, by default ../shared/data beside the project. Theirs are sums over the batch
where ours are means, and an edge that helps is negative in their `exact`; nothing else is adapted,
but for Gemma 2 (see below).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acdc.ablation import Ablation
from acdc.attribution import clean_corrupted, eap, eap_ig, exact
from acdc.bridge import load_pretrained
from acdc.data import Data
from acdc.forward import trace
from acdc.graph import Graph
from acdc.metrics import LOGIT_DIFF, Metric
from acdc.model import Model
from acdc.prompts import Prompts
from acdc.writers import Writers

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
    found = data(name)
    assert off(by_edge(found.graph, score(found, LOGIT_DIFF)), scaled) < PLAIN[name]


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


class AsInput(Ablation):
    """The embedding's change is what a head adds before the norm that follows the heads."""

    name = "a head as input"

    def __init__(self, some: Data, layer: int, head: int) -> None:
        self.model, self.layer, self.head = some.model, layer, head
        self.tokens = {rows: some.prompts.take(rows) for rows in map(tuple, some._rows)}

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        own = self.tokens[tuple(rows)]
        change = self.before_norm(own.corrupt) - self.before_norm(own.clean)
        return Writers(
            clean.graph, clean.W_O, clean.z, torch.cat([clean.rest[:1] + change, clean.rest[1:]])
        )

    def before_norm(self, tokens: torch.Tensor) -> torch.Tensor:
        model, layer, head = self.model, self.layer, self.head
        x, n = trace(model, tokens).streams[2 * layer], tokens.shape[1]
        group = model.kv_head(head)
        q, k, v = (
            model.project(layer, part, own, x, n)
            for part, own in (("q", head), ("k", group), ("v", group))
        )
        return model.pattern(layer, head, q, k) @ v @ model.blocks[layer].attn.norm.W_O[head]


def test_their_scores_of_gemma_2s_heads_leave_the_norm_out():
    """(corrupt - clean) before the norm, times the gradient after it: so MIB's code has it."""
    some = data("gemma2_like")
    graph, wanted, found = some.graph, theirs("gemma2_like", "EAP"), dict[str, float]()
    for layer in range(graph.n_layers):
        for head in range(graph.n_heads):
            scores = by_edge(graph, eap(some.under(AsInput(some, layer, head)), LOGIT_DIFF))
            name = f"a{layer}.h{head}->"
            found |= {
                e: scores[f"input->{e.removeprefix(name)}"] for e in wanted if e.startswith(name)
            }
    assert off(found, {edge: 12 * wanted[edge] for edge in found}) < 1e-6
