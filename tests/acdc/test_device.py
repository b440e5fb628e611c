"""Tensors are made where the model is: here on the CPU, while what is not told where is nowhere.

A tensor on the meta device has a shape and no numbers; what meets one of the CPU fails.
"""

import families
import numpy as np
import pytest
import torch

from acdc.ablation import ABLATIONS
from acdc.attribution import eap, eap_ig, eap_ig_activations, exact
from acdc.data import Data
from acdc.gradient import MaskedRun
from acdc.masked import masked_run
from acdc.metrics import METRICS
from acdc.optimal import random_mask
from acdc.regrow import slopes
from acdc.search import acdc


@pytest.fixture
def data():
    """Two parts of three prompts, and elsewhere as the default device."""
    model, prompts = families.view("llama"), families.prompts(length=4)
    with torch.device("meta"):
        yield Data(model, model.graph(), prompts, part=2)


def some(data):
    rng = np.random.default_rng(0)
    return data.graph.legal & (rng.random(data.graph.legal.shape) < 0.5)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda m: m.name)
def test_metrics(data, metric):
    assert np.isfinite(data.errors(metric, [data.graph.legal, some(data)])).all()


def test_a_search(data):
    *_, last = acdc(data, METRICS["kl"], 1.0)
    assert np.isfinite(last.metric)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablations(data, ablation):
    values = data.under(ABLATIONS[ablation]).circuits(METRICS["logit_diff"], [some(data)])
    assert np.isfinite(values).all()


def test_scores(data):
    metric = METRICS["logit_diff"]
    scores = [eap(data, metric), eap_ig(data, metric, 2), eap_ig_activations(data, metric, 2)]
    assert np.isfinite([*scores, exact(data, metric), slopes(data, metric, some(data))]).all()


def test_masked_runs_and_their_gradients(data):
    torch.testing.assert_close(masked_run(data[0], some(data)), data[0].run(some(data)))
    mask = random_mask(data, np.random.default_rng(1))
    run = MaskedRun(data[0], mask, data.graph.legal)
    losses = data[0].bound(METRICS["nll"]).of_logits(run.logits)
    assert run.gradient(losses).isfinite().all() and run.cut_gradient().isfinite().all()
