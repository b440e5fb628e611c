"""Metrics against their definitions, written out by hand."""

import math

import families
import pytest
import torch

from acdc.errors import InputError
from acdc.forward import PatchedForward
from acdc.incremental import Readout
from acdc.metrics import METRICS, accuracy, correct, make_metric, top1
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
    }
    assert set(expected) == set(METRICS)
    for name, values in expected.items():
        found = make_metric(name, two_prompts(), CLEAN).of_logits(LOGITS)
        assert found.tolist() == pytest.approx([float(v) for v in values], abs=1e-12), name


def test_kl_of_the_model_with_itself_is_zero():
    assert make_metric("kl", two_prompts(), CLEAN).of_logits(CLEAN).abs().max() < 1e-12


def test_signs():
    better = {"kl": True, "nll": True, "logit_diff": False, "prob_diff": False}
    for name, low in better.items():
        metric = make_metric(name, two_prompts(), CLEAN)
        assert metric.lower_is_better is low and metric.sign == (1 if low else -1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", METRICS)
def test_readout_by_blocks_of_the_vocabulary_is_the_metric(family, name, monkeypatch):
    monkeypatch.setattr("acdc.incremental.VOCAB_BLOCK", 7)  # does not divide the 50 tokens
    model, prompts = families.view(family), families.prompts()
    forward = PatchedForward(model, model.graph(), prompts)
    metric = make_metric(name, forward.prompts, forward.clean.logits)
    x = 3 * torch.randn(5, len(prompts), model.d_model, dtype=torch.float64)
    plain = metric.of_logits(model.unembed(x)).mean(-1)
    torch.testing.assert_close(Readout(model, metric)(x), plain, atol=1e-11, rtol=0)


def test_refusals():
    with pytest.raises(InputError, match="method.metric='kll'.*kl, logit_diff"):
        make_metric("kll", two_prompts(), CLEAN)
    bare = two_prompts(wrong=((), ()))
    with pytest.raises(InputError, match="needs `wrong`"):
        make_metric("logit_diff", bare, CLEAN)
    with pytest.raises(InputError, match="needs `answers`"):
        make_metric("nll", two_prompts(answers=((), ())), CLEAN)
    make_metric("nll", bare, CLEAN), make_metric("kl", bare, CLEAN)


def test_accuracy_and_top1():
    assert accuracy(two_prompts(), LOGITS) == 1.0 and top1(two_prompts(), LOGITS) == 1.0
    swapped = two_prompts(answers=((1,), (1, 2)), wrong=((2,), (0,)))
    assert accuracy(swapped, LOGITS) == 1.0 and top1(swapped, LOGITS) == 0.5
    assert accuracy(two_prompts(answers=((), ())), LOGITS) is None
    assert accuracy(two_prompts(wrong=((), ())), LOGITS) == 1.0


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
        assert accuracy(prompts, logits) == (1 + verdict) / 2
