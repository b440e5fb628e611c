"""The constructed circuits are true: edges that are not in them never matter, those in them do."""

from functools import cache

import numpy as np
import pytest
import torch

from acdc.ablation import ABLATIONS
from acdc.data import Data
from acdc.metrics import LOGIT_DIFF
from discovery.truth.constructed import CIRCUITS, N, cases

ABLATED = ("resample", "mean", "zero")
ALL = [f"{name}-{ablation}" for name in CIRCUITS for ablation in ABLATED]


@cache
def made():
    return {f"{case.name}-{case.ablation}": case for case in cases(3)}


@pytest.fixture(params=ALL)
def case(request):
    assert list(made()) == ALL
    return made()[request.param]


def logits(case, masks):
    data = Data(case.model, case.graph, case.searched, ABLATIONS[case.ablation])
    with torch.no_grad():
        return [torch.cat(data.each(lambda f, m=m: f.run(m))) for m in masks]


def test_the_model_does_the_task_and_so_does_the_circuit(case):
    data = Data(case.model, case.graph, case.prompts, ABLATIONS[case.ablation])
    model, circuit, empty = data.circuits(LOGIT_DIFF, [case.graph.legal, case.edges,
                                                       case.edges & False])  # fmt: skip
    assert len(case.prompts) == N and (model > 0.9).all()
    assert np.abs(circuit - model).max() < 1e-9
    assert empty.mean() < 0.2 * model.mean()


def test_edges_outside_never_matter_whatever_else_is_cut(case):
    rng = np.random.default_rng(0)
    some = [case.graph.legal & (rng.random(case.edges.shape) < p) for p in (0.3, 0.6, 0.9, 0.97)]
    some += [case.graph.legal & ~case.edges | keep for keep in (case.edges & s for s in some)]
    for mask, true in zip(logits(case, some), logits(case, [s & case.edges for s in some]),
                          strict=True):  # fmt: skip
        assert (mask - true).abs().max() < 1e-9


def test_every_true_edge_matters_alone_or_with_one_more_cut(case):
    true = np.argwhere(case.edges).tolist()

    def without(*cut):
        mask = case.edges.copy()
        for writer, reader in cut:
            mask[writer, reader] = False
        return mask

    def changes(edge, *cut):
        one, other = logits(case, [without(*cut), without(edge, *cut)])
        return float((one - other).abs().max())

    alone = {case.graph.edge_name(*e) for e in true if changes(e) > 1e-3}
    for edge in true:
        if case.graph.edge_name(*edge) not in alone:
            assert any(changes(edge, other) > 1e-3 for other in true if other != edge)
    spare = len(true) - len(alone)
    if case.name == "or":  # one branch is enough
        assert spare == len(true) - 1
    elif (
        case.name == "mover" and case.ablation == "zero"
    ):  # the backup's own, but for what stops it
        assert spare == 5
    else:
        assert spare == 0


def test_seeds_differ_and_repeat():
    one, again, other = (next(cases(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.model.W_E, again.model.W_E)
    assert torch.equal(one.prompts.clean, again.prompts.clean)
    assert not torch.equal(one.model.W_E, other.model.W_E)
