"""Prompts in parts: whatever the parts, held or not, every figure is the mean over all prompts."""

from dataclasses import replace
from functools import partial

import families
import numpy as np
import pytest
import torch

from acdc import attribution
from acdc.ablation import ABLATIONS, Mean
from acdc.data import Data
from acdc.errors import InputError
from acdc.masked import masked_run, masked_values
from acdc.metrics import METRICS, Metric
from acdc.search import Order, Search, acdc

PARTS = (7, 4, 1)  # of seven prompts: one part, two of unlike size, seven


def data(part=7, ablation="resample", hold=True, family="llama", dtype=torch.float64):
    model = families.view(family, dtype)
    prompts = families.prompts(n=7, length=4)
    return Data(model, model.graph(), prompts, ABLATIONS[ablation], part, hold)


@pytest.mark.unchecked
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("metric", ["kl", "js"])  # read out the fast way and the plain way
@pytest.mark.quick("kl-resample", "js-mean")
def test_decisions_do_not_depend_on_the_parts(ablation, metric):
    runs = [list(acdc(data(part, ablation), METRICS[metric], 0.01)) for part in PARTS]
    tests = [[t for step in run for t in step.tests] for run in runs]
    for other in (1, 2):
        assert (runs[other][-1].mask == runs[0][-1].mask).all()
        assert [t.kept for t in tests[other]] == [t.kept for t in tests[0]]
        effects = [np.array([t.effect for t in some]) for some in (tests[other], tests[0])]
        np.testing.assert_allclose(*effects, rtol=0, atol=1e-12)
    assert 0 < runs[0][-1].n_edges < data().graph.n_edges


@pytest.mark.parametrize("ablation, hold", [
    ("resample", True), ("mean", False),
    *(pytest.param(*own, marks=pytest.mark.slow) for own in (("resample", False), ("mean", True))),
])  # fmt: skip
@pytest.mark.unchecked
@pytest.mark.quick("resample-True")
def test_scores_and_circuits_do_not_depend_on_the_parts(ablation, hold):
    metric, graph = METRICS["logit_diff"], data().graph
    masks = [
        graph.legal & (np.random.default_rng(i).random(graph.legal.shape) < 0.5) for i in (0, 1)
    ]
    methods = [
        attribution.eap,
        partial(attribution.eap_ig, steps=3),
        partial(attribution.eap_ig_activations, steps=2),
        attribution.exact,
        lambda some, metric: some.circuits(metric, masks),
        lambda some, metric: torch.cat(list(masked_values(some, metric, 1.0 * masks[0]))).numpy(),
    ]  # fmt: skip
    for method in methods:
        found = [method(data(part, ablation, hold), metric) for part in PARTS]
        assert np.abs(found[0]).max() > 0.1
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-12)


def test_runs_are_made_once_if_held_and_again_if_not():
    for hold in (True, False):
        some = data(4, hold=hold)
        assert (some[0] is some[0]) is hold
        assert some.n_parts == 2 and [len(f.prompts) for f in some] == [4, 3]


def test_a_mean_over_a_reference_set_is_that_of_other_prompts():
    model, reference = families.view("gpt2"), families.prompts(n=5, length=4, seed=9)
    prompts = families.prompts(n=3, length=4)
    graph = model.graph()
    some = Data(model, graph, prompts, Mean("mean", reference=reference), part=2)
    swapped = replace(prompts, corrupt=reference.clean[:3])
    wanted = Data(model, graph, reference)[0].clean.writers.dense().mean(1)
    for forward in some:
        n = len(forward.prompts)
        torch.testing.assert_close(
            forward.ablated.dense(), wanted[:, None].expand(-1, n, -1, -1), atol=1e-12, rtol=0
        )
    assert not torch.allclose(Data(model, graph, swapped)[0].ablated.dense()[:, 0], wanted)
    with pytest.raises(InputError, match="reference prompts have 5 tokens, the task's 4"):
        long = Mean("mean", reference=families.prompts(length=5))
        Data(model, graph, prompts, long)[0].ablated  # noqa: B018


def test_a_metric_is_any_function_of_logits_and_prompts():
    def margin(logits, prompts, clean):
        best = logits[..., torch.arange(len(prompts)), [a[0] for a in prompts.answers]]
        return best - logits.amax(-1)

    own = Metric("margin", "logits", False, margin)
    steps = list(acdc(data(3), own, 0.05))
    assert 0 < steps[-1].n_edges < data().graph.n_edges
    assert steps[-1].metric == pytest.approx(data().circuits(own, [steps[-1].mask]).mean())
    scores = attribution.exact(data(3), own)
    assert scores.any()
    with pytest.raises(InputError, match=r"metric=one: its value has shape \(\)"):
        list(acdc(data(), Metric("one", "1", True, lambda logits, *_: logits.sum()), 0.05))


@pytest.mark.unchecked
@pytest.mark.parametrize("order, part", [
    ("layer", 7), ("head", 3),
    *(pytest.param(*own, marks=pytest.mark.slow) for own in (("layer", 3), ("head", 7))),
])  # fmt: skip
@pytest.mark.quick("layer-7")
def test_a_search_goes_on_from_its_checkpoints_bit_for_bit(order, part):
    def fresh():
        some = data(part, dtype=torch.float32)
        return Search(some, METRICS["kl"], 0.01, Order(reader_order=order))

    whole, search = list(fresh().steps()), fresh()
    checkpoints = []
    for done, _ in enumerate(search.steps(), start=1):
        if search.at_rest:
            tensors = {n: t.clone() for n, t in search.checkpoint().tensors.items()}
            shuffled = dict(sorted(tensors.items()))  # a file keeps no order
            checkpoints.append((done, replace(search.checkpoint(), tensors=shuffled)))
        else:
            with pytest.raises(ValueError, match="between groups"):
                search.checkpoint()
    assert len(checkpoints) == len(search.groups) > 6
    every = 1 if (order, part) == ("layer", 7) else 3
    for done, checkpoint in checkpoints[::every]:
        again = fresh()
        again.restore(checkpoint)
        rest = list(again.steps())
        assert [s.tests for s in rest] == [s.tests for s in whole[done:]]
        assert [(s.metric, s.n_passes, s.n_kept) for s in rest] == [
            (s.metric, s.n_passes, s.n_kept) for s in whole[done:]
        ]
        if rest:
            assert (rest[-1].mask == whole[-1].mask).all()


def test_what_is_written_is_what_the_mask_reads():
    """`take` and `total` of any writers, rows and span against the dense outputs."""
    for family in ("llama", "attention_only"):
        forward = data(family=family)[0]
        writers, dense = forward.clean.writers, forward.clean.writers.dense()
        n = len(dense)
        rows = torch.tensor([3, 3, 0, 1, 2, 6, 5])
        some = [n - 1, 0, 2, 1, 2]
        each = torch.stack([rows.roll(i) for i in range(5)])
        close = partial(torch.testing.assert_close, atol=1e-12, rtol=0)
        close(writers.take(some), dense[some])
        close(writers.take(some, 2), dense[some][:, :, -2:])
        close(writers.take(some, 2, rows), dense[some][:, rows][:, :, -2:])
        close(writers.take(some, 0, each), torch.stack([dense[w][r] for w, r in zip(some, each)]))  # noqa: B905
        close(writers.total(some[:4], 3, rows), dense[some[:4]].sum(0)[rows][:, -3:])
        close(writers.total([]), torch.zeros_like(dense[0]))
        full = masked_run(forward, forward.graph.legal)
        close(full, forward.clean.logits)
