"""Edges that come back, edges that go: against a slow twin, and by law."""

from functools import partial

import families
import numpy as np
import pytest
import torch

from acdc import regrow as module
from acdc.data import Data
from acdc.masked import masked_run
from acdc.metrics import METRICS
from acdc.regrow import FAILURES, TRIED, regrow, slopes
from discovery.statistics.random_circuits import random_mask

view = families.view


def error(data, metric, mask):
    return float(
        np.concatenate(
            [f.bound(metric).error(masked_run(f, mask)).detach().numpy() for f in data]
        ).mean()
    )


def gradient(data, metric, mask):
    total = np.zeros(mask.shape)
    for forward in data:
        weights = torch.tensor(mask, dtype=torch.float64, requires_grad=True)
        forward.bound(metric).error(masked_run(forward, weights)).sum().backward()
        total += weights.grad.numpy()
    return np.where(data.graph.legal, total / len(data), 0.0)


def remembered(function):
    """Of a mask, each asked once."""
    known = {}

    def ask(mask):
        key = mask.tobytes()
        if key not in known:
            known[key] = function(mask)
        return known[key]

    return ask


def twin(data, metric, mask, lost, enough):
    """(kind, edges, effect) of every move, by dense runs and autograd."""
    moves, mask, now = [], mask.copy(), lost(mask)
    while not enough(mask):
        slope = gradient(data, metric, mask)
        cut = sorted(map(tuple, np.argwhere(data.graph.legal & ~mask)), key=lambda e: slope[e])
        tried = []
        for edge in [e for e in cut if slope[e] < 0][:TRIED]:
            more = mask.copy()
            more[edge] = True
            tried.append((lost(more), edge))
        if not tried or min(t[0] for t in tried) >= now:
            return moves, mask
        after, edge = min(tried, key=lambda t: t[0])
        mask[edge] = True
        moves.append(("back", (edge,), after - now))
        now = after
    for cost in (abs, lambda slope: -slope):  # what matters least either way, then what may help
        slope, failures = gradient(data, metric, mask), 0
        order = sorted(map(tuple, np.argwhere(mask)), key=lambda e: cost(slope[e]))
        while order and failures < FAILURES:
            many, needed = spared(mask, enough, order)
            for some in many:
                for edge in some:
                    mask[edge] = False
                moves.append(("gone", tuple(some), lost(mask) - now))
                now = lost(mask)
            failures = failures + 1 if needed and not many else int(needed is not None)
            order = order[sum(map(len, many)) + 1 :]
    return moves, mask


def spared(mask, enough, order):
    """What goes together, from the first on, up to the first edge that is needed; and that.

    Sizes double until it is too many, then halve.
    """
    many = []
    for size in (2**i for i in range(20)):
        taken = sum(map(len, many))
        if not order[taken:]:
            break
        if not spares(mask, enough, [*sum(many, []), *order[taken : taken + size]]):
            size = min(size, len(order) - taken)
            while size > 1:
                size //= 2
                if spares(mask, enough, [*sum(many, []), *order[taken : taken + size]]):
                    many.append(order[taken : taken + size])
                    taken += size
            while spares(mask, enough, [*sum(many, []), order[taken]]):
                many.append([order[taken]])
                taken += 1
            return many, order[taken]
        many.append(order[taken : taken + size])
    return many, None


def spares(mask, enough, edges):
    """Whether a circuit is enough without some edges."""
    less = mask.copy()
    for edge in edges:
        less[edge] = False
    return enough(less)


@pytest.mark.unchecked
@pytest.mark.parametrize("metric", ["kl", "logit_diff"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
@pytest.mark.quick("gpt2-kl", "gpt2-logit_diff", "pythia-kl")
def test_moves_are_its_twins(family, metric):
    share = 0.3 if (family == "llama") == (metric == "kl") else 0.6  # each with each of both
    model, own = view(family), METRICS[metric]
    data = Data(model, model.graph(), families.prompts(n=3, length=4), part=2)
    start = random_mask(data.graph, data.graph.n_edges // 4, np.random.default_rng(1))
    lost = remembered(partial(error, data, own))
    most = (1 - share) * lost(np.zeros_like(start))

    def enough(mask):
        return lost(mask) <= most

    expected, mask = twin(data, own, start, lost, enough)
    moves = [m for m in regrow(data, own, start, enough) if m.kind != "needed"]
    assert [(m.kind, m.edges) for m in moves] == [(k, e) for k, e, _ in expected]
    found = [m.effect for m in moves]
    np.testing.assert_allclose(found, [e for *_, e in expected], rtol=0, atol=1e-9)
    assert moves and (moves[-1].mask == mask).all()


def test_slopes_are_the_gradient_of_the_mask():
    model = view("llama")
    data = Data(model, model.graph(), families.prompts(n=3, length=4), part=2)
    mask = random_mask(data.graph, data.graph.n_edges // 2, np.random.default_rng(2))
    expected = gradient(data, METRICS["kl"], mask)
    np.testing.assert_allclose(slopes(data, METRICS["kl"], mask), expected, rtol=0, atol=1e-11)


def test_from_the_model_nothing_comes_back_and_all_can_go():
    model = view("gpt2")
    data = Data(model, model.graph(), families.prompts(n=3, length=4))
    moves = list(regrow(data, METRICS["kl"], data.graph.legal, lambda mask: True))
    assert {m.kind for m in moves} == {"gone"} and not moves[-1].mask.any()


def test_what_cannot_be_helped_ends():
    model = view("gpt2")
    data = Data(model, model.graph(), families.prompts(n=3, length=4))
    moves = list(regrow(data, METRICS["kl"], np.zeros_like(data.graph.legal), lambda mask: False))
    assert all(m.kind == "back" and m.effect < 0 for m in moves)


def test_of_edges_that_promise_the_same_the_first_is_tried_first(monkeypatch):
    """In the order of the mask: so a search ends alike wherever it runs."""
    model = view("llama")
    data = Data(model, model.graph(), families.prompts(length=4))
    mask = random_mask(data.graph, data.graph.n_edges // 2, np.random.default_rng(2))
    promise = np.random.default_rng(3).integers(-1, 2, mask.shape).astype(float)
    monkeypatch.setattr(module, "slopes", lambda *_: promise)
    cut, kept = (
        list(map(tuple, np.argwhere(m).tolist())) for m in (data.graph.legal & ~mask, mask)
    )
    found = module._cut_edges(data, METRICS["kl"], mask)
    assert found == [edge for edge in cut if promise[edge] < 0] and len(found) > 16
    assert len(kept) > 16
    for cost in module.ORDERS:
        found = module._kept_edges(data, METRICS["kl"], mask, cost)
        assert found == sorted(kept, key=lambda e: cost(promise[e]))


def test_many_edges_go_in_few_questions():
    """Of 500 only the 300th is needed: 1, 2, ... 256 at once, then halves down to it, then on."""
    edges, asked = [(i, 0) for i in range(500)], []

    def enough(mask):
        asked.append(int((~mask).sum()))
        return bool(mask[299, 0])

    found = list(module._decided(edges, np.ones((500, 1), bool), enough))
    spared = [some for some, gone in found if gone]
    assert sum(spared, []) == [e for e in edges if e != (299, 0)]
    assert [some for some, gone in found if not gone] == [[(299, 0)]]
    assert asked[:9] == [1, 3, 7, 15, 31, 63, 127, 255, 500] and len(asked) < 32
