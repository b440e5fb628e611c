"""When a share of the model's effect means nothing, and what is warned of before a search."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_settings import AS_PUBLISHED, settings

from acdc.data import Data
from acdc.metrics import METRICS
from discovery.job.build import build_prompts, load_model
from discovery.job.doubts import doubts, rounding
from discovery.job.faithfulness import evaluate
from discovery.job.pipeline import discover
from discovery.job.shares import CARRIED, why_undefined, yardstick

EPS = 1e-7
ASKED = (*AS_PUBLISHED, "task.n=16", "method.threshold=0.05")


@pytest.mark.parametrize("model, empty, why", [
    ([3.0, 4.0], [0.0, 1.0], None),
    ([0.1, 1.0, 9.0], [0.0, 0.0, 0.0], None),  # of one sign, however unlike
    ([0.1, 0.0, 0.0], [0.0, 0.0, 0.0], None),  # clean = corrupt on some
    ([2.0], [1.0], None),
    ([1.0, 2.0], [1.0, 2.0 + 1e-7], "do not differ by more than rounding"),
    ([3.0, 0.0, 1.0, 2.0], [0.0, 2.5, 3.0, 0.0],
     "is 0.125 with a standard error of 1.4, above 0 on 2 prompts and below on 2"),
    ([9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 0.0, 9.5], None),  # one against, but the sum is sure
])  # fmt: skip
def test_a_ratio_needs_something_to_divide_by(model, empty, why):
    found = why_undefined(model, empty, EPS)
    assert found is None if why is None else why in found


def test_half_precision_has_a_wider_nothing():
    assert why_undefined([14.9], [14.85], EPS) is None
    assert "rounding" in why_undefined([14.9], [14.85], torch.finfo(torch.bfloat16).eps)


def test_both_ends_of_the_scale_are_named():
    for ablation, carried in CARRIED.items():
        assert yardstick(ablation) == f"0% = every edge cut, carrying {carried}; 100% = the model"


def prepared(dtype="float32", metric="kl", change=lambda prompts: prompts):
    chosen = settings(*ASKED, f"model.dtype={dtype}")
    loaded = load_model(chosen)
    prompts = change(build_prompts(chosen, loaded))
    return loaded, Data(loaded.model, loaded.model.graph(), prompts), METRICS[metric]


def first_equal(prompts, n=5):
    return replace(prompts, corrupt=torch.cat([prompts.clean[:n], prompts.corrupt[n:]]))


def test_nothing_is_doubted_without_reason():
    assert doubts(*prepared(), 0.05) == [] == doubts(*prepared(), None)


def test_prompts_that_are_equal_are_counted():
    found = doubts(*prepared(change=first_equal), None)
    assert len(found) == 1 and found[0].startswith("5 of 16 prompts are clean = corrupt")


def test_a_threshold_above_all_that_there_is():
    (sentence,) = doubts(*prepared(metric="prob_diff"), 2.5)
    assert "all edges together change prob_diff by" in sentence and "threshold 2.5" in sentence


def effect_errors(data, metric, n=30):
    """How far single edges' effects are from the same weights' in float32 arithmetic."""
    exact = Data(data.model.to(torch.float32), data.graph, data.prompts)
    edges = np.argwhere(data.graph.legal)
    errors = []
    for writer, reader in edges[np.random.default_rng(0).permutation(len(edges))[:n]]:
        mask = data.graph.legal.copy()
        mask[writer, reader] = False
        effects = [
            some.circuits(metric, [mask]).mean()
            - some.values(metric, lambda f: f.clean.logits).mean()
            for some in (data, exact)
        ]
        errors.append(effects[0] - effects[1])
    return np.sqrt(np.mean(np.square(errors)))


@pytest.mark.parametrize("metric", ["kl", "logit_diff", "nll"])
@torch.inference_mode()
@pytest.mark.quick("kl")
def test_rounding_is_of_the_size_of_the_effects_errors(metric):
    loaded, data, bound = prepared("bfloat16", metric)
    noise = rounding(loaded, data, bound)
    assert 0.1 * noise < effect_errors(data, bound) < 5 * noise
    assert rounding(*prepared("float32", metric)) < 1e-3 * noise


def test_a_threshold_near_rounding_is_warned_of():
    noise = rounding(*prepared("bfloat16"))
    (sentence,) = doubts(*prepared("bfloat16"), 2 * noise)
    assert "in bfloat16 rounding moves kl" in sentence and "model.dtype=float32" in sentence
    assert doubts(*prepared("bfloat16"), 4 * noise) == [] == doubts(*prepared("float32"), noise)


def test_an_undefined_share_has_a_reason():
    _, data, metric = prepared(change=lambda p: replace(p, corrupt=p.clean.roll(1, 0)))
    mask = data.graph.legal
    assert evaluate(data, metric, mask, None).undefined is None
    _, data, metric = prepared(metric="logit_diff", change=_against_itself)
    found = evaluate(data, metric, mask, None)
    assert found.faithfulness is None and "and below on" in (found.undefined or "")


def _against_itself(prompts):
    """Half of the pairs the other way round: what the corruption destroys cancels."""
    both = [torch.cat([a[:8], b[8:]]) for a, b in ((prompts.clean, prompts.corrupt),
                                                   (prompts.corrupt, prompts.clean))]  # fmt: skip
    return replace(prompts, clean=both[0], corrupt=both[1])


def test_warnings_are_said_and_recorded(tmp_path):
    said = []
    chosen = settings(*ASKED, "method.threshold=50")
    result = discover(chosen, tmp_path / "run", [], said.append)
    assert len(result["warnings"]) == 1 and f"warning: {result['warnings'][0]}" in said
