"""Metrics against their definitions, written out by hand."""

import math

import pytest
import torch

from acdc.errors import InputError
from acdc.metrics import METRICS, Metric, correct, top1, two_sided
from acdc.prompts import Prompts


def two_prompts(answers=((0,), (1, 2)), wrong=((1, 3), (0,))):
    tokens = torch.tensor([[0, 1], [2, 3]])
    return Prompts(tokens, tokens, answers, wrong, 1)


LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 3.0, 0.0]], dtype=torch.float64)
CLEAN = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 2.0, 0.0]], dtype=torch.float64)


def test_values_by_hand():
    p, q = CLEAN.softmax(-1), LOGITS.softmax(-1)
    expected = {
        "kl": [sum(p[b, i] * math.log(p[b, i] / q[b, i]) for i in range(4)) for b in range(2)],
        "logit_diff": [2.0 - (1.0 - 1.0) / 2, (1.0 + 3.0) / 2 - 0.0],
        "prob_diff": [q[0, 0] - q[0, 1] - q[0, 3], q[1, 1] + q[1, 2] - q[1, 0]],
        "nll": [-math.log(q[0, 0]), -math.log(q[1, 1] + q[1, 2])],
        "kl_reverse": [
            sum(q[b, i] * math.log(q[b, i] / p[b, i]) for i in range(4)) for b in (0, 1)
        ],
    }
    half = [[(p[b, i] + q[b, i]) / 2 for i in range(4)] for b in range(2)]
    expected["js"] = [
        sum(
            p[b, i] * math.log(p[b, i] / half[b][i]) / 2
            + q[b, i] * math.log(q[b, i] / half[b][i]) / 2
            for i in range(4)
        )
        for b in range(2)
    ]
    assert set(expected) == set(METRICS)
    for name, values in expected.items():
        found = METRICS[name].bind(two_prompts(), CLEAN).of_logits(LOGITS)
        assert found.tolist() == pytest.approx([float(v) for v in values], abs=1e-12), name


@pytest.mark.parametrize("name", [m.name for m in METRICS.values() if m.flat_at_clean])
def test_a_divergence_of_the_model_from_itself_is_zero_and_flat(name):
    logits = CLEAN.clone().requires_grad_()
    value = METRICS[name].bind(two_prompts(), CLEAN).of_logits(logits)
    assert value.abs().max() < 1e-12
    value.sum().backward()
    assert logits.grad.abs().max() < 1e-12


def test_js_is_at_most_ln_2():
    apart = torch.tensor([[50.0, 0, 0, 0], [0, 0, 0, 50.0]], dtype=torch.float64)
    found = METRICS["js"].bind(two_prompts(), apart.flip(0)).of_logits(apart)
    assert found.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-6)


@pytest.mark.parametrize("name", list(METRICS))
def test_error_is_two_sided_and_zero_at_the_model(name):
    bound = METRICS[name].bind(two_prompts(), CLEAN)
    value, own, error = bound.of_logits(LOGITS), bound.of_logits(CLEAN), bound.error(LOGITS)
    assert torch.allclose(error, (value - own).abs()) and error.sum() > 0
    other = two_sided(METRICS[name]).bind(two_prompts(), CLEAN)
    assert torch.allclose(other.of_logits(LOGITS), error) and other.sign == 1
    assert two_sided(METRICS[name]).needs == METRICS[name].needs
    assert bound.error(CLEAN).abs().max() < 1e-12


def test_a_metric_without_a_read_out_has_an_error_too():
    own = Metric("best", "logits", False, lambda logits, prompts, clean: logits.amax(-1))
    error = two_sided(own)
    assert (error.name, error.unit, error.flat_at_clean) == ("best_error", "logits", True)
    assert error.bind(two_prompts(), CLEAN).of_logits(LOGITS).tolist() == [2.0 - 1.0, 3.0 - 2.0]
    assert error.bind(two_prompts(), LOGITS).of_logits(CLEAN).tolist() == [1.0, 1.0]


def test_units():
    """That a metric is known by its name and says what it is measured in."""
    nats = {"kl", "kl_reverse", "js", "nll"}
    units = {name: "nats" if name in nats else "logits" for name in METRICS}
    units["prob_diff"] = "probability"
    assert {m.name: m.unit for m in METRICS.values()} == units
    assert all(METRICS[name].name == name for name in METRICS)


def test_signs():
    better = {"kl": True, "nll": True, "logit_diff": False, "prob_diff": False}
    better |= {"kl_reverse": True, "js": True}
    assert better.keys() == METRICS.keys()
    for name, low in better.items():
        metric = METRICS[name]
        assert metric.lower_is_better is low and metric.sign == (1 if low else -1)


def test_refusals():
    bare = two_prompts(wrong=((), ()))
    with pytest.raises(InputError, match="needs `wrong`"):
        METRICS["logit_diff"].check(bare)
    with pytest.raises(InputError, match="needs `answers`"):
        METRICS["nll"].check(two_prompts(answers=((), ())))
    METRICS["nll"].check(bare), METRICS["kl"].check(bare)


def test_correct_and_top1():
    assert correct(two_prompts(), LOGITS) == top1(two_prompts(), LOGITS) == [True, True]
    swapped = two_prompts(answers=((1,), (1, 2)), wrong=((2,), (0,)))
    assert correct(swapped, LOGITS) == [True, True] and top1(swapped, LOGITS) == [False, True]
    assert correct(two_prompts(wrong=((), ())), LOGITS) == [True, True]


def test_a_tie_is_not_right():
    """The best answer must beat every rival, named or not; two tied answers are no rivals."""
    row = torch.tensor([2.0, 2.0, 1.0, 0.0])
    verdicts = {
        ((0,), (1,)): False,
        ((0,), (2, 1)): False,
        ((2, 0), (2,)): True,
        ((0,), ()): False,
        ((0, 1), ()): True,
        ((2,), ()): False,
        ((0, 1, 2, 3), ()): True,
    }
    for (right, wrong), verdict in verdicts.items():
        prompts = two_prompts(answers=(right, (2,)), wrong=(wrong, (3,)))
        logits = torch.stack([row, row])
        assert correct(prompts, logits) == [verdict, True], (right, wrong)


def test_what_a_metric_makes_of_prompts_is_on_the_device_of_the_logits():
    logits = torch.empty(2, 4, device="meta")
    for name in ("prob_diff", "nll", "logit_diff"):
        form = METRICS[name].readouts(two_prompts(), logits)
        for made in (form.tokens, form.direction):
            assert made is None or made.device == logits.device
