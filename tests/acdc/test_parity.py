"""The decisions of the original ACDC code on a fixed model, and of our slow twin, every cell."""

import math

import families
import pytest
import torch
import transformers as hf
from twin import Twin

from acdc.ablation import ABLATIONS
from acdc.bridge import from_module
from acdc.data import Data
from acdc.metrics import METRICS
from acdc.prompts import Prompts
from acdc.search import Order, acdc


def parity_model():
    config = hf.GPT2Config(
        n_layer=2, n_head=4, n_embd=32, vocab_size=50, n_positions=16,
        activation_function="gelu_new", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    module = hf.GPT2LMHeadModel(config).double()
    with torch.no_grad():
        for k, (name, p) in enumerate(module.transformer.named_parameters()):
            i = torch.arange(p.numel(), dtype=torch.float64)
            u = 43758.5453 * torch.sin(12.9898 * i + 78.233 * k + 1)
            u = (u - u.floor() - 0.5).reshape(p.shape)
            layer_norm = "ln_" in name and name.endswith("weight")
            p.copy_(torch.ones_like(p) if layer_norm else 0.2 * u if p.ndim == 1 else u)
    return from_module(module, None, "parity").model


def parity_prompts():
    b, t = torch.arange(8)[:, None], torch.arange(6)[None]
    clean = (7 * b + 3 * t**2 + 5 * b * t + 1) % 50
    corrupt = (11 * b + 13 * t**2 + 2 * b * t + 17) % 50
    good, bad = (29, 13, 29, 42, 15, 10, 29, 10), (42, 30, 4, 23, 29, 46, 18, 46)
    pairs = tuple((g,) for g in good), tuple((x,) for x in bad)
    return Prompts(clean, corrupt, *pairs, answer_position=5)


@pytest.fixture(scope="module")
def model():
    return parity_model()


def search(model, threshold, ablation="resample", metric="kl", chunk=None, **order):
    data = Data(model, model.graph(), parity_prompts(), ABLATIONS[ablation])
    return list(acdc(data, METRICS[metric], threshold, Order(**order), chunk))


def gates_kept(steps):
    return sum(t.kept for s in steps for t in s.tests if s.visit.kind == "gate")


def test_model_is_the_fixture(model):
    prompts = parity_prompts()
    assert prompts.clean[0].tolist() == [1, 4, 13, 28, 49, 26]
    assert prompts.corrupt[0].tolist() == [17, 30, 19, 34, 25, 42]
    forward = families.run(model, model.graph(), prompts)
    kl = forward.bound(METRICS["kl"]).of_logits(forward.corrupt.logits).mean()
    assert kl.item() == pytest.approx(1.379090, abs=5e-7)
    diff = forward.bound(METRICS["logit_diff"])
    assert diff.of_logits(forward.clean.logits).mean().item() == pytest.approx(2.794410, abs=5e-7)
    assert diff.of_logits(forward.corrupt.logits).mean().item() == pytest.approx(
        -1.838989, abs=5e-7
    )


TABLE = [  # threshold, ablation, heads, (edges, gates, final KL) with gates, (edges, KL) without
    (0.03, "resample", "descending", (33, 15, 0.307007), (37, 0.297978)),
    (0.03, "resample", "ascending", (37, 18, 0.274583), (39, 0.255911)),
    (0.03, "zero", "descending", (32, 16, 0.262583), (37, 0.216708)),
    (0.03, "zero", "ascending", (37, 17, 0.198950), (37, 0.198950)),
    (0.01, "resample", "descending", (53, 24, 0.073125), (53, 0.073125)),
    (0.01, "resample", "ascending", (51, 24, 0.079091), (51, 0.079091)),
    (0.01, "zero", "descending", (53, 22, 0.071980), (54, 0.084542)),
    (0.003, "resample", "descending", (72, 24, 0.037849), (72, 0.037849)),
    (0.003, "zero", "ascending", (74, 24, 0.024263), (74, 0.024263)),
]


@pytest.mark.parametrize("threshold, ablation, heads, gated, plain", TABLE)
def test_original_decisions(model, threshold, ablation, heads, gated, plain):
    steps = search(model, threshold, ablation, sender_heads=heads)
    found = steps[-1].n_edges, gates_kept(steps), round(steps[-1].metric, 6)
    assert found == gated
    last = search(model, threshold, ablation, sender_heads=heads, gates=False)[-1]
    assert (last.n_edges, round(last.metric, 6)) == plain


@pytest.mark.parametrize(
    "threshold, edges, kl", [(0.03, 38, 0.257771), (0.01, 54, 0.073997), (0.003, 73, 0.027550)]
)
def test_reader_order_head(model, threshold, edges, kl):
    last = search(model, threshold, reader_order="head", gates=False)[-1]
    assert (last.n_edges, round(last.metric, 6)) == (edges, kl)


def test_kept_edges_gates_and_first_effects(model):
    steps = search(model, 0.03)
    graph, mask = model.graph(), steps[-1].mask
    senders = {
        r.name: [w for w, on in zip(graph.writers, mask[:, i], strict=True) if on]
        for i, r in enumerate(graph.readers)
    }
    kept = {name: writers for name, writers in senders.items() if writers}
    inputs = ["a0.h0<v>", "a0.h1<v>", "a0.h2<v>", "a0.h3<v>"]
    inputs += [f"a0.h{h}<{p}>" for p in "kq" for h in (0, 1, 3)]
    assert kept == {
        "logits": [w for w in graph.writers if w != "input"],
        "m1": ["a0.h0", "a0.h3", "m0", "a1.h0", "a1.h1", "a1.h2", "a1.h3"],
        "a1.h3<v>": ["m0"],
        "a1.h1<v>": ["m0"],
        "m0": ["a0.h0", "a0.h1", "a0.h2", "a0.h3"],
        **{name: ["input"] for name in inputs},
    }
    tests = {t.name(graph): t for s in steps for t in s.tests}
    gates = {n for n, t in tests.items() if t.writer is None and t.kept}
    a1, a0v = {f"a1.h{h}<v>" for h in range(4)}, {f"a0.h{h}<{p}>" for h in range(4) for p in "vk"}
    assert gates == a1 | a0v | {f"a0.h{h}<q>" for h in (0, 1, 3)}
    effects = {
        "m1->logits": 0.669480, "a1.h3->logits": 0.036036, "a1.h2->logits": 0.036052,
        "a1.h3<v>": 0.0878, "a1.h3<q>": -0.0137,
    }  # fmt: skip
    for name, effect in effects.items():
        digits = 6 if "->" in name else 4
        assert tests[name].effect == pytest.approx(effect, abs=0.6 * 10**-digits), name
    assert tests["m1->logits"].order == 0


@pytest.mark.parametrize("chunk", [1, 1000, None])
def test_agrees_with_the_twin(model, chunk):
    twin = Twin(model, model.graph(), parity_prompts(), "resample", "kl")
    mask, gates, tests, value = twin.search(0.03, "layer", True)
    steps = search(model, 0.03, chunk=chunk)
    found = [t for s in steps for t in s.tests]
    assert [t.order for t in found] == list(range(len(found)))
    assert [(t.name(model.graph()), t.kept) for t in found] == [(n, k) for n, _, k in tests]
    for ours, (_, effect, _) in zip(found, tests, strict=True):
        assert math.isclose(ours.effect, effect, abs_tol=1e-9)
    assert (steps[-1].mask == mask).all() and gates_kept(steps) == len(gates)
    assert steps[-1].metric == pytest.approx(value, abs=1e-9)
