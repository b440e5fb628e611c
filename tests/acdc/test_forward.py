"""Laws of the patched forward on every supported family."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc.ablation import ABLATIONS
from acdc.data import Data
from acdc.forward import stream_of
from acdc.live import plan, unchanged
from acdc.masked import masked_run
from acdc.metrics import METRICS


@pytest.fixture(scope="module", params=families.FAMILIES)
def loaded(request):
    return families.load(request.param)


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_all_edges_is_the_model_and_none_is_the_corrupted_run(loaded, kv):
    graph, prompts = loaded.model.graph(kv), families.prompts()
    forward = families.run(loaded.model, graph, prompts)
    everything, nothing = graph.legal, graph.legal & False
    for mask, tokens in ((everything, prompts.clean), (nothing, prompts.corrupt)):
        expected = loaded.plain_logits(tokens)[:, -1]
        torch.testing.assert_close(forward.run(mask), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_float64_all_edges_is_exact(loaded, ablation):
    model = loaded.model.to(torch.float64)
    graph = model.graph()
    forward = families.run(model, graph, families.prompts(), ablation)
    full = forward.run(graph.legal)
    torch.testing.assert_close(full, forward.clean.logits, atol=1e-11, rtol=1e-11)
    assert (forward.run(graph.legal & False) - full).abs().max() > 0.1


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_any_circuit_is_what_its_dense_twin_says(loaded, kv, ablation):
    model = loaded.model.to(torch.float64)
    graph, generator = model.graph(kv), np.random.default_rng(0)
    forward = families.run(model, graph, families.prompts(), ablation)
    noise = generator.random(graph.legal.shape)
    knocked = graph.legal & (np.arange(len(graph.writers)) != graph.head(0, 1))[:, None]
    one = np.zeros_like(graph.legal)
    one[0, -1] = True
    masks = [graph.legal & (noise < share) for share in (0.05, 0.15, 0.3, 0.5, 0.8, 0.97)]
    first = graph.reader(1, "q")
    late = masks[2] | (graph.legal & (np.arange(len(graph.readers)) < first + 1))
    for mask in (*masks, knocked, one, late, *(graph.legal & ~m for m in masks)):
        torch.testing.assert_close(forward.run(mask), masked_run(forward, mask), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_circuits_that_share_a_run_are_as_if_they_did_not(loaded, kv):
    """Cuts in a circuit, early and late, edges put in, and a circuit that has little of it."""
    model = loaded.model.to(torch.float64)
    graph, generator = model.graph(kv), np.random.default_rng(1)
    forward = families.run(model, graph, families.prompts())
    noise = generator.random(graph.legal.shape)
    base = graph.legal & (noise < 0.4)
    known, cut = forward.known(base), list[np.ndarray]()
    edges = np.argwhere(base)
    for writer, reader in edges[generator.permutation(len(edges))[:6]]:
        cut.append(base.copy())
        cut[-1][writer, reader] = False
    for mask in (*cut, base, graph.legal & (noise < 0.45), graph.legal & (noise > 0.7)):
        shared = model.unembed(forward.final(mask, known=known))
        torch.testing.assert_close(shared, masked_run(forward, mask), atol=1e-10, rtol=0)
    same = unchanged(graph, cut[0], base)
    assert 0 < same.sum() <= len(same)
    sliced = Data(model, graph, families.prompts()).circuits(METRICS["logit_diff"], cut, base)
    alone = Data(model, graph, families.prompts()).circuits(METRICS["logit_diff"], cut)
    np.testing.assert_allclose(sliced, alone, atol=1e-10)


def test_what_no_cut_comes_before_is_not_run_again(loaded):
    graph = loaded.model.graph()
    forward = families.run(loaded.model, graph, families.prompts())
    mask = graph.legal.copy()
    head = graph.head(1, 0)
    mask[0, graph.reader(1, "v", 0)] = False  # the first cut
    alone = 1 if not graph.joint else graph.n_heads
    expected = np.arange(len(graph.writers)) < head
    expected[head + alone : graph.head(1, graph.n_heads)] = True
    expected[graph.head(1, graph.n_heads) :] = False
    if graph.parallel and graph.has_mlp:
        expected[graph.mlp(1)] = True  # it does not see the heads
    assert unchanged(graph, mask, graph.legal).tolist() == expected.tolist()
    assert unchanged(graph, graph.legal, graph.legal).all()
    assert not (plan(graph, mask, 5, expected).readers[: graph.reader(1, "q")]).any()
    assert (forward.run(mask) - forward.clean.logits).abs().max() > 1e-4


def test_cuts_at_the_answer_position_only(loaded):
    """On prompts that agree everywhere else, cutting there is cutting everywhere."""
    model, p = loaded.model.to(torch.float64), families.prompts()
    corrupt = p.clean.clone()
    corrupt[:, -1] = p.corrupt[:, -1]
    graph = model.graph()
    mask = graph.legal & (np.random.default_rng(0).random(graph.legal.shape) < 0.4)
    same = families.run(model, graph, replace(p, corrupt=corrupt))
    torch.testing.assert_close(same.run(mask, "answer"), same.run(mask), atol=1e-10, rtol=0)
    other = families.run(model, graph, p)
    assert (other.run(mask, "answer") - other.run(mask)).abs().max() > 1e-3
    torch.testing.assert_close(
        other.run(graph.legal, "answer"), other.clean.logits, atol=1e-10, rtol=0
    )


def test_the_same_runs_under_another_ablation_and_swapped(loaded):
    model, p = loaded.model.to(torch.float64), families.prompts()
    graph = model.graph()
    mask = graph.legal & (np.random.default_rng(0).random(graph.legal.shape) < 0.4)
    data = Data(model, graph, p)
    forward = data[0]
    assert forward.run(mask) is not None
    for name, ablation in ABLATIONS.items():
        fresh = families.run(model, graph, p, name).run(mask)
        assert torch.equal(data.under(ablation)[0].run(mask), fresh)
    swapped = families.run(model, graph, replace(p, clean=p.corrupt, corrupt=p.clean))
    assert torch.equal(forward.swapped().run(mask), swapped.run(mask))


def test_prompts_of_one_token(loaded):
    """The last position is all positions."""
    model, prompts = loaded.model.to(torch.float64), families.prompts(length=1)
    forward = families.run(model, model.graph(), prompts)
    mask = model.graph().legal & (np.random.default_rng(1).random(model.graph().legal.shape) < 0.5)
    torch.testing.assert_close(forward.run(mask), masked_run(forward, mask), atol=1e-10, rtol=0)


def test_only_what_the_answer_can_see_is_planned():
    """A head that only `logits` reads: its query at one position, its keys and values at all."""
    graph = families.view("gpt2").graph()
    mask = graph.mask(["a1.h0->logits", "m0->a1.h0<q>", "a0.h2->a1.h0<k>", "input->m1"])
    wanted = plan(graph, mask, 6)
    named = zip(graph.writers, wanted.writers.tolist(), strict=True)
    assert {w: n for w, n in named if n} == {"a0.h2": 6, "m0": 1, "a1.h0": 1}
    spans = {r.name: n for r, n in zip(graph.readers, wanted.readers.tolist(), strict=True) if n}
    assert spans["a1.h0<q>"] == 1 and spans["a1.h0<k>"] == spans["a0.h2<q>"] == 6
    assert spans["m0"] == 1 and "m1" not in spans


def test_writers_and_biases_sum_to_every_stream(loaded):
    model = loaded.model.to(torch.float64)
    graph = model.graph()
    run = families.run(model, graph, families.prompts()).clean
    for reader in graph.readers:
        n = graph.writers_before(reader.layer, reader.part)
        biases = [
            b.attn.b_O
            for i, b in enumerate(model.blocks)
            if b.attn.b_O is not None
            and (
                i < reader.layer
                or (i == reader.layer and reader.part == "mlp" and not graph.parallel)
            )
        ]
        total = run.writers.total(range(n)) + sum(biases)
        stream = run.streams[stream_of(graph, reader.layer, reader.part)]
        torch.testing.assert_close(total, stream, atol=1e-12, rtol=1e-12)
