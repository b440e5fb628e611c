"""The fast search against its slow twin, and laws of the search."""

import itertools

import families
import numpy as np
import pytest
import torch
from toys import or_gate, or_prompts
from twin import Twin

from acdc.ablation import ABLATIONS
from acdc.attribution import random_scores
from acdc.data import Data
from acdc.errors import InputError
from acdc.metrics import METRICS, two_sided
from acdc.search import Budget, Guide, Order, acdc
from acdc.selection import best_edges
from discovery.statistics.random_circuits import random_mask

CASES = [
    ("gpt2", "per_query_head"),
    ("llama", "per_query_head"),
    ("llama", "per_group"),
    ("pythia", "per_query_head"),
]
SHAPES = list(itertools.product(["layer", "head"], [True, False]))  # reader order, gates
THRESHOLDS = {"kl": (0.002, 0.02, 0.2), "logit_diff": (0.01, 0.1, 0.6)}


view = families.view


def some(first, second):
    """Pairs of the two in which each of either is met; the others are slow."""
    return [
        pytest.param(a, b, marks=pytest.mark.slow if (i - j) % len(second) else ())
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]


def search(model, kv, prompts, ablation, metric, threshold, order, chunk=None, guide=None):
    data = Data(model, model.graph(kv), prompts, ABLATIONS[ablation])
    return list(acdc(data, METRICS[metric], threshold, order, chunk, guide))


@pytest.mark.unchecked
@pytest.mark.parametrize("case, shape", some(range(len(CASES)), range(len(SHAPES))))
@pytest.mark.quick("0-0", "3-3")
def test_same_decisions_and_effects_as_the_twin(case, shape):
    """Each model with each shape of the search, and each of both with every ablation."""
    (family, kv), (reader_order, gates) = CASES[case], SHAPES[shape]
    ablation = list(ABLATIONS)[(case + shape) % len(ABLATIONS)]
    model, prompts = view(family), families.prompts(n=2, length=4)
    graph, kept_counts = model.graph(kv), []
    for metric, thresholds in THRESHOLDS.items():
        twin = Twin(model, graph, prompts, ablation, metric)
        for threshold in thresholds:
            mask, gates_kept, tests, value = twin.search(threshold, reader_order, gates)
            order = Order(reader_order=reader_order, gates=gates)
            for chunk in (1, 1000):
                args = model, kv, prompts, ablation, metric, threshold, order, chunk
                steps = search(*args)
                found = [t for s in steps for t in s.tests]
                names = [(t.name(graph), t.kept) for t in found]
                assert names == [(n, k) for n, _, k in tests]
                effects = np.array([t.effect for t in found])
                np.testing.assert_allclose(effects, [e for _, e, _ in tests], rtol=0, atol=1e-9)
                assert (steps[-1].mask == mask).all()
                assert steps[-1].metric == pytest.approx(value, abs=1e-9)
            kept_counts.append(int(mask.sum()))
    assert len(set(kept_counts)) > 2 and max(kept_counts) > 5  # the thresholds do bite


@pytest.mark.unchecked
@pytest.mark.parametrize("case, shape", some(range(len(CASES)), range(len(SHAPES))))
@pytest.mark.quick("2-2")
def test_a_guided_search_is_its_twins_too(case, shape):
    (family, kv), (reader_order, gates) = CASES[case], SHAPES[shape]
    model, prompts = view(family), families.prompts(n=2, length=4)
    graph = model.graph(kv)
    scores = random_scores(graph, seed=1)
    shortlist = best_edges(graph, scores, graph.n_edges // 3, "absolute")
    twin, order = Twin(model, graph, prompts, "resample", "kl"), Order(reader_order, gates=gates)
    for guide in (Guide(scores), Guide(None, shortlist), Guide(scores, shortlist)):
        mask, _, tests, value = twin.search(
            0.02, reader_order, gates, scores=guide.weakest_first, shortlist=guide.shortlist
        )
        for chunk in (1, 1000):
            args = model, kv, prompts, "resample", "kl", 0.02, order, chunk, guide
            steps = search(*args)
            found = [t for s in steps for t in s.tests]
            assert [(t.name(graph), t.kept) for t in found] == [(n, k) for n, _, k in tests]
            assert (steps[-1].mask == mask).all()
            assert steps[-1].metric == pytest.approx(value, abs=1e-9)
            assert sum(s.damage for s in steps) == pytest.approx(twin.damage, abs=1e-9)
            skipped = sum(s.n_skipped for s in steps)
            assert (skipped > 0) == (guide.shortlist is not None)
            assert guide.shortlist is None or not (mask & ~guide.shortlist).any()


@pytest.mark.unchecked
@pytest.mark.parametrize("case, gates", some(range(len(CASES)), [True, False]))
@pytest.mark.quick("0-True", "1-False")
def test_a_search_from_a_circuit_within_a_budget_is_its_twins(case, gates):
    """Each model with gates and without, and each of both with either metric."""
    (family, kv), metrics = CASES[case], (METRICS["kl"], two_sided(METRICS["logit_diff"]))
    metric, model = metrics[(case + gates) % 2], view(family)
    prompts = families.prompts(n=2, length=4)
    graph = model.graph(kv)
    some = random_mask(graph, graph.n_edges // 3, np.random.default_rng(0))
    twin, kept = Twin(model, graph, prompts, "resample", metric.name), []
    empty = twin.value(np.zeros_like(graph.legal))
    for start, rule in itertools.product((None, some), (0.02, Budget(0.3 * empty, 0.5))):
        budget = (rule.total, rule.power) if isinstance(rule, Budget) else None
        limit = rule if budget is None else 0.0
        mask, _, tests, value = twin.search(limit, "layer", gates, start=start, budget=budget)
        data, order = Data(model, graph, prompts), Order(gates=gates)
        for chunk in (1, 1000):
            steps = list(acdc(data, metric, rule, order, chunk, Guide(start=start)))
            found = [t for s in steps for t in s.tests]
            assert [(t.name(graph), t.kept) for t in found] == [(n, k) for n, _, k in tests]
            effects = [t.effect for t in found]
            np.testing.assert_allclose(effects, [e for _, e, _ in tests], rtol=0, atol=1e-9)
            assert (steps[-1].mask == mask).all()
            assert steps[-1].metric == pytest.approx(value, abs=1e-9)
        if start is None and budget is not None:
            assert value <= rule.total  # what a budget is for
        kept.append(int(mask.sum()))
    assert len(set(kept)) > 2 and min(kept) > 0


def test_a_budget_wants_a_metric_that_is_zero_at_the_model():
    model, prompts = view("gpt2"), families.prompts()
    with pytest.raises(InputError, match="metric=logit_diff: a budget needs one that is 0 at"):
        search(model, "per_query_head", prompts, "resample", "logit_diff", Budget(1.0), Order())


def test_a_guide_that_lists_everything_changes_nothing():
    model, prompts = view("gpt2"), families.prompts()
    args = model, "per_query_head", prompts, "resample", "kl", 0.02, Order(), None
    plain = search(*args)
    listed = [s for s in search(*args, Guide(None, model.graph().legal)) if s.visit.kind != "skip"]
    assert [s.tests for s in plain] == [s.tests for s in listed]
    assert sum(s.n_skipped for s in listed) == 0


@pytest.mark.parametrize("family", families.FAMILIES)
def test_state_and_a_fresh_dense_run_agree(family):
    model, prompts = view(family), families.prompts(n=4)
    data = Data(model, model.graph(), prompts)
    for name, threshold in (("kl", 0.02), ("prob_diff", 0.001), ("nll", 0.02), ("logit_diff", 0.1)):
        metric = METRICS[name]
        last = list(acdc(data, metric, threshold))[-1]
        fresh = data.circuits(metric, [last.mask]).mean()
        assert last.metric == pytest.approx(fresh, abs=1e-10)
        assert 0 < last.n_edges < data.graph.n_edges
        assert last.n_settled == data.graph.n_edges


def test_extreme_thresholds():
    model, prompts = view("gpt2"), families.prompts()
    args = model, "per_query_head", prompts, "resample", "kl"
    everything = search(*args, -1e9, Order())[-1]
    assert everything.n_edges == model.graph().n_edges and everything.metric == pytest.approx(0)
    nothing = search(*args, 1e9, Order())[-1]
    data = Data(model, model.graph(), prompts)
    kl = data[0].bound(METRICS["kl"]).of_logits(data[0].corrupt.logits)
    assert nothing.n_edges == 0 and nothing.metric == pytest.approx(kl.mean().item(), abs=1e-10)


def test_an_edge_whose_effect_is_exactly_the_threshold_stays():
    """In the OR gate every effect is 0 or 1, without rounding."""
    args = or_gate(), "per_query_head", or_prompts(), "zero", "logit_diff"
    at, above = search(*args, 1.0, Order())[-1], search(*args, 1.0 + 1e-9, Order())[-1]
    assert at.metric == 1.0 and above.metric == 0.0
    assert at.n_edges > 0 == above.n_edges


def test_equal_outputs_have_no_effect():
    """Removing an edge from a writer whose clean and corrupted outputs agree changes nothing."""
    prompts = families.prompts()
    prompts = type(prompts)(prompts.clean, prompts.clean, prompts.answers, prompts.wrong, 5)
    steps = search(view("llama"), "per_query_head", prompts, "resample", "kl", 1e-12, Order())
    assert steps[-1].n_edges == 0
    assert all(abs(t.effect) < 1e-12 for s in steps for t in s.tests)


def test_random_sender_order_is_seeded():
    model, prompts = view("gpt2"), families.prompts()
    args = model, "per_query_head", prompts, "resample", "kl", 0.02
    runs = [
        [t for s in search(*args, Order(sender_heads="random", seed=seed)) for t in s.tests]
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_float32_twice_is_bit_identical():
    model, prompts = view("llama", torch.float32), families.prompts(n=4)
    args = model, "per_query_head", prompts, "resample", "kl", 0.02, Order()
    first, second = search(*args), search(*args)
    assert [s.tests for s in first] == [s.tests for s in second]
    assert (first[-1].mask == second[-1].mask).all()


def test_nan_is_an_error_not_a_kept_edge():
    model, prompts = view("gpt2"), families.prompts()
    data = Data(model, model.graph(), prompts, families.Broken("broken"))
    with pytest.raises(FloatingPointError, match="logits"):
        list(acdc(data, METRICS["kl"], 0.1))
