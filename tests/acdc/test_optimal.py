"""Optimal ablation: its gradient by the definition, what it beats, and that it is one constant."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc.data import Data
from acdc.gradient import MaskedRun
from acdc.masked import masked_run
from acdc.metrics import METRICS
from acdc.optimal import Optimal, by_constant, moments, random_mask
from acdc.spans import spans_of
from acdc.writers import power_sums
from discovery.ablations.noise import Noisy

view = families.view
EVERY = [("gpt2", "per_query_head"), ("llama", "per_group"), ("pythia", "per_query_head")]


def setup(family="llama", kv="per_group", n=6, part=4):
    model = view(family)
    return Data(model, model.graph(kv), families.prompts(n, length=4), part=part), METRICS["kl"]


def shifted(constants, name, place, by):
    own = getattr(constants, name).clone()
    own[place] += by
    return replace(constants, **{name: own})


@pytest.mark.parametrize("positions", ["none", "tokens"])
@pytest.mark.parametrize("family, kv", EVERY)
def test_the_gradient_is_the_finite_difference(family, kv, positions):
    data, metric = setup(family, kv, n=2)
    data = data.with_graph(replace(data.graph, spans=spans_of(data.prompts, positions)))
    constants, _ = moments(f.clean.writers for f in data)
    mask, step = torch.rand(data.graph.legal.shape, dtype=torch.float64), 1e-5

    def loss(constants):
        forward = data[0].under(Optimal("optimal", constants=constants))
        return forward.bound(metric).of_logits(masked_run(forward, mask)).sum().item()

    forward = data[0].under(Optimal("optimal", constants=constants))
    run = MaskedRun(forward, mask, data.graph.legal)
    run.gradient(forward.bound(metric).of_logits(run.logits))
    found = by_constant(constants, run.cut_gradient())
    rng = np.random.default_rng(0)
    for name in ("z", "rest"):
        slopes = getattr(found, name)
        assert slopes.shape == getattr(constants, name).shape and slopes.abs().max() > 1e-4
        for _ in range(12):
            place = tuple(int(rng.integers(size)) for size in slopes.shape)
            ends = [loss(shifted(constants, name, place, by)) for by in (step, -step)]
            assert slopes[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


@pytest.mark.unchecked
@pytest.mark.parametrize("family, kv", [
    EVERY[0], *(pytest.param(*own, marks=pytest.mark.slow) for own in EVERY[1:]),
])  # fmt: skip
def test_it_hurts_less_than_the_mean(family, kv):
    """On the circuits that it is learnt for: random ones, new draws of them."""
    data, metric = setup(family, kv)
    mean = data.under(Optimal("optimal"))
    best = mean.under(mean.ablation.learnt(mean))
    masks = [random_mask(data, np.random.default_rng([99, i])).bool().numpy() for i in range(60)]
    worse, better = (own.errors(metric, masks).mean() for own in (mean, best))
    assert better < 0.95 * worse


def test_one_constant_a_writer_for_all_prompts_and_positions():
    data, _ = setup()
    fitted = data.under(Optimal("optimal", steps=3))
    best = fitted.under(fitted.ablation.learnt(fitted))
    for forward in best:
        for tensor in (forward.ablated.z, forward.ablated.rest):
            assert torch.equal(tensor, tensor[..., :1, :1, :].expand_as(tensor))
    first, second = (best[i].ablated.rest[:, :1, :1] for i in (0, 1))
    assert torch.equal(first, second) and not torch.equal(first, fitted[0].ablated.rest[:, :1, :1])
    again = fitted.ablation.learnt(fitted)
    assert torch.equal(again.constants.z, best.ablation.constants.z)
    elsewhere = setup(n=3)[0].under(best.ablation)  # what was learnt stays
    assert torch.equal(elsewhere[0].ablated.rest[:, :1, :1], first)


def test_without_a_step_it_is_the_mean_over_prompts_and_positions():
    data, _ = setup(part=2)
    fitted = data.under(Optimal("optimal", steps=0))
    same = fitted.ablation.learnt(fitted).constants
    own = [torch.cat([getattr(f.clean.writers, n) for f in data], -3) for n in ("z", "rest")]
    for found, values in zip((same.z, same.rest), own, strict=True):
        torch.testing.assert_close(found, values.mean((-3, -2), keepdim=True))


def test_a_broken_model_is_said():
    data, _ = setup()
    fitted = data.under(Optimal("optimal", steps=1))
    nan = fitted.ablation.constants.map(lambda x: x * float("nan"))
    rows = [replace(f.clean, writers=f.clean.writers.with_(nan, torch.add)) for f in fitted]
    fitted._runs = {i: (clean, fitted[i].corrupt) for i, clean in enumerate(rows)}
    fitted._forwards = {}
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        fitted.ablation.learnt(fitted)


def test_sums_over_runs_are_those_of_all_prompts_together():
    """Of outputs and their squares, whatever the parts."""
    data, _ = setup(part=2)
    count, total, square = power_sums(f.clean.writers for f in data)
    assert count == len(data) * data.n_pos
    for name in ("z", "rest"):
        every = torch.cat([getattr(f.clean.writers, name) for f in data], -3)
        for sums, power in ((total, 1), (square, 2)):
            wanted = every.pow(power).sum((-3, -2), keepdim=True)
            torch.testing.assert_close(getattr(sums, name), wanted)
    with pytest.raises(ValueError, match="no runs"):
        power_sums(iter(()))


def test_noise_has_the_deviation_of_what_each_writer_puts_out():
    """One a writer, over prompts, positions and widths; parts do not matter."""
    data, _ = setup(part=2)
    noisy = data.under(Noisy("noise", False, scale=2.0, seed=3))
    found = noisy.ablation.deviation
    for name in ("z", "rest"):
        every = torch.cat([getattr(f.corrupt.writers, name) for f in data], -3)
        wanted = every.flatten(-3).std(-1, correction=0)
        torch.testing.assert_close(getattr(found, name)[..., 0, 0, 0], wanted)
    added = torch.cat([f.ablated.rest - f.clean.writers.rest for f in noisy], -3)
    assert (added.flatten(-3).std(-1) / (2 * found.rest[:, 0, 0, 0]) - 1).abs().max() < 0.2
