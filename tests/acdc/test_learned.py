"""Learnt masks: budgets met, gradients by finite differences, a step by hand, where it goes on."""

import math

import families
import numpy as np
import pytest
import torch

from acdc.data import Data
from acdc.errors import InputError
from acdc.learned import NEGLIGIBLE, How, State, learn, ranked, start, through_top_k, top_k
from acdc.masked import masked_run
from acdc.metrics import METRICS
from acdc.minibatches import Minibatches
from acdc.selection import best_edges

view = families.view


def setup(family="llama", kv="per_group", metric="kl", n=6):
    model = view(family)
    return Data(model, model.graph(kv), families.prompts(n, length=4)), METRICS[metric]


def some_scores(n=40, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(0, 3, n))


@pytest.mark.parametrize("k", [0.01, 1.0, 7.5, 39.0, 39.99])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_a_mask_adds_up_to_its_budget_and_keeps_the_order(k, temperature):
    scores = some_scores()
    mask = top_k(scores, k, temperature)
    assert mask.sum().item() == pytest.approx(k, rel=1e-9)
    assert (mask[scores.argsort()].diff() >= 0).all()
    if k < 39:
        assert (top_k(scores, k + 0.9, temperature) >= mask).all()


def test_two_edges_by_hand():
    """s = (0, 1), k = 1: by symmetry tau = 1/2, so m = sigmoid(-+ 1/2) at T = 1."""
    mask = top_k(torch.tensor([0.0, 1.0]).double(), 1.0, 1.0)
    upper = 1 / (1 + math.exp(-0.5))
    assert mask.tolist() == pytest.approx([1 - upper, upper])
    # raising one score moves both by the same: p / T (g - (g1 + g2) / 2)
    p = upper * (1 - upper)
    found = through_top_k(torch.tensor([3.0, 1.0]).double(), mask, 1.0)
    assert found.tolist() == pytest.approx([p, -p])


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_implicit_gradient_is_the_finite_difference(temperature):
    scores, weights, step = some_scores(), some_scores(seed=1), 1e-5

    def loss(scores):
        return (weights * top_k(scores, 6.0, temperature) ** 2).sum().item()

    mask = top_k(scores, 6.0, temperature)
    found = through_top_k(2 * weights * mask, mask, temperature)
    for i in range(len(scores)):
        less, more = scores.clone(), scores.clone()
        less[i] -= step
        more[i] += step
        slope = (loss(more) - loss(less)) / (2 * step)
        assert found[i].item() == pytest.approx(slope, abs=1e-8)
    assert found.abs().max() > 0.1 and found.sum().item() == pytest.approx(0, abs=1e-12)


def test_a_start_is_minus_the_logarithm_of_the_rank():
    graph = view("gpt2").graph()
    ranking = np.where(graph.legal, np.random.default_rng(0).random(graph.legal.shape), 0)
    within = best_edges(graph, ranking, 30)
    first = start(ranking, within)
    order = np.argsort(-ranking[within])
    assert first.scores[order].tolist() == pytest.approx([-math.log(i) for i in range(1, 31)])
    all_ = ranked(graph, ranking, within, first)
    for n in (1, 12, 30, 31, 50):
        assert (best_edges(graph, all_, n) == best_edges(graph, ranking, n)).all()
    assert (all_[within] >= 1).all() and not all_[~graph.legal].any() and all_.max() < 10


@pytest.mark.parametrize("metric, loss", [("kl", "share"), ("logit_diff", "metric")])
def test_two_steps_by_the_definition(metric, loss):
    """Gradients by autograd through the whole model and torch's own Adam."""
    data, metric = setup(metric=metric)
    graph, how = data.graph, How(5.0, 40.0, steps=4, batch=3, rate=0.2, loss=loss)
    ranking = np.where(graph.legal, np.random.default_rng(0).random(graph.legal.shape), 0)
    within = best_edges(graph, ranking, 60)
    edges = torch.tensor(within)
    empty = data.errors(metric, [np.zeros_like(within)]).mean()
    first = start(ranking, within)
    scores = first.scores.clone().requires_grad_()
    adam = torch.optim.Adam([scores], lr=1.0, betas=(0.9, 0.99), eps=1e-10)
    states = list(learn(data, metric, within, first, how, 7))
    for step, state in enumerate(states):
        heat = 1.0 * 0.1 ** (step / 3)
        budget = 5 * 8 ** np.random.default_rng([7, step]).random()
        (forward,) = Minibatches(data, 3, 7).at(step)
        with torch.no_grad():
            tau = scores - heat * torch.logit(top_k(scores, budget, heat))  # of each the same
        weights = torch.zeros(graph.legal.shape, dtype=torch.float64)
        soft = torch.sigmoid((scores - tau.mean()) / heat)
        weights[edges] = soft * (soft > NEGLIGIBLE)
        bound, logits = forward.bound(metric), masked_run(forward, weights)
        value = bound.error(logits) / empty if loss == "share" else -bound.of_logits(logits)
        (by_mask,) = torch.autograd.grad(value.mean(), weights)
        scores.grad = through_top_k(by_mask[edges], weights[edges].detach(), heat)
        adam.param_groups[0]["lr"] = 0.2 * (1 - step / 4)
        adam.step()
        torch.testing.assert_close(state.scores, scores.detach(), atol=1e-4, rtol=0)
        assert state.loss == pytest.approx(value.mean().item(), abs=1e-5)
        assert state.budget == pytest.approx(budget)
    assert (states[-1].scores - first.scores).abs().max() > 0.1


def test_learning_beats_what_it_starts_from():
    data, metric = setup("gpt2", "per_query_head", n=4)
    graph = data.graph
    noise = np.where(graph.legal, np.random.default_rng(0).random(graph.legal.shape), 0)
    first, how = start(noise, graph.legal), How(10.0, 80.0, steps=80, batch=4, rate=0.3)
    *_, end = learn(data, metric, graph.legal, first, how, 0)
    errors = [
        data.errors(metric, [best_edges(graph, s, 40)]).mean()
        for s in (noise, ranked(graph, noise, graph.legal, end))
    ]
    assert errors[1] < errors[0] / 4


def test_it_goes_on_from_any_step():
    data, metric = setup()
    graph, how = data.graph, How(5.0, 50.0, steps=6, batch=4)
    first = start(graph.legal * 1.0, graph.legal)
    states = list(learn(data, metric, graph.legal, first, how, 3))
    for i in (0, 2, 5):
        rest = [states[i], *learn(data, metric, graph.legal, states[i], how, 3)]
        assert len(rest) == 6 - i and torch.equal(rest[-1].scores, states[-1].scores)


def test_what_cannot_be_asked():
    data, metric = setup()
    graph = data.graph
    first = start(graph.legal * 1.0, graph.legal)
    for sizes in ((0.0, 5.0), (6.0, 5.0), (5.0, float(graph.n_edges))):
        with pytest.raises(InputError, match="not within the"):
            next(learn(data, metric, graph.legal, first, How(*sizes), 0))
    broken = data.under(families.Broken("broken"))
    with pytest.raises(FloatingPointError, match="NaN"):
        next(learn(broken, metric, graph.legal, first, How(5.0, 50.0), 0))
    assert isinstance(first, State)
