"""Gradients of a masked run: the definition differentiated, finite differences, EAP, by hand."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc.ablation import ABLATIONS
from acdc.attribution import eap
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.gradient import LOSSES, MaskedRun
from acdc.masked import masked_run
from acdc.metrics import METRICS

EVERY = [(f, "per_query_head") for f in families.FAMILIES] + [("llama", "per_group")]
view = families.view


def setup(family, kv="per_query_head", ablation="resample", n=2):
    model = view(family)
    return Data(model, model.graph(kv), families.prompts(n, length=4), ABLATIONS[ablation])


def any_mask(graph, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.uniform(-0.2, 1.2, graph.legal.shape))


CASES = [(*case, "resample") for case in EVERY] + [("llama", "per_group", a) for a in ABLATIONS]


@pytest.mark.parametrize("family, kv, ablation", CASES, ids=["-".join(c) for c in CASES])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_it_is_the_definition_differentiated(family, kv, ablation, share):
    data = setup(family, kv, ablation)
    forward, graph, rng = data[0], data.graph, np.random.default_rng(1)
    within = graph.legal & (rng.random(graph.legal.shape) < share)
    for metric, loss in (("kl", "share"), ("logit_diff", "share"), ("logit_diff", "metric")):
        loss_of = LOSSES[loss](data, METRICS[metric])
        run = MaskedRun(forward, any_mask(graph), within)
        mask = (any_mask(graph) * torch.tensor(within)).requires_grad_()
        logits = masked_run(forward, mask)
        torch.testing.assert_close(run.logits, logits, atol=1e-10, rtol=0)
        loss_of(forward, logits).sum().backward()
        found = run.gradient(loss_of(forward, run.logits))
        wanted = mask.grad * torch.tensor(within)
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
        assert found.abs().max() > 1e-6


def test_it_is_the_finite_difference():
    forward = setup("llama", "per_group")[0]
    graph, step = forward.graph, 1e-5
    bound, mask = forward.bound(METRICS["kl"]), any_mask(graph)

    def loss(mask):
        return bound.error(MaskedRun(forward, mask, graph.legal).logits).sum()

    run = MaskedRun(forward, mask, graph.legal)
    found = run.gradient(bound.error(run.logits))
    for w, r in np.argwhere(graph.legal)[::5].tolist():
        less, more = mask.clone(), mask.clone()
        less[w, r] -= step
        more[w, r] += step
        slope = (loss(more) - loss(less)).item() / (2 * step)
        assert found[w, r].item() == pytest.approx(slope, abs=1e-6), graph.edge_name(w, r)


def test_at_the_model_it_is_edge_attribution_patching():
    model = view("gpt2")
    data, metric = Data(model, model.graph(), families.prompts(3)), METRICS["logit_diff"]
    run = MaskedRun(data[0], torch.ones(data.graph.legal.shape), data.graph.legal)
    found = run.gradient(LOSSES["metric"](data, metric)(data[0], run.logits)) / 3
    np.testing.assert_allclose(-found.numpy(), eap(data, metric), rtol=0, atol=1e-10)


def test_a_share_lost_by_hand():
    """The model loses nothing, the empty circuit all; each metric as far as it is from either."""
    data, nothing = setup("llama", n=3), np.zeros_like(setup("llama").graph.legal)
    forward, some = data[0], any_mask(data.graph) > 0.5
    for name in ("kl", "logit_diff"):
        metric, loss = METRICS[name], LOSSES["share"](data, METRICS[name])
        lost = [
            loss(forward, forward.run(mask & data.graph.legal)).mean().item()
            for mask in (np.ones_like(nothing), nothing, some.numpy())
        ]
        assert lost[:2] == pytest.approx([0, 1], abs=0.03)  # an error's bottom is round
        both = [METRICS["kl"], metric]
        errors = np.array(
            [data.errors(m, [some.numpy() & data.graph.legal, nothing]) for m in both]
        )
        some_lost, all_lost = errors.mean(-1).T
        assert lost[2] == pytest.approx((some_lost / all_lost).mean(), abs=0.03)
    same = Data(data.model, data.graph, replace(data.prompts, corrupt=data.prompts.clean))
    assert not LOSSES["share"](same, METRICS["kl"])(same[0], same[0].run(nothing)).any()


def test_a_share_lost_has_no_slope_at_the_model():
    """So what is pruned first does not hang on the sign of a rounding error."""
    data = setup("gpt2", n=3)
    run = MaskedRun(data[0], torch.ones(data.graph.legal.shape), data.graph.legal)
    for name in ("kl", "logit_diff"):
        losses = LOSSES["share"](data, METRICS[name])(data[0], run.logits)
        assert run.gradient(losses).abs().max() < 1e-8
        run = MaskedRun(data[0], torch.ones(data.graph.legal.shape), data.graph.legal)


def test_a_circuits_run_is_the_live_one():
    forward = setup("pythia")[0]
    rng = np.random.default_rng(2)
    mask = forward.graph.legal & (rng.random(forward.graph.legal.shape) < 0.3)
    circuit = Circuit(forward.graph, mask).pruned().mask
    run = MaskedRun(forward, torch.ones(mask.shape), circuit)
    torch.testing.assert_close(run.logits, forward.run(mask), atol=1e-10, rtol=0)


def test_half_of_the_input_is_between():
    """The empty circuit but for input->logits: the input's part of the last stream is halved."""
    forward = setup("gpt2")[0]
    graph = forward.graph
    only = graph.mask(["input->logits"])
    run = MaskedRun(forward, torch.ones(only.shape), only, point=0.5)
    change = forward.clean.writers[0] - forward.ablated[0]
    wanted = forward.model.unembed((forward.cuts.streams[-1] + change / 2)[:, -1])
    torch.testing.assert_close(run.logits, wanted, atol=1e-10, rtol=0)
