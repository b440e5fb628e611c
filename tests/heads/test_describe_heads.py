"""heads.json on the embedded model: complete, bounded, the same twice."""

import json

import families
import numpy as np
import pytest
import torch
import transformers as hf
from test_settings import settings

from acdc.bridge import from_module
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.forward import trace
from acdc.prompts import Prompts
from discovery.heads import describe
from discovery.heads.describe import describe_heads
from discovery.job.prepare import prepare


@pytest.fixture(scope="module")
def job():
    with torch.inference_mode():
        return prepare(settings("task.n=8", "tracking=disabled"))


def everything(job):
    graph = job.data.graph
    return Circuit(graph, graph.legal, np.where(graph.legal, 1.0, 0.0))


@torch.inference_mode()
def described(job):
    return describe_heads(everything(job), job.data, job.loaded, 0)


def test_every_head_has_scores_patterns_and_writes_that_add_up(job):
    found = described(job)
    forward = job.data[0]
    patterns = trace(forward.model, forward.prompts.clean).patterns
    assert json.loads(json.dumps(found)) == found
    assert len(found["prompts"]) == min(describe.SHOWN, len(job.data)) > describe.WRITTEN
    assert len(found["heads"]) == 16
    assert all(len(e["writes"]) == describe.WRITTEN for e in found["heads"].values())
    for row, prompt in enumerate(found["prompts"]):
        assert prompt["tokens"] == [str(t) for t in forward.prompts.clean[row].tolist()]
        assert prompt["marks"]["end"] == forward.n_pos - 1
    for name, entry in found["heads"].items():
        layer, head = int(name[1]), int(name[4:])
        for row, pattern in enumerate(entry["patterns"]):
            assert [len(line) for line in pattern] == list(range(1, forward.n_pos + 1))
            exact = patterns[layer][row, head]
            for i, line in enumerate(pattern):
                np.testing.assert_allclose(line, exact[i, : i + 1].numpy(), atol=6e-4)
        places = [place["position"] for place in entry["writes"][0]]
        assert places == sorted(set(found["prompts"][0]["marks"].values()))
        for place in entry["writes"][0]:
            raised, lowered = ([v for _, v in place[k]] for k in ("for", "against"))
            assert raised == sorted(raised, reverse=True) and lowered == sorted(lowered)
        for score in entry["scores"].values():
            if "low" in score and score["low"] is not None:
                assert score["low"] <= score["value"] <= score["high"]


def test_every_score_is_in_words(job):
    found = described(job)
    said = found["about"]["scores"]
    scores = {name for entry in found["heads"].values() for name in entry["scores"]}
    assert len(scores) >= 8 and scores <= set(said)
    for name in scores:
        values = [entry["scores"].get(name, {}).get("value") for entry in found["heads"].values()]
        if said[name]["unit"] == "share":
            assert all(0 <= v <= 1 + 1e-6 for v in values if v is not None), name


def test_the_models_own_roles_are_found(job):
    """Previous-token heads below, induction heads that move the answer above."""
    roles = {name: entry["candidates"] for name, entry in described(job)["heads"].items()}
    previous = [n for n, r in roles.items() if "previous token" in r]
    assert "a0.h3" in previous and all(n.startswith("a0") for n in previous)
    induction = [n for n, r in roles.items() if "induction" in r]
    assert len(induction) >= 2 and all(n.startswith("a1") for n in induction)
    assert any("mover" in roles[n] for n in induction)


def test_same_seed_same_bytes(job):
    assert json.dumps(described(job)) == json.dumps(described(job))


@torch.inference_mode()
def test_parts_change_nothing(job):
    """Eight prompts, at once and in parts of three, three and two."""
    data = Data(job.data.model, job.data.graph, job.data.prompts, job.data.ablation, part=3)
    assert data.n_parts == 3
    whole, apart = (
        describe_heads(everything(job), own, job.loaded, 0)["heads"] for own in (job.data, data)
    )
    for name, entry in whole.items():
        for score, value in entry["scores"].items():
            assert apart[name]["scores"][score] == pytest.approx(value, abs=1e-4), (name, score)


def test_patterns_are_bounded(job, monkeypatch):
    """Room for 40 triangles: two prompts of 16 heads; for 5: one prompt of five heads."""
    cells = job.data.n_pos * (job.data.n_pos + 1) // 2
    for room, prompts, heads in ((40, 2, 16), (5, 1, 5)):
        monkeypatch.setattr(describe, "MOST_CELLS", room * cells)
        found = described(job)
        kept = [e for e in found["heads"].values() if e["patterns"]]
        assert len(found["prompts"]) == prompts and len(kept) == heads
        assert all(len(e["patterns"]) == prompts for e in kept)


@torch.inference_mode()
@pytest.mark.parametrize(("vocabulary", "context"), [(3, 6), (19, 1), (20, 7), (30, 8)])
def test_scores_that_a_small_model_cannot_have_are_left_out(vocabulary, context):
    """No copying with a vocabulary of chance, no diagonals without room for a repetition."""
    module = hf.GPT2LMHeadModel(
        hf.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=vocabulary, n_positions=context,
                      bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    families.randomise(module)
    loaded = from_module(module, None, "small")
    n = min(3, context)
    tokens = torch.arange(2 * n).view(2, n) % vocabulary
    prompts = Prompts(tokens, (tokens + 1) % vocabulary, ((0,), (1,)), ((2,), (2,)), n - 1)
    graph = loaded.model.graph()
    data = Data(loaded.model, graph, prompts)
    found = describe_heads(Circuit(graph, graph.legal), data, loaded, 0)
    for entry in found["heads"].values():
        scores = entry["scores"]
        assert ("copying" in scores) == ("anti-copying" in scores) == (vocabulary >= 20)
        assert ("induction" in scores) == (context >= 8)
        assert "direct effect" in scores and "low" not in scores["direct effect"]
        assert "mover" not in entry["candidates"]


def test_an_empty_circuit_has_no_heads(job):
    graph = job.data.graph
    with torch.inference_mode():
        found = describe_heads(Circuit(graph, graph.legal & False), job.data, job.loaded, 0)
    assert found["heads"] == {}
