"""Iterative attribution: a circuit by hand, nested rounds, minibatches, and where it goes on."""

import families
import numpy as np
import pytest
import torch

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.gradient import LOSSES, lost_share
from acdc.iterative import How, circuit_scores, iterative
from acdc.masked import masked_run
from acdc.metrics import METRICS
from acdc.minibatches import Minibatches
from acdc.selection import best_edges
from discovery.methods.iterative import Iterative

view = families.view


def setup(family="llama", kv="per_group", metric="kl", n=6, part=32):
    model = view(family)
    return Data(model, model.graph(kv), families.prompts(n, length=4), part=part), METRICS[metric]


def some_circuit(graph, share=0.4):
    mask = graph.legal & (np.random.default_rng(3).random(graph.legal.shape) < share)
    return Circuit(graph, mask).pruned().mask


@pytest.mark.parametrize("metric, loss", [("kl", "share"), ("logit_diff", "metric")])
def test_one_point_is_minus_the_gradient_of_the_mask(metric, loss):
    data, metric = setup(metric=metric, n=3)
    circuit = some_circuit(data.graph)
    loss_of = LOSSES[loss](data, metric)
    scores, value = circuit_scores(data, loss_of, circuit, 1)
    mask = torch.tensor(circuit, dtype=torch.float64).requires_grad_()
    wanted = loss_of(data[0], masked_run(data[0], mask)).mean()
    wanted.backward()
    np.testing.assert_allclose(scores, -mask.grad.numpy() * circuit, rtol=0, atol=1e-10)
    assert value == pytest.approx(wanted.item()) and np.abs(scores).max() > 1e-3


@pytest.mark.slow
def test_with_many_points_the_inputs_edges_add_up_to_what_the_input_does():
    """The path integral: loss with the input ablated less loss with it clean."""
    data, metric = setup("gpt2", "per_query_head", n=2)
    circuit = some_circuit(data.graph, 0.9)
    without = circuit.copy()
    without[0] = False
    empty, *ends = data.errors(metric, [np.zeros_like(circuit), without, circuit]).mean(1)
    scores, _ = circuit_scores(data, lost_share(data, metric), circuit, 400)
    scores *= empty
    assert scores[0].sum() == pytest.approx(ends[0] - ends[1], rel=0.02)
    assert abs(ends[0] - ends[1]) > 0.1


@pytest.mark.parametrize("ranking", ["signed", "absolute"])
def test_a_round_drops_the_least_and_what_hung_on_it(ranking):
    data, metric = setup()
    graph, how = data.graph, How(drop=0.3, batch=6, keep=0.0, ranking=ranking)
    last, before = None, graph.legal
    for now in iterative(data, metric, 20, how, 0):
        scores, loss = circuit_scores(data, lost_share(data, metric), before, how.points)
        size = np.abs(scores) if ranking == "absolute" else scores
        order = sorted(np.argwhere(before).tolist(), key=lambda e: (-size[tuple(e)], e))
        kept = np.zeros_like(before)
        for w, r in order[: max(20, int(before.sum() * 0.7))]:
            kept[w, r] = True
        assert (now.mask == Circuit(graph, kept).pruned().mask).all()
        assert now.loss == pytest.approx(loss)
        last, before = now, now.mask
    assert 0 < last.n_edges <= 20 and last.number > 3


def test_the_best_of_the_order_are_the_nested_circuits():
    data, metric = setup(metric="logit_diff")
    rounds = list(iterative(data, metric, 15, How(batch=2), 1))
    order = rounds[-1].order()
    assert ((order > 0) == data.graph.legal).all() and order.max() == 1
    assert len(np.unique(order)) == data.graph.n_edges + 1  # no two alike
    for now in rounds:
        assert (best_edges(data.graph, order, now.n_edges) == now.mask).all()


def test_it_is_far_better_than_chance():
    data, metric = setup("gpt2", "per_query_head", "logit_diff", n=4)
    *_, end = iterative(data, metric, 60, How(batch=4, points=4), 0)
    share = lambda mask: data.errors(metric, [mask]).mean()  # noqa: E731
    rng, graph = np.random.default_rng(0), data.graph
    for _ in range(5):
        mask = best_edges(graph, rng.random(graph.legal.shape) * graph.legal, 60)
        assert share(end.mask) < share(mask) / 2


def test_the_past_is_averaged_in():
    data, metric = setup()
    how = How(batch=2, keep=0.75)
    first, second, *_ = iterative(data, metric, 10, how, 5)
    batches = Minibatches(data, 2, 5)
    loss = lost_share(data, metric)
    one, _ = circuit_scores(batches.at(0), loss, data.graph.legal, how.points)
    two, _ = circuit_scores(batches.at(1), loss, first.mask, how.points)
    np.testing.assert_allclose(first.average[first.mask], one[first.mask], rtol=0, atol=1e-12)
    wanted = (0.75 * one + 0.25 * two)[second.mask]
    np.testing.assert_allclose(second.average[second.mask], wanted, rtol=0, atol=1e-12)
    assert not second.average[~second.mask].any()


def test_it_goes_on_from_any_round():
    data, metric = setup()
    rounds = list(iterative(data, metric, 12, How(batch=4), 2))
    for i in (0, 3, len(rounds) - 1):
        rest = [rounds[i], *iterative(data, metric, 12, How(batch=4), 2, rounds[i])]
        assert len(rest) == len(rounds) - i
        assert (rest[-1].left == rounds[-1].left).all()
        assert (rest[-1].order() == rounds[-1].order()).all()


def test_minibatches_take_turns_whatever_the_parts():
    data, _ = setup(n=7, part=32)
    batches = Minibatches(data, 4, 0)
    assert len(batches) == 2 and batches.data is data  # whose runs are held: no second copy
    for turn in range(6):
        rows = [list(f.rows) for step in (0, 1) for f in batches.at(2 * turn + step)]
        assert sorted(sum(rows, [])) == list(range(7))
    one = Minibatches(setup(n=7, part=3)[0], 4, 0)
    assert len(one.batches[0]) == 2
    for step in range(8):
        rows, same = ([r for f in some.at(step) for r in f.rows] for some in (batches, one))
        assert rows == same
    firsts = {next(batches.at(2 * turn)).rows[0] for turn in range(9)}
    assert firsts == {0, 4}  # drawn anew
    with pytest.raises(InputError, match="batch=0"):
        Minibatches(data, 0, 0)


def test_what_cannot_be_asked():
    data, metric = setup()
    for wrong in (How(drop=0.0), How(drop=1.0), How(keep=1.0), How(points=0)):
        with pytest.raises(InputError, match="needs 0 < drop < 1"):
            next(iterative(data, metric, 5, wrong, 0))
    broken = data.under(families.Broken("broken"))
    with pytest.raises(FloatingPointError, match="NaN"):
        next(iterative(broken, metric, 5, How(), 0))


def test_the_methods_defaults_are_these():
    assert Iterative().how() == How()
