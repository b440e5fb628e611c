"""Edge scores: published figures, mask gradients, path integrals, and the dense twin."""

from dataclasses import replace
from functools import partial

import families
import numpy as np
import pytest
import torch
from test_parity import parity_model, parity_prompts
from twin import Twin

from acdc import attribution
from acdc.ablation import ABLATIONS
from acdc.attribution import (
    batch_means,
    clean_corrupted,
    eap,
    eap_ig,
    eap_ig_activations,
    edge_changes,
    exact,
    random_scores,
)
from acdc.data import Data
from acdc.errors import InputError
from acdc.incremental import Cut, States
from acdc.masked import masked_values
from acdc.metrics import METRICS
from acdc.prompts import Prompts
from acdc.spans import spans_of
from discovery.statistics.random_circuits import random_mask

CASES = [
    ("gpt2", "per_query_head"),
    ("llama", "per_query_head"),
    ("llama", "per_group"),
    ("pythia", "per_query_head"),
]
EVERY = [(f, "per_query_head") for f in families.FAMILIES] + [("llama", "per_group")]
METHODS = {
    "exact": exact,
    "eap": eap,
    "eap_ig": partial(eap_ig, steps=5),
    "all_components": partial(eap_ig_activations, steps=5),
    "own_writer": partial(eap_ig_activations, steps=5, runs_of="own_writer"),
    "clean_corrupted": clean_corrupted,
}

view = families.view


def setup(family, kv="per_query_head", ablation="resample", metric="logit_diff", dtype=None, n=2):
    model, prompts = view(family, dtype or torch.float64), families.prompts(n, length=4)
    return Data(model, model.graph(kv), prompts, ABLATIONS[ablation]), METRICS[metric]


def loss(data, metric, mask):
    return metric.sign * torch.cat(list(masked_values(data, metric, mask))).mean()


@pytest.fixture(scope="module")
def parity():
    model = parity_model()
    return Data(model, model.graph(), parity_prompts()), METRICS["logit_diff"]


FIGURES = {  # edge: one figure a method, in the order of METHODS
    "m0->logits": (2.006025, 1.358264, 1.669644, 1.624375, 1.763343, 1.375548),
    "m1->logits": (1.810747, 0.963707, 1.230692, 1.362343, 1.715534, 0.930727),
    "a0.h1->m0": (1.780764, 0.382387, 1.213575, 0.767661, 1.530092, 0.593587),
    "input->a0.h3<v>": (1.031488, 0.336569, 1.338952, 0.326479, 1.161529, 0.780127),
    "input->a0.h3<k>": (0.851096, 1.014297, 0.126186, 0.311189, 0.282225, 0.624200),
    "m0->a1.h0<q>": (-0.033702, -0.053657, 0.025009, -0.023455, -0.070578, 0.017393),
}
CORRELATIONS = (1.0, 0.65, 0.92, 0.88, 0.95, 0.82)  # with `exact`, over all edges


@pytest.mark.parametrize("column", range(len(METHODS)), ids=list(METHODS))
def test_published_figures(parity, column):
    graph, method = parity[0].graph, list(METHODS.values())[column]
    scores = method(*parity)
    found = {name: round(scores[graph.edge(name)], 6) for name in FIGURES}
    assert found == {name: row[column] for name, row in FIGURES.items()}
    assert scores.dtype == np.float64 and not scores[~graph.legal].any()
    together = np.corrcoef(scores[graph.legal], exact(*parity)[graph.legal])[0, 1]
    assert round(together, 2) == CORRELATIONS[column]


@pytest.mark.parametrize("family, kv", CASES, ids=["-".join(c) for c in CASES])
def test_eap_is_the_finite_difference_of_the_mask(family, kv):
    data, metric = setup(family, kv)
    full, scores, step = data.graph.legal.astype(float), eap(data, metric), 1e-4
    for w, r in np.argwhere(data.graph.legal).tolist():
        less, more = full.copy(), full.copy()
        less[w, r], more[w, r] = 1 - step, 1 + step
        slope = (loss(data, metric, less) - loss(data, metric, more)).item() / (2 * step)
        assert scores[w, r] == pytest.approx(slope, abs=1e-6), data.graph.edge_name(w, r)
    assert np.abs(scores).max() > 0.1


@pytest.mark.parametrize("family, kv", EVERY, ids=["-".join(c) for c in EVERY])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_eap_is_the_gradient_of_the_mask(family, kv, ablation):
    for name in ("logit_diff", "prob_diff", "nll"):
        data, metric = setup(family, kv, ablation, name)
        mask = torch.tensor(data.graph.legal, dtype=torch.float64, requires_grad=True)
        loss(data, metric, mask).backward()
        wanted = -mask.grad.numpy() * data.graph.legal
        np.testing.assert_allclose(eap(data, metric), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family, kv", CASES, ids=["-".join(c) for c in CASES])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_integrated_gradients_are_complete(family, kv, ablation, monkeypatch):
    """The edges out of one component add up to what cutting all of them at once does."""
    monkeypatch.setattr(attribution, "POINT_ROWS", 1000)
    data, metric = setup(family, kv, ablation)
    graph = data.graph
    clean = metric.sign * data.values(metric, lambda f: f.clean.logits).mean()

    def limit(method):  # the rules at an end are off by order 1 / steps: extrapolate
        return 2 * method(data, metric, 200) - method(data, metric, 100)

    own = limit(partial(eap_ig_activations, runs_of="own_writer"))
    inputs = own if ablation == "zero" else limit(eap_ig)
    for writers in ([0], [1, 2, 3, 4], [5], [6, 7, 8, 9], [10]):
        if writers == [0] and ablation == "zero":
            continue  # steepest where the norms' input vanishes: converges slowly
        mask = graph.legal.copy()
        mask[writers] = False
        change = (loss(data, metric, mask) - clean).item()
        assert abs(change) > 0.01
        assert own[writers].sum() == pytest.approx(change, rel=0.01, abs=0.005)
        if writers == [0]:
            assert inputs[0].sum() == pytest.approx(change, rel=0.01, abs=0.005)


def test_one_step_is_one_end_of_the_path():
    """EAP-IG of one step has the corrupted gradient, clean-corrupted the mean of both ends'."""
    data, metric = setup("llama")
    ends = eap(data, metric) + eap_ig(data, metric, 1)
    np.testing.assert_allclose(clean_corrupted(data, metric), ends / 2, rtol=0, atol=1e-12)
    at_clean = eap_ig_activations(data, metric, 1, "own_writer")
    np.testing.assert_allclose(at_clean, eap(data, metric), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family, kv", CASES, ids=["-".join(c) for c in CASES])
@pytest.mark.parametrize(
    "ablation, name", [("resample", "kl"), ("zero", "logit_diff"), ("mean", "nll")]
)
def test_exact_is_the_twins_loop(family, kv, ablation, name):
    data, metric = setup(family, kv, ablation, name)
    twin = Twin(data.model, data.graph, data.prompts, ablation, name)
    found, full = exact(data, metric), data.graph.legal
    before, share = twin.value(full), list(ABLATIONS).index(ablation)
    for w, r in np.argwhere(full).tolist()[share::3]:  # every edge in one of the ablations
        mask = full.copy()
        mask[w, r] = False
        effect = metric.sign * (twin.value(mask) - before)
        assert found[w, r] == pytest.approx(effect, abs=1e-9), data.graph.edge_name(w, r)


@pytest.mark.unchecked
@pytest.mark.parametrize("family, kv", EVERY, ids=["-".join(c) for c in EVERY])
@pytest.mark.quick(*("-".join(c) for c in EVERY if c[0] not in ("gemma", "qwen2")))
def test_a_circuit_without_each_edge_is_that_circuit(family, kv):
    """Of edges that it has, some of which lead nowhere, and of one that it has not."""
    model, prompts = view(family), families.prompts(n=3, length=4)
    n, batch = EVERY.index((family, kv)), 1 << (12 if family == "llama" else 30)
    graph = model.graph(kv)
    if n % 3 == 2:
        graph = replace(graph, spans=spans_of(prompts, "tokens"))
    data = Data(model, graph, prompts, ABLATIONS["resample"], part=2, batch_bytes=batch)
    mask = random_mask(graph, graph.n_edges // 3, np.random.default_rng(n))
    mask |= graph.legal & (np.random.default_rng(n).random(mask.shape) < 0.05)
    asked = np.argwhere(graph.legal & ~mask)[:1], np.argwhere(mask)[:: 1 + n % 2]
    edges = np.concatenate([*asked, asked[1][:1]])  # one that is not there, and one twice
    masks = [mask.copy() for _ in edges]
    for one, (w, r) in zip(masks, edges.tolist(), strict=True):
        one[w, r] = False
    metric = METRICS[("logit_diff", "kl", "nll")[n % 3]]
    expected = data.circuits(metric, masks) - data.circuits(metric, [mask])
    found = edge_changes(data, metric, mask, edges)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.ptp(expected, axis=0).min() > 1e-3 and not found[0].any()


def test_a_single_trial_cuts_alone_whatever_else_is_in_the_batch():
    data, metric = setup("llama", "per_group", metric="kl")
    graph, state = data.graph, States(data, metric)
    for layer, part in ((1, "mlp"), (1, "attn")):
        state.enter(layer, part)
    names = ["m0->a1.kv0<v>", "input->a1.h3<q>", "a0.h1->a1.kv0<v>", "m0->a1.kv0<k>"]
    cuts = [Cut(r, (w,)) for w, r in map(graph.edge, names)]
    trial = state.trial(cuts, single=True)
    for name, value in zip(names, state.values(trial), strict=True):
        assert value == pytest.approx(
            loss(data, metric, graph.legal & ~graph.mask([name])).item(), abs=1e-12
        )
    with pytest.raises(ValueError, match="single"):
        state.commit(trial, 0)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "exact"])
def test_a_group_scores_the_sum_of_its_heads(method):
    plain, grouped = (
        METHODS[method](*setup("llama", kv)) for kv in ("per_query_head", "per_group")
    )
    one, two = (view("llama").graph(kv) for kv in ("per_query_head", "per_group"))
    for r, reader in enumerate(two.readers):
        if reader.part in ("k", "v"):
            names = [f"{two.writers[n]}<{reader.part}>" for n in reader.nodes]
        else:
            names = [reader.name]
        copies = plain[:, [one.reader_index[n] for n in names]].sum(1)
        np.testing.assert_allclose(grouped[:, r], copies, rtol=0, atol=1e-12)
    assert np.abs(grouped).max() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_batches_of_prompts_or_points(method, monkeypatch):
    data, metric = setup("pythia", n=3)
    whole, p = METHODS[method](data, metric), data.prompts
    parts = []
    for i in range(3):
        one = Prompts(p.clean[[i]], p.corrupt[[i]], p.answers[i : i + 1], p.wrong[i : i + 1], 3)
        parts.append(METHODS[method](Data(data.model, data.graph, one), metric))
    np.testing.assert_allclose(np.mean(parts, axis=0), whole, rtol=0, atol=1e-12)
    monkeypatch.setattr(attribution, "POINT_ROWS", 1)
    data = Data(data.model, data.graph, data.prompts, batch_bytes=1)
    np.testing.assert_allclose(METHODS[method](data, metric), whole, rtol=0, atol=1e-12)


def test_batch_means_are_means_over_batches_that_add_up():
    """Of 7 prompts in threes: each batch's mean, divided by all, in units of a full one."""
    data, metric = setup("gpt2", n=7)
    alone = [eap(data.take([i]), metric) for i in range(7)]
    batches = [alone[:3], alone[3:6], alone[6:]]
    expected = sum(np.mean(own, axis=0) for own in batches) / 7 * 3
    found = batch_means(partial(eap, metric=metric), data, 3)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    plain = eap(data, metric)
    assert np.abs(found - plain).max() > 0.01 * np.abs(plain).max()
    for size in (1, 7, 20):
        np.testing.assert_array_equal(batch_means(partial(eap, metric=metric), data, size), plain)
    mean, metric = setup("gpt2", n=7, ablation="mean")
    with pytest.raises(InputError, match="batch_means=3 with ablation=mean"):
        batch_means(partial(eap, metric=metric), mean, 3)


@pytest.mark.parametrize("method", METHODS)
def test_float32_twice_is_bit_identical(method):
    data, metric = setup("llama", dtype=torch.float32)
    first, second = METHODS[method](data, metric), METHODS[method](data, metric)
    assert (first == second).all() and first.any()


def test_the_sign_is_that_of_a_loss():
    """Cutting what scores best lowers the logit difference, which should be high."""
    data, metric = setup("gpt2")
    graph = data.graph
    best = np.unravel_index(exact(data, metric).argmax(), graph.legal.shape)
    mask = graph.legal.copy()
    mask[best] = False
    without, whole = data.circuits(metric, [mask, graph.legal]).mean(1)
    assert without < whole


def test_exact_reports_progress():
    data, metric = setup("gpt2")
    calls = []
    exact(data, metric, lambda done, of: calls.append((done, of)))
    assert calls == sorted(calls) and calls[-1] == (data.graph.n_edges,) * 2


def test_random_scores_are_seeded_noise_on_the_edges():
    graph = view("gpt2").graph()
    first, second, other = (random_scores(graph, seed) for seed in (3, 3, 4))
    assert (first == second).all() and (first != other).any()
    assert (first[graph.legal] != 0).all() and not first[~graph.legal].any()
    assert (first < 0).any() and (first > 0).any()


def test_what_cannot_be_asked():
    data, metric = setup("gpt2", metric="kl")
    with pytest.raises(InputError, match=r"exactly zero.*eap_ig.*logit_diff"):
        eap(data, metric)
    assert np.abs(eap_ig(data, metric, 1)).max() > 0
    with pytest.raises(InputError, match="exactly zero"):
        eap_ig_activations(data, metric, 1)
    assert np.abs(eap_ig_activations(data, metric, 2)).max() > 0
    for method in (eap_ig, eap_ig_activations):
        with pytest.raises(InputError, match="steps=0"):
            method(data, metric, 0)
    zero = setup("gpt2", ablation="zero")
    for method in (partial(eap_ig, steps=5), clean_corrupted):
        with pytest.raises(InputError, match="zero input"):
            method(*zero)


def test_gradients_pass_runs_made_in_inference_mode():
    data, metric = setup("gpt2")
    with torch.inference_mode():
        data.circuits(metric, [data.graph.legal])
    found = [method(data, metric) for method in METHODS.values()]
    for ours, method in zip(found, METHODS.values(), strict=True):
        assert (ours == method(*setup("gpt2"))).all()


def test_nan_is_an_error():
    data, metric = setup("gpt2")
    data = data.under(families.Broken("broken"))
    for method in METHODS.values():
        with pytest.raises(FloatingPointError, match="NaN"):
            method(data, metric)
